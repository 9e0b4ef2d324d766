"""Mesh rasteriser: which face every pixel sees, where on it, how far away, and how much of the pixel is covered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.ops._native import ops

SAMPLES = (1, 16)
"""Coverage samples per pixel that the kernels know."""


def rasterize_mesh(
    verts: Tensor,
    faces: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near: float = 0.01,
    cull_backfaces: bool = False,
    samples: int = 16,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw one mesh into C pictures.

    A pixel belongs to the nearest face that covers its centre (at +0.5). Corners are rounded to 1/256 pixel and inside
    tests are exact with the top-left rule (Pineda 1988), so neighbouring faces leave no crack and draw nothing twice.
    Depths closer than a relative 1e-7 count as equal; then the lowest face id wins. Faces are clipped at the near
    plane; faces with a vertex that is not finite are left out. The result does not depend on the number of threads.

    Args:
        verts: vertices, metres, world frame; B = C, or B = 1 to share them. [B, V, 3]
        faces: triangles, counter-clockwise from outside. [F, 3] integer
        viewmats: world to camera, OpenCV axes. [C, 4, 4]
        Ks: intrinsics, pixels; the last row is taken as (0, 0, 1). [C, 3, 3]
        width, height: picture size, pixels, at most 16383.
        near: nothing closer than this is drawn, metres.
        cull_backfaces: leave out faces seen from behind.
        samples: coverage samples per pixel, 16 for antialiased coverage, 1 for the pixel centre alone.

    Returns:
        face_ids: visible face, -1 for background. [C, H, W] int32
        bary: perspective-correct weights of the face's corners, 0 on background. [C, H, W, 3]
        depth: camera z of the visible point, metres, 0 on background. [C, H, W]
        coverage: share of the pixel that the whole mesh covers, 0..1. [C, H, W]

    bary and depth carry gradients to verts, viewmats and Ks at fixed visibility; coverage carries none.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit. RuntimeError: sizes, near, samples or vertex ids out of
            range.
    """
    sizes = check_shapes(
        "rasterize_mesh",
        verts=(verts, "B V 3"),
        faces=(faces, "F 3"),
        viewmats=(viewmats, "C 4 4"),
        Ks=(Ks, "C 3 3"),
    )
    check_float("rasterize_mesh", verts=verts, viewmats=viewmats, Ks=Ks)
    if sizes["B"] not in (1, sizes["C"]):
        raise ValueError(f"rasterize_mesh: verts must have B = C = {sizes['C']} or B = 1, got B = {sizes['B']}")
    if verts.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rasterize_mesh: verts must be float32 or float64, got {verts.dtype}; convert with .float()")
    bary, depth, coverage, face_ids = ops.rasterize_mesh(
        verts.contiguous(),
        vertex_ids("rasterize_mesh", faces),
        viewmats.contiguous(),
        Ks.contiguous(),
        width,
        height,
        near,
        cull_backfaces,
        samples,
    )
    return face_ids, bary, depth, coverage


def interpolate_mesh(attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor) -> Tensor:
    """Values of vertex attributes at every pixel, 0 on background.

    Args:
        attributes: one row per vertex; A = C, or A = 1 to share them. [A, V, D]
        faces: triangles into the attributes; need not be the triangles that were drawn (uv seams). [F, 3] integer
        face_ids: visible face, -1 for background. [C, H, W] int32
        bary: weights of the face's corners. [C, H, W, 3]

    Returns:
        The weighted sums, with gradients to attributes and bary. [C, H, W, D]

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit. RuntimeError: a vertex or face id out of range.
    """
    sizes = check_shapes(
        "interpolate_mesh",
        attributes=(attributes, "A V D"),
        faces=(faces, "F 3"),
        face_ids=(face_ids, "C H W"),
        bary=(bary, "C H W 3"),
    )
    check_float("interpolate_mesh", attributes=attributes, bary=bary)
    if sizes["A"] not in (1, sizes["C"]):
        raise ValueError(f"interpolate_mesh: attributes must have A = C = {sizes['C']} or A = 1, got A = {sizes['A']}")
    if attributes.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"interpolate_mesh: attributes must be float32 or float64, got {attributes.dtype}; convert with .float()"
        )
    values: Tensor = ops.interpolate_mesh(
        attributes.contiguous(),
        vertex_ids("interpolate_mesh", faces),
        face_ids.to(torch.int32).contiguous(),
        bary.contiguous(),
    )
    return values


def mesh_points(verts: Tensor, faces: Tensor, viewmats: Tensor, Ks: Tensor, face_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Where every pixel's ray meets the face it is known to see, in plain torch: the gradient of `rasterize_mesh`.

    Shifted so that the ray is the z axis, corner k weighs as much as the area the other two span with the origin
    (Olano & Greer 1997, "Triangle scan conversion using 2D homogeneous coordinates").

    Args:
        verts: vertices, metres, world frame; B = C or 1. [B, V, 3]
        faces: triangles, at least one. [F, 3] int64
        viewmats: world to camera, OpenCV axes. [C, 4, 4]
        Ks: intrinsics, pixels. [C, 3, 3]
        face_ids: visible face, -1 for background. [C, H, W] int32

    Returns:
        bary: perspective-correct corner weights, 0 on background. [C, H, W, 3]
        depth: camera z, metres, 0 on background. [C, H, W]
    """
    cameras, height, width = face_ids.shape
    camera_verts = verts @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    pixels = torch.cat([camera_verts @ Ks[:, :2].transpose(1, 2), camera_verts[..., 2:]], dim=-1)
    seen = face_ids >= 0
    corner_ids = faces[face_ids.clamp(min=0).long()].reshape(cameras, -1, 1).expand(-1, -1, 3)
    corners = pixels.gather(1, corner_ids).reshape(cameras, height, width, 3, 3)
    u = torch.arange(width, dtype=verts.dtype, device=verts.device) + 0.5
    v = torch.arange(height, dtype=verts.dtype, device=verts.device)[:, None] + 0.5
    z = corners[..., 2]
    x, y = corners[..., 0] - u[:, None] * z, corners[..., 1] - v[..., None] * z
    area = x.roll(-1, -1) * y.roll(-2, -1) - y.roll(-1, -1) * x.roll(-2, -1)
    area = (area * torch.where(area.sum(-1, keepdim=True) < 0, -1.0, 1.0)).clamp(min=0)
    total = area.sum(-1, keepdim=True)
    good = seen[..., None] & (total > 0)
    bary = torch.where(good, area / torch.where(good, total, 1.0), torch.where(seen[..., None], 1 / 3, 0.0))
    return bary, (bary * z).sum(-1)


def vertex_ids(owner: str, faces: Tensor) -> Tensor:
    """Faces as the kernels take them, int64 and contiguous. [F, 3]. TypeError unless they are integers."""
    if faces.is_floating_point() or faces.is_complex() or faces.dtype == torch.bool:
        raise TypeError(f"{owner}: faces must be integers, got {faces.dtype}")
    return faces.to(torch.int64).contiguous()


def _rasterize_fake(
    verts: Tensor,
    faces: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near: float,
    cull_backfaces: bool,
    samples: int,
) -> tuple[Tensor, ...]:
    shape = (viewmats.shape[0], height, width)
    planes = [verts.new_empty(size) for size in ((*shape, 3), shape, shape)]
    return *planes, verts.new_empty(shape, dtype=torch.int32)


torch.library.register_fake("avatar::rasterize_mesh", _rasterize_fake)
torch.library.register_fake("avatar::rasterize_mesh_naive", _rasterize_fake)


def _rasterize_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    verts, faces, viewmats, Ks, *_ = inputs
    ctx.save_for_backward(verts, faces, viewmats, Ks, output[3])


def _rasterize_backward(ctx: Any, v_bary: Tensor | None, v_depth: Tensor | None, *_others: Tensor | None) -> Any:
    verts, faces, viewmats, Ks, face_ids = ctx.saved_tensors
    v_verts, v_viewmats, v_Ks = None, None, None
    if len(faces) > 0 and (v_bary is not None or v_depth is not None):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (verts, viewmats, Ks)]
            points = mesh_points(leaves[0], faces, leaves[1], leaves[2], face_ids)
            given = [(out, grad) for out, grad in zip(points, (v_bary, v_depth), strict=True) if grad is not None]
            v_verts, v_viewmats, v_Ks = torch.autograd.grad([out for out, _ in given], leaves, [g for _, g in given])
    return v_verts, None, v_viewmats, v_Ks, None, None, None, None, None


torch.library.register_autograd("avatar::rasterize_mesh", _rasterize_backward, setup_context=_rasterize_save)


def _interpolate_fake(attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor) -> Tensor:
    return attributes.new_empty((*face_ids.shape, attributes.shape[2]))


torch.library.register_fake("avatar::interpolate_mesh", _interpolate_fake)


def _interpolate_bwd_fake(
    attributes: Tensor, faces: Tensor, face_ids: Tensor, bary: Tensor, v_values: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(attributes), torch.empty_like(bary)


torch.library.register_fake("avatar::interpolate_mesh_bwd", _interpolate_bwd_fake)


def _interpolate_save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _interpolate_backward(ctx: Any, v_values: Tensor | None) -> Any:
    if v_values is None:
        return None, None, None, None
    v_attributes, v_bary = ops.interpolate_mesh_bwd(*ctx.saved_tensors, v_values.contiguous())
    return v_attributes, None, None, v_bary


torch.library.register_autograd("avatar::interpolate_mesh", _interpolate_backward, setup_context=_interpolate_save)
