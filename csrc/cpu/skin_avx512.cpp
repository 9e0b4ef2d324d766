#define SKIN_BYTES 64
#include "cpu/skin_kernel.h"

#if defined(__x86_64__)
namespace avatar {
template <>
const SkinKernels<float>& skin_avx512<float>() { return KERNELS<float>; }
template <>
const SkinKernels<double>& skin_avx512<double>() { return KERNELS<double>; }
}  // namespace avatar
#endif
