// What the skin kernels are given. Plain pointers only: the wide kernels are compiled apart from everything else.
//
// A mesh is cut into blocks of SKIN_BLOCK vertices. Of a basis each block keeps only the columns that move any of its
// vertices: block i owns entries starts[i] .. starts[i + 1], entry e belongs to column columns[e] and holds
// [3 or 1, SKIN_BLOCK] values, all x then all y then all z.
#pragma once

#include <cstdint>

namespace avatar {

constexpr int SKIN_BLOCK = 32;  // 6 registers of 16 lanes per column and frame; small enough that zero columns are skipped

template <typename T>
struct SparseBlocks {
  const T* values;         // [entries, 3 or 1, SKIN_BLOCK]
  const int32_t* columns;  // [entries]
  const int32_t* starts;   // [blocks + 1]
};

template <typename T>
struct SkinMesh {
  int64_t verts, blocks, joints, features, frames;  // V, ceil(V / SKIN_BLOCK), J, K = C + 9 (J - 1), B
  const T* rest;                                    // [V, 3]
  SparseBlocks<T> basis;                            // columns are features
  SparseBlocks<T> weights;                          // columns are joints
  const T* coeffs;                                  // [B, K] coefficients, then vec(R - I) of every joint but the root
  const T* transforms;                              // [B, J, 3, 4]
  T* shaped;                                        // [B, blocks, 3, SKIN_BLOCK] before skinning
};

template <typename T>
struct SkinGrads {
  const T* v_verts;  // [B, V, 3]
  T* v_rest;         // [V, 3]
  T* v_coeffs;       // [B, K] of this range of blocks only
  T* v_transforms;   // [B, J, 3, 4] of this range of blocks only
};

// One set of kernels, compiled for one instruction set. All work on blocks [begin, end) and on every frame.
template <typename T>
struct SkinKernels {
  void (*forward)(const SkinMesh<T>&, T* verts, int64_t begin, int64_t end);
  void (*backward)(const SkinMesh<T>&, const SkinGrads<T>&, T* scratch, int64_t begin, int64_t end);
  int64_t (*scratch_size)(const SkinMesh<T>&);  // elements that backward wants, zeroed
};

template <typename T>
const SkinKernels<T>& skin_scalar();
template <typename T>
const SkinKernels<T>& skin_avx2();
template <typename T>
const SkinKernels<T>& skin_avx512();

}  // namespace avatar
