"""Frames per vertex and Gaussians bound to them: smooth over edges by construction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.geometry.frames import Topology
from avatar.ops._native import ops


def vertex_frames(verts: Tensor, topology: Topology) -> tuple[Tensor, Tensor]:
    """How each vertex's surroundings have turned and stretched since the rest mesh.

    verts [B, V, 3] m. Returns rotations [B, V, 3, 3], rest to posed, the identity at rest, and stretch [B, V],
    sqrt(area now / area at rest) clamped to 0.5 .. 2. The frame is the area-weighted normal and a rest tangent that each
    triangle carries along in its edges. Differentiable in verts; collapsed fans give a finite frame without a gradient.
    """
    check_shapes("vertex_frames", verts=(verts, "B V 3"), frames=(topology.frames, "V 3 3"))
    check_float("vertex_frames", verts=verts, frames=topology.frames)
    rotations, stretch = ops.vertex_frames(
        verts.contiguous(),
        topology.faces,
        topology.starts,
        topology.corners,
        topology.tangents,
        topology.frames,
        topology.areas,
    )
    return rotations, stretch


def bind(
    verts: Tensor,
    rotations: Tensor,
    stretch: Tensor,
    topology: Topology,
    face_ids: Tensor,
    bary: Tensor,
    height: Tensor,
    offset: Tensor,
    quats: Tensor,
    log_scales: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry Gaussians along with a posed mesh.

    verts, rotations, stretch: the mesh and its `vertex_frames`, [B, V, ...]. Per Gaussian: face_ids [N] int32, bary
    [N, 3], height [N] m along the rest normal, offset [N, 3] m and quats [N, 4] wxyz in the rest mesh's axes, log_scales
    [N, 3] of metres at rest. Rotations and stretch are blended by bary, so both faces of an edge give the same answer
    there. Returns world means [B, N, 3], quats [B, N, 4], scales [B, N, 3]. Differentiable in every floating argument
    but the topology.
    """
    check_shapes(
        "bind",
        verts=(verts, "B V 3"),
        rotations=(rotations, "B V 3 3"),
        stretch=(stretch, "B V"),
        face_ids=(face_ids, "N"),
        bary=(bary, "N 3"),
        height=(height, "N"),
        offset=(offset, "N 3"),
        quats=(quats, "N 4"),
        log_scales=(log_scales, "N 3"),
    )
    check_float("bind", verts=verts, bary=bary, height=height, offset=offset, quats=quats, log_scales=log_scales)
    moving = (t.contiguous() for t in (bary, height, offset, quats, log_scales))
    means, world, scales = ops.bind(
        verts.contiguous(),
        rotations.contiguous(),
        stretch.contiguous(),
        topology.faces,
        topology.starts,
        topology.corners,
        topology.normals,
        face_ids.int(),
        *moving,
    )
    return means, world, scales


@torch.library.register_fake("avatar::vertex_frames")  # type: ignore[untyped-decorator]
def _(verts: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return verts.new_empty((*verts.shape, 3)), verts.new_empty(verts.shape[:2])


@torch.library.register_fake("avatar::vertex_frames_backward")  # type: ignore[untyped-decorator]
def _(verts: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(verts)


@torch.library.register_fake("avatar::bind")  # type: ignore[untyped-decorator]
def _(verts: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    shape = (verts.shape[0], others[6].shape[0])
    return verts.new_empty((*shape, 3)), verts.new_empty((*shape, 4)), verts.new_empty((*shape, 3))


@torch.library.register_fake("avatar::bind_backward")  # type: ignore[untyped-decorator]
def _(verts: Tensor, rotations: Tensor, stretch: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in (verts, rotations, stretch, *others[5:10]))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.shapes = [t.shape for t in output]
    ctx.set_materialize_grads(False)


def _filled(ctx: Any, grads: tuple[Tensor | None, ...], like: Tensor) -> list[Tensor]:
    """Missing gradients as zeros, the others contiguous."""
    pairs = zip(grads, ctx.shapes, strict=True)
    return [like.new_zeros(shape) if grad is None else grad.contiguous() for grad, shape in pairs]


def _frames_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    return ops.vertex_frames_backward(*saved, *_filled(ctx, grads, saved[0])), *[None] * 6


def _bind_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    v_verts, v_rotations, v_stretch, *v_own = ops.bind_backward(*saved, *_filled(ctx, grads, saved[0]))
    return v_verts, v_rotations, v_stretch, *[None] * 5, *v_own


torch.library.register_autograd("avatar::vertex_frames", _frames_backward, setup_context=_save_inputs)
torch.library.register_autograd("avatar::bind", _bind_backward, setup_context=_save_inputs)
