// The schema of every operator, once. Implementations register themselves per device in cpu/<op>.cpp and cuda/<op>.cu;
// shapes of the arguments are documented in avatar/ops/<op>.py, gradients are registered there.
#include "ops.h"

STABLE_TORCH_LIBRARY(avatar, m) {
  m.def("get_isa() -> int");
  m.def("set_isa(int isa) -> int");

  // ---- rasteriser: project -> bin -> blend
  m.def(
      "project(Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor viewmats, Tensor Ks, int width, "
      "int height, float near_plane, float far_plane, float blur) -> (Tensor means2d, Tensor conics, Tensor depths, "
      "Tensor radii, Tensor compensations)");
  m.def(
      "project_backward(Tensor means, Tensor quats, Tensor scales, Tensor viewmats, Tensor Ks, Tensor radii, int width, "
      "int height, float near_plane, float far_plane, float blur, Tensor? v_means2d, Tensor? v_conics, "
      "Tensor? v_depths, Tensor? v_compensations, bool with_camera) -> (Tensor v_means, Tensor v_quats, "
      "Tensor v_scales, Tensor v_viewmats)");
  m.def(
      "bin(Tensor means2d, Tensor conics, Tensor opacities, Tensor depths, Tensor radii, int width, int height) -> "
      "(Tensor order, Tensor geometry, Tensor image_offsets, Tensor slot_offsets, Tensor tile_offsets, Tensor pairs)");
  m.def(
      "blend(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor? background, Tensor order, "
      "Tensor geometry, Tensor image_offsets, Tensor slot_offsets, Tensor tile_offsets, Tensor pairs, int width, "
      "int height) -> (Tensor image, Tensor alpha, Tensor records, Tensor live)");
  m.def(
      "blend_backward(Tensor records, Tensor order, Tensor image_offsets, Tensor slot_offsets, Tensor tile_offsets, "
      "Tensor pairs, Tensor live, Tensor opacities, Tensor image, Tensor alpha, Tensor? v_image, Tensor? v_alpha) -> "
      "(Tensor v_means2d, Tensor v_conics, Tensor v_opacities, Tensor v_colors)");
  m.def(
      "blend_boxes(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor depths, Tensor radii, "
      "Tensor? background, int width, int height, float sigmas) -> (Tensor image, Tensor alpha, Tensor visits, "
      "Tensor starts)");
  m.def(
      "blend_boxes_backward(Tensor means2d, Tensor conics, Tensor opacities, Tensor colors, Tensor depths, "
      "Tensor radii, Tensor? background, Tensor alpha, Tensor visits, Tensor starts, Tensor? v_image, Tensor? v_alpha) "
      "-> (Tensor v_means2d, Tensor v_conics, Tensor v_opacities, Tensor v_colors)");

  // ---- bind
  m.def(
      "vertex_frames(Tensor verts, Tensor faces, Tensor starts, Tensor corners, Tensor tangents, Tensor rest_frames, "
      "Tensor rest_areas) -> (Tensor rotations, Tensor stretch)");
  m.def(
      "vertex_frames_backward(Tensor verts, Tensor faces, Tensor starts, Tensor corners, Tensor tangents, "
      "Tensor rest_frames, Tensor rest_areas, Tensor v_rotations, Tensor v_stretch) -> Tensor");
  m.def(
      "bind(Tensor verts, Tensor rotations, Tensor stretch, Tensor faces, Tensor starts, Tensor corners, "
      "Tensor normals, Tensor face_ids, Tensor bary, Tensor height, Tensor offset, Tensor quats, Tensor log_scales) -> "
      "(Tensor means, Tensor world_quats, Tensor scales)");
  m.def(
      "bind_backward(Tensor verts, Tensor rotations, Tensor stretch, Tensor faces, Tensor starts, Tensor corners, "
      "Tensor normals, Tensor face_ids, Tensor bary, Tensor height, Tensor offset, Tensor quats, Tensor log_scales, "
      "Tensor v_means, Tensor v_quats, Tensor v_scales) -> (Tensor v_verts, Tensor v_rotations, Tensor v_stretch, "
      "Tensor v_bary, Tensor v_height, Tensor v_offset, Tensor v_local_quats, Tensor v_log_scales)");

  // ---- sh
  m.def("sh_colors(Tensor sh, Tensor means, Tensor positions) -> Tensor");
  m.def(
      "sh_colors_backward(Tensor sh, Tensor means, Tensor positions, Tensor colors, Tensor v_colors, bool with_means) -> "
      "(Tensor v_sh, Tensor v_means)");

  // ---- skin
  m.def(
      "skin(Tensor rest, Tensor joints, Tensor coeffs, Tensor rotations, Tensor translation, Tensor basis, "
      "Tensor joint_basis, Tensor weights, Tensor tables) -> (Tensor verts, Tensor transforms, Tensor shaped)");
  m.def(
      "skin_backward(Tensor rest, Tensor joints, Tensor coeffs, Tensor rotations, Tensor translation, Tensor basis, "
      "Tensor joint_basis, Tensor weights, Tensor tables, Tensor shaped, Tensor v_verts, Tensor v_transforms) "
      "-> (Tensor v_rest, Tensor v_joints, Tensor v_coeffs, Tensor v_rotations, Tensor v_translation)");

  // ---- adam
  m.def(
      "adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, "
      "float[] lrs, float[] beta1s, float[] beta2s, float[] epss) -> ()");
  m.def("finite(Tensor[] tensors) -> bool");

  // ---- l1_ssim
  m.def(
      "l1_ssim(Tensor pred, Tensor target, Tensor? weight, float ssim_weight, bool needs_grad) "
      "-> (Tensor loss, Tensor terms, Tensor v_pred)");

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
