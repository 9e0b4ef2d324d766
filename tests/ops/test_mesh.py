"""The mesh rasteriser against geometry, against every-ray-meets-every-face, and against bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from avatar.ops import mesh, reference
from avatar.ops._native import available_isas, ops, use_isa


def camera(width: int, height: int, focal: float = 1.0, batch: int = 1) -> tuple[Tensor, Tensor]:
    """A camera at the origin looking along +z; `focal` in picture heights."""
    Ks = torch.tensor([[focal * height, 0, width / 2], [0, focal * height, height / 2], [0, 0, 1]])
    return torch.eye(4).repeat(batch, 1, 1), Ks.repeat(batch, 1, 1)


def pixel_camera() -> tuple[Tensor, Tensor]:
    """A camera that sees (u, v, 1) at pixel (u, v)."""
    return torch.eye(4)[None], torch.eye(3)[None]


def sphere(rings: int, sectors: int, distance: float = 3.0, bumps: float = 0.05) -> tuple[Tensor, Tensor]:
    """A closed bumpy ball about (0, 0, distance), faces counter-clockwise from outside."""
    theta = torch.linspace(0, math.pi, rings + 1)[1:-1, None]
    phi = torch.arange(sectors) * (2 * math.pi / sectors)
    radius = 1 + bumps * torch.sin(5 * phi) * torch.sin(4 * theta)
    x, y, z = torch.sin(theta) * torch.cos(phi), torch.cos(theta).expand(-1, sectors), torch.sin(theta) * torch.sin(phi)
    verts = (torch.stack([x, y, z], -1) * radius[..., None]).reshape(-1, 3)
    verts = torch.cat([verts, torch.tensor([[0.0, 1, 0], [0, -1, 0]])])
    top, bottom, faces = len(verts) - 2, len(verts) - 1, []
    for j in range(sectors):
        k = (j + 1) % sectors
        faces += [[top, k, j], [bottom, (rings - 2) * sectors + j, (rings - 2) * sectors + k]]
        for i in range(rings - 2):
            a, b = i * sectors, (i + 1) * sectors
            faces += [[a + j, a + k, b + j], [a + k, b + k, b + j]]
    return verts + torch.tensor([0, 0, distance]), torch.tensor(faces)


def soup(count: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Unconnected triangles around and behind the camera, many of them through the near plane."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, 1, 3, generator=generator) * spread + torch.tensor([0, 0, 1.0])
    sizes = 10 ** (torch.rand(count, 1, 1, generator=generator) * 3 - 2)
    verts = centres + sizes * torch.randn(count, 3, 3, generator=generator)
    return verts.reshape(1, -1, 3), torch.arange(3 * count).reshape(-1, 3)


def jittered_grid(width: int, height: int, seed: int, snap: bool) -> tuple[Tensor, Tensor]:
    """A triangulated sheet over the whole picture in pixel coordinates; snapped corners lie on pixel centres."""
    generator = torch.Generator().manual_seed(seed)
    n = 12
    y, x = torch.meshgrid(torch.linspace(-2, height + 2, n), torch.linspace(-2, width + 2, n), indexing="ij")
    step = min(width, height) / n
    jitter = (torch.rand(n, n, 2, generator=generator) - 0.5) * step * 0.6
    jitter[[0, -1]] = 0
    jitter[:, [0, -1]] = 0
    points = torch.stack([x, y], -1) + jitter
    if snap:
        points = points.floor() + 0.5
    points[0, :, 1], points[-1, :, 1], points[:, 0, 0], points[:, -1, 0] = -2, height + 2, -2, width + 2
    verts = torch.cat([points, torch.ones(n, n, 1)], -1).reshape(1, -1, 3)
    faces = []
    for i in range(n - 1):
        for j in range(n - 1):
            a, b, c, d = i * n + j, i * n + j + 1, (i + 1) * n + j, (i + 1) * n + j + 1
            faces += [[a, b, c], [b, d, c]] if (i + j) % 2 else [[a, d, c], [a, b, d]]
    return verts, torch.tensor(faces)


def naive(*args: object, cull_backfaces: bool = False, samples: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The yardstick with the outputs in the operator's order."""
    bary, depth, coverage, face_ids = ops.rasterize_mesh_naive(*args, 0.01, cull_backfaces, samples)
    return face_ids, bary, depth, coverage


def draws_per_pixel(verts: Tensor, faces: Tensor, view: tuple[Tensor, Tensor], width: int, height: int) -> Tensor:
    """How often pixel centres and samples are drawn when every face is drawn alone. [2, H, W]"""
    total = torch.zeros(2, height, width)
    for face in faces:
        ids, _, _, coverage = mesh.rasterize_mesh(verts, face[None], *view, width, height)
        total += torch.stack([(ids[0] >= 0).float(), coverage[0]])
    return total


# ---- what belongs to a face


@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_neighbours_leave_no_crack_and_draw_nothing_twice(snap, seed):
    verts, faces = jittered_grid(45, 37, seed, snap)
    assert (draws_per_pixel(verts, faces, pixel_camera(), 45, 37) == 1).all()


def test_neighbours_cut_by_the_near_plane_leave_no_crack():
    # A floor one metre below the camera, from ten metres behind to ten metres ahead, seen with a tilt.
    verts, faces = jittered_grid(20, 20, 3, False)
    verts = torch.stack([verts[..., 0] - 10, torch.ones_like(verts[..., 0]), verts[..., 1] - 10], -1)
    viewmats, Ks = camera(33, 33, focal=0.5)
    c, s = math.cos(0.7), math.sin(0.7)
    viewmats[0, :3, :3] = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]])
    v, u = torch.meshgrid(torch.arange(33) + 0.5, torch.arange(33) + 0.5, indexing="ij")
    rays = torch.stack([(u - 16.5) / 16.5, (v - 16.5) / 16.5, torch.ones(33, 33)], -1) @ viewmats[0, :3, :3]
    depth = 1 / rays[..., 1]
    meets = (depth > 0.011) & ((rays * depth[..., None])[..., [0, 2]].abs() < 9.9).all(-1)
    assert meets.float().mean() > 0.4
    counts = draws_per_pixel(verts, faces, (viewmats, Ks), 33, 33)
    assert (counts[0][meets] == 1).all()
    drawn = mesh.rasterize_mesh(verts, faces, viewmats, Ks, 33, 33)[2][0]
    torch.testing.assert_close(drawn[meets], depth[meets], rtol=1e-5, atol=0)


def test_square_on_pixel_centres_owns_its_top_and_left_edge_only():
    verts = torch.tensor([[[2.5, 2.5, 1], [5.5, 2.5, 1], [2.5, 5.5, 1], [5.5, 5.5, 1]]])
    ids = mesh.rasterize_mesh(verts, torch.tensor([[0, 1, 2], [1, 3, 2]]), *pixel_camera(), 8, 8)[0][0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(ids >= 0, expected)


def test_camera_inside_a_closed_mesh_sees_it_everywhere():
    verts, faces = sphere(13, 17, distance=0.0)
    for seed in range(3):
        viewmats, Ks = camera(61, 47, focal=0.3)
        viewmats[0, :3, :3] = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))[0]
        ids, _, depth, coverage = mesh.rasterize_mesh(verts[None], faces, viewmats, Ks, 61, 47)
        assert (ids >= 0).all() and (coverage == 1).all() and (depth > 0).all()


def test_fronts_and_backs_of_a_closed_mesh_have_one_outline():
    verts, faces = sphere(21, 30)
    view = camera(80, 60)
    fronts = mesh.rasterize_mesh(verts[None], faces, *view, 80, 60, cull_backfaces=True)
    backs = mesh.rasterize_mesh(verts[None], faces.flip(1), *view, 80, 60, cull_backfaces=True)
    both = mesh.rasterize_mesh(verts[None], faces, *view, 80, 60)
    assert torch.equal(fronts[0] >= 0, backs[0] >= 0)
    assert torch.equal(fronts[3], backs[3]) and torch.equal(fronts[3], both[3])
    seen = fronts[0] >= 0
    assert (fronts[2][seen] < backs[2][seen]).all()
    swapped = fronts[0] != both[0]  # a centre outside the true outline by less than 1/512 pixel may take the back face
    assert swapped.sum() <= 2
    torch.testing.assert_close(fronts[2][swapped], both[2][swapped], rtol=1e-3, atol=0)


def test_culling_keeps_counter_clockwise_faces():
    # x to the right and y down: left-bottom, right-bottom, top turns counter-clockwise on the screen.
    verts = torch.tensor([[[-1.0, 1, 2], [1, 1, 2], [0, -1, 2]]])
    for face, expected in (([0, 1, 2], 0), ([0, 2, 1], -1)):
        ids = mesh.rasterize_mesh(verts, torch.tensor([face]), *camera(9, 9), 9, 9, cull_backfaces=True)[0]
        assert ids[0, 4, 4] == expected


# ---- depth and barycentrics


def test_barycentrics_place_the_point_on_the_pixels_ray():
    verts, faces = sphere(21, 30)
    viewmats, Ks = camera(64, 48, focal=1.3)
    ids, bary, depth, _ = mesh.rasterize_mesh(verts[None].double(), faces, viewmats.double(), Ks.double(), 64, 48)
    seen = ids[0] >= 0
    corners = verts.double()[faces[ids[0][seen].long()]]
    points = (bary[0][seen][..., None] * corners).sum(1)
    projected = points @ Ks[0].double().T
    rows, columns = seen.nonzero(as_tuple=True)
    # A sample within 1/512 pixel of an edge may lie outside the true triangle and is moved onto it.
    torch.testing.assert_close(projected[:, 0] / points[:, 2], columns.double() + 0.5, rtol=0, atol=4e-3)
    torch.testing.assert_close(projected[:, 1] / points[:, 2], rows.double() + 0.5, rtol=0, atol=4e-3)
    torch.testing.assert_close(depth[0][seen], points[:, 2])
    torch.testing.assert_close(bary[0][seen].sum(-1), torch.ones(int(seen.sum()), dtype=torch.float64))
    assert (bary >= 0).all()


def test_depth_of_a_tilted_plane_through_the_camera_plane():
    # The plane y = 1 + z / 2 in one triangle far larger than the picture, two of its corners behind the camera.
    x, z = torch.tensor([-500.0, 500.0, 0.0]), torch.tensor([-300.0, -300.0, 900.0])
    verts = torch.stack([x, 1 + z / 2, z], -1)[None]
    depth = mesh.rasterize_mesh(verts, torch.tensor([[0, 1, 2]]), *camera(32, 32, focal=0.5), 32, 32)[2][0]
    slope = ((torch.arange(32) + 0.5) - 16) / 16
    expected = 1 / (slope - 0.5)
    rows = (expected > 0.02) & (expected < 30)
    assert rows.sum() > 5
    torch.testing.assert_close(depth[rows], expected[rows][:, None].expand(-1, 32), rtol=1e-5, atol=0)
    assert (depth[slope < 0.49] == 0).all()


def test_nearer_face_wins_in_any_order():
    verts = torch.tensor([[[-9.0, -9, 2], [9, -9, 2], [0, 9, 2], [-9, -9, 3], [9, -9, 3], [0, 9, 3]]])
    for faces, expected in ([[0, 1, 2], [3, 4, 5]], 0), ([[3, 4, 5], [0, 1, 2]], 1):
        ids, _, depth, _ = mesh.rasterize_mesh(verts, torch.tensor(faces), *camera(9, 9), 9, 9)
        assert ids[0, 4, 4] == expected and depth[0, 4, 4] == 2


def test_equal_depth_goes_to_the_lowest_face_id():
    verts = torch.tensor([[[-9.0, -9, 2], [9, -9, 2], [0, 9, 2]]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 2]])
    ids = mesh.rasterize_mesh(verts, faces, *camera(70, 70), 70, 70)[0]
    assert set(ids.unique().tolist()) <= {-1, 0}


def test_nothing_nearer_than_near_is_drawn():
    verts, faces = sphere(15, 20, distance=1.5)
    for near in (0.01, 0.7, 1.5):
        ids, _, depth, _ = mesh.rasterize_mesh(verts[None], faces, *camera(40, 40, 0.6), 40, 40, near=near)
        assert (depth[ids >= 0] >= near * (1 - 1e-6)).all()
        assert (ids >= 0).any()


# ---- coverage


def test_coverage_of_axis_aligned_edges_counts_sixteenths():
    verts = torch.tensor([[[2.0, 2, 1], [5.25, 2, 1], [2, 5.6875, 1], [5.25, 5.6875, 1]]])
    coverage = mesh.rasterize_mesh(verts, torch.tensor([[0, 1, 2], [1, 3, 2]]), *pixel_camera(), 8, 8)[3][0]
    assert (coverage[3, 2:5] == 1).all() and coverage[3, 5] == 4 / 16 and coverage[5, 3] == 11 / 16
    assert coverage.sum() == (coverage > 0).float().mul(coverage).sum()
    assert (coverage[:2] == 0).all() and (coverage[:, :2] == 0).all() and (coverage[6:] == 0).all()


def test_coverage_adds_up_to_the_projected_area():
    angles = torch.arange(200) * (2 * math.pi / 200)
    rim = torch.stack([20.3 + 15.7 * angles.cos(), 19.6 + 15.7 * angles.sin(), torch.ones(200)], -1)
    verts = torch.cat([rim, torch.tensor([[20.3, 19.6, 1]])])[None]
    faces = torch.stack([torch.full((200,), 200), torch.arange(200), (torch.arange(200) + 1) % 200], -1)
    ids, _, _, coverage = mesh.rasterize_mesh(verts, faces, *pixel_camera(), 40, 40)
    area = math.pi * 15.7**2
    assert abs(coverage.sum() - area) < 0.002 * area
    ramp = (coverage > 0) & (coverage < 1)
    assert ramp.sum() > 60 and ((coverage > 0.5) == (ids >= 0)).float().mean() > 0.98


def test_sliver_between_pixel_centres_is_covered_though_no_centre_sees_it():
    verts = torch.tensor([[[1.0, 2.6, 1], [9, 2.6, 1], [1, 2.9, 1], [9, 2.9, 1]]])
    ids, _, _, coverage = mesh.rasterize_mesh(verts, torch.tensor([[0, 1, 2], [1, 3, 2]]), *pixel_camera(), 10, 5)
    assert (ids == -1).all()
    assert (coverage[0, 2, 1:9] > 0.2).all() and (coverage[0, 2, 1:9] < 0.4).all()


def test_one_sample_is_the_mask():
    verts, faces = sphere(11, 12)
    ids, _, _, coverage = mesh.rasterize_mesh(verts[None], faces, *camera(31, 31), 31, 31, samples=1)
    assert torch.equal(coverage, (ids >= 0).float())


# ---- against other implementations


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_naive_loop_on_triangle_soup(seed):
    verts, faces = soup(60, seed)
    width, height = [(33, 21), (64, 64), (7, 90), (130, 5), (65, 66), (1, 1)][seed]
    args = (faces, *camera(width, height, 0.7), width, height)
    cull = seed % 2 == 1
    got = mesh.rasterize_mesh(verts, *args, cull_backfaces=cull)
    plain = naive(verts, *args, cull_backfaces=cull)
    # Only surfaces that cross within a rounding error of the inverse depth may swap.
    swapped = got[0] != plain[0]
    torch.testing.assert_close(got[2][swapped], plain[2][swapped], rtol=1e-5, atol=0)
    assert swapped.float().mean() < 2e-3
    assert torch.equal(got[1][~swapped], plain[1][~swapped])
    assert torch.equal(got[3], plain[3])


def test_agrees_with_the_naive_loop_at_full_size():
    verts, faces = sphere(71, 72)
    args = (verts[None], faces, *camera(160, 160, 1.35), 160, 160)
    got, plain = mesh.rasterize_mesh(*args, samples=1), naive(*args, samples=1)
    assert torch.equal(got[0], plain[0]) and torch.equal(got[2], plain[2])


@pytest.mark.parametrize("cull", [False, True])
def test_agrees_with_the_torch_definition(cull):
    verts, faces = sphere(9, 12)
    view = tuple(x.double() for x in camera(34, 29, 1.2))
    args = (verts[None].double(), faces, *view, 34, 29)
    got = mesh.rasterize_mesh(*args, cull_backfaces=cull)
    expected = reference.rasterize_mesh(*args, cull_backfaces=cull)
    same = got[0] == expected[0]
    assert same.double().mean() > 0.998  # centres within 1/512 pixel of an edge
    for a, b in zip(got[1:3], expected[1:3], strict=True):
        torch.testing.assert_close(a[same], b[same], rtol=1e-9, atol=1e-9)
    assert (got[3] - expected[3]).abs().mean() < 2e-3


def test_agrees_with_the_torch_definition_through_the_near_plane():
    verts, faces = soup(40, 11)
    args = (verts.double(), faces, *(x.double() for x in camera(40, 40, 0.6)), 40, 40)
    got, expected = mesh.rasterize_mesh(*args), reference.rasterize_mesh(*args)
    same = got[0] == expected[0]
    assert same.double().mean() > 0.99
    torch.testing.assert_close(got[2][same], expected[2][same], rtol=1e-7, atol=1e-9)
    assert (got[3] - expected[3]).abs().mean() < 2e-3


# ---- batches, sizes, determinism


def test_batches_equal_single_pictures():
    verts, faces = sphere(15, 20)
    moved = torch.stack([verts, verts + torch.tensor([0.3, 0.1, 0.5]), verts * 1.1])
    viewmats, Ks = camera(45, 33, 1.2, batch=3)
    viewmats[1, 0, 3], Ks[2, 0, 2] = 0.2, 10.0
    batch = mesh.rasterize_mesh(moved, faces, viewmats, Ks, 45, 33)
    shared = mesh.rasterize_mesh(moved[:1], faces, viewmats, Ks, 45, 33)
    for c in range(3):
        one = (faces, viewmats[c : c + 1], Ks[c : c + 1], 45, 33)
        for a, b in zip(batch, mesh.rasterize_mesh(moved[c : c + 1], *one), strict=True):
            assert torch.equal(a[c : c + 1], b)
        for a, b in zip(shared, mesh.rasterize_mesh(moved[:1], *one), strict=True):
            assert torch.equal(a[c : c + 1], b)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("cameras", [1, 4])
def test_thread_count_changes_no_bit(threads, cameras):
    verts, faces = sphere(61, 60)
    args = (verts[None], faces, *camera(150, 140, 1.4, batch=cameras), 150, 140)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = mesh.rasterize_mesh(*args)
        torch.set_num_threads(threads)
        together = mesh.rasterize_mesh(*args)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set_draws_the_same(isa):
    for verts, faces in (sphere(41, 50), soup(80, 5)):
        args = (verts.reshape(1, -1, 3), faces, *camera(77, 70, 1.1), 77, 70)
        with use_isa("scalar"):
            plain = mesh.rasterize_mesh(*args)
        with use_isa(isa):
            wide = mesh.rasterize_mesh(*args)
        assert torch.equal(plain[3], wide[3])
        swapped = plain[0] != wide[0]  # fused multiply-adds may round inverse depths apart where surfaces cross
        torch.testing.assert_close(plain[2][swapped], wide[2][swapped], rtol=1e-5, atol=0)
        assert swapped.float().mean() < 1e-3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 65), (64, 1), (63, 65), (129, 3)])
def test_odd_sizes_are_cut_out_of_the_same_picture(width, height):
    verts, faces = sphere(15, 20)
    viewmats, Ks = camera(160, 70, 1.2)
    whole = mesh.rasterize_mesh(verts[None], faces, viewmats, Ks, 160, 70)
    Ks[:, 0, 2] -= 20
    Ks[:, 1, 2] -= 3
    part = mesh.rasterize_mesh(verts[None], faces, viewmats, Ks, width, height)
    inner = (slice(None), slice(3, 3 + height), slice(20, 20 + width))
    assert torch.equal(part[0], whole[0][inner])
    torch.testing.assert_close(part[2], whole[2][inner])


def test_every_output_is_written():
    verts, faces = sphere(9, 9)
    torch.use_deterministic_algorithms(True)  # fills new tensors with NaN
    try:
        for samples in (1, 16):
            _, bary, depth, coverage = mesh.rasterize_mesh(verts[None], faces, *camera(70, 67), 70, 67, samples=samples)
            assert bary.isfinite().all() and depth.isfinite().all() and coverage.isfinite().all()
        values = mesh.interpolate_mesh(verts[None], faces, _as_ids([[[-1, 0]]]), torch.full((1, 1, 2, 3), 1 / 3))
        assert values.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


def _as_ids(values: list[list[list[int]]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


# ---- bad input


def test_empty_meshes_give_background():
    for verts, faces in ((torch.zeros(1, 0, 3), torch.zeros(0, 3)), (torch.zeros(1, 4, 3), torch.zeros(0, 3))):
        ids, bary, depth, coverage = mesh.rasterize_mesh(verts, faces.long(), *camera(5, 4), 5, 4)
        assert ids.shape == (1, 4, 5) and (ids == -1).all()
        assert not bary.any() and not depth.any() and not coverage.any()


def test_no_camera_gives_no_picture():
    verts, faces = sphere(5, 5)
    viewmats, Ks = camera(5, 4)
    assert mesh.rasterize_mesh(verts[None], faces, viewmats[:0], Ks[:0], 5, 4)[1].shape == (0, 4, 5, 3)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e38])
def test_poisoned_vertex_removes_its_own_faces_only(poison):
    verts, faces = sphere(15, 20)
    view = camera(60, 60, 1.2)
    bad = verts.clone()
    bad[37, 0] = poison
    got = mesh.rasterize_mesh(bad[None], faces, *view, 60, 60)
    untouched = ~(faces == 37).any(1)
    rest = mesh.rasterize_mesh(verts[None], faces[untouched], *view, 60, 60)
    whole = mesh.rasterize_mesh(verts[None], faces, *view, 60, 60)
    assert all(x.isfinite().all() for x in got[1:])
    if math.isfinite(poison):  # such a face is huge, not broken
        assert (got[0] >= 0).sum() > (whole[0] >= 0).sum()
        return
    ids = torch.where(rest[0] >= 0, untouched.nonzero()[:, 0][rest[0].clamp(min=0).long()].int(), -1)
    assert torch.equal(got[0], ids) and torch.equal(got[3], rest[3])
    assert (ids != whole[0]).any()


@pytest.mark.parametrize("size", [1e4, 1e8, 1e15, 1e30])
def test_huge_face_fills_the_picture_at_the_right_depth(size):
    verts = torch.tensor([[[-size, -size, 2], [size, -size, 2], [0, size, 2]]])
    ids, bary, depth, coverage = mesh.rasterize_mesh(verts, torch.tensor([[0, 1, 2]]), *camera(70, 50), 70, 50)
    assert (ids == 0).all() and (coverage == 1).all()
    torch.testing.assert_close(depth, torch.full_like(depth, 2))
    torch.testing.assert_close(bary.mean((0, 1, 2)), torch.tensor([0.25, 0.25, 0.5]), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "corners",
    [
        [[0.0, 0, 2], [0, 0, 2], [0, 0, 2]],  # a point
        [[-1.0, 0, 2], [1, 0, 2], [0, 0, 2]],  # a line
        [[-1.0, 0, 2], [-1, 0, 2], [1, 1, 2]],  # two equal corners
        [[0.0, 0, 1], [0, 0, 2], [0, 0, 3]],  # along the axis of view
        [[0.0, -1, 1], [0, 1, 1], [0, 0, 5]],  # edge-on
        [[1e-42, 0, 2], [0, 1e-42, 2], [0, 0, 2]],  # denormal
        [[-1.0, -1, -1], [1, -1, -1], [0, 1, -1]],  # behind the camera
        [[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]],  # in the camera plane
    ],
)
def test_faces_without_area_draw_nothing(corners):
    for dtype in (torch.float32, torch.float64):
        view = (x.to(dtype) for x in camera(20, 20))
        ids, bary, depth, coverage = mesh.rasterize_mesh(
            torch.tensor([corners], dtype=dtype), torch.tensor([[0, 1, 2]]), *view, 20, 20
        )
        assert (ids == -1).all() and not coverage.any() and not bary.any() and not depth.any()


def test_grazing_faces_stay_inside_their_own_depths():
    generator = torch.Generator().manual_seed(0)
    verts = torch.randn(1, 900, 3, generator=generator) * torch.tensor([1e-3, 1, 1]) + torch.tensor([0, 0, 3.0])
    faces = torch.arange(900).reshape(-1, 3)
    ids, bary, depth, _ = mesh.rasterize_mesh(verts, faces, *camera(65, 64, 1.0), 65, 64)
    seen = ids >= 0
    z = verts[0, faces[ids[seen].long()], 2]
    assert seen.sum() > 50
    assert (depth[seen] >= z.amin(1).clamp(min=0.01) * 0.999).all() and (depth[seen] <= z.amax(1) * 1.001).all()
    assert (bary[seen] >= 0).all() and torch.allclose(bary[seen].sum(-1), torch.ones(int(seen.sum())))


def test_broken_cameras_give_background():
    verts, faces = sphere(9, 9)
    viewmats, Ks = camera(9, 9)
    for matrix, broken in (
        (viewmats * math.nan, Ks),
        (viewmats, Ks * math.inf),
        (viewmats * 0, Ks),
        (viewmats, Ks * 0),
    ):
        ids, bary, depth, coverage = mesh.rasterize_mesh(verts[None], faces, matrix, broken, 9, 9)
        assert (ids == -1).all() and not bary.any() and not depth.any() and not coverage.any()


def test_errors_name_the_argument():
    verts, faces = sphere(5, 5)
    viewmats, Ks = camera(8, 8, batch=3)
    draw = mesh.rasterize_mesh
    with pytest.raises(ValueError, match=r"verts must be \[B, V, 3\]"):
        draw(verts, faces, viewmats, Ks, 8, 8)
    with pytest.raises(ValueError, match="B = C = 3 or B = 1, got B = 2"):
        draw(verts.expand(2, -1, -1), faces, viewmats, Ks, 8, 8)
    with pytest.raises(TypeError, match="faces must be integers"):
        draw(verts[None], faces.float(), viewmats, Ks, 8, 8)
    with pytest.raises(TypeError, match="float32 or float64"):
        draw(verts[None].half(), faces, viewmats.half(), Ks.half(), 8, 8)
    with pytest.raises(ValueError, match="float64"):
        draw(verts[None].double(), faces, viewmats, Ks, 8, 8)
    with pytest.raises(RuntimeError, match=f"names vertex {len(verts)}, but verts has V = {len(verts)}"):
        draw(verts[None], faces + 1, viewmats, Ks, 8, 8)
    with pytest.raises(RuntimeError, match="names vertex -1"):
        draw(verts[None], torch.tensor([[0, 1, -1]]), viewmats, Ks, 8, 8)
    with pytest.raises(RuntimeError, match="width and height"):
        draw(verts[None], faces, viewmats, Ks, 0, 8)
    with pytest.raises(RuntimeError, match="width and height"):
        draw(verts[None], faces, viewmats, Ks, 8, 20000)
    with pytest.raises(RuntimeError, match="near must be a positive"):
        draw(verts[None], faces, viewmats, Ks, 8, 8, near=0.0)
    with pytest.raises(RuntimeError, match="samples must be 1 or 16, got 4"):
        draw(verts[None], faces, viewmats, Ks, 8, 8, samples=4)


# ---- interpolation


def test_interpolated_positions_are_the_visible_points():
    verts, faces = sphere(15, 20)
    viewmats, Ks = camera(50, 40, 1.2)
    ids, bary, depth, _ = mesh.rasterize_mesh(verts[None], faces, viewmats, Ks, 50, 40)
    points = mesh.interpolate_mesh(verts[None], faces, ids, bary)
    torch.testing.assert_close(points[..., 2], depth)
    assert not points[ids < 0].any()


def test_interpolation_agrees_with_the_torch_definition():
    verts, faces = sphere(31, 40)
    ids, bary, _, _ = mesh.rasterize_mesh(verts[None], faces, *camera(90, 80, 1.2, batch=2), 90, 80)
    for rows in (1, 2):
        attributes = torch.randn(rows, len(verts), 5)
        got = [x.clone().requires_grad_() for x in (attributes, bary)]
        expected = [x.clone().requires_grad_() for x in (attributes, bary)]
        ours = mesh.interpolate_mesh(got[0], faces, ids, got[1])
        theirs = reference.interpolate_mesh(expected[0], faces, ids, expected[1])
        torch.testing.assert_close(ours, theirs)
        v = torch.randn_like(ours)
        ours.backward(v)
        theirs.backward(v)
        for a, b in zip(got, expected, strict=True):
            assert (a.grad - b.grad).norm() < 1e-5 * b.grad.norm()


@pytest.mark.parametrize("rows", [1, 2])
def test_interpolation_gradients(rows):
    verts, faces = sphere(5, 6)
    ids, bary, _, _ = mesh.rasterize_mesh(
        verts[None].double(), faces, *(x.double() for x in camera(7, 6, 1.2, batch=2)), 7, 6
    )
    attributes = torch.randn(rows, len(verts), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b: mesh.interpolate_mesh(a, faces, ids, b), (attributes, bary.requires_grad_())
    )


def test_interpolation_gradient_has_the_same_bits_for_any_thread_count():
    verts, faces = sphere(31, 40)
    ids, bary, _, _ = mesh.rasterize_mesh(verts[None], faces, *camera(90, 80, 1.2, batch=3), 90, 80)
    v_values = torch.randn(3, 80, 90, 4)
    before = torch.get_num_threads()
    for rows in (1, 3):
        attributes, found = torch.randn(rows, len(verts), 4), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(ops.interpolate_mesh_bwd(attributes, faces, ids, bary, v_values))
        finally:
            torch.set_num_threads(before)
        for other in found[1:]:
            assert torch.equal(found[0][0], other[0]) and torch.equal(found[0][1], other[1])


def test_interpolation_errors_name_the_argument():
    attributes, faces = torch.zeros(1, 3, 2), torch.tensor([[0, 1, 2]])
    ids, bary = _as_ids([[[0]]]), torch.ones(1, 1, 1, 3) / 3
    with pytest.raises(RuntimeError, match="face_ids name face 1, but faces has F = 1"):
        mesh.interpolate_mesh(attributes, faces, ids + 1, bary)
    with pytest.raises(RuntimeError, match="names vertex 3, but attributes has V = 3"):
        mesh.interpolate_mesh(attributes, faces + 1, ids, bary)
    with pytest.raises(ValueError, match="A = C = 1 or A = 1, got A = 2"):
        mesh.interpolate_mesh(attributes.expand(2, -1, -1), faces, ids, bary)
    with pytest.raises(ValueError, match="bary must be"):
        mesh.interpolate_mesh(attributes, faces, ids, bary[..., :2])
    with pytest.raises(TypeError, match="float32 or float64"):
        mesh.interpolate_mesh(attributes.half(), faces, ids, bary.half())


# ---- gradients to the geometry


def fixed_view() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    verts, faces = sphere(6, 7)
    viewmats, Ks = camera(8, 7, 1.1)
    viewmats[0, :3, :3] = torch.linalg.qr(torch.eye(3) + 0.2 * torch.tensor([[0.0, 1, -1], [2, 0, 1], [-1, 1, 0]]))[0]
    viewmats[0, :3, 3] = torch.tensor([0.0, 0, 3]) - viewmats[0, :3, :3] @ torch.tensor([0.0, 0, 3])
    return verts[None].double(), faces, viewmats.double(), Ks.double()


def test_depth_and_barycentrics_have_gradients_at_fixed_visibility():
    verts, faces, viewmats, Ks = fixed_view()
    ids, bary, depth, _ = mesh.rasterize_mesh(verts, faces, viewmats, Ks, 8, 7)
    assert (ids >= 0).sum() > 15
    points = mesh.mesh_points(verts, faces, viewmats, Ks, ids)
    clear = (bary > 1e-3).all(-1)  # away from edges, where nothing is cut off
    torch.testing.assert_close(points[0][clear], bary[clear])
    torch.testing.assert_close(points[1][clear], depth[clear])
    inputs = [x.requires_grad_() for x in (verts, viewmats, Ks)]

    def found(v: Tensor, w: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        b, z = mesh.mesh_points(v, faces, w, k, ids)
        return b[clear], z[clear]

    assert torch.autograd.gradcheck(found, inputs, atol=1e-6)


def test_rasteriser_hands_on_the_gradient_of_its_points():
    verts, faces, viewmats, Ks = fixed_view()
    leaves = [x.requires_grad_() for x in (verts, viewmats, Ks)]
    ids, bary, depth, _ = mesh.rasterize_mesh(verts, faces, viewmats, Ks, 8, 7)
    v_bary, v_depth = torch.randn_like(bary), torch.randn_like(depth)
    got = torch.autograd.grad([bary, depth], leaves, [v_bary, v_depth])
    points = mesh.mesh_points(verts, faces, viewmats, Ks, ids)
    expected = torch.autograd.grad(points, leaves, [v_bary, v_depth])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    only_depth = torch.autograd.grad(mesh.rasterize_mesh(verts, faces, viewmats, Ks, 8, 7)[2].sum(), verts)[0]
    # Pushing the mesh away by one metre adds one metre to every depth, up to the slope of the surface.
    assert only_depth.isfinite().all() and only_depth.abs().sum() > 1


def test_gradients_are_finite_beside_broken_and_edge_on_faces():
    verts = torch.tensor([[[-1.0, 1, 2], [1, 1, 2], [0, -1, 2], [0, 0, 1], [0, 0, 3], [math.nan, 0, 1]]])
    faces = torch.tensor([[3, 4, 3], [0, 1, 2], [3, 4, 5]])
    verts.requires_grad_()
    ids, bary, depth, _ = mesh.rasterize_mesh(verts, faces, *camera(9, 9), 9, 9)
    assert set(ids.unique().tolist()) == {-1, 1}
    (depth.sum() + bary.square().sum()).backward()
    assert verts.grad[0, :3].isfinite().all() and verts.grad[0, :3].any()


def test_registrations_pass_opcheck():
    verts, faces, viewmats, Ks = fixed_view()
    verts.requires_grad_()
    torch.library.opcheck(ops.rasterize_mesh, (verts, faces, viewmats, Ks, 8, 7, 0.01, False, 16))
    torch.library.opcheck(ops.rasterize_mesh_naive, (verts.detach(), faces, viewmats, Ks, 8, 7, 0.01, False, 16))
    ids, bary, _, _ = mesh.rasterize_mesh(verts, faces, viewmats, Ks, 8, 7)
    bary, values = bary.detach().requires_grad_(), torch.randn(1, verts.shape[1], 4, dtype=torch.float64)
    torch.library.opcheck(ops.interpolate_mesh, (values.requires_grad_(), faces, ids, bary))
    v_values = torch.randn(1, 7, 8, 4, dtype=torch.float64)
    torch.library.opcheck(ops.interpolate_mesh_bwd, (values.detach(), faces, ids, bary.detach(), v_values))
