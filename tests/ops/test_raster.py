"""The Gaussian rasteriser's operators against their definition, against brute force, and against bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from avatar.ops import reference
from avatar.ops._native import available_isas, ops, use_isa
from avatar.ops.raster import BOX_EXACT, Splats, bin_splats, blend, blend_boxes, project


def head_scene(count, size, dtype=torch.float32, seed=0, cameras=1, sigma=0.0125):
    """Gaussians on an ellipsoid shell as large as a head, seen by cameras in a circle around it."""
    g = torch.Generator().manual_seed(seed)
    direction = torch.randn(count, 3, generator=g, dtype=torch.float64)
    direction = direction / direction.norm(dim=1, keepdim=True)
    means = (
        direction
        * torch.tensor([0.75, 1.0, 0.9])
        * (1 + 0.02 * torch.randn(count, 1, generator=g, dtype=torch.float64))
    )
    scales = 2 * sigma * (0.8 + 0.4 * torch.rand(count, 3, generator=g, dtype=torch.float64))
    scales[:, 2] *= 0.25
    quats = torch.randn(count, 4, generator=g, dtype=torch.float64)
    opacities = torch.sigmoid(1 + 1.5 * torch.randn(count, generator=g, dtype=torch.float64))
    colors = torch.rand(count, 3, generator=g, dtype=torch.float64)
    focal = 0.5 * size / math.tan(math.radians(10))
    views = []
    for k in range(cameras):
        yaw = 0.3 + 0.7 * k
        view = torch.eye(4, dtype=torch.float64)
        view[:3, :3] = torch.tensor(
            [[math.cos(yaw), 0, -math.sin(yaw)], [0, -1, 0], [-math.sin(yaw), 0, -math.cos(yaw)]], dtype=torch.float64
        )
        view[2, 3] = focal * 2 / (0.92 * size)
        views.append(view)
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    gaussians = tuple(t[None].to(dtype) for t in (means, quats, scales, opacities))
    return (
        gaussians,
        colors[None].to(dtype),
        torch.stack(views).to(dtype),
        K.expand(cameras, 3, 3).contiguous().to(dtype),
    )


def draw(scene, size, background=None, height=None):
    """Project, bin and blend in float32 or by boxes in float64, both in the order that float32 depths give."""
    gaussians, colors, viewmats, Ks = scene
    height = height or size
    splats = project(*gaussians, viewmats, Ks, size, height)
    if colors.dtype == torch.float64:
        single = project(*(t.detach().float() for t in (*gaussians, viewmats, Ks)), size, height)
        splats = splats._replace(depths=single.depths.double())
        return blend_boxes(splats, gaussians[3], colors, size, height, background)
    return blend(splats, gaussians[3], colors, bin_splats(splats, gaussians[3], size, height), size, height, background)


def leaves(scene):
    gaussians, colors, viewmats, Ks = scene
    parameters = tuple(t.clone().requires_grad_() for t in (*gaussians, colors, viewmats))
    return parameters, (parameters[:4], parameters[4], parameters[5], Ks)


def rel(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


@pytest.fixture(params=available_isas())
def isa(request):
    with use_isa(request.param):
        yield request.param


class TestProject:
    def test_agrees_with_the_definition(self):
        (means, quats, scales, opacities), _, viewmats, Ks = head_scene(400, 64, torch.float64, cameras=2)
        got = project(means, quats, scales, opacities, viewmats, Ks, 64, 64)
        want = reference.project(means, quats, scales, opacities, viewmats, Ks, 64, 64)
        for name, a, b in zip(Splats._fields, got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)

    def test_float32_agrees_with_float64(self, isa):
        (means, quats, scales, opacities), _, viewmats, Ks = head_scene(3001, 64, cameras=2)
        got = project(means, quats, scales, opacities, viewmats, Ks, 64, 64)
        want = project(*(t.double() for t in (means, quats, scales, opacities, viewmats, Ks)), 64, 64)
        for name, a, b in zip(Splats._fields, got, want, strict=True):
            assert rel(a, b) < 2e-6, name

    def test_gradients(self):
        (means, quats, scales, opacities), _, viewmats, Ks = head_scene(6, 64, torch.float64, cameras=2)
        viewmats[:, 0, 3] += 0.8  # so that some Jacobians sit on their limit
        inputs = [t.requires_grad_() for t in (means, quats, scales, viewmats)]

        def differentiable(m, q, s, v):
            out = project(m, q, s, opacities, v, Ks, 64, 64)
            return out.means2d, out.conics, out.depths, out.compensations

        assert gradcheck(differentiable, inputs, atol=1e-6, rtol=1e-4)

    def test_what_is_behind_or_beside_the_camera_is_not_seen(self):
        (means, quats, scales, opacities), _, viewmats, Ks = head_scene(5, 64)
        means[0, 0] = torch.tensor([0.0, 0.0, 100.0])  # behind
        means[0, 1] = torch.tensor([50.0, 0.0, 0.0])  # far to the side
        opacities[0, 2] = 0.001  # too faint to draw
        radii = project(means, quats, scales, opacities, viewmats, Ks, 64, 64).radii
        assert (radii[0, :3] == 0).all() and (radii[0, 3:] > 0).all()

    @pytest.mark.parametrize("field", range(4))
    @pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite_is_named(self, isa, field, poison):
        gaussians, _, viewmats, Ks = head_scene(40, 32)
        gaussians[field].view(1, 40, -1)[0, 37, 0] = poison
        with pytest.raises(RuntimeError, match="Gaussian 37 of picture 0"):
            project(*gaussians, viewmats, Ks, 32, 32)

    def test_a_zero_quaternion_is_named(self, isa):
        gaussians, _, viewmats, Ks = head_scene(40, 32)
        gaussians[1][0, 11] = 0
        with pytest.raises(RuntimeError, match=r"Gaussian 11 .* zero quaternion"):
            project(*gaussians, viewmats, Ks, 32, 32)

    def test_wrong_shapes_and_cameras_are_named(self):
        (means, quats, scales, opacities), _, viewmats, Ks = head_scene(5, 32)
        with pytest.raises(ValueError, match=r"quats must be \[B, N, 4\] with .*N = 5, got \[1, 4, 4\]"):
            project(means, quats[:, :4], scales, opacities, viewmats, Ks, 32, 32)
        with pytest.raises(RuntimeError, match="positive focal"):
            project(means, quats, scales, opacities, viewmats, -Ks, 32, 32)
        with pytest.raises(RuntimeError, match="viewmats"):
            project(means, quats, scales, opacities, viewmats * math.nan, Ks, 32, 32)
        with pytest.raises(RuntimeError, match="B = 2 for C = 3"):
            two = [t.expand(2, *t.shape[1:]) for t in (means, quats, scales, opacities)]
            project(*two, viewmats.expand(3, 4, 4), Ks.expand(3, 3, 3), 32, 32)


class TestBin:
    def test_every_tile_lists_its_splats_front_to_back(self):
        (means, quats, scales, opacities), _, viewmats, Ks = head_scene(500, 50, cameras=2)
        splats = project(means, quats, scales, opacities, viewmats, Ks, 50, 50)
        bins = bin_splats(splats, opacities, 50, 50)
        depth = splats.depths.reshape(-1)[bins.order.long()]
        tiles = 2 * 4 * 4
        assert bins.tile_offsets.numel() == tiles + 1 and bins.tile_offsets[-1] == len(bins.pairs)
        for t in range(tiles):
            records = bins.pairs[bins.tile_offsets[t] : bins.tile_offsets[t + 1], 0].long()
            assert (bins.order[records] // 500 == t // 16).all()
            assert (depth[records].diff() >= 0).all()
        assert torch.equal(bins.pairs[:, 1].sort().values, torch.arange(len(bins.pairs), dtype=torch.int32))

    def test_equal_depths_keep_their_order(self):
        splats = Splats(
            torch.full((1, 5, 2), 8.0), torch.tensor([0.1, 0.0, 0.1]).expand(1, 5, 3).contiguous(),
            torch.tensor([[2.0, 1.0, 2.0, 1.0, 2.0]]), torch.full((1, 5, 2), 5.0), torch.ones(1, 5),
        )  # fmt: skip
        assert bin_splats(splats, torch.full((1, 5), 0.9), 16, 16).order.tolist() == [1, 3, 0, 2, 4]

    def test_depths_over_the_whole_range_of_floats_are_sorted(self):
        depths = torch.tensor([[1e-30, 3e38, 1.0, 1e-3, 65536.0, 1.0000001]])
        n = depths.shape[1]
        splats = Splats(
            torch.full((1, n, 2), 8.0), torch.tensor([0.1, 0.0, 0.1]).expand(1, n, 3).contiguous(), depths,
            torch.full((1, n, 2), 5.0), torch.ones(1, n),
        )  # fmt: skip
        order = bin_splats(splats, torch.full((1, n), 0.9), 16, 16).order
        assert order.tolist() == depths[0].argsort().tolist()


class TestBlend:
    def test_boxes_agree_with_the_definition_and_its_gradient(self):
        scene = head_scene(300, 40, torch.float64, cameras=2, sigma=0.04)
        background = torch.rand(2, 3, dtype=torch.float64)
        weights = torch.rand(2, 3, 40, 40, dtype=torch.float64), torch.rand(2, 40, 40, dtype=torch.float64)
        grads = []
        for which in ("boxes", "reference"):
            parameters, (gaussians, colors, viewmats, Ks) = leaves(scene)
            if which == "boxes":
                image, alpha = blend_boxes(
                    project(*gaussians, viewmats, Ks, 40, 40), gaussians[3], colors, 40, 40, background
                )
            else:
                splats = reference.project(*gaussians, viewmats, Ks, 40, 40)
                image, alpha = reference.blend(
                    splats[0], splats[1], gaussians[3], colors, splats[2], splats[3], 40, 40, background
                )
            (weights[0] * image).sum().add((weights[1] * alpha).sum()).backward()
            grads.append([image.detach(), alpha.detach(), *(p.grad for p in parameters)])
        for a, b in zip(*grads, strict=True):
            assert rel(a, b) < 1e-8  # the kernels' constants are float32: 0.99f is not 0.99

    def test_boxes_gradcheck(self):
        splat = Splats(
            torch.tensor([[[4.2, 3.1], [5.0, 4.4], [3.3, 5.2]]], dtype=torch.float64).requires_grad_(),
            torch.tensor(
                [[[0.3, 0.05, 0.2], [0.2, -0.1, 0.4], [0.15, 0.0, 0.1]]], dtype=torch.float64
            ).requires_grad_(),
            torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64),
            torch.full((1, 3, 2), 9.0, dtype=torch.float64),
            torch.ones(1, 3, dtype=torch.float64),
        )
        opacities = torch.tensor([[0.7, 0.8, 0.9]], dtype=torch.float64).requires_grad_()
        colors = torch.rand(1, 3, 2, dtype=torch.float64).requires_grad_()
        background = torch.rand(1, 2, dtype=torch.float64).requires_grad_()

        def picture(m, k, o, c, b):
            # alphas near the 1/255 cut-off jump under a finite difference; a small weight map keeps to the middle
            image, alpha = blend_boxes(Splats(m, k, *splat[2:]), o, c, 9, 9, b)
            return image[:, :, 2:7, 2:7], alpha[:, 2:7, 2:7]

        assert gradcheck(picture, (splat.means2d, splat.conics, opacities, colors, background), atol=1e-6)

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 70), (16, 16), (33, 17), (65, 31)])
    def test_tiles_agree_with_boxes_at_odd_sizes(self, isa, width, height):
        scene = head_scene(600, 64, cameras=2, sigma=0.03)
        background = torch.rand(2, 3)
        v = torch.rand(2, 3, height, width), torch.rand(2, height, width)
        results = []
        for dtype in (torch.float32, torch.float64):
            cast = tuple(t.to(dtype) for t in scene[0]), *(t.to(dtype) for t in scene[1:])
            parameters, typed = leaves(cast)
            image, alpha = draw(typed, width, background.to(dtype), height)
            (v[0].to(dtype) * image).sum().add((v[1].to(dtype) * alpha).sum()).backward()
            results.append([image.detach(), alpha.detach(), *(p.grad for p in parameters)])
        for name, a, b in zip(
            ["image", "alpha", "means", "quats", "scales", "opacities", "colors", "viewmats"], *results, strict=True
        ):
            # float32 flips a few pixels across the 1/255 threshold; they are rare and small
            assert rel(a, b) < (1e-4 if name in ("image", "alpha") else 1e-3), name

    def test_agrees_with_brute_force_at_full_size(self, isa):
        scene = head_scene(15_000, 256)
        v = torch.rand(1, 3, 256, 256)
        results = []
        for dtype in (torch.float32, torch.float64):
            cast = tuple(t.to(dtype) for t in scene[0]), *(t.to(dtype) for t in scene[1:])
            parameters, typed = leaves(cast)
            image, _ = draw(typed, 256)
            (v.to(dtype) * image).sum().backward()
            results.append([image.detach(), *(p.grad for p in parameters)])
        for name, a, b in zip(
            ["image", "means", "quats", "scales", "opacities", "colors", "viewmats"], *results, strict=True
        ):
            assert rel(a, b) < (1e-4 if name == "image" else 1e-3), name
        off = (results[0][0] - results[1][0]).abs().amax(1)
        assert (off > 1e-3).double().mean() < 1e-3

    def test_an_opaque_gaussian_hides_what_is_behind(self, isa):
        (means, quats, scales, opacities), colors, viewmats, Ks = head_scene(2, 32)
        means.zero_()
        means[0, 1, 2] = -0.5 / math.cos(0.3)
        scales.fill_(0.5)
        opacities.fill_(0.99)
        opacities = opacities.expand(1, 2).clone()
        colors = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
        image, alpha = draw(((means, quats, scales, opacities), colors, viewmats, Ks), 32)
        front = 0 if project(means, quats, scales, opacities, viewmats, Ks, 32, 32).depths.argmin() == 0 else 1
        assert image[0, front, 16, 16] > 0.97 and image[0, 1 - front, 16, 16] < 0.02 and alpha[0, 16, 16] > 0.98

    def test_any_number_of_channels(self, isa):
        gaussians, _, viewmats, Ks = head_scene(500, 48, cameras=2)
        colors = torch.rand(1, 500, 19, requires_grad=True)
        splats = project(*gaussians, viewmats, Ks, 48, 48)
        bins = bin_splats(splats, gaussians[3], 48, 48)
        background = torch.rand(2, 19)
        v = torch.rand(2, 19, 48, 48)
        image, _ = blend(splats, gaussians[3], colors, bins, 48, 48, background)
        (v * image).sum().backward()
        for first in range(0, 19, 3):
            part = colors.detach()[..., first : first + 3].clone().requires_grad_()
            three, _ = blend(splats, gaussians[3], part, bins, 48, 48, background[:, first : first + 3])
            (v[:, first : first + 3] * three).sum().backward()
            torch.testing.assert_close(three, image[:, first : first + 3], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(part.grad, colors.grad[..., first : first + 3], rtol=1e-4, atol=1e-5)

    def test_geometry_gradient_adds_up_over_passes_of_channels(self, isa):
        scene = head_scene(300, 32)
        v = torch.rand(1, 11, 32, 32)
        results = []
        for dtype in (torch.float32, torch.float64):
            gaussians = tuple(t.to(dtype).clone().requires_grad_() for t in scene[0])
            colors = torch.linspace(0, 1, 3300, dtype=dtype).view(1, 300, 11)
            image, _ = draw((gaussians, colors, scene[2].to(dtype), scene[3].to(dtype)), 32)
            (v.to(dtype) * image).sum().backward()
            results.append([g.grad for g in gaussians])
        for a, b in zip(*results, strict=True):
            assert rel(a, b) < 1e-3

    def test_bit_identical_for_any_number_of_threads(self, isa):
        scene = head_scene(4000, 100, cameras=3)
        results = []
        before = torch.get_num_threads()
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                parameters, typed = leaves(scene)
                image, alpha = draw(typed, 100)
                (image * torch.linspace(0, 1, 100)).sum().add(alpha.sum()).backward()
                results.append([image.detach(), alpha.detach(), *(p.grad for p in parameters)])
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_a_batch_equals_its_frames_one_by_one(self):
        gaussians, colors, viewmats, Ks = head_scene(1000, 64, cameras=3)
        image, alpha = draw((gaussians, colors, viewmats, Ks), 64)
        for c in range(3):
            one, cover = draw((gaussians, colors, viewmats[c : c + 1], Ks[c : c + 1]), 64)
            assert torch.equal(one[0], image[c]) and torch.equal(cover[0], alpha[c])

    def test_a_set_per_camera_equals_the_shared_set(self):
        gaussians, colors, viewmats, Ks = head_scene(1000, 64, cameras=2)
        shared, _ = draw((gaussians, colors, viewmats, Ks), 64)
        each = tuple(t.expand(2, *t.shape[1:]).contiguous() for t in gaussians)
        own, _ = draw((each, colors.expand(2, -1, -1).contiguous(), viewmats, Ks), 64)
        assert torch.equal(shared, own)

    def test_a_channel_that_is_not_finite_is_named(self):
        gaussians, colors, viewmats, Ks = head_scene(100, 64)
        colors[0, 33, 1] = math.nan
        with pytest.raises(RuntimeError, match="Gaussian 33 of picture 0"):
            draw((gaussians, colors, viewmats, Ks), 64)

    def test_empty_scenes_show_the_background(self, isa):
        gaussians, colors, viewmats, Ks = head_scene(4, 20)
        none = tuple(t[:, :0] for t in gaussians)
        image, alpha = draw((none, colors[:, :0], viewmats, Ks), 20, torch.tensor([[0.25, 0.5, 0.75]]))
        assert (alpha == 0).all()
        torch.testing.assert_close(image, torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1).expand(1, 3, 20, 20))

    @pytest.mark.parametrize("size", [0.0, 1e-38, 1e-10, 10.0, 1e10, 1e25])
    def test_extreme_scales_give_a_clean_picture(self, isa, size):
        (means, quats, scales, opacities), colors, viewmats, Ks = head_scene(50, 40)
        for t in (means, quats, scales, opacities, colors):
            t.requires_grad_()
        stretched = torch.where(torch.arange(50)[None, :, None] < 25, scales.detach() * 0 + size, scales)
        image, alpha = draw(((means, quats, stretched, opacities), colors, viewmats, Ks), 40)
        image.sum().backward()
        assert image.isfinite().all() and alpha.isfinite().all() and (alpha <= 1).all() and alpha.max() > 0.1
        assert all(t.grad.isfinite().all() for t in (means, quats, opacities, colors))

    def test_a_gaussian_on_the_camera_plane_gives_a_clean_picture(self, isa):
        gaussians, colors, viewmats, Ks = head_scene(50, 40)
        camera = -viewmats[0, :3, :3].T @ viewmats[0, :3, 3]
        gaussians[0][0, :10] = camera
        gaussians[0][0, 10:20] = camera + viewmats[0, 2, :3] * 0.0101
        image, alpha = draw((gaussians, colors, viewmats, Ks), 40)
        assert image.isfinite().all() and (alpha >= 0).all()

    def test_memory_does_not_grow_with_pixels_times_gaussians(self):
        scene = head_scene(20_000, 512)
        splats = project(*scene[0], *scene[2:], 512, 512)
        bins = bin_splats(splats, scene[0][3], 512, 512)
        kept = ops.blend(*splats[:2], scene[0][3], scene[1], None, *bins, 512, 512)
        total = sum(t.numel() * t.element_size() for t in itertools.chain(splats, bins, kept))
        assert total < 60e6  # 20 000 Gaussians x 512 x 512 pixels would be 21 GB


class TestRegistration:
    def test_opcheck(self):
        gaussians, colors, viewmats, Ks = head_scene(30, 24)
        arguments = (*(t.clone().requires_grad_() for t in gaussians[:3]), gaussians[3], viewmats, Ks)
        torch.library.opcheck(ops.project.default, (*arguments, 24, 24, 0.01, 1e10, 0.3))
        splats = project(*gaussians, viewmats, Ks, 24, 24)
        bins = bin_splats(splats, gaussians[3], 24, 24)
        m, c = splats.means2d.clone().requires_grad_(), splats.conics.clone().requires_grad_()
        torch.library.opcheck(ops.blend.default, (m, c, gaussians[3], colors.requires_grad_(), None, *bins, 24, 24))
        torch.library.opcheck(
            ops.blend_boxes.default,
            (m, c, gaussians[3], colors, splats.depths, splats.radii, None, 24, 24, BOX_EXACT),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )

    def test_asking_for_an_instruction_set_the_processor_lacks_is_an_error(self):
        with pytest.raises(RuntimeError, match="this processor runs levels"):
            ops.set_isa(7)
