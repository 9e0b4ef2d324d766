// Small algebra for kernels, each function with its vector-Jacobian product `_vjp`. The CPU and CUDA kernels
// compile this same text, so a formula tested on a CPU is the formula that runs on a GPU.
#pragma once

#if defined(__CUDACC__)
#define AVATAR_HD __host__ __device__ __forceinline__
#else
#define AVATAR_HD inline __attribute__((always_inline))
#endif

namespace avatar {

// The few functions that formulas need besides + - * /; wide CPU types bring overloads of their own (cpu/simd.h).
AVATAR_HD float min(float a, float b) { return a < b ? a : b; }
AVATAR_HD float max(float a, float b) { return a > b ? a : b; }
AVATAR_HD double min(double a, double b) { return a < b ? a : b; }
AVATAR_HD double max(double a, double b) { return a > b ? a : b; }
AVATAR_HD float sqrt(float a) { return __builtin_sqrtf(a); }
AVATAR_HD double sqrt(double a) { return __builtin_sqrt(a); }
AVATAR_HD float select(bool m, float a, float b) { return m ? a : b; }
AVATAR_HD double select(bool m, double a, double b) { return m ? a : b; }

}  // namespace avatar
