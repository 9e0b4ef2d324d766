// What every operator file needs: torch's stable tensor, argument checks with readable messages.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <stdexcept>
#include <string>

namespace avatar {

using torch::stable::Tensor;
using torch::headeronly::ScalarType;

inline std::string shape_text(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

// Throws "op: name must be contiguous float32 [2, 5, 3], got [2, 5, 4]". -1 in the expected shape matches anything.
inline void check(const char* op, const char* name, const Tensor& tensor, ScalarType dtype,
                  std::initializer_list<int64_t> shape) {
  bool good = tensor.scalar_type() == dtype && tensor.is_contiguous() && tensor.is_cpu() &&
              tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t d = 0;
  for (int64_t size : shape) {
    good = good && (size < 0 || tensor.size(d) == size);
    ++d;
  }
  if (good) return;
  std::string expected = "[";
  for (auto it = shape.begin(); it != shape.end(); ++it)
    expected += (it == shape.begin() ? "" : ", ") + (*it < 0 ? std::string("*") : std::to_string(*it));
  throw std::runtime_error(std::string(op) + ": " + name + " must be a contiguous CPU tensor of shape " + expected +
                           "] and the operator's dtype, got " + shape_text(tensor) +
                           (tensor.is_contiguous() ? "" : " (not contiguous)"));
}

template <typename T>
constexpr ScalarType dtype_of();
template <>
constexpr ScalarType dtype_of<float>() { return ScalarType::Float; }
template <>
constexpr ScalarType dtype_of<double>() { return ScalarType::Double; }
template <>
constexpr ScalarType dtype_of<int32_t>() { return ScalarType::Int; }
template <>
constexpr ScalarType dtype_of<int64_t>() { return ScalarType::Long; }

// A new uninitialised tensor on the device of `like`.
template <typename T>
Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape) {
  return torch::stable::new_empty(like, shape, dtype_of<T>());
}
template <typename T>
Tensor zeros(const Tensor& like, std::initializer_list<int64_t> shape) {
  return torch::stable::new_zeros(like, shape, dtype_of<T>());
}

}  // namespace avatar
