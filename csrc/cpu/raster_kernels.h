// The rasteriser's inner loops, compiled once per instruction set by raster_<isa>.cpp. See raster.h for the arguments.
//
// A 16 x 16 tile is cut into 4 x 4 blocks of 4 x 4 pixels; a block fills the sixteen lanes. One ellipse test in sixteen
// lanes says which blocks of a tile (or which tiles of a 4 x 4 group) a splat reaches. The forward runs block by block with
// the pixels' state in registers; the backward runs splat by splat with the splat's sums in registers, so that its blocks
// are independent work and nothing is reduced across lanes until the splat leaves the tile.
#pragma once

#include "cpu/raster.h"
#include "cpu/simd.h"

namespace avatar {
namespace {

constexpr int BLOCKS = 16;
constexpr int CHUNK = 128;    // pairs handled between two list builds: their records stay in the first-level cache
constexpr int AHEAD = 6;      // pairs ahead whose record and slot are fetched: both lie anywhere in memory
constexpr int INTERLEAVE = 4; // splats in flight per block in the forward: hides the latency of one exponential

struct alignas(64) LaneTables {
  float column[LANES], row[LANES];  // 4 x 4 layout of the lanes
  constexpr LaneTables() : column(), row() {
    for (int i = 0; i < LANES; ++i) {
      column[i] = static_cast<float>(i % 4);
      row[i] = static_cast<float>(i / 4);
    }
  }
};
constexpr LaneTables LANE;

// Bit k: the splat reaches cell k of a 4 x 4 group of square cells. The first cell's first pixel centre is (x, y); cells
// follow each other every `pitch` pixels. Exact minimum of the exponent over each cell's rectangle of pixel centres; the
// slack keeps every pixel whose own test could pass.
AVATAR_INLINE uint32_t cells_hit(const float* g, float x, float y, float pitch) {
  const F16 a(g[2]), b(g[3]), c(g[4]), zero(0.0f);
  const F16 x0 = fma(load(LANE.column), F16(pitch), F16(x - g[0])), y0 = fma(load(LANE.row), F16(pitch), F16(y - g[1]));
  const F16 x1 = x0 + F16(pitch - 1.0f), y1 = y0 + F16(pitch - 1.0f);
  const F16 near_x = min(max(zero, x0), x1), near_y = min(max(zero, y0), y1);
  const F16 best_y = min(max(F16(g[6]) * near_x, y0), y1), best_x = min(max(F16(g[7]) * near_y, x0), x1);
  const F16 q0 = fma(fma(a, near_x, b * best_y), near_x, c * best_y * best_y);
  const F16 q1 = fma(fma(a, best_x, b * near_y), best_x, c * near_y * near_y);
  const float reach = (g[5] + LOG2_255) * 1.0001f + 1e-3f;
  return bits(min(q0, q1) <= F16(reach));
}

// ---------------------------------------------------------------- projection

// Sixteen rows of an [N, COLUMNS] array as COLUMNS vectors; rows past the end repeat the last one.
template <int COLUMNS>
AVATAR_INLINE void load_rows(const float* p, int64_t first, int64_t end, F16* out) {
  alignas(64) float column[COLUMNS][LANES];
  for (int l = 0; l < LANES; ++l) {
    const float* row = p + COLUMNS * (first + l < end ? first + l : end - 1);
    for (int k = 0; k < COLUMNS; ++k) column[k][l] = row[k];
  }
  for (int k = 0; k < COLUMNS; ++k) out[k] = load(column[k]);
}

template <int COLUMNS, bool ADD>
AVATAR_INLINE void store_rows(float* p, int64_t first, int64_t end, const F16* in) {
  alignas(64) float column[COLUMNS][LANES];
  for (int k = 0; k < COLUMNS; ++k) store(column[k], in[k]);
  const int n = end - first < LANES ? static_cast<int>(end - first) : LANES;
  for (int l = 0; l < n; ++l)
    for (int k = 0; k < COLUMNS; ++k) {
      float& target = p[COLUMNS * (first + l) + k];
      target = ADD ? target + column[k][l] : column[k][l];
    }
}

int64_t project_kernel(const PinholeCamera<float>& camera, const ProjectArrays& o, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += LANES) {
    F16 mean[3], quat[4], scale[3], opacity;
    load_rows<3>(o.means, i, end, mean);
    load_rows<4>(o.quats, i, end, quat);
    load_rows<3>(o.scales, i, end, scale);
    load_rows<1>(o.opacities, i, end, &opacity);

    const F16 zero(0.0f);
    F16 poison = opacity * zero;  // stays zero only if every value is finite
    for (int k = 0; k < 3; ++k) poison = poison + mean[k] * zero + scale[k] * zero;
    for (int k = 0; k < 4; ++k) poison = poison + quat[k] * zero;
    const F16 norm2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
    const uint32_t good = bits((poison >= zero) & (norm2 > F16(1e-24f)));
    if (good != 0xFFFF) return i + __builtin_ctz(~good) < end ? i + __builtin_ctz(~good) : end - 1;

    const Splat<F16> s = project(camera, mean, quat, scale);
    const Mask opaque = opacity > F16(ALPHA_MIN);
    const F16 reach = F16(2.0f / LOG2E) * (log2(select(opaque, opacity, F16(1.0f))) + F16(LOG2_255));
    const F16 rx = sqrt(reach * s.var_x), ry = sqrt(reach * s.var_y);
    const Mask seen = (s.depth > F16(camera.near_plane)) & (s.depth < F16(camera.far_plane)) & opaque & (s.det > zero) &
                      (s.det < F16(1e30f)) & (s.x + rx >= F16(0.5f)) & (s.x - rx <= F16(camera.width - 0.5f)) &
                      (s.y + ry >= F16(0.5f)) & (s.y - ry <= F16(camera.height - 0.5f)) &
                      (rx < F16(1e9f)) & (ry < F16(1e9f)) & (s.a > zero) & (s.c > zero);

    const F16 means2d[2] = {keep(seen, s.x), keep(seen, s.y)};
    const F16 conics[3] = {keep(seen, s.a), keep(seen, s.b), keep(seen, s.c)};
    const F16 depth = keep(seen, s.depth), compensation = keep(seen, s.compensation);
    const F16 radii[2] = {keep(seen, rx), keep(seen, ry)};
    store_rows<2, false>(o.means2d, i, end, means2d);
    store_rows<3, false>(o.conics, i, end, conics);
    store_rows<1, false>(o.depths, i, end, &depth);
    store_rows<2, false>(o.radii, i, end, radii);
    store_rows<1, false>(o.compensations, i, end, &compensation);
  }
  return -1;
}

template <bool CAMERA>
AVATAR_INLINE void project_vjp_range(const PinholeCamera<float>& camera, const ProjectGradArrays& o, int64_t begin,
                                     int64_t end) {
  const F16 zero(0.0f);
  F16 v_camera[12];
  for (int k = 0; k < 12; ++k) v_camera[k] = zero;
  for (int64_t i = begin; i < end; i += LANES) {
    F16 radii[2];
    load_rows<2>(o.radii, i, end, radii);
    Mask seen = radii[0] > zero;
    if (end - i < LANES) seen = seen & (load(LANE.column) + F16(4.0f) * load(LANE.row) < F16(static_cast<float>(end - i)));
    if (bits(seen) == 0) continue;
    F16 mean[3], quat[4], scale[3];
    load_rows<3>(o.means, i, end, mean);
    load_rows<4>(o.quats, i, end, quat);
    load_rows<3>(o.scales, i, end, scale);
    F16 v2[2] = {zero, zero}, vc[3] = {zero, zero, zero}, vd = zero, vr = zero;
    if (o.v_means2d) load_rows<2>(o.v_means2d, i, end, v2);
    if (o.v_conics) load_rows<3>(o.v_conics, i, end, vc);
    if (o.v_depths) load_rows<1>(o.v_depths, i, end, &vd);
    if (o.v_compensations) load_rows<1>(o.v_compensations, i, end, &vr);
    const SplatGrad<F16> v = {v2[0], v2[1], vd, vc[0], vc[1], vc[2], vr};
    GaussianGrad<F16> g = project_vjp<CAMERA>(camera, mean, quat, scale, v);
    for (int k = 0; k < 3; ++k) {
      g.mean[k] = keep(seen, g.mean[k]);
      g.scale[k] = keep(seen, g.scale[k]);
    }
    for (int k = 0; k < 4; ++k) g.quat[k] = keep(seen, g.quat[k]);
    store_rows<3, true>(o.v_means, i, end, g.mean);
    store_rows<4, true>(o.v_quats, i, end, g.quat);
    store_rows<3, true>(o.v_scales, i, end, g.scale);
    if constexpr (CAMERA) {
      for (int k = 0; k < 9; ++k) v_camera[k] = v_camera[k] + keep(seen, g.rotation[k]);
      for (int k = 0; k < 3; ++k) v_camera[9 + k] = v_camera[9 + k] + keep(seen, g.translation[k]);
    }
  }
  if constexpr (CAMERA) {
    alignas(64) float sums[LANES];
    store(sums, sum_each<12>(v_camera));
    for (int k = 0; k < 12; ++k) o.v_camera[k] += sums[k];
  }
}

void project_vjp_kernel(const PinholeCamera<float>& camera, const ProjectGradArrays& o, int64_t begin, int64_t end) {
  if (o.v_camera)
    project_vjp_range<true>(camera, o, begin, end);
  else
    project_vjp_range<false>(camera, o, begin, end);
}

// ---------------------------------------------------------------- binning

int32_t floor_tile(float pixel) {
  const float t = pixel * (1.0f / TILE);
  const int32_t i = static_cast<int32_t>(t);
  return i - (static_cast<float>(i) > t);
}

int32_t tiles_kernel(const float* g, float reach_x, float reach_y, const TileGrid& grid, int32_t* tiles) {
  int32_t c0 = floor_tile(g[0] - reach_x), c1 = floor_tile(g[0] + reach_x);
  int32_t r0 = floor_tile(g[1] - reach_y), r1 = floor_tile(g[1] + reach_y);
  c0 = c0 < 0 ? 0 : c0;
  r0 = r0 < 0 ? 0 : r0;
  c1 = c1 >= grid.columns ? grid.columns - 1 : c1;
  r1 = r1 >= grid.rows ? grid.rows - 1 : r1;
  int32_t count = 0;
  for (int32_t r = r0; r <= r1; r += 4)
    for (int32_t c = c0; c <= c1; c += 4) {
      const uint32_t columns = c1 - c >= 3 ? 0xFu : (1u << (c1 - c + 1)) - 1u;
      const uint32_t rows = r1 - r >= 3 ? 0xFFFFu : (1u << (4 * (r1 - r + 1))) - 1u;
      uint32_t m = cells_hit(g, c * TILE + 0.5f, r * TILE + 0.5f, TILE) & (columns * 0x1111u) & rows;
      for (; m; m &= m - 1) {
        const int32_t k = __builtin_ctz(m);
        tiles[count++] = (r + (k >> 2)) * grid.columns + c + (k & 3);
      }
    }
  return count;
}

// Records of sixteen splats in depth order. b / c and b / a are where the exponent is least along a column or a row.
void pack_kernel(const float* means2d, const float* conics, const float* opacities, const int32_t* ids, int64_t count,
                 float* geometry) {
  for (int64_t i = 0; i < count; i += LANES) {
    const int n = count - i < LANES ? static_cast<int>(count - i) : LANES;
    alignas(64) float x[LANES], y[LANES], a[LANES], b[LANES], c[LANES], o[LANES], out[6][LANES];
    for (int l = 0; l < LANES; ++l) {
      const int64_t id = ids[i + (l < n ? l : n - 1)];
      x[l] = means2d[2 * id];
      y[l] = means2d[2 * id + 1];
      a[l] = conics[3 * id];
      b[l] = conics[3 * id + 1];
      c[l] = conics[3 * id + 2];
      o[l] = opacities[id];
    }
    const F16 va = load(a), vb = load(b), vc = load(c);
    store(out[0], F16(0.5f * LOG2E) * va);
    store(out[1], F16(LOG2E) * vb);
    store(out[2], F16(0.5f * LOG2E) * vc);
    store(out[3], log2(load(o)));
    store(out[4], -(vb / vc));
    store(out[5], -(vb / va));
    for (int l = 0; l < n; ++l) {
      float* g = geometry + (i + l) * GEOMETRY;
      g[0] = x[l];
      g[1] = y[l];
      for (int k = 0; k < 6; ++k) g[2 + k] = out[k][l];
    }
  }
}

// ---------------------------------------------------------------- blending

struct alignas(64) Chunk {
  float record[CHUNK + 1][RECORD];  // the last one draws nothing: it pads the lists
  uint16_t mask[CHUNK];
  uint8_t list[BLOCKS][CHUNK + 64];
  int32_t count[BLOCKS];
};

// For every block the splats of the chunk that reach it, in depth order.
AVATAR_INLINE void build_lists(Chunk& chunk, int n) {
#if AVATAR_LANES_ISA == 512
  for (int i = n; i < ((n + 31) & ~31); ++i) chunk.mask[i] = 0;
  alignas(32) uint8_t order[32];
  for (int i = 0; i < 32; ++i) order[i] = static_cast<uint8_t>(i);
  const __m256i first = _mm256_load_si256(reinterpret_cast<const __m256i*>(order));
  for (int b = 0; b < BLOCKS; ++b) {
    const __m512i bit = _mm512_set1_epi16(static_cast<int16_t>(1 << b));
    int count = 0;
    for (int i = 0; i < n; i += 32) {
      const __mmask32 hit = _mm512_test_epi16_mask(_mm512_loadu_si512(chunk.mask + i), bit);
      const __m256i ids = _mm256_add_epi8(first, _mm256_set1_epi8(static_cast<char>(i)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(chunk.list[b] + count), _mm256_maskz_compress_epi8(hit, ids));
      count += __builtin_popcount(hit);
    }
    chunk.count[b] = count;
  }
#else
  for (int b = 0; b < BLOCKS; ++b) chunk.count[b] = 0;
  for (int i = 0; i < n; ++i)
    for (uint32_t m = chunk.mask[i]; m; m &= m - 1) {
      const int b = __builtin_ctz(m);
      chunk.list[b][chunk.count[b]++] = static_cast<uint8_t>(i);
    }
#endif
}

// Blocks of the tile that have a pixel inside the picture.
AVATAR_INLINE uint32_t blocks_inside(int x, int y, int width, int height) {
  uint32_t inside = 0;
  for (int b = 0; b < BLOCKS; ++b)
    if (x + 4 * (b & 3) < width && y + 4 * (b >> 2) < height) inside |= 1u << b;
  return inside;
}

// One block's pixels between a row-major picture and the lanes; what lies outside the picture reads as `outside`.
AVATAR_INLINE F16 load_block(const float* plane, int x, int y, int width, int height, float outside) {
  alignas(64) float lanes[LANES];
  for (int r = 0; r < 4; ++r)
    if (y + r < height && x + 4 <= width) {
      __builtin_memcpy(lanes + 4 * r, plane + static_cast<int64_t>(y + r) * width + x, 16);
    } else {
      for (int c = 0; c < 4; ++c)
        lanes[4 * r + c] =
            y + r < height && x + c < width ? plane[static_cast<int64_t>(y + r) * width + x + c] : outside;
    }
  return load(lanes);
}

AVATAR_INLINE void store_block(float* plane, int x, int y, int width, int height, F16 value) {
  alignas(64) float lanes[LANES];
  store(lanes, value);
  for (int r = 0; r < 4 && y + r < height; ++r) {
    float* row = plane + static_cast<int64_t>(y + r) * width + x;
    if (x + 4 <= width)
      __builtin_memcpy(row, lanes + 4 * r, 16);
    else
      for (int c = 0; x + c < width; ++c) row[c] = lanes[4 * r + c];
  }
}

template <int D>
AVATAR_INLINE void blend_tile(const BlendTile& t) {
  struct alignas(64) State {
    float next[BLOCKS][LANES];   // transmittance that the next splat sees; under the limit once a pixel is finished
    float final[BLOCKS][LANES];  // transmittance left for the background
    float color[D][BLOCKS][LANES];
  };
  Chunk chunk;
  State state;
  const F16 lane_x = load(LANE.column), lane_y = load(LANE.row);
  const uint32_t inside = blocks_inside(t.x, t.y, t.width, t.height);
  for (int b = 0; b < BLOCKS; ++b) {
    store(state.next[b], F16(1.0f));
    store(state.final[b], F16(1.0f));
    for (int k = 0; k < D; ++k) store(state.color[k][b], F16(0.0f));
  }
  for (int k = 0; k < RECORD; ++k) chunk.record[CHUNK][k] = 0.0f;
  chunk.record[CHUNK][5] = -1e9f;

  uint32_t open = inside;  // blocks with an unfinished pixel
  int e = 0;
  for (; e < t.count && open; e += CHUNK) {
    const int n = t.count - e < CHUNK ? t.count - e : CHUNK;
    for (int i = 0; i < n; ++i)
      store(chunk.record[i], load(t.records + static_cast<int64_t>(t.pairs[e + i].record) * RECORD));
    for (int i = 0; i < n; ++i)
      chunk.mask[i] = static_cast<uint16_t>(cells_hit(chunk.record[i], t.x + 0.5f, t.y + 0.5f, 4.0f) & open);
    build_lists(chunk, n);

    for (uint32_t todo = open; todo; todo &= todo - 1) {
      const int b = __builtin_ctz(todo);
      const int count = chunk.count[b];
      if (!count) continue;
      uint8_t* list = chunk.list[b];
      for (int j = 0; j < INTERLEAVE; ++j) list[count + j] = CHUNK;
      const F16 px = lane_x + F16(t.x + 4.0f * (b & 3) + 0.5f), py = lane_y + F16(t.y + 4.0f * (b >> 2) + 0.5f);
      F16 next = load(state.next[b]), final = load(state.final[b]), color[D];
      for (int k = 0; k < D; ++k) color[k] = load(state.color[k][b]);

      int i = 0;
      for (; i < count; i += INTERLEAVE) {
        const float* g[INTERLEAVE];
        F16 power[INTERLEAVE], alpha[INTERLEAVE];
#pragma GCC unroll 8
        for (int j = 0; j < INTERLEAVE; ++j) {
          g[j] = chunk.record[list[i + j]];
          const F16 dx = px - F16(g[j][0]), dy = py - F16(g[j][1]);
          const F16 linear = fma(F16(g[j][2]), dx, F16(g[j][3]) * dy);
          power[j] = fnma(F16(g[j][4]) * dy, dy, fnma(linear, dx, F16(g[j][5])));
        }
#pragma GCC unroll 8
        for (int j = 0; j < INTERLEAVE; ++j)
          alpha[j] = keep(power[j] >= F16(-LOG2_255), min(exp2(power[j]), F16(ALPHA_MAX)));
#pragma GCC unroll 8
        for (int j = 0; j < INTERLEAVE; ++j) {
          const F16 after = fnma(alpha[j], next, next);
          const Mask drawn = after > F16(TRANSMITTANCE_MIN);
          const F16 weight = keep(drawn, alpha[j] * next);
          for (int k = 0; k < D; ++k) color[k] = fma(weight, F16(g[j][GEOMETRY + k]), color[k]);
          final = select(drawn, after, final);
          next = after;
        }
        if (bits(next > F16(TRANSMITTANCE_MIN)) == 0) {
          open &= ~(1u << b);
          i += INTERLEAVE;
          break;
        }
      }
      for (; i < count; ++i) chunk.mask[list[i]] &= static_cast<uint16_t>(~(1u << b));
      store(state.next[b], next);
      store(state.final[b], final);
      for (int k = 0; k < D; ++k) store(state.color[k][b], color[k]);
    }
    if (t.write_live)
      for (int i = 0; i < n; ++i) t.live[t.pairs[e + i].slot] = chunk.mask[i];
  }
  if (t.write_live)
    for (; e < t.count; ++e) t.live[t.pairs[e].slot] = 0;

  const int64_t plane = static_cast<int64_t>(t.width) * t.height;
  for (uint32_t todo = inside; todo; todo &= todo - 1) {
    const int b = __builtin_ctz(todo), x = t.x + 4 * (b & 3), y = t.y + 4 * (b >> 2);
    const F16 final = load(state.final[b]);
    for (int k = 0; k < t.channels; ++k) {
      const F16 behind(t.background ? t.background[k] : 0.0f);
      store_block(t.image + k * plane, x, y, t.width, t.height, fma(final, behind, load(state.color[k][b])));
    }
    if (t.alpha) store_block(t.alpha, x, y, t.width, t.height, F16(1.0f) - final);
  }
}

// The derivative of a picture with respect to one splat's alpha needs what lies behind it. Front to back that is the
// remainder: start from the whole pixel's v . colour and take away what has been passed (rasterizer.md).
template <int D>
AVATAR_INLINE void blend_tile_vjp(const BlendTileGrad& t) {
  struct alignas(64) State {
    float next[BLOCKS][LANES], rest[BLOCKS][LANES], v[BLOCKS][D][LANES];
    float px[4][LANES], py[4][LANES];
  };
  State state;
  const int64_t plane = static_cast<int64_t>(t.width) * t.height;
  for (int k = 0; k < 4; ++k) {
    store(state.px[k], load(LANE.column) + F16(t.x + 4.0f * k + 0.5f));
    store(state.py[k], load(LANE.row) + F16(t.y + 4.0f * k + 0.5f));
  }
  for (int b = 0; b < BLOCKS; ++b) {
    const int x = t.x + 4 * (b & 3), y = t.y + 4 * (b >> 2);
    F16 rest(0.0f);
    for (int k = 0; k < D; ++k) {
      F16 v(0.0f);
      if (t.v_image && k < t.channels) {
        v = load_block(t.v_image + k * plane, x, y, t.width, t.height, 0.0f);
        rest = fma(load_block(t.image + k * plane, x, y, t.width, t.height, 0.0f), v, rest);
      }
      store(state.v[b][k], v);
    }
    if (t.v_alpha) {
      const F16 final = F16(1.0f) - load_block(t.alpha, x, y, t.width, t.height, 1.0f);
      rest = fnma(final, load_block(t.v_alpha, x, y, t.width, t.height, 0.0f), rest);
    }
    store(state.rest[b], rest);
    const Mask pixel = load_block(t.alpha, x, y, t.width, t.height, 2.0f) < F16(1.5f);
    store(state.next[b], keep(pixel, F16(1.0f)));
  }

  for (int e = 0; e < t.count; ++e) {
    const Pair ahead = t.pairs[e + AHEAD < t.count ? e + AHEAD : e];
    __builtin_prefetch(t.records + static_cast<int64_t>(ahead.record) * RECORD);
    __builtin_prefetch(t.slots + static_cast<int64_t>(ahead.slot) * SLOT, 1);
    const uint32_t live = t.live[t.pairs[e].slot];
    if (!live) continue;
    const float* g = t.records + static_cast<int64_t>(t.pairs[e].record) * RECORD;
    const F16 x(g[0]), y(g[1]), a(g[2]), b(g[3]), c(g[4]), peak(g[5]), zero(0.0f);
    F16 sum[6 + D];
    for (int k = 0; k < 6 + D; ++k) sum[k] = zero;
    for (uint32_t m = live; m; m &= m - 1) {
      const int block = __builtin_ctz(m);
      const F16 dx = load(state.px[block & 3]) - x, dy = load(state.py[block >> 2]) - y;
      const F16 power = fnma(c * dy, dy, fnma(fma(a, dx, b * dy), dx, peak));
      const F16 raw = exp2(power);
      const F16 alpha = keep(power >= F16(-LOG2_255), min(raw, F16(ALPHA_MAX)));
      const F16 before = load(state.next[block]), left = F16(1.0f) - alpha;
      const F16 after = fnma(alpha, before, before);
      const Mask drawn = after > F16(TRANSMITTANCE_MIN);
      const F16 weight = keep(drawn, alpha * before);
      F16 v[D], shade = zero;
      for (int k = 0; k < D; ++k) {
        v[k] = load(state.v[block][k]);
        shade = fma(F16(g[GEOMETRY + k]), v[k], shade);
      }
      const F16 rest = fnma(weight, shade, load(state.rest[block]));
      store(state.next[block], after);
      store(state.rest[block], rest);
      const F16 v_alpha = fnma(rest, reciprocal(left), before * shade);
      const F16 moment = keep(drawn & (raw <= F16(ALPHA_MAX)), alpha * v_alpha);
      const F16 moment_x = moment * dx, moment_y = moment * dy;
      sum[0] = sum[0] + moment;
      sum[1] = sum[1] + moment_x;
      sum[2] = sum[2] + moment_y;
      sum[3] = fma(moment_x, dx, sum[3]);
      sum[4] = fma(moment_x, dy, sum[4]);
      sum[5] = fma(moment_y, dy, sum[5]);
      for (int k = 0; k < D; ++k) sum[6 + k] = fma(weight, v[k], sum[6 + k]);
    }
    store(t.slots + static_cast<int64_t>(t.pairs[e].slot) * SLOT, sum_each<6 + D>(sum));
  }
}

void blend_kernel(const BlendTile& t) {
  if (t.channels <= 3)
    blend_tile<3>(t);
  else if (t.channels == 4)
    blend_tile<4>(t);
  else
    blend_tile<CHANNELS>(t);
}

void blend_vjp_kernel(const BlendTileGrad& t) {
  if (t.channels <= 3)
    blend_tile_vjp<3>(t);
  else if (t.channels == 4)
    blend_tile_vjp<4>(t);
  else
    blend_tile_vjp<CHANNELS>(t);
}

void sum_slots_kernel(const float* slots, const uint16_t* live, int64_t begin, int64_t end, float* sums) {
  F16 total(0.0f);
  for (int64_t i = begin; i < end; ++i)
    if (live[i]) total = total + load(slots + i * SLOT);
  store(sums, total);
}

}  // namespace

extern const RasterKernels AVATAR_RASTER_TABLE;
const RasterKernels AVATAR_RASTER_TABLE = {project_kernel, project_vjp_kernel, pack_kernel, tiles_kernel,
                                           blend_kernel,   blend_vjp_kernel,   sum_slots_kernel};

}  // namespace avatar
