// The chain of joints of one frame, with its vector-Jacobian product. Always in double: it costs microseconds, and a
// rounding error in a joint would move thousands of vertices. Host and device compile this text.
#pragma once

#include <cmath>
#include <cstdint>

#include "math.cuh"

namespace avatar {

constexpr double ROTATION_SERIES_BELOW = 0.01;  // squared angle; five Taylor terms reach 1e-17 there

// sin(t) / t and (1 - cos t) / t^2 with s = t^2, and their derivatives with respect to s.
struct RotationFactors {
  double a, b, da, db;
};

AVATAR_HD RotationFactors rotation_factors(double s) {
  if (s < ROTATION_SERIES_BELOW)
    return {1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72))),
            (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90)))) / 2,
            -(1 - s / 10 * (1 - s / 28 * (1 - s / 54 * (1 - s / 88)))) / 6,
            -(1 - s / 15 * (1 - s / 37.333333333333333 * (1 - s / 67.5 * (1 - s / 105.6)))) / 24};
  const double t = std::sqrt(s), half = std::sin(t / 2);
  const double a = std::sin(t) / t, b = 2 * half * half / s;
  return {a, b, (std::cos(t) - a) / (2 * s), (a - 2 * b) / (2 * s)};
}

// Rodrigues: R = (1 - b s) I + a [w]x + b w w^T, row-major.
AVATAR_HD void rotation_matrix(const double w[3], double R[9]) {
  const double s = w[0] * w[0] + w[1] * w[1] + w[2] * w[2];
  const RotationFactors k = rotation_factors(s);
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) R[3 * r + c] = k.b * w[r] * w[c] + (r == c ? 1 - k.b * s : 0);
  R[1] -= k.a * w[2];
  R[2] += k.a * w[1];
  R[3] += k.a * w[2];
  R[5] -= k.a * w[0];
  R[6] -= k.a * w[1];
  R[7] += k.a * w[0];
}

AVATAR_HD void rotation_matrix_vjp(const double w[3], const double v_R[9], double v_w[3]) {
  const double s = w[0] * w[0] + w[1] * w[1] + w[2] * w[2];
  const RotationFactors k = rotation_factors(s);
  const double skew[3] = {v_R[7] - v_R[5], v_R[2] - v_R[6], v_R[3] - v_R[1]};
  const double trace = v_R[0] + v_R[4] + v_R[8];
  double v_a = 0, v_b = -s * trace, both[3];
  for (int r = 0; r < 3; ++r) {
    both[r] = 0;
    for (int c = 0; c < 3; ++c) both[r] += (v_R[3 * r + c] + v_R[3 * c + r]) * w[c];
    v_a += skew[r] * w[r];
    v_b += both[r] * w[r] / 2;
  }
  for (int r = 0; r < 3; ++r)
    v_w[r] = k.a * skew[r] + k.b * (both[r] - 2 * trace * w[r]) + 2 * w[r] * (k.da * v_a + k.db * v_b);
}

// Rest to posed transforms A [J, 3, 4] of a tree: A_j turns by A_parent R_j and leaves joint j where its parent takes
// it, so t_j = t_parent + (A_parent - A_j) p_j. Above the root stands the pure translation.
AVATAR_HD void chain(int64_t joints, const int32_t* parents, const double* R, const double* p,
                     const double translation[3], double* A) {
  for (int64_t j = 0; j < joints; ++j) {
    const double top[12] = {1, 0, 0, translation[0], 0, 1, 0, translation[1], 0, 0, 1, translation[2]};
    const double* up = parents[j] < 0 ? top : A + 12 * parents[j];
    double* own = A + 12 * j;
    for (int r = 0; r < 3; ++r) {
      own[4 * r + 3] = up[4 * r + 3];
      for (int c = 0; c < 3; ++c) {
        own[4 * r + c] = 0;
        for (int i = 0; i < 3; ++i) own[4 * r + c] += up[4 * r + i] * R[9 * j + 3 * i + c];
        own[4 * r + 3] += (up[4 * r + c] - own[4 * r + c]) * p[3 * j + c];
      }
    }
  }
}

// v_A [J, 3, 4] is consumed; v_R [J, 9] and v_translation are added to, v_p [J, 3] is written.
AVATAR_HD void chain_vjp(int64_t joints, const int32_t* parents, const double* R, const double* p, const double* A,
                         double* v_A, double* v_R, double* v_p, double v_translation[3]) {
  for (int64_t j = joints - 1; j >= 0; --j) {
    const double top[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
    double v_top[12] = {};
    const double* up = parents[j] < 0 ? top : A + 12 * parents[j];
    double* v_up = parents[j] < 0 ? v_top : v_A + 12 * parents[j];
    double* v_own = v_A + 12 * j;
    for (int c = 0; c < 3; ++c) v_p[3 * j + c] = 0;
    for (int r = 0; r < 3; ++r) {
      const double v_t = v_own[4 * r + 3];
      v_up[4 * r + 3] += v_t;
      for (int c = 0; c < 3; ++c) {
        v_p[3 * j + c] += (up[4 * r + c] - A[12 * j + 4 * r + c]) * v_t;
        v_up[4 * r + c] += v_t * p[3 * j + c];
        v_own[4 * r + c] -= v_t * p[3 * j + c];
      }
    }
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 3; ++c)
        for (int i = 0; i < 3; ++i) {
          v_up[4 * r + i] += v_own[4 * r + c] * R[9 * j + 3 * i + c];
          v_R[9 * j + 3 * i + c] += up[4 * r + i] * v_own[4 * r + c];
        }
    if (parents[j] < 0)
      for (int r = 0; r < 3; ++r) v_translation[r] += v_top[4 * r + 3];
  }
}

}  // namespace avatar
