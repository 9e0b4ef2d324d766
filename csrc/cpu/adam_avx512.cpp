#include "cpu/adam_block.h"

namespace avatar {
#ifdef __AVX512F__
extern const AdamKernel adam_avx512 = &adam_block<float>;
#else
extern const AdamKernel adam_avx512 = nullptr;  // another processor family: never chosen
#endif
}  // namespace avatar
