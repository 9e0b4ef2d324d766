#if defined(__x86_64__)
#define AVATAR_LANES_ISA 512
#define AVATAR_RASTER_TABLE RASTER_AVX512
#include "cpu/raster_kernels.h"
#endif
