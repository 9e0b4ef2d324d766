// The schema of every operator, once. Implementations register themselves per device in cpu/<op>.cpp and cuda/<op>.cu;
// shapes of the arguments are documented in avatar/ops/<op>.py, gradients are registered there.
#include "ops.h"

STABLE_TORCH_LIBRARY(avatar, m) {
  m.def("get_isa() -> int");
  m.def("set_isa(int isa) -> int");

  // ---- adam
  m.def(
      "adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, "
      "float[] lrs, float[] beta1s, float[] beta2s, float[] epss) -> ()");
  m.def("finite(Tensor[] tensors) -> bool");

  // ---- l1_ssim
  m.def(
      "l1_ssim(Tensor pred, Tensor target, Tensor? weight, float ssim_weight, bool needs_grad) "
      "-> (Tensor loss, Tensor terms, Tensor v_pred)");
}
