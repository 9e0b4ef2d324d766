"""Colour of Gaussians as spherical harmonics, in the order and sign of 3D Gaussian splatting (Kerbl et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.ops._native import ops


def sh_colors(sh: Tensor, means: Tensor, positions: Tensor) -> Tensor:
    """Colour of every Gaussian seen from every camera: max(0, 0.5 + sum of coefficient x basis).

    sh [B, N, K, 3] world-frame coefficients, K = 1, 4, 9 or 16; means [B, N, 3] m; positions [C, 3] camera centres, m;
    B = C or 1. Returns [C, N, 3]; with K = 1 and B = 1 the cameras share one row: [1, N, 3]. Differentiable in sh and
    means, not in positions. Raises RuntimeError for another K.
    """
    check_shapes("sh_colors", sh=(sh, "B N K 3"), means=(means, "M N 3"), positions=(positions, "C 3"))
    check_float("sh_colors", sh=sh, means=means, positions=positions)
    if sh.shape[2] == 1:  # the same from everywhere
        positions = positions[: sh.shape[0]]
        means = means[: sh.shape[0]].detach()
    colors: Tensor = ops.sh_colors(sh.contiguous(), means.contiguous(), positions.detach().contiguous())
    return colors


@torch.library.register_fake("avatar::sh_colors")  # type: ignore[untyped-decorator]
def _(sh: Tensor, means: Tensor, positions: Tensor) -> Tensor:
    return sh.new_empty((positions.shape[0], sh.shape[1], 3))


@torch.library.register_fake("avatar::sh_colors_backward")  # type: ignore[untyped-decorator]
def _(
    sh: Tensor, means: Tensor, positions: Tensor, colors: Tensor, v_colors: Tensor, with_means: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(sh), means.new_empty((means.shape[0], means.shape[1] if with_means else 0, 3))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, v_colors: Tensor | None) -> tuple[Tensor | None, ...]:
    if v_colors is None:
        return None, None, None
    with_means = ctx.needs_input_grad[1]
    v_sh, v_means = ops.sh_colors_backward(*ctx.saved_tensors, v_colors.contiguous(), with_means)
    return v_sh, v_means if with_means else None, None


torch.library.register_autograd("avatar::sh_colors", _backward, setup_context=_setup)
