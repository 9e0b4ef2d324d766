// vertex_frames and bind: Gaussians that ride on a posed mesh without tearing at its edges (representation.md).
// float32 and float64, forward and backward. Sums over neighbours are gathered through lists built once per topology, in
// their order, so that results do not depend on the number of threads.
#include <cmath>
#include <vector>

#include "cpu/parallel.h"
#include "ops.h"

namespace avatar {
namespace {

constexpr int64_t BLOCK = 256;

template <typename S>
struct Vec {
  S x, y, z;
};
template <typename S> Vec<S> at(const S* p, int64_t i) { return {p[3 * i], p[3 * i + 1], p[3 * i + 2]}; }
template <typename S> Vec<S> operator+(Vec<S> a, Vec<S> b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
template <typename S> Vec<S> operator-(Vec<S> a, Vec<S> b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
template <typename S> Vec<S> operator*(S k, Vec<S> a) { return {k * a.x, k * a.y, k * a.z}; }
template <typename S> S dot(Vec<S> a, Vec<S> b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
template <typename S> Vec<S> cross(Vec<S> a, Vec<S> b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <typename S> void put(S* p, int64_t i, Vec<S> a) { p[3 * i] = a.x, p[3 * i + 1] = a.y, p[3 * i + 2] = a.z; }

// A vector shorter than this has no direction: what would divide by its length uses zero instead.
template <typename S> constexpr S TINY = S(1e-20);
template <typename S> S inverse_length(Vec<S> a) {
  const S length = std::sqrt(dot(a, a));
  return length > TINY<S> ? 1 / length : S(0);
}
template <typename S> Vec<S> unit_vjp(Vec<S> unit, S inverse, Vec<S> v) { return inverse * (v - dot(unit, v) * unit); }

// Two vectors made orthonormal, the first one kept, and their cross product: a frame, and its gradient.
template <typename S>
struct Frame {
  Vec<S> first, second, third;  // columns
  Vec<S> raw;                   // the second vector as it came
  S inverse_first, inverse_second;
};

template <typename S>
Frame<S> orthonormal(Vec<S> a, Vec<S> b) {
  Frame<S> f;
  f.raw = b;
  f.inverse_first = inverse_length(a);
  f.first = f.inverse_first > 0 ? f.inverse_first * a : Vec<S>{1, 0, 0};
  Vec<S> rest = b - dot(f.first, b) * f.first;
  f.inverse_second = inverse_length(rest);
  if (f.inverse_second > 0) {
    f.second = f.inverse_second * rest;
  } else {  // a degenerate fan: any direction across will do, without a gradient
    const Vec<S> axis = std::abs(f.first.x) < S(0.7) ? Vec<S>{1, 0, 0} : Vec<S>{0, 1, 0};
    rest = cross(f.first, axis);
    f.second = inverse_length(rest) * rest;
  }
  f.third = cross(f.first, f.second);
  return f;
}

template <typename S>
void orthonormal_vjp(const Frame<S>& f, Vec<S> v_first, Vec<S> v_second, Vec<S> v_third, Vec<S>* v_a, Vec<S>* v_b) {
  v_first = v_first + cross(f.second, v_third);
  v_second = v_second + cross(v_third, f.first);
  const Vec<S> v_rest = unit_vjp(f.second, f.inverse_second, v_second);
  const S along = dot(f.first, v_rest);
  *v_b = v_rest - along * f.first;
  v_first = v_first - dot(f.first, f.raw) * v_rest - along * f.raw;
  *v_a = unit_vjp(f.first, f.inverse_first, v_first);
}

struct Mesh {  // topology, int32
  const int32_t *faces, *starts, *corners;
  int64_t F, V;
};

Mesh mesh_of(const char* op, const Tensor& faces, const Tensor& starts, const Tensor& corners) {
  const int64_t F = faces.size(0), V = starts.numel() - 1;
  check(op, "faces", faces, ScalarType::Int, {F, 3});
  check(op, "starts", starts, ScalarType::Int, {V + 1});
  check(op, "corners", corners, ScalarType::Int, {3 * F});
  return {faces.const_data_ptr<int32_t>(), starts.const_data_ptr<int32_t>(), corners.const_data_ptr<int32_t>(), F, V};
}

template <typename S>
struct Fan {  // what a vertex gathers from its faces
  Vec<S> normal{0, 0, 0}, tangent{0, 0, 0};
  S area = 0;
};

template <typename S>
Fan<S> gather_fan(const Mesh& mesh, const S* verts, const S* tangents, int64_t v) {
  Fan<S> fan;
  for (int32_t k = mesh.starts[v]; k < mesh.starts[v + 1]; ++k) {
    const int32_t corner = mesh.corners[k], f = corner / 3;
    const Vec<S> p = at(verts, mesh.faces[3 * f]);
    const Vec<S> e1 = at(verts, mesh.faces[3 * f + 1]) - p, e2 = at(verts, mesh.faces[3 * f + 2]) - p;
    const Vec<S> c = cross(e1, e2);
    fan.normal = fan.normal + c;
    fan.tangent = fan.tangent + tangents[2 * corner] * e1 + tangents[2 * corner + 1] * e2;
    fan.area += S(0.5) * std::sqrt(dot(c, c));
  }
  return fan;
}

template <typename S> constexpr S SHRINK = S(0.5);  // limits of the scale that area may give
template <typename S> constexpr S GROW = S(2);

}  // namespace

std::tuple<Tensor, Tensor> vertex_frames_cpu(Tensor verts,        // [B, V, 3]
                                             Tensor faces,        // [F, 3]
                                             Tensor starts,       // [V + 1]
                                             Tensor corners,      // [3 F]
                                             Tensor tangents,     // [F, 3, 2]
                                             Tensor rest_frames,  // [V, 3, 3], columns normal, tangent, bitangent
                                             Tensor rest_areas    // [V]
) {
  const Mesh mesh = mesh_of("vertex_frames", faces, starts, corners);
  const int64_t B = verts.size(0), V = mesh.V;
  const auto run = [&]<typename S>(S) {
    check("vertex_frames", "verts", verts, dtype_of<S>(), {B, V, 3});
    check("vertex_frames", "tangents", tangents, dtype_of<S>(), {mesh.F, 3, 2});
    check("vertex_frames", "rest_frames", rest_frames, dtype_of<S>(), {V, 3, 3});
    check("vertex_frames", "rest_areas", rest_areas, dtype_of<S>(), {V});
    Tensor rotations = empty<S>(verts, {B, V, 3, 3}), stretch = empty<S>(verts, {B, V});
    const S *x = verts.const_data_ptr<S>(), *t = tangents.const_data_ptr<S>();
    const S *rest = rest_frames.const_data_ptr<S>(), *area = rest_areas.const_data_ptr<S>();
    S *out = rotations.template mutable_data_ptr<S>(), *scale = stretch.template mutable_data_ptr<S>();
    parallel_blocks(B * V, BLOCK, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t v = i % V;
        const Fan<S> fan = gather_fan(mesh, x + i / V * V * 3, t, v);
        const Frame<S> f = orthonormal(fan.normal, fan.tangent);
        const S* r = rest + 9 * v;
        for (int k = 0; k < 3; ++k) {  // posed frame times transposed rest frame
          const Vec<S> row = at(r, k);
          const Vec<S> q = row.x * f.first + row.y * f.second + row.z * f.third;
          out[9 * i + k] = q.x, out[9 * i + 3 + k] = q.y, out[9 * i + 6 + k] = q.z;
        }
        const S ratio = area[v] > 0 ? std::sqrt(fan.area / area[v]) : S(1);
        scale[i] = ratio < SHRINK<S> ? SHRINK<S> : ratio > GROW<S> ? GROW<S> : ratio;
      }
    });
    return std::make_tuple(rotations, stretch);
  };
  return verts.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

Tensor vertex_frames_backward_cpu(Tensor verts, Tensor faces, Tensor starts, Tensor corners, Tensor tangents,
                                  Tensor rest_frames, Tensor rest_areas,
                                  Tensor v_rotations,  // [B, V, 3, 3]
                                  Tensor v_stretch     // [B, V]
) {
  const Mesh mesh = mesh_of("vertex_frames_backward", faces, starts, corners);
  const int64_t B = verts.size(0), V = mesh.V, F = mesh.F;
  const auto run = [&]<typename S>(S) {
    Tensor v_verts = empty<S>(verts, {B, V, 3});
    const S *x = verts.const_data_ptr<S>(), *t = tangents.const_data_ptr<S>();
    const S *rest = rest_frames.const_data_ptr<S>(), *area = rest_areas.const_data_ptr<S>();
    const S *v_q = v_rotations.const_data_ptr<S>(), *v_s = v_stretch.const_data_ptr<S>();
    std::vector<S> of_vertex(B * V * 7), of_corner(B * F * 9);  // gradients of normal, tangent, area; of corners
    parallel_blocks(B * V, BLOCK, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t v = i % V;
        const Fan<S> fan = gather_fan(mesh, x + i / V * V * 3, t, v);
        const Frame<S> f = orthonormal(fan.normal, fan.tangent);
        const S *r = rest + 9 * v, *g = v_q + 9 * i;
        Vec<S> column[3];  // v_frame = v_rotation rest_frame
        for (int k = 0; k < 3; ++k)
          column[k] = {g[0] * r[k] + g[1] * r[3 + k] + g[2] * r[6 + k], g[3] * r[k] + g[4] * r[3 + k] + g[5] * r[6 + k],
                       g[6] * r[k] + g[7] * r[3 + k] + g[8] * r[6 + k]};
        Vec<S> v_normal, v_tangent;
        orthonormal_vjp(f, column[0], column[1], column[2], &v_normal, &v_tangent);
        const S ratio = area[v] > 0 ? std::sqrt(fan.area / area[v]) : S(0);
        const bool inside = ratio > SHRINK<S> && ratio < GROW<S>;
        S* out = of_vertex.data() + 7 * i;
        put(out, 0, v_normal);
        put(out, 1, v_tangent);
        out[6] = inside ? v_s[i] / (2 * ratio * area[v]) : S(0);
      }
    });
    parallel_blocks(B * F, BLOCK, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / F, f = i % F;
        const S* frame = x + b * V * 3;
        const int32_t* id = mesh.faces + 3 * f;
        const Vec<S> e1 = at(frame, id[1]) - at(frame, id[0]), e2 = at(frame, id[2]) - at(frame, id[0]);
        const Vec<S> c = cross(e1, e2), direction = inverse_length(c) * c;
        Vec<S> v_c{0, 0, 0}, v_e1{0, 0, 0}, v_e2{0, 0, 0};
        for (int k = 0; k < 3; ++k) {
          const S *g = of_vertex.data() + 7 * (b * V + id[k]), *ab = t + 2 * (3 * f + k);
          v_c = v_c + at(g, 0) + (S(0.5) * g[6]) * direction;
          v_e1 = v_e1 + ab[0] * at(g, 1);
          v_e2 = v_e2 + ab[1] * at(g, 1);
        }
        v_e1 = v_e1 + cross(e2, v_c);
        v_e2 = v_e2 + cross(v_c, e1);
        S* out = of_corner.data() + 9 * i;
        put(out, 0, S(-1) * (v_e1 + v_e2));
        put(out, 1, v_e1);
        put(out, 2, v_e2);
      }
    });
    S* out = v_verts.template mutable_data_ptr<S>();
    parallel_blocks(B * V, BLOCK, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / V, v = i % V;
        Vec<S> sum{0, 0, 0};
        for (int32_t k = mesh.starts[v]; k < mesh.starts[v + 1]; ++k)
          sum = sum + at(of_corner.data() + b * F * 9, mesh.corners[k]);
        put(out, i, sum);
      }
    });
    return v_verts;
  };
  return verts.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

namespace {

template <typename S>
struct Inputs {  // one moment
  const S *verts, *rotations, *stretch;                     // of the posed mesh
  const S *bary, *height, *offset, *quats, *log_scales;     // of the Gaussians
  const S* normals;                                         // of the mesh at rest
  const int32_t *faces, *face_ids;
};

template <typename S>
struct Seat {  // where a Gaussian sits
  Vec<S> point, normal, local;
  S normal_inverse, stretch;
  Frame<S> frame;
};

template <typename S>
Seat<S> find_seat(const Inputs<S>& o, int64_t i) {
  const int32_t* id = o.faces + 3 * o.face_ids[i];
  Seat<S> seat;
  Vec<S> first{0, 0, 0}, second{0, 0, 0}, normal{0, 0, 0};
  seat.point = {0, 0, 0};
  seat.stretch = 0;
  for (int k = 0; k < 3; ++k) {
    const S b = o.bary[3 * i + k];
    const S* q = o.rotations + 9 * id[k];
    seat.point = seat.point + b * at(o.verts, id[k]);
    first = first + b * Vec<S>{q[0], q[3], q[6]};
    second = second + b * Vec<S>{q[1], q[4], q[7]};
    normal = normal + b * at(o.normals, id[k]);
    seat.stretch += b * o.stretch[id[k]];
  }
  seat.frame = orthonormal(first, second);
  seat.normal_inverse = inverse_length(normal);
  seat.normal = seat.normal_inverse * normal;
  seat.local = at(o.offset, i) + o.height[i] * seat.normal;
  return seat;
}

// Quaternion (w, x, y, z) of a rotation given by its columns; the largest component is found first (Shepperd 1978).
template <typename S>
void to_quaternion(const Frame<S>& f, S* q) {
  const S m00 = f.first.x, m10 = f.first.y, m20 = f.first.z, m01 = f.second.x, m11 = f.second.y, m21 = f.second.z;
  const S m02 = f.third.x, m12 = f.third.y, m22 = f.third.z, trace = m00 + m11 + m22;
  if (trace > 0) {
    const S r = std::sqrt(1 + trace), k = S(0.5) / r;
    q[0] = S(0.5) * r, q[1] = (m21 - m12) * k, q[2] = (m02 - m20) * k, q[3] = (m10 - m01) * k;
  } else if (m00 >= m11 && m00 >= m22) {
    const S r = std::sqrt(1 + m00 - m11 - m22), k = S(0.5) / r;
    q[0] = (m21 - m12) * k, q[1] = S(0.5) * r, q[2] = (m01 + m10) * k, q[3] = (m02 + m20) * k;
  } else if (m11 >= m22) {
    const S r = std::sqrt(1 - m00 + m11 - m22), k = S(0.5) / r;
    q[0] = (m02 - m20) * k, q[1] = (m01 + m10) * k, q[2] = S(0.5) * r, q[3] = (m12 + m21) * k;
  } else {
    const S r = std::sqrt(1 - m00 - m11 + m22), k = S(0.5) / r;
    q[0] = (m10 - m01) * k, q[1] = (m02 + m20) * k, q[2] = (m12 + m21) * k, q[3] = S(0.5) * r;
  }
}

template <typename S>
void multiply(const S* a, const S* b, S* out) {
  out[0] = a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3];
  out[1] = a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2];
  out[2] = a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1];
  out[3] = a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0];
}

template <typename S>
Vec<S> rotate(const Frame<S>& f, Vec<S> a) { return a.x * f.first + a.y * f.second + a.z * f.third; }

constexpr int SHARE = 10;  // gradient of one corner: point 3, two columns of its rotation 6, stretch 1

}  // namespace

std::tuple<Tensor, Tensor, Tensor> bind_cpu(Tensor verts,       // [B, V, 3]
                                            Tensor rotations,   // [B, V, 3, 3]
                                            Tensor stretch,     // [B, V]
                                            Tensor faces,       // [F, 3]
                                            Tensor starts,      // [V + 1]
                                            Tensor corners,     // [3 F]
                                            Tensor normals,     // [V, 3]
                                            Tensor face_ids,    // [N]
                                            Tensor bary,        // [N, 3]
                                            Tensor height,      // [N]
                                            Tensor offset,      // [N, 3]
                                            Tensor quats,       // [N, 4]
                                            Tensor log_scales   // [N, 3]
) {
  const Mesh mesh = mesh_of("bind", faces, starts, corners);
  const int64_t B = verts.size(0), V = mesh.V, N = face_ids.numel();
  check("bind", "face_ids", face_ids, ScalarType::Int, {N});
  const int32_t* face_of = face_ids.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < N; ++i)
    if (face_of[i] < 0 || face_of[i] >= mesh.F)
      throw std::runtime_error("bind: face_ids must be below F = " + std::to_string(mesh.F) + ", Gaussian " +
                               std::to_string(i) + " has " + std::to_string(face_of[i]));
  const auto run = [&]<typename S>(S) {
    check("bind", "verts", verts, dtype_of<S>(), {B, V, 3});
    check("bind", "rotations", rotations, dtype_of<S>(), {B, V, 3, 3});
    check("bind", "stretch", stretch, dtype_of<S>(), {B, V});
    check("bind", "normals", normals, dtype_of<S>(), {V, 3});
    check("bind", "bary", bary, dtype_of<S>(), {N, 3});
    check("bind", "height", height, dtype_of<S>(), {N});
    check("bind", "offset", offset, dtype_of<S>(), {N, 3});
    check("bind", "quats", quats, dtype_of<S>(), {N, 4});
    check("bind", "log_scales", log_scales, dtype_of<S>(), {N, 3});
    Tensor means = empty<S>(verts, {B, N, 3}), world = empty<S>(verts, {B, N, 4}), scales = empty<S>(verts, {B, N, 3});
    S *m = means.template mutable_data_ptr<S>(), *q = world.template mutable_data_ptr<S>();
    S* s = scales.template mutable_data_ptr<S>();
    const Inputs<S> first = {verts.const_data_ptr<S>(),  rotations.const_data_ptr<S>(), stretch.const_data_ptr<S>(),
                             bary.const_data_ptr<S>(),   height.const_data_ptr<S>(),    offset.const_data_ptr<S>(),
                             quats.const_data_ptr<S>(),  log_scales.const_data_ptr<S>(), normals.const_data_ptr<S>(),
                             mesh.faces,                 face_of};
    parallel_blocks(B * N, BLOCK, [&](int64_t begin, int64_t end) {
      Inputs<S> o = first;
      for (int64_t at_ = begin; at_ < end; ++at_) {
        const int64_t b = at_ / N, i = at_ % N;
        o.verts = first.verts + b * V * 3;
        o.rotations = first.rotations + b * V * 9;
        o.stretch = first.stretch + b * V;
        const Seat<S> seat = find_seat(o, i);
        put(m, at_, seat.point + seat.stretch * rotate(seat.frame, seat.local));
        S turn[4];
        to_quaternion(seat.frame, turn);
        multiply(turn, o.quats + 4 * i, q + 4 * at_);
        for (int k = 0; k < 3; ++k) s[3 * at_ + k] = std::exp(o.log_scales[3 * i + k]) * seat.stretch;
      }
    });
    return std::make_tuple(means, world, scales);
  };
  return verts.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> bind_backward_cpu(
    Tensor verts, Tensor rotations, Tensor stretch, Tensor faces, Tensor starts, Tensor corners, Tensor normals,
    Tensor face_ids, Tensor bary, Tensor height, Tensor offset, Tensor quats, Tensor log_scales,
    Tensor v_means,   // [B, N, 3]
    Tensor v_world,   // [B, N, 4]
    Tensor v_scales   // [B, N, 3]
) {
  const Mesh mesh = mesh_of("bind_backward", faces, starts, corners);
  const int64_t B = verts.size(0), V = mesh.V, F = mesh.F, N = face_ids.numel();
  const int32_t* face_of = face_ids.const_data_ptr<int32_t>();
  std::vector<int32_t> first(F + 1, 0), order(N);  // Gaussians by face, in their order
  for (int64_t i = 0; i < N; ++i) ++first[face_of[i] + 1];
  for (int64_t f = 0; f < F; ++f) first[f + 1] += first[f];
  {
    std::vector<int32_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < N; ++i) order[next[face_of[i]]++] = static_cast<int32_t>(i);
  }
  const auto run = [&]<typename S>(S) {
    Tensor v_verts = empty<S>(verts, {B, V, 3}), v_rotations = zeros<S>(verts, {B, V, 3, 3});
    Tensor v_stretch = empty<S>(verts, {B, V}), v_bary = zeros<S>(verts, {N, 3}), v_height = zeros<S>(verts, {N});
    Tensor v_offset = zeros<S>(verts, {N, 3}), v_quats = zeros<S>(verts, {N, 4}), v_log = zeros<S>(verts, {N, 3});
    S *gb = v_bary.template mutable_data_ptr<S>(), *gh = v_height.template mutable_data_ptr<S>();
    S *go = v_offset.template mutable_data_ptr<S>(), *gq = v_quats.template mutable_data_ptr<S>();
    S *gl = v_log.template mutable_data_ptr<S>(), *gx = v_verts.template mutable_data_ptr<S>();
    S *gr = v_rotations.template mutable_data_ptr<S>(), *gs = v_stretch.template mutable_data_ptr<S>();
    std::vector<S> shares(F * 3 * SHARE);
    for (int64_t b = 0; b < B; ++b) {  // moment after moment, so that sums over moments keep one order
      const Inputs<S> o = {verts.const_data_ptr<S>() + b * V * 3, rotations.const_data_ptr<S>() + b * V * 9,
                           stretch.const_data_ptr<S>() + b * V, bary.const_data_ptr<S>(), height.const_data_ptr<S>(),
                           offset.const_data_ptr<S>(), quats.const_data_ptr<S>(), log_scales.const_data_ptr<S>(),
                           normals.const_data_ptr<S>(), mesh.faces, face_of};
      const S *vm = v_means.const_data_ptr<S>() + b * N * 3, *vw = v_world.const_data_ptr<S>() + b * N * 4;
      const S* vs = v_scales.const_data_ptr<S>() + b * N * 3;
      parallel_blocks(F, BLOCK, [&](int64_t begin, int64_t end) {
        for (int64_t f = begin; f < end; ++f) {
          S* share = shares.data() + f * 3 * SHARE;
          std::fill(share, share + 3 * SHARE, S(0));
          for (int32_t k = first[f]; k < first[f + 1]; ++k) {
            const int64_t i = order[k];
            const Seat<S> seat = find_seat(o, i);
            const Vec<S> v_mean = at(vm, i);

            S turn[4], v_turn[4], local_conj[4], turn_conj[4], v_local[4];
            to_quaternion(seat.frame, turn);
            for (int c = 0; c < 4; ++c) {
              turn_conj[c] = c ? -turn[c] : turn[c];
              local_conj[c] = c ? -o.quats[4 * i + c] : o.quats[4 * i + c];
            }
            multiply(vw + 4 * i, local_conj, v_turn);
            multiply(turn_conj, vw + 4 * i, v_local);
            for (int c = 0; c < 4; ++c) gq[4 * i + c] += v_local[c];
            // a rotation by a small angle w moves the quaternion by w/2 times itself: v_w, and the columns it stands for
            S v_angle[4];
            multiply(v_turn, turn_conj, v_angle);
            const Vec<S> w = S(0.25) * Vec<S>{v_angle[1], v_angle[2], v_angle[3]};

            Vec<S> v_first = cross(w, seat.frame.first), v_second = cross(w, seat.frame.second);
            Vec<S> v_third = cross(w, seat.frame.third);
            const Vec<S> pushed = seat.stretch * v_mean;
            v_first = v_first + seat.local.x * pushed;
            v_second = v_second + seat.local.y * pushed;
            v_third = v_third + seat.local.z * pushed;
            Vec<S> v_a, v_b;
            orthonormal_vjp(seat.frame, v_first, v_second, v_third, &v_a, &v_b);

            const Vec<S> v_seat = {dot(seat.frame.first, pushed), dot(seat.frame.second, pushed),
                                   dot(seat.frame.third, pushed)};
            put(go, i, at(go, i) + v_seat);
            gh[i] += dot(v_seat, seat.normal);
            const Vec<S> v_normal = unit_vjp(seat.normal, seat.normal_inverse, o.height[i] * v_seat);
            S v_s = dot(v_mean, rotate(seat.frame, seat.local));
            for (int c = 0; c < 3; ++c) {
              const S size = std::exp(o.log_scales[3 * i + c]), v = vs[3 * i + c];
              gl[3 * i + c] += v * size * seat.stretch;
              v_s += v * size;
            }
            for (int c = 0; c < 3; ++c) {
              const int32_t id = mesh.faces[3 * f + c];
              const S *q = o.rotations + 9 * id, weight = o.bary[3 * i + c];
              gb[3 * i + c] += dot(v_mean, at(o.verts, id)) + dot(v_a, Vec<S>{q[0], q[3], q[6]}) +
                               dot(v_b, Vec<S>{q[1], q[4], q[7]}) + dot(v_normal, at(o.normals, id)) +
                               v_s * o.stretch[id];
              S* part = share + c * SHARE;
              part[0] += weight * v_mean.x, part[1] += weight * v_mean.y, part[2] += weight * v_mean.z;
              part[3] += weight * v_a.x, part[4] += weight * v_a.y, part[5] += weight * v_a.z;
              part[6] += weight * v_b.x, part[7] += weight * v_b.y, part[8] += weight * v_b.z;
              part[9] += weight * v_s;
            }
          }
        }
      });
      parallel_blocks(V, BLOCK, [&](int64_t begin, int64_t end) {
        for (int64_t v = begin; v < end; ++v) {
          S sum[SHARE] = {};
          for (int32_t k = mesh.starts[v]; k < mesh.starts[v + 1]; ++k) {
            const int32_t corner = mesh.corners[k];
            if (first[corner / 3] == first[corner / 3 + 1]) continue;
            for (int c = 0; c < SHARE; ++c) sum[c] += shares[corner * SHARE + c];
          }
          const int64_t i = b * V + v;
          for (int c = 0; c < 3; ++c) {
            gx[3 * i + c] = sum[c];
            gr[9 * i + 3 * c] = sum[3 + c];
            gr[9 * i + 3 * c + 1] = sum[6 + c];
          }
          gs[i] = sum[9];
        }
      });
    }
    return std::make_tuple(v_verts, v_rotations, v_stretch, v_bary, v_height, v_offset, v_quats, v_log);
  };
  return verts.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("vertex_frames", TORCH_BOX(&vertex_frames_cpu));
  m.impl("vertex_frames_backward", TORCH_BOX(&vertex_frames_backward_cpu));
  m.impl("bind", TORCH_BOX(&bind_cpu));
  m.impl("bind_backward", TORCH_BOX(&bind_backward_cpu));
}

}  // namespace avatar
