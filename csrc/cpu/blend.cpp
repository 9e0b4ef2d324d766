// blend: front-to-back compositing of binned splats, tile by tile, and its gradient. Any number of channels, eight a pass.
#include <vector>

#include "cpu/parallel.h"
#include "cpu/raster.h"
#include "ops.h"

namespace avatar {
namespace {

constexpr int64_t BLOCK = 256;  // splats a task packs or gathers

struct Bins {
  const Tensor &geometry, &order, &image_offsets, &slot_offsets, &tile_offsets, &pairs;
  int64_t C, R, P, T, columns;
  Bins(const char* op, const Tensor& geometry, const Tensor& order, const Tensor& image_offsets,
       const Tensor& slot_offsets, const Tensor& tile_offsets, const Tensor& pairs, int64_t width, int64_t height)
      : geometry(geometry), order(order), image_offsets(image_offsets), slot_offsets(slot_offsets),
        tile_offsets(tile_offsets), pairs(pairs) {
    if (width < 1 || height < 1)
      throw std::runtime_error(std::string(op) + ": width and height must be at least 1 pixel");
    C = image_offsets.numel() - 1;
    R = order.numel();
    P = pairs.size(0);
    columns = (width + TILE - 1) / TILE;
    T = columns * ((height + TILE - 1) / TILE);
    check(op, "order", order, ScalarType::Int, {R});
    check(op, "slot_offsets", slot_offsets, ScalarType::Int, {R + 1});
    check(op, "tile_offsets", tile_offsets, ScalarType::Int, {C * T + 1});
    check(op, "pairs", pairs, ScalarType::Int, {P, 2});
  }
};

int64_t passes_for(int64_t channels) { return std::max<int64_t>(1, (channels + CHANNELS - 1) / CHANNELS); }

}  // namespace

// The first three arguments are where the gradient goes; the splats themselves are read from `geometry`, packed by bin.
std::tuple<Tensor, Tensor, Tensor, Tensor> blend_cpu(Tensor means2d,    // [C, N, 2]
                                                     Tensor conics,     // [C, N, 3]
                                                     Tensor opacities,  // [B, N]
                                                     Tensor colors,     // [B, N, D]
                                                     std::optional<Tensor> background,  // [C, D]
                                                     Tensor order,                      // [R]
                                                     Tensor geometry,                   // [R, GEOMETRY]
                                                     Tensor image_offsets,              // [C + 1]
                                                     Tensor slot_offsets,               // [R + 1]
                                                     Tensor tile_offsets,               // [C T + 1]
                                                     Tensor pairs,                      // [P, 2]
                                                     int64_t width, int64_t height) {
  const Bins bins("blend", geometry, order, image_offsets, slot_offsets, tile_offsets, pairs, width, height);
  const int64_t C = bins.C, R = bins.R, N = colors.size(1), D = colors.size(2), passes = passes_for(D);
  check("blend", "geometry", geometry, ScalarType::Float, {R, GEOMETRY});
  check("blend", "means2d", means2d, ScalarType::Float, {C, N, 2});
  check("blend", "conics", conics, ScalarType::Float, {C, N, 3});
  check("blend", "opacities", opacities, ScalarType::Float, {opacities.size(0) == 1 ? 1 : C, N});
  check("blend", "colors", colors, ScalarType::Float, {colors.size(0) == 1 ? 1 : C, N, D});
  if (background) check("blend", "background", *background, ScalarType::Float, {C, D});

  Tensor image = empty<float>(colors, {C, D, height, width}), alpha = empty<float>(colors, {C, height, width});
  Tensor records = empty<float>(colors, {passes, R, RECORD});
  Tensor live = torch::stable::new_empty(colors, {bins.P}, ScalarType::Short);

  const float *g = geometry.const_data_ptr<float>(), *color = colors.const_data_ptr<float>();
  const int32_t* ids = order.const_data_ptr<int32_t>();
  float* packed = records.mutable_data_ptr<float>();
  const bool shared = colors.size(0) == 1;
  std::vector<int32_t> bad((R + BLOCK - 1) / BLOCK, -1);
  parallel_blocks(R, BLOCK, [&](int64_t begin, int64_t end) {
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t from = pass * CHANNELS, count = std::min<int64_t>(CHANNELS, D - from);
      for (int64_t r = begin; r < end; ++r) {
        float* out = packed + (pass * R + r) * RECORD;
        const float* in = color + (shared ? ids[r] % N : ids[r]) * D + from;
        float poison = 0;
        for (int k = 0; k < GEOMETRY; ++k) out[k] = g[r * GEOMETRY + k];
        for (int64_t k = 0; k < CHANNELS; ++k) {
          out[GEOMETRY + k] = k < count ? in[k] : 0.0f;
          poison += out[GEOMETRY + k] * 0.0f;
        }
        if (!(poison == 0.0f)) bad[begin / BLOCK] = ids[r];
      }
    }
  });
  for (int32_t id : bad)
    if (id >= 0)
      throw std::runtime_error("blend: the colour or a channel of Gaussian " + std::to_string(id % N) + " of picture " +
                               std::to_string(id / N) + " is not finite");

  const RasterKernels& kernels = raster_kernels();
  const int32_t* offsets = tile_offsets.const_data_ptr<int32_t>();
  const Pair* pair = reinterpret_cast<const Pair*>(pairs.const_data_ptr<int32_t>());
  const float* behind = background ? background->const_data_ptr<float>() : nullptr;
  const int64_t plane = width * height;
  float *pixels = image.mutable_data_ptr<float>(), *coverage = alpha.mutable_data_ptr<float>();
  uint16_t* reached = static_cast<uint16_t*>(live.mutable_data_ptr());
  for (int64_t pass = 0; pass < passes; ++pass)
    parallel_items(C * bins.T, [&](int64_t item) {
      const int64_t c = item / bins.T, t = item % bins.T, from = pass * CHANNELS;
      BlendTile tile;
      tile.records = packed + pass * R * RECORD;
      tile.pairs = pair + offsets[item];
      tile.count = offsets[item + 1] - offsets[item];
      tile.x = static_cast<int32_t>(t % bins.columns * TILE);
      tile.y = static_cast<int32_t>(t / bins.columns * TILE);
      tile.width = static_cast<int32_t>(width);
      tile.height = static_cast<int32_t>(height);
      tile.channels = static_cast<int32_t>(std::min<int64_t>(CHANNELS, D - from));
      tile.background = behind ? behind + c * D + from : nullptr;
      tile.image = pixels + (c * D + from) * plane;
      tile.alpha = pass ? nullptr : coverage + c * plane;
      tile.live = reached;
      tile.write_live = pass == 0;
      kernels.blend(tile);
    });
  return {image, alpha, records, live};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> blend_backward_cpu(Tensor records,        // [passes, R, RECORD]
                                                              Tensor order,          // [R]
                                                              Tensor image_offsets,  // [C + 1]
                                                              Tensor slot_offsets,   // [R + 1]
                                                              Tensor tile_offsets,   // [C T + 1]
                                                              Tensor pairs,          // [P, 2]
                                                              Tensor live,           // [P]
                                                              Tensor opacities,      // [B, N]
                                                              Tensor image,          // [C, D, H, W]
                                                              Tensor alpha,          // [C, H, W]
                                                              std::optional<Tensor> v_image,  // [C, D, H, W]
                                                              std::optional<Tensor> v_alpha   // [C, H, W]
) {
  const int64_t D = image.size(1), height = image.size(2), width = image.size(3), N = opacities.size(1);
  const Bins bins("blend_backward", records, order, image_offsets, slot_offsets, tile_offsets, pairs, width, height);
  const int64_t C = bins.C, R = bins.R, passes = passes_for(D), plane = width * height;
  check("blend_backward", "records", records, ScalarType::Float, {passes, R, RECORD});
  check("blend_backward", "image", image, ScalarType::Float, {C, D, height, width});
  if (v_image) check("blend_backward", "v_image", *v_image, ScalarType::Float, {C, D, height, width});
  if (v_alpha) check("blend_backward", "v_alpha", *v_alpha, ScalarType::Float, {C, height, width});

  Tensor v_means2d = zeros<float>(image, {C, N, 2}), v_conics = zeros<float>(image, {C, N, 3});
  Tensor v_opacities = zeros<float>(image, {C, N}), v_colors = zeros<float>(image, {C, N, D});
  Tensor slots = empty<float>(image, {bins.P, SLOT});

  const RasterKernels& kernels = raster_kernels();
  const int32_t* offsets = tile_offsets.const_data_ptr<int32_t>();
  const int32_t *slot = slot_offsets.const_data_ptr<int32_t>(), *ids = order.const_data_ptr<int32_t>();
  const Pair* pair = reinterpret_cast<const Pair*>(pairs.const_data_ptr<int32_t>());
  const uint16_t* reached = static_cast<const uint16_t*>(live.data_ptr());
  const float *packed = records.const_data_ptr<float>(), *opacity = opacities.const_data_ptr<float>();
  float* shares = slots.mutable_data_ptr<float>();
  float *v_mean = v_means2d.mutable_data_ptr<float>(), *v_conic = v_conics.mutable_data_ptr<float>();
  float *v_opacity = v_opacities.mutable_data_ptr<float>(), *v_color = v_colors.mutable_data_ptr<float>();
  const bool shared = opacities.size(0) == 1;

  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t from = pass * CHANNELS, count = std::min<int64_t>(CHANNELS, D - from);
    parallel_items(C * bins.T, [&](int64_t item) {
      const int64_t c = item / bins.T, t = item % bins.T;
      BlendTileGrad tile;
      tile.records = packed + pass * R * RECORD;
      tile.pairs = pair + offsets[item];
      tile.count = offsets[item + 1] - offsets[item];
      if (!tile.count) return;
      tile.x = static_cast<int32_t>(t % bins.columns * TILE);
      tile.y = static_cast<int32_t>(t / bins.columns * TILE);
      tile.width = static_cast<int32_t>(width);
      tile.height = static_cast<int32_t>(height);
      tile.channels = static_cast<int32_t>(count);
      tile.image = image.const_data_ptr<float>() + (c * D + from) * plane;
      tile.alpha = alpha.const_data_ptr<float>() + c * plane;
      tile.v_image = v_image ? v_image->const_data_ptr<float>() + (c * D + from) * plane : nullptr;
      tile.v_alpha = v_alpha && pass == 0 ? v_alpha->const_data_ptr<float>() + c * plane : nullptr;
      tile.live = reached;
      tile.slots = shares;
      kernels.blend_vjp(tile);
    });
    parallel_blocks(R, BLOCK, [&](int64_t begin, int64_t end) {
      alignas(64) float s[SLOT];
      for (int64_t r = begin; r < end; ++r) {
        kernels.sum_slots(shares, reached, slot[r], slot[r + 1], s);
        const float* g = packed + (pass * R + r) * RECORD;
        const float a = g[2] * (2.0f / LOG2E), b = g[3] * (1.0f / LOG2E), c = g[4] * (2.0f / LOG2E);
        const int64_t id = ids[r];
        v_mean[2 * id] += a * s[1] + b * s[2];
        v_mean[2 * id + 1] += b * s[1] + c * s[2];
        v_conic[3 * id] -= 0.5f * s[3];
        v_conic[3 * id + 1] -= s[4];
        v_conic[3 * id + 2] -= 0.5f * s[5];
        v_opacity[id] += s[0] / opacity[shared ? id % N : id];
        for (int64_t k = 0; k < count; ++k) v_color[id * D + from + k] = s[6 + k];
      }
    });
  }
  return {v_means2d, v_conics, v_opacities, v_colors};
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("blend", TORCH_BOX(&blend_cpu));
  m.impl("blend_backward", TORCH_BOX(&blend_backward_cpu));
}

}  // namespace avatar
