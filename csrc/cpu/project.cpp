// project: 3D Gaussians to 2D splats, for every camera. The float path runs sixteen Gaussians at a time (raster_kernels.h),
// the double path is the same formulas one at a time, for gradient checks.
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/raster.h"
#include "ops.h"

namespace avatar {
namespace {

constexpr int64_t BLOCK = 1024;  // Gaussians a task handles; fixed, so that camera gradients add up in one order

template <typename S>
PinholeCamera<S> make_camera(const S* viewmat, const S* K, int64_t width, int64_t height, double near_plane,
                             double far_plane, double blur) {
  PinholeCamera<S> c;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) c.rotation[3 * i + j] = viewmat[4 * i + j];
    c.translation[i] = viewmat[4 * i + 3];
  }
  c.fx = K[0];
  c.fy = K[4];
  c.cx = K[2];
  c.cy = K[5];
  c.near_plane = static_cast<S>(near_plane);
  c.far_plane = static_cast<S>(far_plane);
  c.width = static_cast<S>(width);
  c.height = static_cast<S>(height);
  c.blur = static_cast<S>(blur);
  // The Jacobian of a Gaussian far outside the picture is taken at 15 % beyond its edge (as in 3DGS and gsplat):
  // the affine approximation explodes there.
  const S margin_x = S(0.15) * c.width / c.fx, margin_y = S(0.15) * c.height / c.fy;
  c.left = -c.cx / c.fx - margin_x;
  c.right = (c.width - c.cx) / c.fx + margin_x;
  c.top = -c.cy / c.fy - margin_y;
  c.bottom = (c.height - c.cy) / c.fy + margin_y;
  for (int i = 0; i < 9; ++i)
    if (!std::isfinite(c.rotation[i])) throw std::runtime_error("project: viewmats holds a value that is not finite");
  for (int i = 0; i < 3; ++i)
    if (!std::isfinite(c.translation[i])) throw std::runtime_error("project: viewmats holds a value that is not finite");
  if (!(std::isfinite(c.cx) && std::isfinite(c.cy) && c.fx > 0 && c.fy > 0 && std::isfinite(c.fx) && std::isfinite(c.fy)))
    throw std::runtime_error("project: Ks must be finite with positive focal lengths, got fx = " +
                             std::to_string(c.fx) + ", fy = " + std::to_string(c.fy));
  return c;
}

int64_t project_range(const PinholeCamera<double>& camera, const double* means, const double* quats,
                      const double* scales, const double* opacities, double* means2d, double* conics, double* depths,
                      double* radii, double* compensations, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    double poison = opacities[i] * 0, norm2 = 0;
    for (int k = 0; k < 3; ++k) poison += means[3 * i + k] * 0 + scales[3 * i + k] * 0;
    for (int k = 0; k < 4; ++k) {
      poison += quats[4 * i + k] * 0;
      norm2 += quats[4 * i + k] * quats[4 * i + k];
    }
    if (!(poison == 0) || !(norm2 > 1e-24)) return i;
    const Splat<double> s = project(camera, means + 3 * i, quats + 4 * i, scales + 3 * i);
    const double reach = 2.0 * std::log(opacities[i] * 255.0);
    const double rx = std::sqrt(reach * s.var_x), ry = std::sqrt(reach * s.var_y);
    const bool seen = s.depth > camera.near_plane && s.depth < camera.far_plane && opacities[i] * 255.0 > 1.0 &&
                      s.det > 0 && s.x + rx >= 0.5 && s.x - rx <= camera.width - 0.5 && s.y + ry >= 0.5 &&
                      s.y - ry <= camera.height - 0.5 && rx < 1e9 && ry < 1e9;
    means2d[2 * i] = seen ? s.x : 0;
    means2d[2 * i + 1] = seen ? s.y : 0;
    conics[3 * i] = seen ? s.a : 0;
    conics[3 * i + 1] = seen ? s.b : 0;
    conics[3 * i + 2] = seen ? s.c : 0;
    depths[i] = seen ? s.depth : 0;
    radii[2 * i] = seen ? rx : 0;
    radii[2 * i + 1] = seen ? ry : 0;
    compensations[i] = seen ? s.compensation : 0;
  }
  return -1;
}

void project_vjp_range(const PinholeCamera<double>& camera, const double* means, const double* quats,
                       const double* scales, const double* radii, const double* v_means2d, const double* v_conics,
                       const double* v_depths, const double* v_compensations, double* v_means, double* v_quats,
                       double* v_scales, double* v_camera, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (!(radii[2 * i] > 0)) continue;
    SplatGrad<double> v = {};
    if (v_means2d) v.x = v_means2d[2 * i], v.y = v_means2d[2 * i + 1];
    if (v_conics) v.a = v_conics[3 * i], v.b = v_conics[3 * i + 1], v.c = v_conics[3 * i + 2];
    if (v_depths) v.depth = v_depths[i];
    if (v_compensations) v.compensation = v_compensations[i];
    const auto g = project_vjp<true>(camera, means + 3 * i, quats + 4 * i, scales + 3 * i, v);
    for (int k = 0; k < 3; ++k) v_means[3 * i + k] += g.mean[k], v_scales[3 * i + k] += g.scale[k];
    for (int k = 0; k < 4; ++k) v_quats[4 * i + k] += g.quat[k];
    if (v_camera) {
      for (int k = 0; k < 9; ++k) v_camera[k] += g.rotation[k];
      for (int k = 0; k < 3; ++k) v_camera[9 + k] += g.translation[k];
    }
  }
}

void check_inputs(const char* op, const Tensor& means, const Tensor& quats, const Tensor& scales,
                  const Tensor& opacities, const Tensor& viewmats, const Tensor& Ks) {
  const ScalarType dtype = means.scalar_type();
  const int64_t B = means.size(0), N = means.size(1), C = viewmats.size(0);
  check(op, "means", means, dtype, {B, N, 3});
  check(op, "quats", quats, dtype, {B, N, 4});
  check(op, "scales", scales, dtype, {B, N, 3});
  check(op, "opacities", opacities, dtype, {B, N});
  check(op, "viewmats", viewmats, dtype, {C, 4, 4});
  check(op, "Ks", Ks, dtype, {C, 3, 3});
  if (B != C && B != 1)
    throw std::runtime_error(std::string(op) + ": one set of Gaussians per camera or one for all, got B = " +
                             std::to_string(B) + " for C = " + std::to_string(C) + " cameras");
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    throw std::runtime_error(std::string(op) + ": tensors must be float32 or float64");
}

template <typename S>
std::vector<PinholeCamera<S>> make_cameras(const Tensor& viewmats, const Tensor& Ks, int64_t width, int64_t height,
                                           double near_plane, double far_plane, double blur) {
  std::vector<PinholeCamera<S>> cameras;
  for (int64_t c = 0; c < viewmats.size(0); ++c)
    cameras.push_back(make_camera(viewmats.const_data_ptr<S>() + 16 * c, Ks.const_data_ptr<S>() + 9 * c, width, height,
                                  near_plane, far_plane, blur));
  return cameras;
}

template <typename S>
void project_all(const Tensor& means, const Tensor& quats, const Tensor& scales, const Tensor& opacities,
                 const std::vector<PinholeCamera<S>>& cameras, Tensor& means2d, Tensor& conics, Tensor& depths,
                 Tensor& radii, Tensor& compensations) {
  const int64_t N = means.size(1), C = cameras.size(), stride = means.size(0) == 1 ? 0 : N;
  const int64_t blocks = (N + BLOCK - 1) / BLOCK;
  std::vector<int64_t> bad(C * blocks, -1);
  const RasterKernels& kernels = raster_kernels();
  parallel_items(C * blocks, [&](int64_t item) {
    const int64_t c = item / blocks, begin = item % blocks * BLOCK, end = std::min(N, begin + BLOCK);
    const int64_t in = c * stride, out = c * N;
    const S *m = means.const_data_ptr<S>() + 3 * in, *q = quats.const_data_ptr<S>() + 4 * in;
    const S *s = scales.const_data_ptr<S>() + 3 * in, *o = opacities.const_data_ptr<S>() + in;
    S *m2 = means2d.mutable_data_ptr<S>() + 2 * out, *k = conics.mutable_data_ptr<S>() + 3 * out;
    S *d = depths.mutable_data_ptr<S>() + out, *r = radii.mutable_data_ptr<S>() + 2 * out;
    S* p = compensations.mutable_data_ptr<S>() + out;
    if constexpr (std::is_same_v<S, float>)
      bad[item] = kernels.project(cameras[c], {m, q, s, o, m2, k, d, r, p}, begin, end);
    else
      bad[item] = project_range(cameras[c], m, q, s, o, m2, k, d, r, p, begin, end);
  });
  for (int64_t item = 0; item < C * blocks; ++item)
    if (bad[item] >= 0)
      throw std::runtime_error("project: Gaussian " + std::to_string(bad[item]) + " of picture " +
                               std::to_string(item / blocks) +
                               " has a mean, quaternion, scale or opacity that is not finite, or a zero quaternion");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> project_cpu(Tensor means,      // [B, N, 3]
                                                               Tensor quats,      // [B, N, 4]
                                                               Tensor scales,     // [B, N, 3]
                                                               Tensor opacities,  // [B, N]
                                                               Tensor viewmats,   // [C, 4, 4]
                                                               Tensor Ks,         // [C, 3, 3]
                                                               int64_t width, int64_t height, double near_plane,
                                                               double far_plane, double blur) {
  check_inputs("project", means, quats, scales, opacities, viewmats, Ks);
  const int64_t N = means.size(1), C = viewmats.size(0);
  const auto run = [&]<typename S>(S) {
    Tensor means2d = empty<S>(means, {C, N, 2}), conics = empty<S>(means, {C, N, 3}), depths = empty<S>(means, {C, N});
    Tensor radii = empty<S>(means, {C, N, 2}), compensations = empty<S>(means, {C, N});
    const auto cameras = make_cameras<S>(viewmats, Ks, width, height, near_plane, far_plane, blur);
    project_all<S>(means, quats, scales, opacities, cameras, means2d, conics, depths, radii, compensations);
    return std::make_tuple(means2d, conics, depths, radii, compensations);
  };
  return means.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> project_backward_cpu(
    Tensor means, Tensor quats, Tensor scales, Tensor viewmats, Tensor Ks,
    Tensor radii,  // [C, N, 2]
    int64_t width, int64_t height, double near_plane, double far_plane, double blur,
    std::optional<Tensor> v_means2d,        // [C, N, 2]
    std::optional<Tensor> v_conics,         // [C, N, 3]
    std::optional<Tensor> v_depths,         // [C, N]
    std::optional<Tensor> v_compensations,  // [C, N]
    bool with_camera) {
  const int64_t B = means.size(0), N = means.size(1), C = viewmats.size(0);
  const auto run = [&]<typename S>(S) {
    Tensor v_means = zeros<S>(means, {B, N, 3}), v_quats = zeros<S>(means, {B, N, 4});
    Tensor v_scales = zeros<S>(means, {B, N, 3}), v_viewmats = zeros<S>(means, {C, 4, 4});
    const auto cameras = make_cameras<S>(viewmats, Ks, width, height, near_plane, far_plane, blur);
    const int64_t blocks = (N + BLOCK - 1) / BLOCK, stride = B == 1 ? 0 : N;
    std::vector<S> v_camera(with_camera ? C * blocks * 12 : 0, S(0));
    const auto pointer = [](const std::optional<Tensor>& t, int64_t offset) {
      return t ? t->const_data_ptr<S>() + offset : nullptr;
    };
    const RasterKernels& kernels = raster_kernels();
    const auto one = [&](int64_t c, int64_t block) {
      const int64_t begin = block * BLOCK, end = std::min(N, begin + BLOCK), in = c * stride, out = c * N;
      const S *m = means.const_data_ptr<S>() + 3 * in, *q = quats.const_data_ptr<S>() + 4 * in;
      const S *s = scales.const_data_ptr<S>() + 3 * in, *r = radii.const_data_ptr<S>() + 2 * out;
      const S *v2 = pointer(v_means2d, 2 * out), *vc = pointer(v_conics, 3 * out), *vd = pointer(v_depths, out);
      const S* vp = pointer(v_compensations, out);
      S *vm = v_means.mutable_data_ptr<S>() + 3 * in, *vq = v_quats.mutable_data_ptr<S>() + 4 * in;
      S* vs = v_scales.mutable_data_ptr<S>() + 3 * in;
      S* camera = with_camera ? v_camera.data() + (c * blocks + block) * 12 : nullptr;
      if constexpr (std::is_same_v<S, float>)
        kernels.project_vjp(cameras[c], {m, q, s, r, v2, vc, vd, vp, vm, vq, vs, camera}, begin, end);
      else
        project_vjp_range(cameras[c], m, q, s, r, v2, vc, vd, vp, vm, vq, vs, camera, begin, end);
    };
    if (stride)
      parallel_items(C * blocks, [&](int64_t item) { one(item / blocks, item % blocks); });
    else  // all cameras add to the same Gaussians: one task takes its block through all of them, in order
      parallel_items(blocks, [&](int64_t block) {
        for (int64_t c = 0; c < C; ++c) one(c, block);
      });
    if (with_camera) {
      S* v = v_viewmats.template mutable_data_ptr<S>();
      for (int64_t c = 0; c < C; ++c)
        for (int64_t block = 0; block < blocks; ++block) {
          const S* part = v_camera.data() + (c * blocks + block) * 12;
          for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) v[16 * c + 4 * i + j] += part[3 * i + j];
            v[16 * c + 4 * i + 3] += part[9 + i];
          }
        }
    }
    return std::make_tuple(v_means, v_quats, v_scales, v_viewmats);
  };
  return means.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("project", TORCH_BOX(&project_cpu));
  m.impl("project_backward", TORCH_BOX(&project_backward_cpu));
}

}  // namespace avatar
