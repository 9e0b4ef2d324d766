"""The one render function: what it returns, which backend it takes, and how it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from avatar.render import available_backends, render
from avatar.render.rasterize import choose_backend
from avatar.types import Camera, Gaussians


def camera(count=1, size=48, distance=3.0):
    views = torch.eye(4).repeat(count, 1, 1)
    for k in range(count):
        c, s = math.cos(0.5 * k), math.sin(0.5 * k)
        views[k, :3, :3] = torch.tensor([[c, 0, -s], [0, -1, 0], [-s, 0, -c]])
        views[k, 2, 3] = distance
    K = torch.tensor([[size * 1.2, 0, size / 2], [0, size * 1.2, size / 2], [0, 0, 1]]).repeat(count, 1, 1)
    return Camera(views, K, size, size)


def cloud(count=200, batch=1, degree=0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(batch, count, 3, generator=g) * 0.4,
        quats=torch.randn(batch, count, 4, generator=g),
        scales=0.02 + 0.08 * torch.rand(batch, count, 3, generator=g),
        opacities=0.2 + 0.75 * torch.rand(batch, count, generator=g),
        sh=0.4 * torch.randn(batch, count, (degree + 1) ** 2, 3, generator=g),
    )


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_kernels_and_definition_draw_the_same(degree, antialiased):
    g, cam = cloud(degree=degree), camera(3)
    extra = torch.rand(1, 200, 4, generator=torch.Generator().manual_seed(1))
    background = torch.tensor([0.2, 0.5, 0.9])
    ours, truth = (
        render(g, cam, background, extra=extra, depth=True, antialiased=antialiased, backend=b)
        for b in ("cpu", "torch")
    )
    for name in ("rgb", "alpha", "depth", "extra"):
        a, b = getattr(ours, name), getattr(truth, name)
        assert a.shape == b.shape and (a - b).norm() < 2e-4 * b.norm(), name


def test_float64_draws_the_same_as_float32():
    g, cam = cloud(), camera(2)
    single, double = render(g, cam), render(g.to(torch.float64), cam.to(torch.float64))
    assert (single.rgb - double.rgb).norm() < 1e-4 * double.rgb.norm()


def test_shapes_and_the_background_behind_nothing():
    far = cloud(batch=2)
    out = render(
        Gaussians(far.means + 1000, far.quats, far.scales, far.opacities, far.sh),
        camera(2),
        torch.tensor([0.1, 0.2, 0.3]),
    )
    assert out.rgb.shape == (2, 48, 48, 3) and out.alpha.shape == (2, 48, 48)
    assert out.depth is None and out.extra is None and out.radii.shape == (2, 200, 2)
    torch.testing.assert_close(out.rgb, torch.tensor([0.1, 0.2, 0.3]).expand(2, 48, 48, 3))
    assert (out.alpha == 0).all()


def test_depth_of_an_opaque_wall_is_its_distance():
    g = cloud(1)
    wall = Gaussians(torch.zeros(1, 1, 3), g.quats, torch.full((1, 1, 3), 5.0), torch.full((1, 1), 0.99), g.sh)
    out = render(wall, camera(distance=3.0), depth=True)
    assert (out.depth / out.alpha)[0, 24, 24].item() == pytest.approx(3.0, rel=1e-4)


def test_branch_weights_add_up_to_alpha():
    g = cloud()
    branch = torch.nn.functional.one_hot(torch.arange(200) % 5, 5).float()[None]
    out = render(g, camera(), extra=branch)
    torch.testing.assert_close(out.extra.sum(-1), out.alpha, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_value_and_the_projected_centres():
    g = cloud(degree=1)
    leaves = [t.requires_grad_() for t in (g.means, g.quats, g.scales, g.opacities, g.sh)]
    background = torch.rand(3, requires_grad=True)
    out = render(g, camera(2), background, depth=True, antialiased=True)
    out.means2d.retain_grad()
    (out.rgb.square().mean() + out.depth.mean()).backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in (*leaves, background, out.means2d))


def test_a_picture_depends_on_its_arguments_only():
    g, cam = cloud(), camera()
    first = render(g, cam).rgb
    render(cloud(seed=5), camera(size=31))
    assert torch.equal(first, render(g, cam).rgb)


def test_missing_backends_say_what_is_missing():
    assert available_backends()["cpu"] == "ok"
    with pytest.raises(ValueError, match="one of auto, cpu, torch, gsplat, cuda"):
        render(cloud(), camera(), backend="metal")
    with pytest.raises(RuntimeError, match="no CUDA kernels of its own yet"):
        choose_backend("cuda", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="needs a CUDA GPU"):
            render(cloud(), camera(), backend="gsplat")


def test_what_does_not_fit_is_refused():
    g = cloud(batch=2)
    with pytest.raises(ValueError, match="2 sets for 3 cameras"):
        render(g, camera(3))
    with pytest.raises(ValueError, match=r"extra must be \[B, N, D\]"):
        render(cloud(), camera(), extra=torch.zeros(1, 7, 2))
    cam = camera()
    bent = Camera(cam.viewmats, cam.Ks, 48, 48, torch.tensor([[0.1, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="undistort"):
        render(cloud(), bent)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU and gsplat")
def test_gsplat_draws_the_same():
    g, cam = cloud(), camera(2)
    ours = render(g, cam, torch.rand(3))
    theirs = render(g.to("cuda"), cam.to("cuda"), torch.rand(3, device="cuda"), backend="gsplat")
    assert (theirs.alpha.cpu() - ours.alpha).abs().mean() < 1e-3
