// Perspective projection of 3D Gaussians (EWA splatting, Zwicker et al. 2001) and its vector-Jacobian product.
// T is float or double, or sixteen floats on a CPU; a GPU thread uses float. The formulas are tested on CPUs in float64.
#pragma once

#include "math.cuh"

namespace avatar {

// One pinhole camera. S is the scalar type behind T.
template <typename S>
struct PinholeCamera {
  S rotation[9];     // world to camera, row-major
  S translation[3];  // metres
  S fx, fy, cx, cy;  // pixels
  S near_plane, far_plane;
  S width, height;
  S blur;                              // added to the diagonal of the 2D covariance, pixels squared
  S left, right, top, bottom;          // limits of x/z and y/z inside which the Jacobian is evaluated
};

template <typename T>
struct Splat {
  T x, y, depth;   // pixels, metres
  T a, b, c;       // conic: the inverse 2D covariance [a b; b c]
  T var_x, var_y;  // diagonal of the 2D covariance, pixels squared
  T compensation;  // sqrt(det before blur / det after blur)
  T det;           // determinant of the blurred covariance
};

template <typename T>
struct SplatGrad {
  T x, y, depth, a, b, c, compensation;
};

template <typename T>
struct GaussianGrad {
  T mean[3], quat[4], scale[3];
  T rotation[9], translation[3];  // of the camera, one Gaussian's share
};

// What the forward and the backward both need.
template <typename T>
struct ProjectionParts {
  T p[3], iz, u, v, u_in, v_in;  // camera-space mean, 1/z, x/z, y/z and both clamped
  T t0[3], t1[3];                // rows of Jacobian times camera rotation
  T r[9];                        // rotation of the normalised quaternion
  T q[4], inv_norm;
  T e0[3], e1[3];                // t0 . column j of r, t1 . column j of r
  T var_x, cov, var_y;           // 2D covariance without blur
};

template <typename T>
AVATAR_HD void quaternion_to_matrix(const T* q, T* r) {
  const T w = q[0], x = q[1], y = q[2], z = q[3];
  const T one = T(1), two = T(2);
  r[0] = one - two * (y * y + z * z);
  r[1] = two * (x * y - w * z);
  r[2] = two * (x * z + w * y);
  r[3] = two * (x * y + w * z);
  r[4] = one - two * (x * x + z * z);
  r[5] = two * (y * z - w * x);
  r[6] = two * (x * z - w * y);
  r[7] = two * (y * z + w * x);
  r[8] = one - two * (x * x + y * y);
}

// v_q of a unit quaternion from v_r of its matrix.
template <typename T>
AVATAR_HD void quaternion_to_matrix_vjp(const T* q, const T* v_r, T* v_q) {
  const T w = q[0], x = q[1], y = q[2], z = q[3];
  const T two = T(2);
  const T s01 = v_r[1] + v_r[3], s02 = v_r[2] + v_r[6], s12 = v_r[5] + v_r[7];
  const T d10 = v_r[3] - v_r[1], d02 = v_r[2] - v_r[6], d21 = v_r[7] - v_r[5];
  v_q[0] = two * (x * d21 + y * d02 + z * d10);
  v_q[1] = two * (y * s01 + z * s02 + w * d21 - two * x * (v_r[4] + v_r[8]));
  v_q[2] = two * (x * s01 + z * s12 + w * d02 - two * y * (v_r[0] + v_r[8]));
  v_q[3] = two * (x * s02 + y * s12 + w * d10 - two * z * (v_r[0] + v_r[4]));
}

template <typename T, typename S>
AVATAR_HD ProjectionParts<T> projection_parts(const PinholeCamera<S>& camera, const T* mean, const T* quat,
                                              const T* scale) {
  ProjectionParts<T> o;
  const S* w = camera.rotation;
  for (int i = 0; i < 3; ++i)
    o.p[i] = T(w[3 * i]) * mean[0] + T(w[3 * i + 1]) * mean[1] + T(w[3 * i + 2]) * mean[2] + T(camera.translation[i]);
  o.iz = T(1) / o.p[2];
  o.u = o.p[0] * o.iz;
  o.v = o.p[1] * o.iz;
  o.u_in = min(max(o.u, T(camera.left)), T(camera.right));
  o.v_in = min(max(o.v, T(camera.top)), T(camera.bottom));
  const T jx = T(camera.fx) * o.iz, jy = T(camera.fy) * o.iz;
  for (int k = 0; k < 3; ++k) {
    o.t0[k] = jx * (T(w[k]) - o.u_in * T(w[6 + k]));
    o.t1[k] = jy * (T(w[3 + k]) - o.v_in * T(w[6 + k]));
  }
  o.inv_norm = T(1) / sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
  for (int k = 0; k < 4; ++k) o.q[k] = quat[k] * o.inv_norm;
  quaternion_to_matrix(o.q, o.r);
  o.var_x = o.cov = o.var_y = T(0);
  for (int j = 0; j < 3; ++j) {
    o.e0[j] = o.t0[0] * o.r[j] + o.t0[1] * o.r[3 + j] + o.t0[2] * o.r[6 + j];
    o.e1[j] = o.t1[0] * o.r[j] + o.t1[1] * o.r[3 + j] + o.t1[2] * o.r[6 + j];
    const T x = o.e0[j] * scale[j], y = o.e1[j] * scale[j];
    o.var_x = o.var_x + x * x;
    o.cov = o.cov + x * y;
    o.var_y = o.var_y + y * y;
  }
  return o;
}

template <typename T, typename S>
AVATAR_HD Splat<T> project(const PinholeCamera<S>& camera, const T* mean, const T* quat, const T* scale) {
  const ProjectionParts<T> o = projection_parts(camera, mean, quat, scale);
  const T blur = T(camera.blur), xx = o.var_x + blur, yy = o.var_y + blur;
  Splat<T> s;
  s.det = xx * yy - o.cov * o.cov;
  const T inv = T(1) / s.det;
  s.x = T(camera.fx) * o.u + T(camera.cx);
  s.y = T(camera.fy) * o.v + T(camera.cy);
  s.depth = o.p[2];
  s.a = yy * inv;
  s.b = -(o.cov * inv);
  s.c = xx * inv;
  s.var_x = xx;
  s.var_y = yy;
  s.compensation = sqrt(max(T(0), (o.var_x * o.var_y - o.cov * o.cov) * inv));
  return s;
}

template <bool CAMERA, typename T, typename S>
AVATAR_HD GaussianGrad<T> project_vjp(const PinholeCamera<S>& camera, const T* mean, const T* quat, const T* scale,
                                      const SplatGrad<T>& v) {
  const ProjectionParts<T> o = projection_parts(camera, mean, quat, scale);
  const T two = T(2), half = T(0.5f), blur = T(camera.blur);
  const T xx = o.var_x + blur, yy = o.var_y + blur;
  const T det = xx * yy - o.cov * o.cov, inv = T(1) / det;
  const T a = yy * inv, b = -(o.cov * inv), c = xx * inv;

  // conic = covariance^-1, so v_covariance = -conic v_conic conic with both off-diagonals sharing v.b
  const T hb = half * v.b;
  const T m00 = a * v.a + b * hb, m01 = a * hb + b * v.c, m10 = b * v.a + c * hb, m11 = b * hb + c * v.c;
  T v_xx = -(m00 * a + m01 * b), v_xy = -(m00 * b + m01 * c), v_yy = -(m10 * b + m11 * c);

  // compensation^2 = det0 / det
  const T det0 = o.var_x * o.var_y - o.cov * o.cov;
  const T ratio = max(T(0), det0 * inv);
  const T root = sqrt(max(ratio, T(1e-12f)));  // the derivative of the root is unbounded at zero
  const T v_ratio = select(ratio > T(1e-12f), v.compensation * half / root, T(0));
  const T v_det0 = v_ratio * inv, v_det = -(v_ratio * ratio * inv);
  v_xx = v_xx + v_det0 * o.var_y + v_det * yy;
  v_yy = v_yy + v_det0 * o.var_x + v_det * xx;
  v_xy = v_xy - (v_det0 + v_det) * o.cov;

  GaussianGrad<T> g;
  T v_t0[3] = {T(0), T(0), T(0)}, v_t1[3] = {T(0), T(0), T(0)}, v_r[9];
  for (int j = 0; j < 3; ++j) {
    const T x = o.e0[j] * scale[j], y = o.e1[j] * scale[j];
    const T v_x = two * (v_xx * x + v_xy * y), v_y = two * (v_xy * x + v_yy * y);
    g.scale[j] = v_x * o.e0[j] + v_y * o.e1[j];
    const T v_e0 = v_x * scale[j], v_e1 = v_y * scale[j];
    for (int k = 0; k < 3; ++k) {
      v_r[3 * k + j] = o.t0[k] * v_e0 + o.t1[k] * v_e1;
      v_t0[k] = v_t0[k] + o.r[3 * k + j] * v_e0;
      v_t1[k] = v_t1[k] + o.r[3 * k + j] * v_e1;
    }
  }

  const S* w = camera.rotation;
  const T jx = T(camera.fx) * o.iz, jy = T(camera.fy) * o.iz;
  T v_iz = (v_t0[0] * o.t0[0] + v_t0[1] * o.t0[1] + v_t0[2] * o.t0[2] + v_t1[0] * o.t1[0] + v_t1[1] * o.t1[1] +
            v_t1[2] * o.t1[2]) * o.p[2];  // t is proportional to 1/z
  const T v_u_in = -(jx * (v_t0[0] * T(w[6]) + v_t0[1] * T(w[7]) + v_t0[2] * T(w[8])));
  const T v_v_in = -(jy * (v_t1[0] * T(w[6]) + v_t1[1] * T(w[7]) + v_t1[2] * T(w[8])));
  const T v_u = T(camera.fx) * v.x +
                select((o.u >= T(camera.left)) & (o.u <= T(camera.right)), v_u_in, T(0));
  const T v_v = T(camera.fy) * v.y +
                select((o.v >= T(camera.top)) & (o.v <= T(camera.bottom)), v_v_in, T(0));
  v_iz = v_iz + v_u * o.p[0] + v_v * o.p[1];
  const T v_p[3] = {v_u * o.iz, v_v * o.iz, v.depth - o.iz * o.iz * v_iz};
  for (int k = 0; k < 3; ++k)
    g.mean[k] = T(w[k]) * v_p[0] + T(w[3 + k]) * v_p[1] + T(w[6 + k]) * v_p[2];

  T v_q[4];
  quaternion_to_matrix_vjp(o.q, v_r, v_q);
  const T along = v_q[0] * o.q[0] + v_q[1] * o.q[1] + v_q[2] * o.q[2] + v_q[3] * o.q[3];
  for (int k = 0; k < 4; ++k) g.quat[k] = (v_q[k] - along * o.q[k]) * o.inv_norm;

  if constexpr (CAMERA) {
    for (int k = 0; k < 3; ++k) {
      g.translation[k] = v_p[k];
      g.rotation[k] = v_p[0] * mean[k] + jx * v_t0[k];
      g.rotation[3 + k] = v_p[1] * mean[k] + jy * v_t1[k];
      g.rotation[6 + k] = v_p[2] * mean[k] - jx * o.u_in * v_t0[k] - jy * o.v_in * v_t1[k];
    }
  }
  return g;
}

}  // namespace avatar
