"""The rasteriser's stages as operators: project -> bin -> blend. `avatar.render.rasterize` strings them together.

Semantics, the same as gsplat's: alpha = min(.99, opacity exp(-q)), nothing under 1/255, a pixel ends when the next
transmittance would not exceed 1e-4, `blur` pixels squared are added to every 2D covariance, pixel centres lie at +0.5,
equal depths keep their order. Kerbl et al. 2023 (3D Gaussian splatting), Zwicker et al. 2001 (EWA splatting).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.ops._native import ops

BOX_EXACT = 3.3303  # sqrt(2 ln 255): the sigmas at which a fully opaque splat falls under 1/255


class Splats(NamedTuple):
    """2D splats of C pictures. All zero where a Gaussian is not seen."""

    means2d: Tensor
    """Centres, pixels. [C, N, 2]"""
    conics: Tensor
    """Inverse 2D covariances as (a, b, c) of [[a, b], [b, c]], 1 / pixels squared. [C, N, 3]"""
    depths: Tensor
    """Camera-space z, metres. [C, N]"""
    radii: Tensor
    """Half width and half height of the box outside of which alpha is under 1/255, pixels. [C, N, 2]"""
    compensations: Tensor
    """sqrt(det before / det after the blur): multiply opacities by it for antialiased splats. [C, N]"""


class Bins(NamedTuple):
    """Which splats touch which 16 x 16 tile, front to back. Not differentiable."""

    order: Tensor
    """Picture * N + Gaussian of every visible splat, by picture and depth. [R] int32"""
    geometry: Tensor
    """The splats in that order, packed for the kernels. [R, 8]"""
    image_offsets: Tensor
    """First splat of every picture in `order`. [C + 1] int32"""
    slot_offsets: Tensor
    """First pair of every splat. [R + 1] int32"""
    tile_offsets: Tensor
    """First pair of every tile in `pairs`. [C * tiles + 1] int32"""
    pairs: Tensor
    """(splat in `order`, its pair number) by tile, front to back. [P, 2] int32"""


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near: float = 0.01,
    far: float = 1e10,
    blur: float = 0.3,
) -> Splats:
    """Project Gaussians into pinhole cameras.

    means [B, N, 3] m, quats [B, N, 4] wxyz (any length but zero), scales [B, N, 3] m, opacities [B, N] 0..1,
    viewmats [C, 4, 4] world to camera, Ks [C, 3, 3] pixels; B = C, or B = 1 for one set seen by all cameras.
    near, far: metres; blur: pixels squared. Differentiable in means, quats, scales and viewmats, but not in Ks, nor in
    opacities (they only decide what is seen). float32, or float64 for gradient checks.
    Raises ValueError on wrong shapes, RuntimeError naming a Gaussian that is not finite.
    """
    check_shapes(
        "project",
        means=(means, "B N 3"),
        quats=(quats, "B N 4"),
        scales=(scales, "B N 3"),
        opacities=(opacities, "B N"),
        viewmats=(viewmats, "C 4 4"),
        Ks=(Ks, "C 3 3"),
    )
    check_float("project", means=means, quats=quats, scales=scales, opacities=opacities, viewmats=viewmats, Ks=Ks)
    arguments = [t.contiguous() for t in (means, quats, scales, opacities, viewmats, Ks)]
    return Splats(*ops.project(*arguments, width, height, near, far, blur))


def bin_splats(splats: Splats, opacities: Tensor, width: int, height: int) -> Bins:
    """Sort the visible splats of each picture by depth and list them per tile. opacities [B, N], B = C or 1. float32."""
    m, c, d, r = (t.detach() for t in (splats.means2d, splats.conics, splats.depths, splats.radii))
    return Bins(*ops.bin(m, c, opacities.detach().contiguous(), d, r, width, height))


def blend(
    splats: Splats,
    opacities: Tensor,
    colors: Tensor,
    bins: Bins,
    width: int,
    height: int,
    background: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Composite binned splats front to back.

    opacities [B, N], colors [B, N, D] (any D: colour, depth, branch weights; B = C or 1), background [C, D] or None for
    black. Returns (image [C, D, H, W], alpha [C, H, W]), float32. Differentiable in means2d, conics, opacities, colors and
    background. Raises RuntimeError naming a Gaussian whose channels are not finite.
    """
    check_shapes(
        "blend",
        means2d=(splats.means2d, "C N 2"),
        opacities=(opacities, "B N"),
        colors=(colors, "L N D"),
        background=(background, "C D"),
    )
    image, alpha, _, _ = ops.blend(
        splats.means2d,
        splats.conics,
        opacities.contiguous(),
        colors.contiguous(),
        None if background is None else background.contiguous(),
        *bins,
        width,
        height,
    )
    return image, alpha


def blend_boxes(
    splats: Splats,
    opacities: Tensor,
    colors: Tensor,
    width: int,
    height: int,
    background: Tensor | None = None,
    sigmas: float = BOX_EXACT,
) -> tuple[Tensor, Tensor]:
    """The same composition without tiles: one thread, scalar, float32 or float64; see `blend` for the arguments.

    `sigmas` is the half width of the square box each splat is drawn in; with the default nothing visible is cut off.
    """
    image, alpha, _, _ = ops.blend_boxes(
        splats.means2d,
        splats.conics,
        opacities.contiguous(),
        colors.contiguous(),
        splats.depths,
        splats.radii,
        None if background is None else background.contiguous(),
        width,
        height,
        sigmas,
    )
    return image, alpha


# ---------------------------------------------------------------- shapes for tracing


@torch.library.register_fake("avatar::project")  # type: ignore[untyped-decorator]
def _(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    C, N = viewmats.shape[0], means.shape[1]
    return tuple(means.new_empty(shape) for shape in ((C, N, 2), (C, N, 3), (C, N), (C, N, 2), (C, N)))


@torch.library.register_fake("avatar::project_backward")  # type: ignore[untyped-decorator]
def _(means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in (means, quats, scales, viewmats))


@torch.library.register_fake("avatar::bin")  # type: ignore[untyped-decorator]
def _(
    means2d: Tensor, conics: Tensor, opacities: Tensor, depths: Tensor, radii: Tensor, width: int, height: int
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    R, P = context.new_dynamic_size(), context.new_dynamic_size()
    C = means2d.shape[0]
    tiles = ((width + 15) // 16) * ((height + 15) // 16)

    def ids(*shape: Any) -> Tensor:
        return means2d.new_empty(shape, dtype=torch.int32)

    return ids(R), means2d.new_empty((R, 8)), ids(C + 1), ids(R + 1), ids(C * tiles + 1), ids(P, 2)


@torch.library.register_fake("avatar::blend")  # type: ignore[untyped-decorator]
def _(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    background: Tensor | None,
    order: Tensor,
    geometry: Tensor,
    image_offsets: Tensor,
    slot_offsets: Tensor,
    tile_offsets: Tensor,
    pairs: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, ...]:
    C, D = means2d.shape[0], colors.shape[2]
    return (
        colors.new_empty((C, D, height, width)),
        colors.new_empty((C, height, width)),
        colors.new_empty((max(1, -(-D // 8)), order.shape[0], 16)),
        colors.new_empty((pairs.shape[0],), dtype=torch.int16),
    )


@torch.library.register_fake("avatar::blend_backward")  # type: ignore[untyped-decorator]
def _(
    records: Tensor,
    order: Tensor,
    image_offsets: Tensor,
    slot_offsets: Tensor,
    tile_offsets: Tensor,
    pairs: Tensor,
    live: Tensor,
    opacities: Tensor,
    image: Tensor,
    *_: Any,
) -> tuple[Tensor, ...]:
    C, D, N = image.shape[0], image.shape[1], opacities.shape[1]
    return tuple(image.new_empty(shape) for shape in ((C, N, 2), (C, N, 3), (C, N), (C, N, D)))


@torch.library.register_fake("avatar::blend_boxes")  # type: ignore[untyped-decorator]
def _(
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    colors: Tensor,
    depths: Tensor,
    radii: Tensor,
    background: Tensor | None,
    width: int,
    height: int,
    sigmas: float,
) -> tuple[Tensor, ...]:
    C, D = means2d.shape[0], colors.shape[2]
    visits = torch.library.get_ctx().new_dynamic_size()
    return (
        means2d.new_empty((C, D, height, width)),
        means2d.new_empty((C, height, width)),
        means2d.new_empty((visits,), dtype=torch.int32),
        means2d.new_empty((C * height * width + 1,), dtype=torch.int32),
    )


@torch.library.register_fake("avatar::blend_boxes_backward")  # type: ignore[untyped-decorator]
def _(means2d: Tensor, conics: Tensor, opacities: Tensor, colors: Tensor, *_: Any) -> tuple[Tensor, ...]:
    C, N, D = means2d.shape[0], means2d.shape[1], colors.shape[2]
    return tuple(means2d.new_empty(shape) for shape in ((C, N, 2), (C, N, 3), (C, N), (C, N, D)))


# ---------------------------------------------------------------- gradients


def _dense(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.contiguous()


def _over_pictures(grad: Tensor, like: Tensor) -> Tensor:
    """Gradients per picture, added up where one set of values served all pictures."""
    return grad if like.shape[0] == grad.shape[0] else grad.sum(0, keepdim=True)


def _background_grad(background: Tensor | None, alpha: Tensor, v_image: Tensor | None) -> Tensor | None:
    if background is None or v_image is None or not background.requires_grad:
        return None
    return torch.einsum("cdhw,chw->cd", v_image, 1 - alpha)


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means, quats, scales, _, viewmats, Ks, *settings = inputs
    radii = output[3]
    ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
    ctx.mark_non_differentiable(radii)
    ctx.set_materialize_grads(False)
    ctx.settings = settings


def _project_backward(ctx: Any, v_means2d: Any, v_conics: Any, v_depths: Any, _: Any, v_compensations: Any) -> Any:
    means, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
    grads = [_dense(g) for g in (v_means2d, v_conics, v_depths, v_compensations)]
    with_camera = ctx.needs_input_grad[4]
    v_means, v_quats, v_scales, v_viewmats = ops.project_backward(
        means, quats, scales, viewmats, Ks, radii, *ctx.settings, *grads, with_camera
    )
    return v_means, v_quats, v_scales, None, v_viewmats if with_camera else None, *[None] * 6


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, opacities, colors, background, order, _, image_offsets, slot_offsets, tile_offsets, pairs, _, _ = inputs
    image, alpha, records, live = output
    ctx.save_for_backward(
        records,
        order,
        image_offsets,
        slot_offsets,
        tile_offsets,
        pairs,
        live,
        opacities,
        image,
        alpha,
        colors,
        background,
    )
    ctx.mark_non_differentiable(records, live)
    ctx.set_materialize_grads(False)


def _blend_backward(ctx: Any, v_image: Any, v_alpha: Any, *_: Any) -> Any:
    *kept, colors, background = ctx.saved_tensors
    opacities, alpha = kept[7], kept[9]
    if v_image is None and v_alpha is None:
        return (None,) * 13
    v_image, v_alpha = _dense(v_image), _dense(v_alpha)
    v_means2d, v_conics, v_opacities, v_colors = ops.blend_backward(*kept, v_image, v_alpha)
    return (
        v_means2d,
        v_conics,
        _over_pictures(v_opacities, opacities),
        _over_pictures(v_colors, colors),
        _background_grad(background, alpha, v_image),
        *[None] * 8,
    )


def _boxes_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, alpha, visits, starts = output
    ctx.save_for_backward(*inputs[:7], alpha, visits, starts)
    ctx.mark_non_differentiable(visits, starts)
    ctx.set_materialize_grads(False)


def _boxes_backward(ctx: Any, v_image: Any, v_alpha: Any, *_: Any) -> Any:
    saved = ctx.saved_tensors
    opacities, colors, background, alpha = saved[2], saved[3], saved[6], saved[7]
    if v_image is None and v_alpha is None:
        return (None,) * 10
    v_image, v_alpha = _dense(v_image), _dense(v_alpha)
    v_means2d, v_conics, v_opacities, v_colors = ops.blend_boxes_backward(*saved, v_image, v_alpha)
    return (
        v_means2d,
        v_conics,
        _over_pictures(v_opacities, opacities),
        _over_pictures(v_colors, colors),
        None,
        None,
        _background_grad(background, alpha, v_image),
        *[None] * 3,
    )


torch.library.register_autograd("avatar::project", _project_backward, setup_context=_project_setup)
torch.library.register_autograd("avatar::blend", _blend_backward, setup_context=_blend_setup)
torch.library.register_autograd("avatar::blend_boxes", _boxes_backward, setup_context=_boxes_setup)
