#include <cmath>
#include <type_traits>
#include <vector>

#include "cpu/adam_block.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "ops.h"

namespace avatar {
namespace {

constexpr int64_t ADAM_BLOCK = 1 << 15;  // elements of one piece of work: long enough runs for the hardware's prefetch
constexpr int64_t ADAM_ALONE = 1 << 16;  // fewer elements than this take less time than starting a second thread

template <typename T>
void step_block(T* param, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t count, const AdamScales<T>& scales) {
  if constexpr (std::is_same_v<T, float>) {
    if (current_isa() == AVX512) return adam_avx512(param, grad, exp_avg, exp_avg_sq, count, scales);
    if (current_isa() == AVX2) return adam_avx2(param, grad, exp_avg, exp_avg_sq, count, scales);
  }
  adam_block<T>(param, grad, exp_avg, exp_avg_sq, count, scales);
}

struct Piece {
  size_t tensor;
  int64_t begin, end;
};

// The values of many tensors in pieces of even size. A few small tensors are not worth waking other threads for.
template <typename Body>
void parallel_pieces(const std::vector<Tensor>& tensors, const Body& body) {
  std::vector<Piece> pieces;
  int64_t total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t size = tensors[i].numel();
    total += size;
    for (int64_t begin = 0; begin < size; begin += ADAM_BLOCK)
      pieces.push_back({i, begin, std::min(size, begin + ADAM_BLOCK)});
  }
  if (total < ADAM_ALONE)
    for (const Piece& piece : pieces) body(piece);
  else
    parallel_items(static_cast<int64_t>(pieces.size()), [&](int64_t i) { body(pieces[i]); });
}

struct Operand {
  void *param, *exp_avg, *exp_avg_sq;
  const void* grad;
  ScalarType dtype;
  double lr, beta1, beta2, eps, step;
};

template <typename T>
void step_piece(const Operand& o, const Piece& piece) {
  const AdamScales<T> scales = {static_cast<T>(o.beta1),
                                static_cast<T>(o.beta2),
                                static_cast<T>(1 - o.beta1),
                                static_cast<T>(1 - o.beta2),
                                static_cast<T>(o.lr / (1 - std::pow(o.beta1, o.step))),
                                static_cast<T>(1 / std::sqrt(1 - std::pow(o.beta2, o.step))),
                                static_cast<T>(o.eps)};
  step_block(static_cast<T*>(o.param) + piece.begin, static_cast<const T*>(o.grad) + piece.begin,
             static_cast<T*>(o.exp_avg) + piece.begin, static_cast<T*>(o.exp_avg_sq) + piece.begin,
             piece.end - piece.begin, scales);
}

[[noreturn]] void fail(size_t index, const std::string& what) {
  throw std::runtime_error("adam_: tensor " + std::to_string(index) + ": " + what);
}

void check_like(size_t index, const char* name, const Tensor& tensor, const Tensor& param) {
  if (tensor.is_cpu() && tensor.is_contiguous() && tensor.scalar_type() == param.scalar_type() &&
      tensor.numel() == param.numel())
    return;
  fail(index, std::string(name) + " must be a contiguous CPU tensor of the parameter's shape " + shape_text(param) +
                  " and dtype, got " + shape_text(tensor) + (tensor.is_contiguous() ? "" : " (not contiguous)"));
}

void adam_cpu(std::vector<Tensor> params,       // n tensors of any shape
              std::vector<Tensor> grads,        // like params
              std::vector<Tensor> exp_avgs,     // like params
              std::vector<Tensor> exp_avg_sqs,  // like params
              std::vector<Tensor> steps,        // n float32 scalars, steps done before this one
              std::vector<double> lrs, std::vector<double> beta1s, std::vector<double> beta2s,
              std::vector<double> epss) {
  const size_t count = params.size();
  if (grads.size() != count || exp_avgs.size() != count || exp_avg_sqs.size() != count || steps.size() != count ||
      lrs.size() != count || beta1s.size() != count || beta2s.size() != count || epss.size() != count)
    throw std::runtime_error("adam_: every list must have one entry for each of the " + std::to_string(count) +
                             " params");
  std::vector<Operand> operands;
  operands.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const ScalarType dtype = params[i].scalar_type();
    if (dtype != ScalarType::Float && dtype != ScalarType::Double) fail(i, "params must be float32 or float64");
    check_like(i, "param", params[i], params[i]);
    check_like(i, "grad", grads[i], params[i]);
    check_like(i, "exp_avg", exp_avgs[i], params[i]);
    check_like(i, "exp_avg_sq", exp_avg_sqs[i], params[i]);
    if (!steps[i].is_cpu() || steps[i].numel() != 1 || steps[i].scalar_type() != ScalarType::Float)
      fail(i, "step must be a float32 scalar on the CPU, got " + shape_text(steps[i]));
  }
  for (size_t i = 0; i < count; ++i) {  // nothing has changed until every argument was found good
    float* step = steps[i].mutable_data_ptr<float>();
    *step += 1;
    operands.push_back({params[i].mutable_data_ptr(), exp_avgs[i].mutable_data_ptr(), exp_avg_sqs[i].mutable_data_ptr(),
                        grads[i].const_data_ptr(), params[i].scalar_type(), lrs[i], beta1s[i], beta2s[i], epss[i],
                        *step});
  }
  parallel_pieces(params, [&](const Piece& piece) {
    const Operand& operand = operands[piece.tensor];
    if (operand.dtype == ScalarType::Double)
      step_piece<double>(operand, piece);
    else
      step_piece<float>(operand, piece);
  });
}

// A float is NaN or infinite when its exponent bits are all ones.
template <typename Bits>
bool any_exponent_full(const void* data, int64_t count, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(data);
  Bits found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (bits[i] & exponent) == exponent;
  return found != 0;
}

bool finite_cpu(std::vector<Tensor> tensors) {  // n tensors of any shape
  for (size_t i = 0; i < tensors.size(); ++i) {
    const ScalarType dtype = tensors[i].scalar_type();
    if ((dtype != ScalarType::Float && dtype != ScalarType::Double) || !tensors[i].is_contiguous())
      throw std::runtime_error("finite: tensor " + std::to_string(i) +
                               " must be contiguous float32 or float64, got " + shape_text(tensors[i]));
  }
  std::atomic<bool> good{true};
  parallel_pieces(tensors, [&](const Piece& piece) {
    const Tensor& tensor = tensors[piece.tensor];
    const char* data = static_cast<const char*>(tensor.const_data_ptr());
    const int64_t count = piece.end - piece.begin;
    const bool bad = tensor.scalar_type() == ScalarType::Double
                         ? any_exponent_full<uint64_t>(data + 8 * piece.begin, count, 0x7ff0000000000000u)
                         : any_exponent_full<uint32_t>(data + 4 * piece.begin, count, 0x7f800000u);
    if (bad) good.store(false, std::memory_order_relaxed);
  });
  return good;
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) {
  m.impl("adam_", TORCH_BOX(&adam_cpu));
  m.impl("finite", TORCH_BOX(&finite_cpu));
}

}  // namespace
}  // namespace avatar
