// Skinning: blendshapes and pose correctives, joint chain, linear blend skinning, and the gradient of all of it.
// The definition is `skin` in avatar/ops/reference.py. Blendshapes are bound by memory, so every pass over the basis
// serves all frames of the batch.
#define SKIN_BYTES 16  // the narrowest vectors every supported processor has
#include "cpu/skin_kernel.h"

#include <tuple>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/skin_chain.h"
#include "ops.h"

namespace avatar {

template <>
const SkinKernels<float>& skin_scalar<float>() { return KERNELS<float>; }
template <>
const SkinKernels<double>& skin_scalar<double>() { return KERNELS<double>; }

namespace {

constexpr int64_t RANGE = 16;  // blocks per work item; the order of sums over vertices follows it, never the threads

template <typename T>
const SkinKernels<T>& kernels() {
#if defined(__x86_64__)
  if (current_isa() == AVX512) return skin_avx512<T>();
  if (current_isa() == AVX2) return skin_avx2<T>();
#endif
  return skin_scalar<T>();
}

// The operator's arguments, checked. Few tensors, since torch's bookkeeping per argument is not free.
struct Inputs {
  Tensor rest;         // [V, 3]
  Tensor joints;       // [J, 3]
  Tensor coeffs;       // [B, C]
  Tensor rotations;    // [B, J, 3]
  Tensor translation;  // [B, 3]
  Tensor basis;        // [N, 3, SKIN_BLOCK]
  Tensor joint_basis;  // [J, 3, C]
  Tensor weights;      // [M, 1, SKIN_BLOCK]
  Tensor tables;       // int32: basis starts [blocks + 1] and columns [N], the same of weights [M], parents [J]

  int64_t B() const { return coeffs.size(0); }
  int64_t V() const { return rest.size(0); }
  int64_t J() const { return joints.size(0); }
  int64_t C() const { return coeffs.size(1); }
  int64_t K() const { return C() + 9 * (J() - 1); }
  int64_t blocks() const { return (V() + SKIN_BLOCK - 1) / SKIN_BLOCK; }
  int64_t ranges() const { return (blocks() + RANGE - 1) / RANGE; }
  const int32_t* basis_starts() const { return tables.const_data_ptr<int32_t>(); }
  const int32_t* basis_columns() const { return basis_starts() + blocks() + 1; }
  const int32_t* weight_starts() const { return basis_columns() + basis.size(0); }
  const int32_t* weight_columns() const { return weight_starts() + blocks() + 1; }
  const int32_t* parents() const { return weight_columns() + weights.size(0); }

  void check_all() const {
    const ScalarType dtype = rest.scalar_type();
    if (dtype != ScalarType::Float && dtype != ScalarType::Double)
      throw std::runtime_error("skin: rest must be float32 or float64; convert the head with .to(torch.float32)");
    check("skin", "rest", rest, dtype, {-1, 3});
    check("skin", "joints", joints, dtype, {-1, 3});
    if (J() < 1) throw std::runtime_error("skin: joints must have at least the root, got [0, 3]");
    check("skin", "coeffs", coeffs, dtype, {-1, -1});
    check("skin", "rotations", rotations, dtype, {B(), J(), 3});
    check("skin", "translation", translation, dtype, {B(), 3});
    check("skin", "basis", basis, dtype, {-1, 3, SKIN_BLOCK});
    check("skin", "joint_basis", joint_basis, dtype, {J(), 3, C()});
    check("skin", "weights", weights, dtype, {-1, 1, SKIN_BLOCK});
    check("skin", "tables", tables, ScalarType::Int, {2 * (blocks() + 1) + basis.size(0) + weights.size(0) + J()});
    if (basis_starts()[blocks()] != basis.size(0) || weight_starts()[blocks()] != weights.size(0))
      throw std::runtime_error("skin: tables belong to another basis or other weights; pack them together");
  }
};

// The joints of all frames, in double.
template <typename T>
struct Skeleton {
  const Inputs& in;
  int64_t J, C, K;
  const int32_t* parents;
  const T* joint_basis;
  std::vector<double> R, p, A;  // [B, J, 9] turns, [B, J, 3] joints of the shaped mesh, [B, J, 12] transforms
  std::vector<T> features;      // [B, K] what the basis is multiplied with
  std::vector<T> transforms;    // [B, J, 12] A, rounded

  explicit Skeleton(const Inputs& inputs)
      : in(inputs), J(in.J()), C(in.C()), K(in.K()), parents(in.parents()),
        joint_basis(in.joint_basis.const_data_ptr<T>()), R(in.B() * J * 9), p(in.B() * J * 3), A(in.B() * J * 12),
        features(in.B() * K), transforms(in.B() * J * 12) {
    parallel_blocks(in.B(), 8, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) pose(b);
    });
  }

  void pose(int64_t b) {
    const T* coeffs = in.coeffs.const_data_ptr<T>() + b * C;
    const T* rest = in.joints.const_data_ptr<T>();
    for (int64_t c = 0; c < C; ++c) features[b * K + c] = coeffs[c];
    for (int64_t i = 0; i < 3 * J; ++i) {
      T sum = 0;
      for (int64_t c = 0; c < C; ++c) sum += joint_basis[i * C + c] * coeffs[c];
      p[b * J * 3 + i] = static_cast<double>(rest[i]) + sum;
    }
    double* turns = &R[b * J * 9];
    for (int64_t j = 0; j < J; ++j) {
      const T* w = in.rotations.const_data_ptr<T>() + (b * J + j) * 3;
      const double axis_angle[3] = {w[0], w[1], w[2]};
      rotation_matrix(axis_angle, turns + 9 * j);
      for (int i = 0; i < 9 && j > 0; ++i)
        features[b * K + C + 9 * (j - 1) + i] = static_cast<T>(turns[9 * j + i] - (i % 4 == 0));
    }
    const T* t = in.translation.const_data_ptr<T>() + b * 3;
    const double translation[3] = {t[0], t[1], t[2]};
    chain(J, parents, turns, &p[b * J * 3], translation, &A[b * J * 12]);
    for (int64_t i = b * J * 12; i < (b + 1) * J * 12; ++i) transforms[i] = static_cast<T>(A[i]);
  }

  SkinMesh<T> mesh(T* shaped) const {
    return {in.V(), in.blocks(), J, K, in.B(), in.rest.const_data_ptr<T>(),
            {in.basis.const_data_ptr<T>(), in.basis_columns(), in.basis_starts()},
            {in.weights.const_data_ptr<T>(), in.weight_columns(), in.weight_starts()},
            features.data(), transforms.data(), shaped};
  }
};

template <typename T>
std::tuple<Tensor, Tensor, Tensor> skin_typed(const Inputs& in) {
  const Skeleton<T> skeleton(in);
  Tensor verts = empty<T>(in.rest, {in.B(), in.V(), 3});
  Tensor transforms = empty<T>(in.rest, {in.B(), in.J(), 3, 4});
  Tensor shaped = empty<T>(in.rest, {in.B(), in.blocks(), 3, SKIN_BLOCK});
  std::copy(skeleton.transforms.begin(), skeleton.transforms.end(), transforms.template mutable_data_ptr<T>());
  const SkinMesh<T> mesh = skeleton.mesh(shaped.template mutable_data_ptr<T>());
  T* out = verts.template mutable_data_ptr<T>();
  const SkinKernels<T>& kernel = kernels<T>();
  parallel_blocks(in.blocks(), RANGE, [&](int64_t begin, int64_t end) { kernel.forward(mesh, out, begin, end); });
  return {verts, transforms, shaped};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> skin_backward_typed(const Inputs& in, const Tensor& shaped,
                                                                       const Tensor& v_verts,
                                                                       const Tensor& v_transforms) {
  const int64_t B = in.B(), J = in.J(), C = in.C(), K = in.K();
  check("skin_backward", "shaped", shaped, dtype_of<T>(), {B, in.blocks(), 3, SKIN_BLOCK});
  check("skin_backward", "v_verts", v_verts, dtype_of<T>(), {B, in.V(), 3});
  check("skin_backward", "v_transforms", v_transforms, dtype_of<T>(), {B, J, 3, 4});
  const Skeleton<T> skeleton(in);
  const SkinMesh<T> mesh = skeleton.mesh(const_cast<T*>(shaped.const_data_ptr<T>()));

  Tensor v_rest = B > 0 ? empty<T>(in.rest, {in.V(), 3}) : zeros<T>(in.rest, {in.V(), 3});
  T* v_rest_data = v_rest.template mutable_data_ptr<T>();
  std::vector<T> coeff_sums(in.ranges() * B * K), transform_sums(in.ranges() * B * J * 12);
  const SkinKernels<T>& kernel = kernels<T>();
  parallel_items(in.ranges(), [&](int64_t i) {
    const SkinGrads<T> grads{v_verts.const_data_ptr<T>(), v_rest_data, &coeff_sums[i * B * K],
                             &transform_sums[i * B * J * 12]};
    std::vector<T> scratch(kernel.scratch_size(mesh));
    kernel.backward(mesh, grads, scratch.data(), i * RANGE, std::min(in.blocks(), (i + 1) * RANGE));
  });

  Tensor v_joints = zeros<T>(in.rest, {J, 3});
  Tensor v_coeffs = empty<T>(in.rest, {B, C});
  Tensor v_rotations = empty<T>(in.rest, {B, J, 3});
  Tensor v_translation = empty<T>(in.rest, {B, 3});
  T* v_coeffs_data = v_coeffs.template mutable_data_ptr<T>();
  T* v_rotations_data = v_rotations.template mutable_data_ptr<T>();
  T* v_translation_data = v_translation.template mutable_data_ptr<T>();
  const T* v_transforms_data = v_transforms.const_data_ptr<T>();
  std::vector<double> v_p(B * J * 3);
  parallel_blocks(B, 8, [&](int64_t begin, int64_t end) {
    std::vector<double> v_features(K), v_A(J * 12), v_R(J * 9);
    for (int64_t b = begin; b < end; ++b) {
      std::fill(v_features.begin(), v_features.end(), 0.0);
      for (int64_t i = 0; i < J * 12; ++i) v_A[i] = v_transforms_data[b * J * 12 + i];
      for (int64_t range = 0; range < in.ranges(); ++range) {
        for (int64_t k = 0; k < K; ++k) v_features[k] += coeff_sums[(range * B + b) * K + k];
        for (int64_t i = 0; i < J * 12; ++i) v_A[i] += transform_sums[(range * B + b) * J * 12 + i];
      }
      std::fill(v_R.begin(), v_R.end(), 0.0);
      std::copy(v_features.begin() + C, v_features.end(), v_R.begin() + 9);
      double v_t[3] = {};
      chain_vjp(J, skeleton.parents, &skeleton.R[b * J * 9], &skeleton.p[b * J * 3], &skeleton.A[b * J * 12],
                v_A.data(), v_R.data(), &v_p[b * J * 3], v_t);
      for (int i = 0; i < 3; ++i) v_translation_data[b * 3 + i] = static_cast<T>(v_t[i]);
      for (int64_t i = 0; i < 3 * J; ++i)
        for (int64_t c = 0; c < C; ++c) v_features[c] += skeleton.joint_basis[i * C + c] * v_p[b * J * 3 + i];
      for (int64_t c = 0; c < C; ++c) v_coeffs_data[b * C + c] = static_cast<T>(v_features[c]);
      for (int64_t j = 0; j < J; ++j) {
        const T* w = in.rotations.const_data_ptr<T>() + (b * J + j) * 3;
        const double axis_angle[3] = {w[0], w[1], w[2]};
        double v_w[3];
        rotation_matrix_vjp(axis_angle, &v_R[9 * j], v_w);
        for (int i = 0; i < 3; ++i) v_rotations_data[(b * J + j) * 3 + i] = static_cast<T>(v_w[i]);
      }
    }
  });
  T* v_joints_data = v_joints.template mutable_data_ptr<T>();
  for (int64_t i = 0; i < J * 3; ++i) {
    double sum = 0;
    for (int64_t b = 0; b < B; ++b) sum += v_p[b * J * 3 + i];
    v_joints_data[i] = static_cast<T>(sum);
  }
  return {v_rest, v_joints, v_coeffs, v_rotations, v_translation};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> skin_cpu(Tensor rest, Tensor joints, Tensor coeffs, Tensor rotations,
                                            Tensor translation, Tensor basis, Tensor joint_basis, Tensor weights,
                                            Tensor tables) {
  const Inputs in{rest, joints, coeffs, rotations, translation, basis, joint_basis, weights, tables};
  in.check_all();
  return rest.scalar_type() == ScalarType::Double ? skin_typed<double>(in) : skin_typed<float>(in);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> skin_backward_cpu(Tensor rest, Tensor joints, Tensor coeffs,
                                                                     Tensor rotations, Tensor translation,
                                                                     Tensor basis, Tensor joint_basis, Tensor weights,
                                                                     Tensor tables,
                                                                     Tensor shaped,          // [B, blocks, 3, SKIN_BLOCK]
                                                                     Tensor v_verts,         // [B, V, 3]
                                                                     Tensor v_transforms) {  // [B, J, 3, 4]
  const Inputs in{rest, joints, coeffs, rotations, translation, basis, joint_basis, weights, tables};
  in.check_all();
  return rest.scalar_type() == ScalarType::Double ? skin_backward_typed<double>(in, shaped, v_verts, v_transforms)
                                                  : skin_backward_typed<float>(in, shaped, v_verts, v_transforms);
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("skin", TORCH_BOX(&skin_cpu));
  m.impl("skin_backward", TORCH_BOX(&skin_backward_cpu));
}

}  // namespace avatar
