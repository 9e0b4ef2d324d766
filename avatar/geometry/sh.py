"""Rotating spherical-harmonic coefficients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def rotate_sh(sh: Tensor, rotations: Tensor, basis: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Coefficients of the same colours turned with the surface they sit on.

    sh [..., K, 3] with K = 1, 4, 9 or 16, rotations [..., 3, 3] from the coefficients' frame to the new one; `basis`
    evaluates the harmonics (`avatar.ops.reference.sh_basis`). Every band maps onto itself: its values in a few fixed
    directions, turned back, determine the new coefficients exactly. Differentiable in both. Returns [..., K, 3].
    """
    count = sh.shape[-2]
    bands = [sh[..., :1, :]]
    for degree in range(1, round(count**0.5)):
        first, size = degree * degree, 2 * degree + 1
        generator = torch.Generator().manual_seed(degree)
        directions = torch.randn(4 * size, 3, generator=generator, dtype=torch.float64)  # in general position
        directions = (directions / directions.norm(dim=-1, keepdim=True)).to(sh)
        here = basis(directions, (degree + 1) ** 2)[:, first:]
        there = basis(directions @ rotations, (degree + 1) ** 2)[..., first:]  # row vectors: d @ R is R^T d
        bands.append(torch.linalg.pinv(here) @ (there @ sh[..., first : first + size, :]))
    return torch.cat(bands, -2)
