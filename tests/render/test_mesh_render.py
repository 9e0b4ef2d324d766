"""Meshes to pictures: normals, texture space and the preview shader, as facts about light and surfaces."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from avatar.render import mesh as render
from avatar.types import Camera

DATA = Path(os.environ.get("AVATAR_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def view(width: int, height: int, yaw: float = 0.0, distance: float = 4.0) -> Camera:
    """Looks at the origin from +z, turned by `yaw` about +y; the unit sphere fills 80 % of the height."""
    c, s = math.cos(yaw), math.sin(yaw)
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.tensor([[c, 0, -s], [0, -1, 0], [-s, 0, -c]])
    viewmat[2, 3] = distance
    focal = 0.4 * height * distance
    return Camera(
        viewmat[None], torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]]), width, height
    )


def both(a: Camera, b: Camera) -> Camera:
    return Camera(torch.cat([a.viewmats, b.viewmats]), torch.cat([a.Ks, b.Ks]), a.width, a.height)


def ball(rings: int = 40, sectors: int = 60) -> tuple[Tensor, Tensor]:
    """The unit sphere about the origin; faces counter-clockwise from outside."""
    theta = torch.linspace(0, math.pi, rings + 1)[1:-1, None]
    phi = torch.arange(sectors) * (2 * math.pi / sectors)
    x, y, z = torch.sin(theta) * torch.sin(phi), torch.cos(theta).expand(-1, sectors), torch.sin(theta) * torch.cos(phi)
    verts = torch.cat([torch.stack([x, y, z], -1).reshape(-1, 3), torch.tensor([[0.0, 1, 0], [0, -1, 0]])])
    top, bottom, faces = len(verts) - 2, len(verts) - 1, []
    for j in range(sectors):
        k = (j + 1) % sectors
        faces += [[top, j, k], [bottom, (rings - 2) * sectors + k, (rings - 2) * sectors + j]]
        for i in range(rings - 2):
            a, b = i * sectors, (i + 1) * sectors
            faces += [[a + j, b + j, a + k], [a + k, b + j, b + k]]
    return verts, torch.tensor(faces)


def patch(cells: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """A curved sheet with one texture chart over the whole square: verts [V, 3], faces [F, 3], uvs [V, 2]."""
    v, u = torch.meshgrid(torch.linspace(0, 1, cells + 1), torch.linspace(0, 1, cells + 1), indexing="ij")
    verts = torch.stack([u - 0.5, v - 0.5, 0.2 * torch.sin(3 * u) * v], -1).reshape(-1, 3)
    faces = []
    for i in range(cells):
        for j in range(cells):
            a, b = i * (cells + 1) + j, (i + 1) * (cells + 1) + j
            faces += [[a, a + 1, b + 1], [a, b + 1, b]]
    return verts, torch.tensor(faces), torch.stack([u, v], -1).reshape(-1, 2)


# ---- rasterising


def test_raster_record_holds_what_the_operator_draws():
    verts, faces = ball(10, 12)
    raster = render.rasterize_mesh(verts[None], faces, view(30, 20))
    assert raster.face_ids.dtype == torch.int32 and raster.mask.any() and not raster.mask.all()
    assert torch.equal(raster.mask, raster.depth > 0)
    assert raster.depth[raster.mask].min() >= 3 - 1e-3
    assert "face_ids=[1, 20, 30]" in repr(raster)


def test_frontmost_point_of_a_ball_is_one_radius_before_its_centre():
    verts, faces = ball(80, 120)
    raster = render.rasterize_mesh(verts[None], faces, view(65, 65), cull_backfaces=True)
    assert abs(raster.depth[0, 32, 32] - 3) < 2e-3
    height = raster.coverage[0].amax(1).sum()
    assert abs(height - 0.8 * 65 / math.sqrt(1 - 1 / 16)) < 0.6  # a ball at 4 radii looks a little larger


def test_lens_distortion_is_refused():
    camera = view(8, 8)
    bent = Camera(camera.viewmats, camera.Ks, 8, 8, distortion=torch.zeros(1, 5))
    with pytest.raises(ValueError, match="undistort the pictures first"):
        render.rasterize_mesh(*_single(ball(5, 5)), bent)
    with pytest.raises(ValueError, match="undistort the pictures first"):
        render.shade_mesh(*_single(ball(5, 5)), bent)


def _single(mesh: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return mesh[0][None], mesh[1]


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="one of cpu, pytorch3d, got 'opengl'"):
        render.rasterize_mesh(*_single(ball(5, 5)), view(8, 8), backend="opengl")


@pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is not None, reason="PyTorch3D is installed")
def test_missing_backend_says_what_to_do():
    with pytest.raises(ImportError, match='use backend="cpu"'):
        render.rasterize_mesh(*_single(ball(5, 5)), view(8, 8), backend="pytorch3d")


@pytest.mark.parametrize(("width", "height"), [(64, 64), (80, 48), (48, 80)])
def test_pytorch3d_sees_the_same(width, height):
    pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed")
    verts, faces = ball(20, 30)
    camera = both(view(width, height), view(width, height, 0.7))
    ours = render.rasterize_mesh(verts[None], faces, camera)
    theirs = render.rasterize_mesh(verts[None].expand(2, -1, -1), faces, camera, backend="pytorch3d")
    same = ours.face_ids == theirs.face_ids
    assert same.float().mean() > 0.995
    torch.testing.assert_close(ours.depth[same], theirs.depth[same], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.bary[same], theirs.bary[same], rtol=0, atol=2e-3)
    assert (ours.coverage - theirs.coverage).abs().mean() < 5e-3


def test_pytorch3d_adapter_speaks_its_conventions(monkeypatch):
    """A stand-in with PyTorch3D's axes (x left, y up, shorter side -1..1) must paint the mesh where ours does."""
    verts, faces = ball(16, 20)
    camera = both(view(40, 24), view(40, 24, 0.5))
    _install_stand_in(monkeypatch)
    ours = render.rasterize_mesh(verts[None], faces, camera, near=0.5)
    theirs = render.rasterize_mesh(verts[None], faces, camera, near=0.5, backend="pytorch3d")
    assert torch.equal(ours.mask, theirs.mask)
    assert (ours.face_ids == theirs.face_ids).float().mean() > 0.99
    torch.testing.assert_close(ours.depth, theirs.depth, rtol=1e-3, atol=1e-4)
    assert (ours.coverage - theirs.coverage).abs().mean() < 1e-2


def _install_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    class Meshes:
        def __init__(self, verts: list[Tensor], faces: list[Tensor]) -> None:
            self.verts, self.faces = verts, faces

    def rasterize_meshes(
        meshes: Meshes, image_size: tuple[int, int], z_clip_value: float, cull_backfaces: bool, **others: object
    ) -> tuple[Tensor, ...]:
        height, width = image_size
        assert others["perspective_correct"] and others["faces_per_pixel"] == 1 and others["blur_radius"] == 0
        found = []
        for n, (ndc, faces) in enumerate(zip(meshes.verts, meshes.faces, strict=True)):
            x = width / 2 - ndc[:, 0] * min(width, height) / 2
            y = height / 2 - ndc[:, 1] * min(width, height) / 2
            points = torch.stack([x * ndc[:, 2], y * ndc[:, 2], ndc[:, 2]], -1)
            camera = Camera(torch.eye(4)[None], torch.eye(3)[None], width, height)
            out = render.rasterize_mesh(points[None], faces, camera, near=z_clip_value, cull_backfaces=cull_backfaces)
            ids = torch.where(out.mask, out.face_ids.long() + n * len(faces), -1)
            found.append((ids[..., None], torch.where(out.mask, out.depth, -1)[..., None], out.bary[..., None, :]))
        ids, zbuf, bary = (torch.cat(parts) for parts in zip(*found, strict=True))
        return ids, zbuf, bary, zbuf

    modules = {
        "pytorch3d.renderer.mesh.rasterize_meshes": types.SimpleNamespace(rasterize_meshes=rasterize_meshes),
        "pytorch3d.structures": types.SimpleNamespace(Meshes=Meshes),
    }
    monkeypatch.setattr(render.importlib, "import_module", modules.__getitem__)


# ---- normals


def test_normals_of_a_ball_point_outwards():
    verts, faces = ball()
    normals = render.vertex_normals(verts[None], faces)[0]
    assert ((normals * verts).sum(-1) > 0.999).all()
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(len(verts)))
    raster = render.rasterize_mesh(verts[None], faces, view(50, 50))
    smooth = render.pixel_normals(verts[None], faces, raster)
    points = render.interpolate(verts, faces, raster)
    assert ((smooth * points).sum(-1)[raster.mask] > 0.99).all()
    torch.testing.assert_close(smooth[raster.mask].norm(dim=-1), torch.ones(int(raster.mask.sum())))
    assert not smooth[~raster.mask].any()


def test_normals_weigh_faces_by_their_area():
    # A large face of normal +z and a small one of normal +x meet in vertex 0.
    verts = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 1, 0], [0, 0, 1]]])
    normals = render.vertex_normals(verts, torch.tensor([[0, 1, 2], [0, 3, 4]]))[0]
    torch.testing.assert_close(normals[0], torch.tensor([1.0, 0, 4]) / math.sqrt(17))


def test_normals_without_area_are_zero_and_turn_with_the_mesh():
    verts, faces = ball(8, 9)
    lonely = torch.cat([verts, torch.tensor([[5.0, 5, 5]])])
    normals = render.vertex_normals(lonely[None], torch.cat([faces, torch.tensor([[3, 3, 4]])]))[0]
    assert not normals[-1].any() and normals.isfinite().all()
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    turn = turn * torch.linalg.det(turn)
    torch.testing.assert_close(
        render.vertex_normals(verts[None] @ turn.T, faces), normals[None, :-1] @ turn.T, rtol=1e-4, atol=1e-5
    )


def test_normals_have_gradients():
    verts, faces = ball(5, 5)
    verts = (verts[None].double() * 1.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: render.vertex_normals(v, faces), (verts,))


def test_interpolated_colours_pull_on_the_vertices_in_view_only():
    verts, faces = ball(12, 14)
    raster = render.rasterize_mesh(verts[None], faces, view(40, 40), cull_backfaces=True)
    colors = torch.rand(len(verts), 3, requires_grad=True)
    render.interpolate(colors, faces, raster).sum().backward()
    torch.testing.assert_close(colors.grad.sum(), 3 * raster.mask.sum().float(), rtol=1e-4, atol=0)
    assert not colors.grad[verts[:, 2] < -0.2].any()


# ---- texture space


def test_texels_find_their_own_place_on_the_surface():
    verts, faces, uvs = patch()
    raster = render.rasterize_uv(uvs, faces, 37, 23)
    assert raster.mask.all() and (raster.depth - 1).abs().max() < 1e-6
    found = render.pixel_uvs(uvs, faces, raster)[0]
    u, v = (torch.arange(37) + 0.5) / 37, 1 - (torch.arange(23) + 0.5) / 23
    torch.testing.assert_close(found, torch.stack(torch.broadcast_tensors(u, v[:, None]), -1), rtol=0, atol=1e-4)
    points = render.interpolate(verts, faces, raster)[0]
    torch.testing.assert_close(points[..., :2], found - 0.5, rtol=0, atol=1e-4)


def test_texels_outside_every_chart_are_background():
    uvs = torch.tensor([[0.1, 0.6], [0.4, 0.6], [0.1, 0.9]])
    raster = render.rasterize_uv(uvs, torch.tensor([[0, 1, 2]]), 20, 20)
    rows, columns = raster.mask[0].nonzero(as_tuple=True)
    assert rows.min() >= 2 and rows.max() == 7 and columns.min() == 2 and columns.max() <= 7
    assert 15 <= raster.mask.sum() <= 21  # the slope runs through texel centres


def test_overlapping_charts_belong_to_the_first_face():
    uvs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    raster = render.rasterize_uv(uvs, torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]]), 33, 33)
    assert set(raster.face_ids.unique().tolist()) == {-1, 0}


def test_baking_and_looking_up_returns_the_baked_values():
    verts, faces, uvs = patch()
    texels = render.rasterize_uv(uvs, faces, 96, 96)
    image = 0.5 + 0.4 * torch.sin(6 * render.interpolate(verts, faces, texels)[0])
    raster = render.rasterize_mesh(verts[None], faces, view(60, 50, 0.3))
    seen = render.sample_texture(image, render.pixel_uvs(uvs, faces, raster))
    expected = 0.5 + 0.4 * torch.sin(6 * render.interpolate(verts, faces, raster))
    assert raster.mask.sum() > 200
    error = (seen - expected)[raster.mask].abs()
    assert error.median() < 1e-3 and error.max() < 0.013  # half a texel at the rim of the sheet


def test_texture_look_up_keeps_the_rows_upright():
    image = torch.arange(6.0).reshape(2, 3, 1)
    centres = torch.tensor([[1 / 6, 0.75], [0.5, 0.75], [5 / 6, 0.25], [1 / 3, 0.75], [-3, 2.0], [9.0, -1]])
    expected = torch.tensor([0.0, 1, 5, 0.5, 0, 5])
    torch.testing.assert_close(render.sample_texture(image, centres)[:, 0], expected, rtol=0, atol=1e-5)


def test_gutter_grows_outwards_and_keeps_what_was_known():
    image, known = torch.zeros(9, 9, 2), torch.zeros(9, 9, dtype=torch.bool)
    known[4, 4] = True
    image[4, 4] = torch.tensor([0.25, 1.0])
    grown = render.fill_gutter(image, known, 2)
    assert (grown[2:7, 2:7] == torch.tensor([0.25, 1.0])).all()
    assert not grown[:2].any() and not grown[:, 7:].any()
    assert torch.equal(render.fill_gutter(image, known, 0), image)
    noise = torch.rand(9, 9, 2)
    assert torch.equal(render.fill_gutter(noise, torch.ones(9, 9, dtype=torch.bool), 3), noise)


# ---- light


def test_srgb_curve_matches_known_values_and_inverts():
    torch.testing.assert_close(render.srgb_to_linear(torch.tensor([0.0, 0.04045, 0.5, 1])),
                               torch.tensor([0, 0.0031308, 0.2140411, 1]), rtol=1e-4, atol=1e-7)  # fmt: skip
    values = torch.linspace(0, 1, 256)
    torch.testing.assert_close(render.linear_to_srgb(render.srgb_to_linear(values)), values, rtol=0, atol=1e-5)
    assert render.linear_to_srgb(torch.tensor([-1.0, 7.0])).tolist() == pytest.approx([0, 1])


def test_picture_is_the_background_where_nothing_is():
    background = (0.2, 0.5, 0.9)
    out = render.shade_mesh(*_single(ball()), view(60, 50), background=background)
    away = out.alpha == 0
    assert away.any() and (out.alpha == 1).any()
    torch.testing.assert_close(out.rgb[away], torch.tensor(background).expand(int(away.sum()), 3), rtol=0, atol=1e-5)
    assert not out.depth[away].any()
    assert out.rgb.min() >= 0 and out.rgb.max() <= 1
    empty = render.shade_mesh(torch.zeros(1, 0, 3), torch.zeros(0, 3, dtype=torch.int64), view(6, 5))
    assert not empty.rgb.any() and not empty.alpha.any()


def test_key_light_comes_from_above_the_cameras_left():
    rgb = render.shade_mesh(*_single(ball()), view(80, 80)).rgb[0].mean(-1)
    assert rgb[25:40, 25:40].mean() > 1.3 * rgb[40:55, 40:55].mean()
    assert rgb[20:40, 40].mean() > rgb[40:60, 40].mean()


def test_studio_turns_with_the_camera():
    pictures = render.shade_mesh(*_single(ball(60, 60)), both(view(50, 50), view(50, 50, math.pi / 3))).rgb
    assert (pictures[0] - pictures[1]).abs().max() < 0.01  # 60 sectors: the turned ball is the same mesh


def test_outline_is_antialiased_and_does_not_sparkle():
    mesh = _single(ball(50, 70))
    out = render.shade_mesh(*mesh, view(64, 64), background=(1.0, 1.0, 1.0))
    fine = render.shade_mesh(*mesh, view(64, 64), background=(1.0, 1.0, 1.0), supersample=8)
    rim = (fine.alpha > 0) & (fine.alpha < 1)
    assert rim.sum() > 100
    assert (out.alpha - fine.alpha).abs().max() < 0.1 and (out.alpha - fine.alpha)[rim].abs().mean() < 0.02
    assert (out.rgb - fine.rgb)[rim].abs().mean() < 0.02 and (out.rgb - fine.rgb).abs().max() < 0.15
    assert len(out.alpha[rim].unique()) > 16


def test_shade_of_the_rim_is_never_darker_than_the_ball_beside_a_white_background():
    out = render.shade_mesh(*_single(ball(50, 70)), view(64, 64), background=(1.0, 1.0, 1.0))
    darkest = out.rgb[out.alpha == 1].min()
    assert out.rgb[(out.alpha > 0) & (out.alpha < 1)].min() > darkest - 0.1


def test_colours_and_texture_reach_the_picture():
    verts, faces, uvs = patch()
    camera = view(40, 40)
    red = torch.tensor([0.8, 0.2, 0.1])
    painted = render.shade_mesh(verts[None], faces, camera, colors=red.expand(len(verts), 3))
    texture = render.Texture(red.expand(4, 5, 3).contiguous(), uvs, faces)
    wrapped = render.shade_mesh(verts[None], faces, camera, texture=texture)
    torch.testing.assert_close(painted.rgb, wrapped.rgb, rtol=0, atol=1e-5)
    middle = painted.rgb[0, 20, 20]
    assert middle[0] > 2 * middle[1] > 2 * middle[2]
    with pytest.raises(ValueError, match="colors or texture, not both"):
        render.shade_mesh(verts[None], faces, camera, colors=red.expand(len(verts), 3), texture=texture)


def test_texture_is_upright_on_the_screen():
    verts, faces, uvs = patch()
    image = torch.zeros(8, 8, 3)
    image[:4, :, 0] = 1  # the upper half red, the lower blue
    image[4:, :, 2] = 1
    rgb = render.shade_mesh(verts[None], faces, view(40, 40), texture=render.Texture(image, uvs, faces)).rgb[0]
    upper, lower = rgb[15, 20], rgb[25, 20]
    assert upper[0] > upper[2] and lower[2] > lower[0]


def test_back_of_an_open_sheet_is_lit_unless_culled():
    verts, faces, _ = patch()
    behind = view(30, 30, math.pi)
    lit = render.shade_mesh(verts[None], faces, behind)
    assert lit.alpha.max() == 1 and lit.rgb[lit.alpha == 1].min() > 0.1
    assert not render.shade_mesh(verts[None], faces, behind, cull_backfaces=True).alpha.any()


def test_poses_and_cameras_go_together():
    verts, faces = ball(10, 12)
    poses = torch.stack([verts, verts * 0.5])
    camera = both(view(30, 30), view(30, 30, 0.4))
    out = render.shade_mesh(poses, faces, camera)
    for c in range(2):
        alone = render.shade_mesh(
            poses[c : c + 1], faces, Camera(camera.viewmats[c : c + 1], camera.Ks[c : c + 1], 30, 30)
        )
        assert torch.equal(out.rgb[c], alone.rgb[0]) and torch.equal(out.alpha[c], alone.alpha[0])
    with pytest.raises(ValueError, match="B = 2 cameras or B = 1, got B = 3"):
        render.shade_mesh(verts.expand(3, -1, -1), faces, camera)
    with pytest.raises(ValueError, match="supersample must be at least 1, got 0"):
        render.shade_mesh(poses, faces, camera, supersample=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("vertex", [20, 70])  # behind and in front
def test_poisoned_vertices_leave_a_clean_picture(poison, vertex):
    verts, faces = ball(12, 14)
    verts[vertex] = poison
    out = render.shade_mesh(verts[None], faces, view(30, 30))
    assert out.rgb.isfinite().all() and out.alpha.isfinite().all() and out.alpha.any()


# ---- real data


def test_real_head_has_no_pinholes():
    source = DATA / "ict_facekit" / "ict_light.npz"
    if not source.exists():
        pytest.skip(f"no {source}; set AVATAR_DATA to the data folder")
    with np.load(source) as data:
        verts, quads = torch.from_numpy(data["template_cm"]) / 15, torch.from_numpy(data["faces"]).long()
    faces = torch.cat([quads[:, [0, 1, 2]], quads[quads[:, 3] >= 0][:, [0, 2, 3]]])
    verts = verts - (verts.amax(0) + verts.amin(0)) / 2
    raster = render.rasterize_mesh(verts[None], faces, both(view(200, 200), view(200, 200, 0.5)))
    for mask, coverage in zip(raster.mask.numpy(), raster.coverage.numpy(), strict=True):
        assert 0.2 < mask.mean() < 0.9
        outline = ndimage.binary_fill_holes(mask)
        assert np.array_equal(mask, outline)
        assert (coverage[ndimage.binary_erosion(outline, iterations=2)] == 1).all()
