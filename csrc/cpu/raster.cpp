#include "cpu/raster.h"

#include "cpu/isa.h"

namespace avatar {

const RasterKernels& raster_kernels() {
#if defined(__x86_64__)
  if (current_isa() == AVX512) return RASTER_AVX512;
  if (current_isa() == AVX2) return RASTER_AVX2;
#endif
  return RASTER_SCALAR;
}

}  // namespace avatar
