// One block of one tensor of an Adam step. Plain types only: the wide-instruction files include it.
#pragma once

#include <cstdint>

namespace avatar {

// param -= rate * exp_avg / (sqrt(exp_avg_sq) * correction + eps), after both averages took the gradient in.
template <typename T>
struct AdamScales {
  T beta1, beta2, keep1, keep2;  // keep = 1 - beta, rounded once
  T rate, correction, eps;       // lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
};

using AdamKernel = void (*)(float* param, const float* grad, float* exp_avg, float* exp_avg_sq, int64_t count,
                            AdamScales<float> scales);
extern const AdamKernel adam_avx512, adam_avx2;

}  // namespace avatar
