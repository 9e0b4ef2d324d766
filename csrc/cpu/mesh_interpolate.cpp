#include <tuple>

#include "cpu/parallel.h"
#include "ops.h"

namespace avatar {

namespace {

constexpr int64_t PIXEL_BLOCK = 1 << 13;  // pixels handed to a thread at once

// Checks ids once per call, so that the loops below may trust them.
void check_interpolate(const char* op, const Tensor& attributes, const Tensor& faces, const Tensor& face_ids,
                       const Tensor& bary) {
  const int64_t C = face_ids.size(0), H = face_ids.size(1), W = face_ids.size(2);
  check(op, "attributes", attributes, attributes.scalar_type(), {attributes.size(0) == 1 ? 1 : C, -1, -1});
  check(op, "faces", faces, ScalarType::Long, {-1, 3});
  check(op, "face_ids", face_ids, ScalarType::Int, {C, H, W});
  check(op, "bary", bary, attributes.scalar_type(), {C, H, W, 3});
  const int64_t V = attributes.size(1), F = faces.size(0);
  const int64_t* verts = faces.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < faces.numel(); ++i)
    if (verts[i] < 0 || verts[i] >= V)
      throw std::runtime_error(std::string(op) + ": face " + std::to_string(i / 3) + " names vertex " +
                               std::to_string(verts[i]) + ", but attributes has V = " + std::to_string(V));
  const int32_t* ids = face_ids.const_data_ptr<int32_t>();
  int32_t highest = -1;
  for (int64_t i = 0; i < face_ids.numel(); ++i) highest = std::max(highest, ids[i]);
  if (highest >= F)
    throw std::runtime_error(std::string(op) + ": face_ids name face " + std::to_string(highest) +
                             ", but faces has F = " + std::to_string(F));
}

template <typename T>
Tensor interpolate_typed(const Tensor& attributes, const Tensor& faces, const Tensor& face_ids, const Tensor& bary) {
  const int64_t C = face_ids.size(0), area = face_ids.size(1) * face_ids.size(2), D = attributes.size(2);
  Tensor values = empty<T>(attributes, {C, face_ids.size(1), face_ids.size(2), D});
  const int64_t step = attributes.size(0) == 1 ? 0 : attributes.size(1) * D;
  const T *source = attributes.const_data_ptr<T>(), *weights = bary.const_data_ptr<T>();
  const int64_t* verts = faces.const_data_ptr<int64_t>();
  const int32_t* ids = face_ids.const_data_ptr<int32_t>();
  T* out = values.mutable_data_ptr<T>();
  parallel_blocks(C * area, PIXEL_BLOCK, [=](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      T* value = out + p * D;
      if (ids[p] < 0) {
        std::fill(value, value + D, T(0));
        continue;
      }
      const T* base = source + p / area * step;
      const int64_t* face = verts + 3 * static_cast<int64_t>(ids[p]);
      const T *a = base + face[0] * D, *b = base + face[1] * D, *c = base + face[2] * D;
      const T wa = weights[3 * p], wb = weights[3 * p + 1], wc = weights[3 * p + 2];
      for (int64_t d = 0; d < D; ++d) value[d] = wa * a[d] + wb * b[d] + wc * c[d];
    }
  });
  return values;
}

template <typename T>
std::tuple<Tensor, Tensor> interpolate_bwd_typed(const Tensor& attributes, const Tensor& faces, const Tensor& face_ids,
                                                 const Tensor& bary, const Tensor& v_values) {
  const int64_t A = attributes.size(0), V = attributes.size(1), D = attributes.size(2);
  const int64_t C = face_ids.size(0), area = face_ids.size(1) * face_ids.size(2);
  Tensor v_attributes = zeros<T>(attributes, {A, V, D});
  Tensor v_bary = empty<T>(attributes, {C, face_ids.size(1), face_ids.size(2), 3});
  const T *source = attributes.const_data_ptr<T>(), *weights = bary.const_data_ptr<T>(),
          *grads = v_values.const_data_ptr<T>();
  const int64_t* verts = faces.const_data_ptr<int64_t>();
  const int32_t* ids = face_ids.const_data_ptr<int32_t>();
  T *v_source = v_attributes.mutable_data_ptr<T>(), *v_weights = v_bary.mutable_data_ptr<T>();
  // Pixels add up in picture order, so the sum is the same for any number of threads: shared attributes take one
  // thread, attributes of their own one thread a picture.
  const int64_t per_item = A == 1 ? C * area : area;
  parallel_items(per_item == 0 ? 0 : C * area / per_item, [=](int64_t item) {
    const int64_t offset = item * V * D;
    for (int64_t p = item * per_item; p < (item + 1) * per_item; ++p) {
      T* v_weight = v_weights + 3 * p;
      for (int k = 0; k < 3; ++k) {
        v_weight[k] = 0;
        if (ids[p] < 0) continue;
        const int64_t at = offset + verts[3 * static_cast<int64_t>(ids[p]) + k] * D;
        T sum = 0;
        for (int64_t d = 0; d < D; ++d) {
          sum += grads[p * D + d] * source[at + d];
          v_source[at + d] += weights[3 * p + k] * grads[p * D + d];
        }
        v_weight[k] = sum;
      }
    }
  });
  return {v_attributes, v_bary};
}

}  // namespace

Tensor interpolate_mesh_cpu(Tensor attributes,  // [A, V, D], A = C or 1
                            Tensor faces,       // [F, 3] int64
                            Tensor face_ids,    // [C, H, W] int32, -1 background
                            Tensor bary) {      // [C, H, W, 3]
  check_interpolate("interpolate_mesh", attributes, faces, face_ids, bary);
  return attributes.scalar_type() == ScalarType::Double ? interpolate_typed<double>(attributes, faces, face_ids, bary)
                                                        : interpolate_typed<float>(attributes, faces, face_ids, bary);
}

std::tuple<Tensor, Tensor> interpolate_mesh_bwd_cpu(Tensor attributes,  // [A, V, D], A = C or 1
                                                    Tensor faces,       // [F, 3] int64
                                                    Tensor face_ids,    // [C, H, W] int32
                                                    Tensor bary,        // [C, H, W, 3]
                                                    Tensor v_values) {  // [C, H, W, D]
  check_interpolate("interpolate_mesh_bwd", attributes, faces, face_ids, bary);
  check("interpolate_mesh_bwd", "v_values", v_values, attributes.scalar_type(),
        {face_ids.size(0), face_ids.size(1), face_ids.size(2), attributes.size(2)});
  return attributes.scalar_type() == ScalarType::Double
             ? interpolate_bwd_typed<double>(attributes, faces, face_ids, bary, v_values)
             : interpolate_bwd_typed<float>(attributes, faces, face_ids, bary, v_values);
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("interpolate_mesh", TORCH_BOX(&interpolate_mesh_cpu));
  m.impl("interpolate_mesh_bwd", TORCH_BOX(&interpolate_mesh_bwd_cpu));
}

}  // namespace avatar
