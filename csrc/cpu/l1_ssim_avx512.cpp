#include "cpu/l1_ssim.h"

#ifdef __AVX512F__
#include "cpu/l1_ssim_band.h"
namespace avatar {
extern const SsimBandKernel l1_ssim_avx512 = &L1Ssim<float, 16>::run;
}
#else
namespace avatar {
extern const SsimBandKernel l1_ssim_avx512 = nullptr;  // another processor family: never chosen
}
#endif
