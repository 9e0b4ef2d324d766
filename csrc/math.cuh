// Small vector algebra for kernels, each function with its vector-Jacobian product `_vjp`. The CPU and CUDA kernels
// compile this same text, so a formula tested on a CPU is the formula that runs on a GPU.
#pragma once

#if defined(__CUDACC__)
#define AVATAR_HD __host__ __device__ __forceinline__
#else
#define AVATAR_HD inline
#endif

namespace avatar {}  // namespace avatar
