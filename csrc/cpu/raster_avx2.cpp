#if defined(__x86_64__)
#define AVATAR_LANES_ISA 256
#define AVATAR_RASTER_TABLE RASTER_AVX2
#include "cpu/raster_kernels.h"
#endif
