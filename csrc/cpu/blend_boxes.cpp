// blend_boxes: compositing without tiles, the way a plain CPU port does it (OpenSplat's, for one): for each splat in depth
// order the pixels of its box, with a list per pixel for the backward. One thread, scalar, float32 or float64. It is the
// float64 path of the renderer, the brute-force answer of the tests, and the bar the benchmarks measure against.
#include <algorithm>
#include <cmath>
#include <vector>

#include "config.h"
#include "ops.h"

namespace avatar {
namespace {

template <typename S>
struct Picture {
  int64_t N, D, width, height;
  const S *means2d, *conics, *opacities, *colors, *depths, *radii, *background;
};

// Alpha of a splat at a pixel; zero where nothing is drawn.
template <typename S>
S alpha_at(const Picture<S>& p, int64_t i, S dx, S dy, S* falloff) {
  const S* k = p.conics + 3 * i;
  const S q = S(0.5) * (k[0] * dx * dx + k[2] * dy * dy) + k[1] * dx * dy;
  *falloff = std::exp(-q);
  const S alpha = std::min(S(ALPHA_MAX), p.opacities[i] * *falloff);
  return alpha * S(255) < S(1) ? S(0) : alpha;
}

using Lists = std::vector<std::vector<int32_t>>;  // splats drawn at each pixel, front to back

template <typename S>
void forward(const Picture<S>& p, double sigmas, S* image, S* alpha, Lists& lists) {
  const int64_t plane = p.width * p.height;
  std::vector<int32_t> order;
  for (int64_t i = 0; i < p.N; ++i)
    if (p.radii[2 * i] > 0) order.push_back(static_cast<int32_t>(i));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p.depths[a] < p.depths[b]; });
  std::vector<S> left(plane, S(1));
  std::vector<char> done(plane, 0);
  std::fill(image, image + p.D * plane, S(0));
  for (int32_t i : order) {
    const S* k = p.conics + 3 * i;
    const S det = k[0] * k[2] - k[1] * k[1], mid = S(0.5) * (k[0] + k[2]) / det;
    const S radius = std::ceil(S(sigmas) * std::sqrt(mid + std::sqrt(std::max(S(0), mid * mid - S(1) / det))));
    const S x = p.means2d[2 * i], y = p.means2d[2 * i + 1];
    const auto clamp = [](S v, int64_t high) {
      return static_cast<int64_t>(std::min(std::max(v, S(0)), static_cast<S>(high)));
    };
    const int64_t x0 = clamp(x - radius, p.width), x1 = clamp(x + radius + 1, p.width);
    const int64_t y0 = clamp(y - radius, p.height), y1 = clamp(y + radius + 1, p.height);
    for (int64_t row = y0; row < y1; ++row)
      for (int64_t column = x0; column < x1; ++column) {
        const int64_t pixel = row * p.width + column;
        if (done[pixel]) continue;
        S falloff;
        const S a = alpha_at(p, i, column + S(0.5) - x, row + S(0.5) - y, &falloff);
        if (a == 0) continue;
        const S after = left[pixel] * (1 - a);
        if (after <= S(TRANSMITTANCE_MIN)) {
          done[pixel] = 1;
          continue;
        }
        const S weight = a * left[pixel];
        for (int64_t d = 0; d < p.D; ++d) image[d * plane + pixel] += weight * p.colors[i * p.D + d];
        left[pixel] = after;
        lists[pixel].push_back(i);
      }
  }
  for (int64_t pixel = 0; pixel < plane; ++pixel) {
    alpha[pixel] = 1 - left[pixel];
    if (p.background)
      for (int64_t d = 0; d < p.D; ++d) image[d * plane + pixel] += left[pixel] * p.background[d];
  }
}

// Back to front over each pixel's list.
template <typename S>
void backward(const Picture<S>& p, const S* alpha, const int32_t* visits, const int32_t* starts, const S* v_image,
              const S* v_alpha, S* v_means2d, S* v_conics, S* v_opacities, S* v_colors) {
  const int64_t plane = p.width * p.height;
  std::vector<S> v(p.D);
  for (int64_t row = 0; row < p.height; ++row)
    for (int64_t column = 0; column < p.width; ++column) {
      const int64_t pixel = row * p.width + column;
      const S final = 1 - alpha[pixel];
      S left = final, behind = 0;  // what lies behind the current splat, dotted with v
      for (int64_t d = 0; d < p.D; ++d) {
        v[d] = v_image ? v_image[d * plane + pixel] : S(0);
        if (p.background) behind += final * p.background[d] * v[d];
      }
      if (v_alpha) behind -= final * v_alpha[pixel];
      for (int32_t at = starts[pixel]; at < starts[pixel + 1]; ++at) {
        const int64_t i = visits[at];
        const S dx = column + S(0.5) - p.means2d[2 * i], dy = row + S(0.5) - p.means2d[2 * i + 1];
        S falloff;
        const S a = alpha_at(p, i, dx, dy, &falloff);
        left /= 1 - a;  // transmittance in front of this splat
        S shade = 0;
        for (int64_t d = 0; d < p.D; ++d) {
          shade += p.colors[i * p.D + d] * v[d];
          v_colors[i * p.D + d] += a * left * v[d];
        }
        const S v_a = left * shade - behind / (1 - a);
        behind += a * left * shade;
        if (p.opacities[i] * falloff > S(ALPHA_MAX)) continue;
        v_opacities[i] += falloff * v_a;
        const S v_q = -a * v_a;
        const S* k = p.conics + 3 * i;
        v_conics[3 * i] += S(0.5) * v_q * dx * dx;
        v_conics[3 * i + 1] += v_q * dx * dy;
        v_conics[3 * i + 2] += S(0.5) * v_q * dy * dy;
        v_means2d[2 * i] -= v_q * (k[0] * dx + k[1] * dy);
        v_means2d[2 * i + 1] -= v_q * (k[1] * dx + k[2] * dy);
      }
    }
}

template <typename S>
Picture<S> picture(int64_t c, const Tensor& means2d, const Tensor& conics, const Tensor& opacities,
                   const Tensor& colors, const Tensor& depths, const Tensor& radii,
                   const std::optional<Tensor>& background, int64_t width, int64_t height) {
  const int64_t N = means2d.size(1), D = colors.size(2);
  const int64_t oc = opacities.size(0) == 1 ? 0 : c, cc = colors.size(0) == 1 ? 0 : c;
  return {N, D, width, height, means2d.const_data_ptr<S>() + c * N * 2, conics.const_data_ptr<S>() + c * N * 3,
          opacities.const_data_ptr<S>() + oc * N, colors.const_data_ptr<S>() + cc * N * D,
          depths.const_data_ptr<S>() + c * N, radii.const_data_ptr<S>() + c * N * 2,
          background ? background->const_data_ptr<S>() + c * D : nullptr};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> blend_boxes_cpu(Tensor means2d,    // [C, N, 2]
                                                           Tensor conics,     // [C, N, 3]
                                                           Tensor opacities,  // [B, N]
                                                           Tensor colors,     // [B, N, D]
                                                           Tensor depths,     // [C, N]
                                                           Tensor radii,      // [C, N, 2]
                                                           std::optional<Tensor> background,  // [C, D]
                                                           int64_t width, int64_t height, double sigmas) {
  const auto run = [&]<typename S>(S) {
    const int64_t C = means2d.size(0), D = colors.size(2), plane = width * height;
    Tensor image = empty<S>(means2d, {C, D, height, width}), alpha = empty<S>(means2d, {C, height, width});
    Tensor starts = empty<int32_t>(means2d, {C * plane + 1});
    Lists lists(C * plane);
    for (int64_t c = 0; c < C; ++c) {
      Lists one(plane);
      forward(picture<S>(c, means2d, conics, opacities, colors, depths, radii, background, width, height), sigmas,
              image.template mutable_data_ptr<S>() + c * D * plane, alpha.template mutable_data_ptr<S>() + c * plane,
              one);
      std::move(one.begin(), one.end(), lists.begin() + c * plane);
    }
    int32_t* start = starts.mutable_data_ptr<int32_t>();
    start[0] = 0;
    for (int64_t i = 0; i < C * plane; ++i) start[i + 1] = start[i] + static_cast<int32_t>(lists[i].size());
    Tensor visits = empty<int32_t>(means2d, {start[C * plane]});
    int32_t* visit = visits.mutable_data_ptr<int32_t>();
    for (int64_t i = 0; i < C * plane; ++i) std::copy(lists[i].rbegin(), lists[i].rend(), visit + start[i]);
    return std::make_tuple(image, alpha, visits, starts);
  };
  return means2d.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> blend_boxes_backward_cpu(
    Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor depths, Tensor radii,
    std::optional<Tensor> background,
    Tensor alpha,                   // [C, H, W]
    Tensor visits,                  // [P], back to front at each pixel
    Tensor starts,                  // [C H W + 1]
    std::optional<Tensor> v_image,  // [C, D, H, W]
    std::optional<Tensor> v_alpha   // [C, H, W]
) {
  const auto run = [&]<typename S>(S) {
    const int64_t C = means2d.size(0), N = means2d.size(1), D = colors.size(2);
    const int64_t height = alpha.size(1), width = alpha.size(2), plane = width * height;
    Tensor v_means2d = zeros<S>(means2d, {C, N, 2}), v_conics = zeros<S>(means2d, {C, N, 3});
    Tensor v_opacities = zeros<S>(means2d, {C, N}), v_colors = zeros<S>(means2d, {C, N, D});
    for (int64_t c = 0; c < C; ++c)
      backward(picture<S>(c, means2d, conics, opacities, colors, depths, radii, background, width, height),
               alpha.const_data_ptr<S>() + c * plane, visits.const_data_ptr<int32_t>(),
               starts.const_data_ptr<int32_t>() + c * plane,
               v_image ? v_image->const_data_ptr<S>() + c * D * plane : nullptr,
               v_alpha ? v_alpha->const_data_ptr<S>() + c * plane : nullptr,
               v_means2d.template mutable_data_ptr<S>() + c * N * 2,
               v_conics.template mutable_data_ptr<S>() + c * N * 3,
               v_opacities.template mutable_data_ptr<S>() + c * N,
               v_colors.template mutable_data_ptr<S>() + c * N * D);
    return std::make_tuple(v_means2d, v_conics, v_opacities, v_colors);
  };
  return means2d.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("blend_boxes", TORCH_BOX(&blend_boxes_cpu));
  m.impl("blend_boxes_backward", TORCH_BOX(&blend_boxes_backward_cpu));
}

}  // namespace avatar
