// bin: which splats touch which tile, front to back. A radix sort of the visible splats by depth, once per picture; then
// every splat in that order is appended to the tiles its ellipse really reaches. No sort of pairs is needed.
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/raster.h"
#include "ops.h"

namespace avatar {
namespace {

struct Keyed {
  uint32_t key;
  int32_t id;
};

// Stable least-significant-digit sort; digits that all keys share are not visited. A head is thin compared with its
// distance, so its depths differ in about 22 bits: two passes.
void sort_by_depth(std::vector<Keyed>& items, std::vector<Keyed>& spare) {
  constexpr int DIGIT = 11, BUCKETS = 1 << DIGIT;
  if (items.size() < 2) return;
  uint32_t low = UINT32_MAX, high = 0;
  for (const Keyed& item : items) low = std::min(low, item.key), high = std::max(high, item.key);
  spare.resize(items.size());
  std::vector<uint32_t> start(BUCKETS);
  for (int shift = 0; shift < 32 && (high - low) >> shift; shift += DIGIT) {
    std::fill(start.begin(), start.end(), 0);
    for (const Keyed& item : items) ++start[(item.key - low) >> shift & (BUCKETS - 1)];
    uint32_t sum = 0;
    for (uint32_t& s : start) sum += std::exchange(s, sum);
    for (const Keyed& item : items) spare[start[(item.key - low) >> shift & (BUCKETS - 1)]++] = item;
    items.swap(spare);
  }
}

// Positive floats order as their bits do.
uint32_t depth_key(float depth) {
  uint32_t bits;
  std::memcpy(&bits, &depth, 4);
  return bits;
}

struct Range {  // splats one task bins
  int64_t image, begin, end;         // records
  std::unique_ptr<int32_t[]> tiles;  // tile of every pair, splat after splat
  int64_t room = 0, used = 0;
  std::vector<int32_t> counts;  // pairs per tile; then the position of the range's next pair in each tile

  // Room for `needed` tiles, keeping the first `kept`. A vector would clear what is about to be written.
  void reserve(int64_t kept, int64_t needed) {
    if (needed <= room) return;
    room = needed + needed / 2;
    std::unique_ptr<int32_t[]> larger(new int32_t[room]);
    std::copy_n(tiles.get(), kept, larger.get());
    tiles = std::move(larger);
  }
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> bin_cpu(Tensor means2d,    // [C, N, 2]
                                                                   Tensor conics,     // [C, N, 3]
                                                                   Tensor opacities,  // [B, N]
                                                                   Tensor depths,     // [C, N]
                                                                   Tensor radii,      // [C, N, 2]
                                                                   int64_t width, int64_t height) {
  const int64_t C = means2d.size(0), N = means2d.size(1);
  check("bin", "means2d", means2d, ScalarType::Float, {C, N, 2});
  check("bin", "conics", conics, ScalarType::Float, {C, N, 3});
  check("bin", "depths", depths, ScalarType::Float, {C, N});
  check("bin", "radii", radii, ScalarType::Float, {C, N, 2});
  check("bin", "opacities", opacities, ScalarType::Float, {opacities.size(0) == 1 ? 1 : C, N});
  const TileGrid grid = {static_cast<int32_t>(width), static_cast<int32_t>(height),
                         static_cast<int32_t>((width + TILE - 1) / TILE),
                         static_cast<int32_t>((height + TILE - 1) / TILE)};
  const int64_t T = static_cast<int64_t>(grid.columns) * grid.rows;
  const float *means = means2d.const_data_ptr<float>(), *conic = conics.const_data_ptr<float>();
  const float *depth = depths.const_data_ptr<float>(), *radius = radii.const_data_ptr<float>();
  const float* opacity = opacities.const_data_ptr<float>();
  const int64_t opacity_stride = opacities.size(0) == 1 ? 0 : N;

  std::vector<std::vector<Keyed>> sorted(C);
  parallel_items(C, [&](int64_t c) {
    std::vector<Keyed> items, spare;
    items.reserve(N);
    for (int64_t i = 0; i < N; ++i)
      if (radius[2 * (c * N + i)] > 0) items.push_back({depth_key(depth[c * N + i]), static_cast<int32_t>(i)});
    sort_by_depth(items, spare);
    sorted[c] = std::move(items);
  });
  std::vector<int64_t> first(C + 1, 0);
  for (int64_t c = 0; c < C; ++c) first[c + 1] = first[c] + static_cast<int64_t>(sorted[c].size());
  const int64_t R = first[C];

  Tensor order = empty<int32_t>(means2d, {R}), geometry = empty<float>(means2d, {R, GEOMETRY});
  Tensor slot_offsets = empty<int32_t>(means2d, {R + 1}), tile_offsets = empty<int32_t>(means2d, {C * T + 1});
  Tensor image_offsets = empty<int32_t>(means2d, {C + 1});
  int32_t* ids = order.mutable_data_ptr<int32_t>();
  int32_t* slots = slot_offsets.mutable_data_ptr<int32_t>();
  int32_t* offsets = tile_offsets.mutable_data_ptr<int32_t>();
  float* records = geometry.mutable_data_ptr<float>();
  for (int64_t c = 0; c <= C; ++c) image_offsets.mutable_data_ptr<int32_t>()[c] = static_cast<int32_t>(first[c]);

  // Ranges are cut per thread: the result is the same for any cut, because splats are appended in their order.
  const int64_t per_image = std::max<int64_t>(1, (2 * torch::stable::get_num_threads() + C - 1) / std::max<int64_t>(C, 1));
  std::vector<Range> ranges(C * per_image);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t k = 0; k < per_image; ++k) {
      const int64_t count = first[c + 1] - first[c];
      Range& range = ranges[c * per_image + k];
      range.image = c;
      range.begin = first[c] + count * k / per_image;
      range.end = first[c] + count * (k + 1) / per_image;
    }

  const RasterKernels& kernels = raster_kernels();
  parallel_items(static_cast<int64_t>(ranges.size()), [&](int64_t index) {
    Range& range = ranges[index];
    range.counts.assign(T, 0);
    range.reserve(0, 6 * (range.end - range.begin) + T);
    const int64_t base = range.image * N, before = first[range.image];
    for (int64_t r = range.begin; r < range.end; ++r) ids[r] = sorted[range.image][r - before].id;
    kernels.pack(means + 2 * base, conic + 3 * base, opacity + range.image * opacity_stride, ids + range.begin,
                 range.end - range.begin, records + range.begin * GEOMETRY);
    int64_t used = 0;
    for (int64_t r = range.begin; r < range.end; ++r) {
      const int64_t flat = base + ids[r];
      ids[r] = static_cast<int32_t>(flat);
      range.reserve(used, used + T);
      int32_t* tiles = range.tiles.get() + used;
      const int32_t count = kernels.tiles_of(records + r * GEOMETRY, radius[2 * flat], radius[2 * flat + 1], grid, tiles);
      for (int32_t k = 0; k < count; ++k) ++range.counts[tiles[k]];
      slots[r] = count;
      used += count;
    }
    range.used = used;
  });

  int64_t pairs_total = 0;
  for (const Range& range : ranges) pairs_total += range.used;
  if (pairs_total > INT32_MAX)
    throw std::runtime_error("bin: " + std::to_string(pairs_total) + " (splat, tile) pairs do not fit; render fewer pictures at once");
  int32_t position = 0;
  for (int64_t c = 0; c < C; ++c)
    for (int64_t t = 0; t < T; ++t) {
      offsets[c * T + t] = position;
      for (int64_t k = 0; k < per_image; ++k) position += std::exchange(ranges[c * per_image + k].counts[t], position);
    }
  offsets[C * T] = position;
  int32_t slot = 0;
  for (int64_t r = 0; r < R; ++r) slot += std::exchange(slots[r], slot);
  slots[R] = slot;

  Tensor pairs = empty<int32_t>(means2d, {pairs_total, 2});
  Pair* pair = reinterpret_cast<Pair*>(pairs.mutable_data_ptr<int32_t>());
  parallel_items(static_cast<int64_t>(ranges.size()), [&](int64_t index) {
    Range& range = ranges[index];
    const int32_t* tile = range.tiles.get();
    for (int64_t r = range.begin; r < range.end; ++r)
      for (int32_t s = slots[r]; s < slots[r + 1]; ++s)
        pair[range.counts[*tile++]++] = {static_cast<int32_t>(r), s};
  });
  return {order, geometry, image_offsets, slot_offsets, tile_offsets, pairs};
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) { m.impl("bin", TORCH_BOX(&bin_cpu)); }

}  // namespace avatar
