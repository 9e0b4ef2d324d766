#include "cpu/adam_block.h"

namespace avatar {
#ifdef __AVX2__
extern const AdamKernel adam_avx2 = &adam_block<float>;
#else
extern const AdamKernel adam_avx2 = nullptr;  // another processor family: never chosen
#endif
}  // namespace avatar
