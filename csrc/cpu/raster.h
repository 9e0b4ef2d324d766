// What the rasteriser's stages hand to each other, and the table of wide kernels behind them. Plain data only: this file
// is also compiled with wide instruction sets.
#pragma once

#include <cstdint>

#include "config.h"
#include "projection.cuh"

namespace avatar {

constexpr int CHANNELS = 8;   // channels blended in one pass; with the geometry they fill one 64-byte cache line
constexpr int RECORD = 16;    // floats of a packed splat: x y a b c log2(opacity) -b/2c -b/2a, then CHANNELS colours
constexpr int GEOMETRY = 8;   // the part of a record that the binning makes
constexpr int SLOT = 16;      // floats a (splat, tile) pair contributes: six moments, then CHANNELS colour gradients

struct ProjectArrays {  // one camera and the Gaussians it sees
  const float* means;      // [N, 3]
  const float* quats;      // [N, 4]
  const float* scales;     // [N, 3]
  const float* opacities;  // [N]
  float* means2d;          // [N, 2]
  float* conics;           // [N, 3]
  float* depths;           // [N]
  float* radii;            // [N, 2]
  float* compensations;    // [N]
};

struct ProjectGradArrays {
  const float* means;            // [N, 3]
  const float* quats;            // [N, 4]
  const float* scales;           // [N, 3]
  const float* radii;            // [N, 2], zero where nothing was drawn
  const float* v_means2d;        // [N, 2] or null, as all below
  const float* v_conics;         // [N, 3]
  const float* v_depths;         // [N]
  const float* v_compensations;  // [N]
  float* v_means;                // [N, 3], added to
  float* v_quats;                // [N, 4], added to
  float* v_scales;               // [N, 3], added to
  float* v_camera;               // [12] rotation and translation, added to, or null
};

struct TileGrid {
  int32_t width, height;      // pixels
  int32_t columns, rows;      // tiles
};

struct Pair {
  int32_t record;  // splat, in depth order over all images
  int32_t slot;    // where the pair's gradient goes: the pairs of one splat are neighbours
};

struct BlendTile {
  const float* records;       // [R, RECORD]
  const Pair* pairs;          // the tile's pairs, front to back
  int32_t count;              // how many
  int32_t x, y;               // tile corner, pixels
  int32_t width, height;      // picture size, pixels
  int32_t channels;           // channels in use, 1 .. CHANNELS
  const float* background;    // [channels] or null
  float* image;               // [channels, H, W] of this picture
  float* alpha;               // [H, W], null in passes after the first
  uint16_t* live;             // [P] by slot: 4 x 4 blocks the pair reached; the backward skips the rest
  int32_t write_live;         // first pass
};

struct BlendTileGrad {
  const float* records;
  const Pair* pairs;
  int32_t count;
  int32_t x, y, width, height, channels;
  const float* image;     // [channels, H, W] as the forward left it
  const float* alpha;     // [H, W]
  const float* v_image;   // [channels, H, W] or null
  const float* v_alpha;   // [H, W] or null
  const uint16_t* live;   // [P]
  float* slots;           // [P, SLOT]
};

struct RasterKernels {
  // Projects [begin, end); returns the first Gaussian with a value that is not finite or a zero quaternion, or -1.
  int64_t (*project)(const PinholeCamera<float>&, const ProjectArrays&, int64_t begin, int64_t end);
  void (*project_vjp)(const PinholeCamera<float>&, const ProjectGradArrays&, int64_t begin, int64_t end);
  // Records of `count` splats given by their ids.
  void (*pack)(const float* means2d, const float* conics, const float* opacities, const int32_t* ids, int64_t count,
               float* geometry);
  // Writes the tiles that one splat touches, in row order; returns how many.
  int32_t (*tiles_of)(const float* geometry, float reach_x, float reach_y, const TileGrid&, int32_t* tiles);
  void (*blend)(const BlendTile&);
  void (*blend_vjp)(const BlendTileGrad&);
  // sums[k] = sum of slots [begin, end) whose pair is live
  void (*sum_slots)(const float* slots, const uint16_t* live, int64_t begin, int64_t end, float* sums);
};

const RasterKernels& raster_kernels();  // for the instruction set in force
extern const RasterKernels RASTER_AVX512, RASTER_AVX2, RASTER_SCALAR;

}  // namespace avatar
