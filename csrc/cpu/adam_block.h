// Kingma & Ba 2015, algorithm 1, in one pass over memory. Included by one file per instruction set.
#pragma once

#include "cpu/adam.h"

namespace avatar {
namespace {

template <typename T>
void adam_block(T* __restrict param, const T* __restrict grad, T* __restrict exp_avg, T* __restrict exp_avg_sq,
                int64_t count, AdamScales<T> s) {
  for (int64_t i = 0; i < count; ++i) {
    const T g = grad[i];
    const T mean = s.beta1 * exp_avg[i] + s.keep1 * g;
    const T square = s.beta2 * exp_avg_sq[i] + s.keep2 * g * g;
    exp_avg[i] = mean;
    exp_avg_sq[i] = square;
    if constexpr (sizeof(T) == sizeof(float))
      param[i] -= s.rate * mean / (__builtin_sqrtf(square) * s.correction + s.eps);
    else
      param[i] -= s.rate * mean / (__builtin_sqrt(square) * s.correction + s.eps);
  }
}

}  // namespace
}  // namespace avatar
