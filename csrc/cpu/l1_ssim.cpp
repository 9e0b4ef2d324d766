#include "cpu/l1_ssim.h"

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/isa.h"
#include "cpu/l1_ssim_band.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace avatar {
namespace {

constexpr int64_t SSIM_ALONE = 1 << 15;  // fewer values than this take less time than a busy machine's second thread

// 16-byte registers are in every 64-bit processor's base set.
template <typename T>
void run_band(SsimBand<T>& band, SsimScratch<T>& scratch) {
  if constexpr (std::is_same_v<T, float>) {
    if (current_isa() == AVX512) return l1_ssim_avx512(band, scratch);
    if (current_isa() == AVX2) return l1_ssim_avx2(band, scratch);
  }
  L1Ssim<T, 16 / sizeof(T)>::run(band, scratch);
}

Plane plane_of(const Tensor& pictures, int64_t image, int64_t channel) {
  const bool bytes = pictures.scalar_type() == ScalarType::Byte;
  const int64_t start = image * pictures.stride(0) + channel * pictures.stride(1);
  const char* data = static_cast<const char*>(pictures.const_data_ptr());
  return {data + start * static_cast<int64_t>(pictures.element_size()), pictures.stride(2), pictures.stride(3), bytes};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> l1_ssim_typed(const Tensor& pred, const Tensor& target,
                                                 const std::optional<Tensor>& weight, double ssim_weight,
                                                 bool needs_grad) {
  const int64_t images = pred.size(0), channels = pred.size(1), height = pred.size(2), width = pred.size(3);
  const int64_t values = channels * height * width;  // of one picture
  const int64_t count = std::max<int64_t>(1, (height + SSIM_BAND - 1) / SSIM_BAND);
  const int64_t band_rows = (height + count - 1) / count;  // even bands keep the cores even
  Tensor v_pred = needs_grad ? empty<T>(pred, {images, channels, height, width}) : empty<T>(pred, {0});
  T* v_data = needs_grad ? v_pred.template mutable_data_ptr<T>() : nullptr;

  std::vector<SsimBand<T>> tasks;
  tasks.reserve(images * channels * count);
  for (int64_t c = 0; c < images; ++c)
    for (int64_t d = 0; d < channels; ++d)
      for (int64_t first = 0; first < height; first += band_rows) {
        SsimBand<T> task{};
        task.pred = plane_of(pred, c, d);
        task.target = plane_of(target, c, d);
        if (weight) {
          const T* data = weight->template const_data_ptr<T>() + c * weight->stride(0);
          task.weight = {data, weight->stride(1), weight->stride(2), false};
        }
        task.height = height;
        task.width = width;
        task.first = first;
        task.last = std::min(height, first + band_rows);
        task.l1_scale = static_cast<T>((1 - ssim_weight) / static_cast<double>(images * values));
        task.ssim_scale = static_cast<T>(ssim_weight / static_cast<double>(images * values));
        task.v_pred = needs_grad ? v_data + (c * channels + d) * height * width : nullptr;
        tasks.push_back(task);
      }
  const auto work = [&](int64_t i) {
    const auto scratch = std::make_unique_for_overwrite<SsimScratch<T>>();
    run_band(tasks[i], *scratch);
  };
  const auto count_all = static_cast<int64_t>(tasks.size());
  if (images * values < SSIM_ALONE)
    for (int64_t i = 0; i < count_all; ++i) work(i);
  else
    parallel_items(count_all, work);

  Tensor loss = empty<T>(pred, {}), terms = empty<T>(pred, {images, 2});
  T* term = terms.template mutable_data_ptr<T>();
  double total = 0;
  const size_t per_image = images ? tasks.size() / images : 0;
  for (int64_t c = 0; c < images; ++c) {
    double l1 = 0, dssim = 0;
    for (size_t i = c * per_image; i < (c + 1) * per_image; ++i) l1 += tasks[i].l1, dssim += tasks[i].dssim;
    term[2 * c] = static_cast<T>(l1 / static_cast<double>(values));
    term[2 * c + 1] = static_cast<T>(dssim / static_cast<double>(values));
    total += ((1 - ssim_weight) * l1 + ssim_weight * dssim) / static_cast<double>(images * values);
  }
  *loss.template mutable_data_ptr<T>() = static_cast<T>(total);
  return {loss, terms, v_pred};
}

void check_pictures(const Tensor& pred, const Tensor& target, const std::optional<Tensor>& weight) {
  const auto fail = [](const char* name, const char* expected, const Tensor& got) {
    throw std::runtime_error(std::string("l1_ssim: ") + name + " must be " + expected + ", got " + shape_text(got));
  };
  const ScalarType dtype = pred.scalar_type();
  if (pred.dim() != 4 || (dtype != ScalarType::Float && dtype != ScalarType::Double))
    fail("pred", "a float32 or float64 tensor [C, D, H, W]", pred);
  bool same = target.dim() == 4 && target.is_cpu();
  for (int64_t d = 0; same && d < 4; ++d) same = target.size(d) == pred.size(d);
  if (!same || (target.scalar_type() != dtype && target.scalar_type() != ScalarType::Byte))
    fail("target", "of pred's shape and dtype, or uint8, on the CPU", target);
  if (weight && (weight->dim() != 3 || weight->scalar_type() != dtype || !weight->is_cpu() ||
                 weight->size(0) != pred.size(0) || weight->size(1) != pred.size(2) || weight->size(2) != pred.size(3)))
    fail("weight", "[C, H, W] of pred's dtype on the CPU", *weight);
}

std::tuple<Tensor, Tensor, Tensor> l1_ssim_cpu(Tensor pred,                   // [C, D, H, W], any strides
                                               Tensor target,                 // [C, D, H, W], any strides, or uint8
                                               std::optional<Tensor> weight,  // [C, H, W], any strides
                                               double ssim_weight, bool needs_grad) {
  check_pictures(pred, target, weight);
  return pred.scalar_type() == ScalarType::Double
             ? l1_ssim_typed<double>(pred, target, weight, ssim_weight, needs_grad)
             : l1_ssim_typed<float>(pred, target, weight, ssim_weight, needs_grad);
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) { m.impl("l1_ssim", TORCH_BOX(&l1_ssim_cpu)); }

}  // namespace
}  // namespace avatar
