// Which instruction set the wide kernels use. Chosen once from the processor; a test or a benchmark may lower it.
#pragma once

namespace avatar {

enum Isa { SCALAR = 0, AVX2 = 1, AVX512 = 2 };

Isa best_isa();     // what this processor can run
Isa current_isa();  // what the kernels use now

}  // namespace avatar
