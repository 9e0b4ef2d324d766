#include "cpu/l1_ssim.h"

#ifdef __AVX2__
#include "cpu/l1_ssim_band.h"
namespace avatar {
extern const SsimBandKernel l1_ssim_avx2 = &L1Ssim<float, 8>::run;
}
#else
namespace avatar {
extern const SsimBandKernel l1_ssim_avx2 = nullptr;  // another processor family: never chosen
}
#endif
