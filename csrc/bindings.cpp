// The schema of every operator, once. Implementations register themselves per device in cpu/<op>.cpp and cuda/<op>.cu;
// shapes of the arguments are documented in avatar/ops/<op>.py, gradients are registered there.
#include "ops.h"

STABLE_TORCH_LIBRARY(avatar, m) {
  m.def("get_isa() -> int");
  m.def("set_isa(int isa) -> int");

  // ---- adam
  m.def(
      "adam_(Tensor(a!) param, Tensor grad, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, float lr, float beta1, "
      "float beta2, float eps, int step) -> ()");

  // ---- skin
  m.def(
      "skin(Tensor rest, Tensor joints, Tensor coeffs, Tensor rotations, Tensor translation, Tensor basis, "
      "Tensor joint_basis, Tensor weights, Tensor tables) -> (Tensor verts, Tensor transforms, Tensor shaped)");
  m.def(
      "skin_backward(Tensor rest, Tensor joints, Tensor coeffs, Tensor rotations, Tensor translation, Tensor basis, "
      "Tensor joint_basis, Tensor weights, Tensor tables, Tensor shaped, Tensor v_verts, Tensor v_transforms) "
      "-> (Tensor v_rest, Tensor v_joints, Tensor v_coeffs, Tensor v_rotations, Tensor v_translation)");
}
