#define AVATAR_LANES_ISA 0
#define AVATAR_RASTER_TABLE RASTER_SCALAR
#include "cpu/raster_kernels.h"
