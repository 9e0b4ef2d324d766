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

  // ---- mesh
  m.def(
      "rasterize_mesh(Tensor verts, Tensor faces, Tensor viewmats, Tensor Ks, int width, int height, float near, "
      "bool cull_backfaces, int samples) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "rasterize_mesh_naive(Tensor verts, Tensor faces, Tensor viewmats, Tensor Ks, int width, int height, float near, "
      "bool cull_backfaces, int samples) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("interpolate_mesh(Tensor attributes, Tensor faces, Tensor face_ids, Tensor bary) -> Tensor");
  m.def(
      "interpolate_mesh_bwd(Tensor attributes, Tensor faces, Tensor face_ids, Tensor bary, Tensor v_values) -> "
      "(Tensor, Tensor)");
}
