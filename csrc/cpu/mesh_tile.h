// Draws triangles into one tile of the mesh rasteriser. Compiled once per instruction set: no standard containers here.
//
// Corners lie on a grid of 1/256 pixel and every inside test is exact integer arithmetic, so two faces that share an
// edge leave no crack and draw no sample twice (top-left rule).
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace avatar {

constexpr int MESH_SUBPIXEL = 256;        // grid steps per pixel, as GPUs have: at most 1/512 pixel of error
constexpr int MESH_TILE = 64;             // pixels a side: the three planes below fill 48 KiB, a level-1 cache
constexpr int MESH_LANES = 8;             // pixels tested at once; a typical face of a head is 6 pixels wide
constexpr int MESH_SAMPLES = 16;          // coverage samples per pixel
constexpr int MESH_SAMPLE_STEP = 8;       // samples lie at odd multiples of 8/256 pixel from the centre
constexpr int32_t MESH_FULL = 0xFFFF;     // all 16 samples covered
constexpr int MESH_SAMPLE_REACH = 120;    // the outermost sample, 1/256 pixel from the centre
constexpr int64_t MESH_GUARD = 16383;     // faces are clipped this many pixels from the picture's centre, so that an
                                          // edge's slope fits 23 bits and its value inside a tile 31

// One sample in each of 16 rows and 16 columns (Hammersley, base 2): horizontal and vertical edges get 16 even steps.
constexpr int8_t MESH_SAMPLE_X[MESH_SAMPLES] = {-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15};
constexpr int8_t MESH_SAMPLE_Y[MESH_SAMPLES] = {-15, 1, -7, 9, -11, 5, -3, 13, -13, 3, -5, 11, -9, 7, -1, 15};

// A triangle ready to draw: a face, or a part of one that was clipped.
struct MeshPiece {
  int32_t x[3], y[3];      // corners, 1/256 pixel, in the order that makes the inside of every edge positive
  int32_t face;            // face id
  float least, most;       // bounds of the inverse depth over the face, 1/metres
  double du, dv, constant; // inverse depth = du * u + dv * v + constant, pixels
};

struct alignas(64) MeshTile {
  float inverse_depth[MESH_TILE * MESH_TILE];  // 0 where nothing was drawn
  int32_t face_ids[MESH_TILE * MESH_TILE];     // valid where inverse_depth > 0
  int32_t samples[MESH_TILE * MESH_TILE];      // bit mask of covered samples, whichever face covers them
};

namespace {

typedef int32_t Ints __attribute__((vector_size(4 * MESH_LANES), may_alias));
typedef float Floats __attribute__((vector_size(4 * MESH_LANES), may_alias));

// Bit i is the sign of lane i.
inline int sign_bits(const Ints& v) {
#if defined(__AVX2__)
  return _mm256_movemask_ps(reinterpret_cast<__m256>(v));
#else
  int bits = 0;
  for (int i = 0; i < MESH_LANES; ++i) bits |= static_cast<int>(static_cast<uint32_t>(v[i]) >> 31) << i;
  return bits;
#endif
}

// One edge within a tile. A point is inside where the value is not negative. `origin` is the exact value at the centre
// of the region's first pixel; dropping its low byte is exact too, because steps between pixels are multiples of 256.
struct TileEdge {
  int32_t a, b;    // slope per pixel in x and y, in units of 256
  int32_t origin;  // value at the first pixel's centre, in units of 256, rounded down
  int32_t rest;    // what the rounding dropped, in units of 8, rounded down
  int32_t reach;   // no sample of a pixel differs from its centre by more, in units of 256
};

enum Side { OUTSIDE, CROSSES, INSIDE };

// Edge from corner p to corner q of the piece over the region of `columns` x `rows` pixels that begins at pixel (x, y).
inline Side tile_edge(const MeshPiece& piece, int p, int q, int x, int y, int columns, int rows, TileEdge& edge) {
  const int64_t a = static_cast<int64_t>(piece.y[p]) - piece.y[q];
  const int64_t b = static_cast<int64_t>(piece.x[q]) - piece.x[p];
  const bool top_left = a > 0 || (a == 0 && b > 0);
  const int64_t half = MESH_SUBPIXEL / 2;
  const int64_t value = a * (static_cast<int64_t>(x) * MESH_SUBPIXEL + half - piece.x[p]) +
                        b * (static_cast<int64_t>(y) * MESH_SUBPIXEL + half - piece.y[p]) - (top_left ? 0 : 1);
  const int64_t size = (a < 0 ? -a : a) + (b < 0 ? -b : b);
  const int64_t across = a * MESH_SUBPIXEL * (columns - 1), down = b * MESH_SUBPIXEL * (rows - 1);
  const int64_t lowest = value + (across < 0 ? across : 0) + (down < 0 ? down : 0) - MESH_SAMPLE_REACH * size;
  const int64_t highest = value + (across > 0 ? across : 0) + (down > 0 ? down : 0) + MESH_SAMPLE_REACH * size;
  if (highest < 0) return OUTSIDE;
  if (lowest >= 0) {
    edge = {0, 0, 0, 0, 0};
    return INSIDE;
  }
  edge.a = static_cast<int32_t>(a);
  edge.b = static_cast<int32_t>(b);
  edge.origin = static_cast<int32_t>(value >> 8);
  edge.rest = static_cast<int32_t>(value & 255) / MESH_SAMPLE_STEP;
  edge.reach = static_cast<int32_t>((MESH_SAMPLE_REACH * size + 255) >> 8);
  return CROSSES;
}

// Value of an edge at a pixel centre for the sample test, units of 8. Far from the edge only the sign matters: clamped
// to twice the slope, so that 32 times it cannot overflow.
inline int32_t sample_base(const TileEdge& edge, int column, int row) {
  const int32_t bound = 2 * ((edge.a < 0 ? -edge.a : edge.a) + (edge.b < 0 ? -edge.b : edge.b));
  int32_t value = edge.origin + edge.a * column + edge.b * row;
  value = value < -bound ? -bound : value > bound ? bound : value;
  return value * (MESH_SUBPIXEL / MESH_SAMPLE_STEP) + edge.rest;
}

// Adds `count` pieces, given by ascending face id, to the tile whose first pixel is (tile_x, tile_y). Only its first
// `columns` x `rows` pixels lie in the picture. Equal depths keep the lowest face id.
inline void draw_tile(const MeshPiece* const* pieces, int64_t count, int tile_x, int tile_y, int columns, int rows,
                      bool sampled, MeshTile& tile) {
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  const Floats lanes_float = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int64_t n = 0; n < count; ++n) {
    const MeshPiece& piece = *pieces[n];
    int32_t low_x = piece.x[0], high_x = piece.x[0], low_y = piece.y[0], high_y = piece.y[0];
    for (int k = 1; k < 3; ++k) {
      low_x = piece.x[k] < low_x ? piece.x[k] : low_x;
      high_x = piece.x[k] > high_x ? piece.x[k] : high_x;
      low_y = piece.y[k] < low_y ? piece.y[k] : low_y;
      high_y = piece.y[k] > high_y ? piece.y[k] : high_y;
    }
    // The box of pixels in tile coordinates, both ends included; whole groups of lanes in x.
    int x0 = (low_x >> 8) - tile_x, x1 = (high_x >> 8) - tile_x;
    int y0 = (low_y >> 8) - tile_y, y1 = (high_y >> 8) - tile_y;
    x0 = x0 < 0 ? 0 : x0 & ~(MESH_LANES - 1);
    y0 = y0 < 0 ? 0 : y0;
    x1 = x1 >= columns ? columns - 1 : x1;
    y1 = y1 >= rows ? rows - 1 : y1;
    if (x0 > x1 || y0 > y1) continue;
    const int groups = (x1 - x0) / MESH_LANES + 1, height = y1 - y0 + 1;

    TileEdge edges[3] = {};
    bool outside = false;
    for (int k = 0; k < 3; ++k)
      outside |= tile_edge(piece, k, k == 2 ? 0 : k + 1, tile_x + x0, tile_y + y0, groups * MESH_LANES, height,
                           edges[k]) == OUTSIDE;
    if (outside) continue;

    Ints offsets[3][2] = {};
    if (sampled)
      for (int k = 0; k < 3; ++k)
        for (int h = 0; h < 2; ++h)
          for (int i = 0; i < MESH_LANES; ++i)
            offsets[k][h][i] = edges[k].a * MESH_SAMPLE_X[8 * h + i] + edges[k].b * MESH_SAMPLE_Y[8 * h + i];

    const float du = static_cast<float>(piece.du);
    const Floats ramp = du * lanes_float;
    const Ints face = piece.face + Ints{};
    const Floats least = piece.least + Floats{}, most = piece.most + Floats{};
    for (int g = 0; g < groups; ++g) {
      const int x = x0 + g * MESH_LANES;
      Ints e[3];
      for (int k = 0; k < 3; ++k) e[k] = edges[k].origin + edges[k].a * (g * MESH_LANES) + edges[k].a * lanes;
      const double start = piece.du * (tile_x + x + 0.5) + piece.dv * (tile_y + y0 + 0.5) + piece.constant;
      for (int row = 0; row < height; ++row) {
        const int at = (y0 + row) * MESH_TILE + x;
        const Ints inside = ~(e[0] | e[1] | e[2]) >> 31;
        if (sign_bits(inside)) {
          Floats depth = ramp + static_cast<float>(start + piece.dv * row);
          depth = depth > least ? depth : least;
          depth = depth < most ? depth : most;
          Floats& nearest = *reinterpret_cast<Floats*>(tile.inverse_depth + at);
          Ints& ids = *reinterpret_cast<Ints*>(tile.face_ids + at);
          const Ints wins = inside & (depth > nearest);
          nearest = wins ? depth : nearest;
          ids = wins ? face : ids;
        }
        if (sampled) {
          const Ints whole = ~((e[0] - edges[0].reach) | (e[1] - edges[1].reach) | (e[2] - edges[2].reach)) >> 31;
          const Ints touched =
              ~((e[0] + (edges[0].reach + 1)) | (e[1] + (edges[1].reach + 1)) | (e[2] + (edges[2].reach + 1))) >> 31;
          Ints& samples = *reinterpret_cast<Ints*>(tile.samples + at);
          samples |= whole & MESH_FULL;
          int open = sign_bits(touched & (samples != MESH_FULL));
          for (; open; open &= open - 1) {
            const int lane = __builtin_ctz(open), column = g * MESH_LANES + lane;
            const int32_t base[3] = {sample_base(edges[0], column, row), sample_base(edges[1], column, row),
                                     sample_base(edges[2], column, row)};
            int bits = 0;
            for (int h = 0; h < 2; ++h)
              bits |= sign_bits(~((offsets[0][h] + base[0]) | (offsets[1][h] + base[1]) | (offsets[2][h] + base[2])))
                      << (8 * h);
            tile.samples[at + lane] |= bits;
          }
        }
        for (int k = 0; k < 3; ++k) e[k] += edges[k].b;
      }
    }
  }
}

}  // namespace

// The signature of draw_tile, for the choice at run time.
using DrawTile = void (*)(const MeshPiece* const* pieces, int64_t count, int tile_x, int tile_y, int columns, int rows,
                          bool sampled, MeshTile& tile);
void draw_tile_avx2(const MeshPiece* const* pieces, int64_t count, int tile_x, int tile_y, int columns, int rows,
                    bool sampled, MeshTile& tile);

}  // namespace avatar
