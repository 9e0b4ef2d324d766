"""Spherical harmonics: agreement with the definition, gradients, rotation."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from avatar.geometry.sh import rotate_sh
from avatar.ops import reference
from avatar.ops._native import ops
from avatar.ops.sh import sh_colors


def scene(count, batch=1, cameras=2, n=40, dtype=torch.float64):
    g = torch.Generator().manual_seed(count + batch)
    sh = torch.randn(batch, n, count, 3, generator=g, dtype=dtype) * 0.5
    means = torch.randn(batch, n, 3, generator=g, dtype=dtype)
    return sh, means, torch.randn(cameras, 3, generator=g, dtype=dtype) * 4


@pytest.mark.parametrize("count", [1, 4, 9, 16])
@pytest.mark.parametrize("batch", [1, 2])
def test_agrees_with_the_definition(count, batch):
    sh, means, positions = scene(count, batch)
    want = reference.sh_colors(sh, means, positions)
    got = sh_colors(sh, means, positions)
    torch.testing.assert_close(got.expand_as(want), want)
    torch.testing.assert_close(
        sh_colors(sh.float(), means.float(), positions.float()), got.float(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("count", [1, 4, 9, 16])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients(count, batch):
    sh, means, positions = scene(count, batch, n=5)
    sh[..., 0, :] += 3  # away from the clamp at zero
    if count == 1:
        assert gradcheck(lambda s: sh_colors(s, means, positions), sh.requires_grad_())
    else:
        assert gradcheck(lambda s, m: sh_colors(s, m, positions), (sh.requires_grad_(), means.requires_grad_()))


def test_the_harmonics_are_orthonormal():
    g = torch.Generator().manual_seed(0)
    d = torch.randn(400_000, 3, generator=g, dtype=torch.float64)
    basis = reference.sh_basis(d / d.norm(dim=1, keepdim=True), 16)
    gram = basis.T @ basis / len(d) * 4 * torch.pi
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=0.02, rtol=0)


def test_dark_is_black_not_negative():
    sh, means, positions = scene(1)
    sh.fill_(-10)
    colors = sh_colors(sh.requires_grad_(), means, positions)
    colors.sum().backward()
    assert (colors == 0).all() and (sh.grad == 0).all()


@pytest.mark.parametrize("count", [1, 4, 9, 16])
def test_rotated_coefficients_look_the_same_from_rotated_directions(count):
    sh, _, _ = scene(count, n=30)
    g = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(30, 3, 3, generator=g, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    directions = torch.randn(30, 7, 3, generator=g, dtype=torch.float64)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    turned = rotate_sh(sh[0], rotation, reference.sh_basis)
    before = reference.sh_basis(directions, count) @ sh[0]
    after = reference.sh_basis(directions @ rotation.transpose(1, 2), count) @ turned
    torch.testing.assert_close(after, before)


def test_a_camera_inside_a_gaussian_and_an_odd_count_are_handled():
    sh, means, positions = scene(9)
    means[0, 0] = positions[0]
    assert sh_colors(sh, means, positions).isfinite().all()
    with pytest.raises(RuntimeError, match="1, 4, 9 or 16 coefficients, got 5"):
        sh_colors(sh[:, :, :5], means, positions)
    with pytest.raises(ValueError, match=r"means must be \[M, N, 3\]"):
        sh_colors(sh, means[:, 1:], positions)


def test_opcheck():
    sh, means, positions = scene(9, n=6)
    torch.library.opcheck(ops.sh_colors.default, (sh.requires_grad_(), means.requires_grad_(), positions))
