#include <cmath>

#include "cpu/parallel.h"
#include "ops.h"

namespace avatar {

// Kingma & Ba 2015, algorithm 1, in one pass over memory. All tensors of any one shape, contiguous.
template <typename T>
void adam_typed(T* param, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t count, double lr, double beta1,
                double beta2, double eps, int64_t step) {
  const T b1 = static_cast<T>(beta1), b2 = static_cast<T>(beta2), e = static_cast<T>(eps);
  const T rate = static_cast<T>(lr / (1.0 - std::pow(beta1, static_cast<double>(step))));
  const T correction = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(beta2, static_cast<double>(step))));
  parallel_blocks(count, 1 << 14, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T g = grad[i];
      exp_avg[i] = b1 * exp_avg[i] + (1 - b1) * g;
      exp_avg_sq[i] = b2 * exp_avg_sq[i] + (1 - b2) * g * g;
      param[i] -= rate * exp_avg[i] / (std::sqrt(exp_avg_sq[i]) * correction + e);
    }
  });
}

void adam_cpu(Tensor param,       // [...]
              Tensor grad,        // [...]
              Tensor exp_avg,     // [...]
              Tensor exp_avg_sq,  // [...]
              double lr, double beta1, double beta2, double eps, int64_t step) {
  const int64_t n = param.numel();
  if (param.scalar_type() == ScalarType::Double) {
    adam_typed(param.mutable_data_ptr<double>(), grad.const_data_ptr<double>(), exp_avg.mutable_data_ptr<double>(),
               exp_avg_sq.mutable_data_ptr<double>(), n, lr, beta1, beta2, eps, step);
  } else {
    adam_typed(param.mutable_data_ptr<float>(), grad.const_data_ptr<float>(), exp_avg.mutable_data_ptr<float>(),
               exp_avg_sq.mutable_data_ptr<float>(), n, lr, beta1, beta2, eps, step);
  }
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) { m.impl("adam_", TORCH_BOX(&adam_cpu)); }

}  // namespace avatar
