// sh_colors: colour of Gaussians seen from cameras, spherical harmonics up to degree 3, and its gradient.
// Basis and signs of 3D Gaussian splatting (Sloan 2013); the derivative of each term is written beside it.
#include <cmath>

#include "cpu/parallel.h"
#include "ops.h"

namespace avatar {
namespace {

constexpr int64_t BLOCK = 512;  // Gaussians a task handles

// basis[k] of the unit vector (x, y, z), and with GRAD its derivatives towards x, y and z.
template <bool GRAD, typename S>
void sh_terms(int64_t count, S x, S y, S z, S* basis, S* dx, S* dy, S* dz) {
  const auto term = [&](int k, S value, S gx, S gy, S gz) {
    basis[k] = value;
    if constexpr (GRAD) dx[k] = gx, dy[k] = gy, dz[k] = gz;
  };
  term(0, S(0.28209479177387814), 0, 0, 0);
  if (count < 4) return;
  const S c1 = S(0.4886025119029199);
  term(1, -c1 * y, 0, -c1, 0);
  term(2, c1 * z, 0, 0, c1);
  term(3, -c1 * x, -c1, 0, 0);
  if (count < 9) return;
  const S a = S(1.0925484305920792), b = S(0.31539156525252005), c = S(0.5462742152960396);
  term(4, a * x * y, a * y, a * x, 0);
  term(5, -a * y * z, 0, -a * z, -a * y);
  term(6, b * (3 * z * z - 1), 0, 0, 6 * b * z);
  term(7, -a * x * z, -a * z, 0, -a * x);
  term(8, c * (x * x - y * y), 2 * c * x, -2 * c * y, 0);
  if (count < 16) return;
  const S d = S(0.5900435899266435), e = S(2.890611442640554), f = S(0.4570457994644658);
  const S g = S(0.3731763325901154), h = S(1.445305721320277);
  term(9, -d * y * (3 * x * x - y * y), -6 * d * x * y, -3 * d * (x * x - y * y), 0);
  term(10, e * x * y * z, e * y * z, e * x * z, e * x * y);
  term(11, -f * y * (5 * z * z - 1), 0, -f * (5 * z * z - 1), -10 * f * y * z);
  term(12, g * z * (5 * z * z - 3), 0, 0, g * (15 * z * z - 3));
  term(13, -f * x * (5 * z * z - 1), -f * (5 * z * z - 1), 0, -10 * f * x * z);
  term(14, h * z * (x * x - y * y), 2 * h * x * z, -2 * h * y * z, h * (x * x - y * y));
  term(15, -d * x * (x * x - 3 * y * y), -3 * d * (x * x - y * y), 6 * d * x * y, 0);
}

template <typename S>
struct Direction {
  S x, y, z, inverse_length;
  Direction(const S* mean, const S* position) {
    x = mean[0] - position[0];
    y = mean[1] - position[1];
    z = mean[2] - position[2];
    inverse_length = 1 / std::max(std::sqrt(x * x + y * y + z * z), S(1e-12));
    x *= inverse_length;
    y *= inverse_length;
    z *= inverse_length;
  }
};

void check_inputs(const Tensor& sh, const Tensor& means, const Tensor& positions) {
  const int64_t N = sh.size(1), K = sh.size(2), C = positions.size(0);
  const ScalarType dtype = sh.scalar_type();
  if (K != 1 && K != 4 && K != 9 && K != 16)
    throw std::runtime_error("sh_colors: sh must hold 1, 4, 9 or 16 coefficients, got " + std::to_string(K));
  check("sh_colors", "sh", sh, dtype, {sh.size(0) == 1 ? 1 : C, N, K, 3});
  check("sh_colors", "means", means, dtype, {means.size(0) == 1 ? 1 : C, N, 3});
  check("sh_colors", "positions", positions, dtype, {C, 3});
}

}  // namespace

Tensor sh_colors_cpu(Tensor sh,        // [B, N, K, 3]
                     Tensor means,     // [B, N, 3]
                     Tensor positions  // [C, 3]
) {
  check_inputs(sh, means, positions);
  const int64_t N = sh.size(1), K = sh.size(2), C = positions.size(0);
  const auto run = [&]<typename S>(S) {
    Tensor colors = empty<S>(sh, {C, N, 3});
    const S *coefficients = sh.const_data_ptr<S>(), *mean = means.const_data_ptr<S>();
    const S* position = positions.const_data_ptr<S>();
    S* out = colors.template mutable_data_ptr<S>();
    const int64_t sh_stride = sh.size(0) == 1 ? 0 : N, mean_stride = means.size(0) == 1 ? 0 : N;
    const int64_t blocks = (N + BLOCK - 1) / BLOCK;
    parallel_items(C * blocks, [&](int64_t item) {
      const int64_t c = item / blocks, begin = item % blocks * BLOCK, end = std::min(N, begin + BLOCK);
      S basis[16];
      for (int64_t i = begin; i < end; ++i) {
        const Direction<S> d(mean + 3 * (c * mean_stride + i), position + 3 * c);
        sh_terms<false, S>(K, d.x, d.y, d.z, basis, nullptr, nullptr, nullptr);
        const S* row = coefficients + (c * sh_stride + i) * K * 3;
        S sum[3] = {S(0.5), S(0.5), S(0.5)};
        for (int64_t k = 0; k < K; ++k)
          for (int j = 0; j < 3; ++j) sum[j] += basis[k] * row[3 * k + j];
        for (int j = 0; j < 3; ++j) out[(c * N + i) * 3 + j] = sum[j] < 0 ? S(0) : sum[j];  // NaN stays NaN
      }
    });
    return colors;
  };
  return sh.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

std::tuple<Tensor, Tensor> sh_colors_backward_cpu(Tensor sh, Tensor means, Tensor positions,
                                                  Tensor colors,    // [C, N, 3]
                                                  Tensor v_colors,  // [C, N, 3]
                                                  bool with_means) {
  check_inputs(sh, means, positions);
  const int64_t N = sh.size(1), K = sh.size(2), C = positions.size(0);
  const auto run = [&]<typename S>(S) {
    Tensor v_sh = zeros<S>(sh, {sh.size(0), N, K, 3}), v_means = zeros<S>(sh, {means.size(0), with_means ? N : 0, 3});
    const S *coefficients = sh.const_data_ptr<S>(), *mean = means.const_data_ptr<S>();
    const S *position = positions.const_data_ptr<S>(), *color = colors.const_data_ptr<S>();
    const S* v_color = v_colors.const_data_ptr<S>();
    S *v_row = v_sh.template mutable_data_ptr<S>(), *v_mean = v_means.template mutable_data_ptr<S>();
    const int64_t sh_stride = sh.size(0) == 1 ? 0 : N, mean_stride = means.size(0) == 1 ? 0 : N;
    parallel_blocks(N, BLOCK, [&](int64_t begin, int64_t end) {  // cameras in order: shared sums keep one order
      S basis[16], dx[16], dy[16], dz[16];
      for (int64_t c = 0; c < C; ++c)
        for (int64_t i = begin; i < end; ++i) {
          const int64_t at = (c * N + i) * 3, m = c * mean_stride + i;
          S v[3];
          for (int j = 0; j < 3; ++j) v[j] = color[at + j] > 0 ? v_color[at + j] : S(0);
          const Direction<S> d(mean + 3 * m, position + 3 * c);
          sh_terms<true, S>(K, d.x, d.y, d.z, basis, dx, dy, dz);
          const S* row = coefficients + (c * sh_stride + i) * K * 3;
          S* out = v_row + (c * sh_stride + i) * K * 3;
          S gx = 0, gy = 0, gz = 0;
          for (int64_t k = 0; k < K; ++k) {
            S along = 0;
            for (int j = 0; j < 3; ++j) {
              out[3 * k + j] += basis[k] * v[j];
              along += row[3 * k + j] * v[j];
            }
            gx += along * dx[k];
            gy += along * dy[k];
            gz += along * dz[k];
          }
          if (!with_means || K == 1) continue;
          const S radial = gx * d.x + gy * d.y + gz * d.z;
          v_mean[3 * m] += (gx - radial * d.x) * d.inverse_length;
          v_mean[3 * m + 1] += (gy - radial * d.y) * d.inverse_length;
          v_mean[3 * m + 2] += (gz - radial * d.z) * d.inverse_length;
        }
    });
    return std::make_tuple(v_sh, v_means);
  };
  return sh.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("sh_colors", TORCH_BOX(&sh_colors_cpu));
  m.impl("sh_colors_backward", TORCH_BOX(&sh_colors_backward_cpu));
}

}  // namespace avatar
