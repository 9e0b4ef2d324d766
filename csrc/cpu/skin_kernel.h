// The skin kernels themselves, written once on vectors of SKIN_BYTES and included by one file per instruction set.
// Everything sits in an unnamed namespace, so that no wide code can be picked for a narrow processor.
#include "cpu/skin.h"

namespace avatar {
namespace {

constexpr int L = SKIN_BLOCK;

template <typename T>
struct Lanes {
  typedef T Vec __attribute__((vector_size(SKIN_BYTES)));
  typedef T Memory __attribute__((vector_size(SKIN_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int W = SKIN_BYTES / sizeof(T);  // lanes of a register
  static constexpr int N = 3 * L / W;               // registers of one xyz block
  static constexpr int FRAMES = N <= 6 ? 4 : 1;     // frames whose sums fit the register file at once
  static constexpr int GROUP = 8;                   // frames that share one pass of the backward over the basis

  static Vec load(const T* p) { return *reinterpret_cast<const Memory*>(p); }
  static void store(T* p, const Vec& v) { *reinterpret_cast<Memory*>(p) = v; }
};

// xyz of n vertices from interleaved to planes of L; lanes past n are zero.
template <typename T>
void split(const T* xyz, int n, T* planes) {
  if (n == L) {
    for (int i = 0; i < L; ++i)
      for (int d = 0; d < 3; ++d) planes[d * L + i] = xyz[3 * i + d];
    return;
  }
  for (int i = 0; i < L; ++i)
    for (int d = 0; d < 3; ++d) planes[d * L + i] = i < n ? xyz[3 * i + d] : T(0);
}

template <typename T>
void join(const T* planes, int n, T* xyz) {
  if (n == L) {
    for (int i = 0; i < L; ++i)
      for (int d = 0; d < 3; ++d) xyz[3 * i + d] = planes[d * L + i];
    return;
  }
  for (int i = 0; i < n; ++i)
    for (int d = 0; d < 3; ++d) xyz[3 * i + d] = planes[d * L + i];
}

template <typename T>
int vertices_of(const SkinMesh<T>& mesh, int64_t block) {
  const int64_t left = mesh.verts - block * L;
  return left < L ? static_cast<int>(left) : L;
}

// shaped = rest + basis * coeffs, for F frames from `frame` on.
template <typename T, int F>
void shape(const SkinMesh<T>& mesh, const T* rest, int64_t block, int64_t frame) {
  using V = Lanes<T>;
  constexpr int N = V::N;
  typename V::Vec sum[F][N];
  for (int n = 0; n < N; ++n)
    for (int f = 0; f < F; ++f) sum[f][n] = V::load(rest + n * V::W);
  const int32_t stop = mesh.basis.starts[block + 1];
  const T* values = mesh.basis.values + static_cast<int64_t>(mesh.basis.starts[block]) * 3 * L;
  const T* coeffs = mesh.coeffs + frame * mesh.features;
  for (int32_t e = mesh.basis.starts[block]; e < stop; ++e, values += 3 * L) {
    const T* c = coeffs + mesh.basis.columns[e];
    for (int n = 0; n < N; ++n) {
      const typename V::Vec direction = V::load(values + n * V::W);
      for (int f = 0; f < F; ++f) sum[f][n] += direction * c[f * mesh.features];
    }
  }
  for (int f = 0; f < F; ++f)
    for (int n = 0; n < N; ++n) V::store(mesh.shaped + ((frame + f) * mesh.blocks + block) * 3 * L + n * V::W, sum[f][n]);
}

// The weighted mean of the joints' transforms, for the W vertices at `lane` of a block. blend [3][4]
template <typename T>
void blend_joints(const SkinMesh<T>& mesh, const T* transforms, int64_t block, int lane,
                  typename Lanes<T>::Vec blend[12]) {
  using V = Lanes<T>;
  for (int i = 0; i < 12; ++i) blend[i] = typename V::Vec{};
  for (int32_t e = mesh.weights.starts[block]; e < mesh.weights.starts[block + 1]; ++e) {
    const typename V::Vec weight = V::load(mesh.weights.values + static_cast<int64_t>(e) * L + lane);
    const T* transform = transforms + mesh.weights.columns[e] * 12;
    for (int i = 0; i < 12; ++i) blend[i] += weight * transform[i];
  }
}

template <typename T>
void forward(const SkinMesh<T>& mesh, T* verts, int64_t begin, int64_t end) {
  using V = Lanes<T>;
  alignas(64) T planes[3 * L], rest[3 * L];
  for (int64_t block = begin; block < end; ++block) {
    const int count = vertices_of(mesh, block);
    split(mesh.rest + block * L * 3, count, rest);
    int64_t frame = 0;
    for (; frame + V::FRAMES <= mesh.frames; frame += V::FRAMES) shape<T, V::FRAMES>(mesh, rest, block, frame);
    for (; frame < mesh.frames; ++frame) shape<T, 1>(mesh, rest, block, frame);
    for (frame = 0; frame < mesh.frames; ++frame) {
      const T* shaped = mesh.shaped + (frame * mesh.blocks + block) * 3 * L;
      for (int lane = 0; lane < L; lane += V::W) {
        typename V::Vec m[12];
        blend_joints(mesh, mesh.transforms + frame * mesh.joints * 12, block, lane, m);
        const typename V::Vec x = V::load(shaped + lane), y = V::load(shaped + L + lane),
                              z = V::load(shaped + 2 * L + lane);
        for (int d = 0; d < 3; ++d)
          V::store(planes + d * L + lane, m[4 * d] * x + m[4 * d + 1] * y + m[4 * d + 2] * z + m[4 * d + 3]);
      }
      join(planes, count, verts + (frame * mesh.verts + block * L) * 3);
    }
  }
}

template <typename T>
T sum_lanes(const T* lanes) {
  T sum = 0;
  for (int i = 0; i < Lanes<T>::W; ++i) sum += lanes[i];
  return sum;
}

// Gradients of one block and up to GROUP frames: v_shaped of each into `v_shaped` [GROUP, 3, L], their sum added to
// v_rest, and the lanes of the sums over vertices into v_transforms [GROUP, J, 12, W].
template <typename T>
void unskin(const SkinMesh<T>& mesh, const SkinGrads<T>& grads, int64_t block, int64_t frame, int frames, T* v_shaped,
            T* v_rest, T* v_transforms) {
  using V = Lanes<T>;
  alignas(64) T gradient[3 * L];
  const int count = vertices_of(mesh, block);
  for (int f = 0; f < frames; ++f) {
    split(grads.v_verts + ((frame + f) * mesh.verts + block * L) * 3, count, gradient);
    const T* shaped = mesh.shaped + ((frame + f) * mesh.blocks + block) * 3 * L;
    T* sums = v_transforms + f * mesh.joints * 12 * V::W;
    for (int lane = 0; lane < L; lane += V::W) {
      typename V::Vec m[12], g[3], x[3];
      blend_joints(mesh, mesh.transforms + (frame + f) * mesh.joints * 12, block, lane, m);
      for (int d = 0; d < 3; ++d) {
        g[d] = V::load(gradient + d * L + lane);
        x[d] = V::load(shaped + d * L + lane);
      }
      for (int d = 0; d < 3; ++d) {
        const typename V::Vec v = m[d] * g[0] + m[4 + d] * g[1] + m[8 + d] * g[2];
        V::store(v_shaped + f * 3 * L + d * L + lane, v);
        V::store(v_rest + d * L + lane, V::load(v_rest + d * L + lane) + v);
      }
      for (int32_t e = mesh.weights.starts[block]; e < mesh.weights.starts[block + 1]; ++e) {
        const typename V::Vec weight = V::load(mesh.weights.values + static_cast<int64_t>(e) * L + lane);
        T* sum = sums + mesh.weights.columns[e] * 12 * V::W;
        for (int d = 0; d < 3; ++d) {
          const typename V::Vec pull = weight * g[d];
          for (int i = 0; i < 3; ++i, sum += V::W) V::store(sum, V::load(sum) + pull * x[i]);
          V::store(sum, V::load(sum) + pull);
          sum += V::W;
        }
      }
    }
  }
}

template <typename T>
void backward(const SkinMesh<T>& mesh, const SkinGrads<T>& grads, T* scratch, int64_t begin, int64_t end) {
  using V = Lanes<T>;
  constexpr int W = V::W, N = V::N, GROUP = V::GROUP;
  T* v_coeffs = scratch;                                        // [K, frames, W]
  T* v_transforms = v_coeffs + GROUP * mesh.features * W;       // [GROUP, J, 12, W]
  T* const scratch_end = v_transforms + GROUP * mesh.joints * 12 * W;
  alignas(64) T v_shaped[GROUP * 3 * L], v_rest[3 * L];
  for (int64_t frame = 0; frame < mesh.frames; frame += GROUP) {
    const int frames = mesh.frames - frame < GROUP ? static_cast<int>(mesh.frames - frame) : GROUP;
    if (frame > 0)
      for (T* p = scratch; p < scratch_end; ++p) *p = 0;
    for (int64_t block = begin; block < end; ++block) {
      const int count = vertices_of(mesh, block);
      if (frame == 0) {
        for (int i = 0; i < 3 * L; ++i) v_rest[i] = 0;
      } else {
        split(grads.v_rest + block * L * 3, count, v_rest);
      }
      unskin(mesh, grads, block, frame, frames, v_shaped, v_rest, v_transforms);
      join(v_rest, count, grads.v_rest + block * L * 3);

      const int32_t stop = mesh.basis.starts[block + 1];
      const T* values = mesh.basis.values + static_cast<int64_t>(mesh.basis.starts[block]) * 3 * L;
      for (int32_t e = mesh.basis.starts[block]; e < stop; ++e, values += 3 * L) {
        typename V::Vec direction[N];
        for (int n = 0; n < N; ++n) direction[n] = V::load(values + n * W);
        T* sums = v_coeffs + mesh.basis.columns[e] * frames * W;
        for (int f = 0; f < frames; ++f) {
          typename V::Vec sum = V::load(sums + f * W);
          for (int n = 0; n < N; ++n) sum += direction[n] * V::load(v_shaped + f * 3 * L + n * W);
          V::store(sums + f * W, sum);
        }
      }
    }
    for (int f = 0; f < frames; ++f)
      for (int64_t k = 0; k < mesh.features; ++k)
        grads.v_coeffs[(frame + f) * mesh.features + k] = sum_lanes(v_coeffs + (k * frames + f) * W);
    for (int64_t i = 0; i < frames * mesh.joints * 12; ++i)
      grads.v_transforms[frame * mesh.joints * 12 + i] = sum_lanes(v_transforms + i * W);
  }
}

template <typename T>
int64_t scratch_size(const SkinMesh<T>& mesh) {
  return static_cast<int64_t>(Lanes<T>::GROUP) * Lanes<T>::W * (mesh.features + mesh.joints * 12);
}

template <typename T>
constexpr SkinKernels<T> KERNELS = {forward<T>, backward<T>, scratch_size<T>};

}  // namespace
}  // namespace avatar
