"""Frames per vertex and bound Gaussians: rigid motion, agreement at edges, gradients, broken meshes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from avatar.geometry.frames import build_topology, find_neighbours
from avatar.geometry.rotations import axis_angle_to_matrix, quat_to_matrix
from avatar.ops import reference
from avatar.ops._native import ops
from avatar.ops.bind import bind, vertex_frames


def sphere(rings=8, around=12, dtype=torch.float64):
    """A closed unit sphere, a tenth of a metre in radius: vertices and outward triangles."""
    points = [(0.0, 1.0, 0.0)]
    for i in range(1, rings):
        for j in range(around):
            a, b = math.pi * i / rings, 2 * math.pi * j / around
            points.append((math.sin(a) * math.sin(b), math.cos(a), math.sin(a) * math.cos(b)))
    points.append((0.0, -1.0, 0.0))
    faces = []
    for j in range(around):
        k = (j + 1) % around
        faces.append((0, 1 + j, 1 + k))
        for i in range(rings - 2):
            a, b = 1 + i * around, 1 + (i + 1) * around
            faces += [(a + j, b + j, b + k), (a + j, b + k, a + k)]
        faces.append((len(points) - 1, 1 + (rings - 2) * around + k, 1 + (rings - 2) * around + j))
    return 0.1 * torch.tensor(points, dtype=dtype), torch.tensor(faces)


def expression(verts, seed, size=0.02):
    """A smooth random deformation of a few centimetres."""
    g = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, 3, generator=g, dtype=verts.dtype) * 25
    phase = torch.randn(3, generator=g, dtype=verts.dtype)
    return verts + size * torch.sin(verts @ waves + phase)


def gaussians(faces, count, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    bary = torch.rand(count, 3, generator=g, dtype=dtype)
    return [
        torch.randint(len(faces), (count,), generator=g).int(),
        bary / bary.sum(1, keepdim=True),
        0.01 * torch.rand(count, generator=g, dtype=dtype),
        0.005 * torch.randn(count, 3, generator=g, dtype=dtype),
        torch.randn(count, 4, generator=g, dtype=dtype),
        torch.randn(count, 3, generator=g, dtype=dtype) * 0.3 - 6,
    ]


def carry(verts, topology, own):
    return bind(verts, *vertex_frames(verts, topology), topology, *own)


def test_nothing_turns_at_rest():
    verts, faces = sphere()
    rotations, stretch = vertex_frames(verts[None], build_topology(verts, faces))
    torch.testing.assert_close(rotations[0], torch.eye(3, dtype=torch.float64).expand_as(rotations[0]))
    torch.testing.assert_close(stretch, torch.ones_like(stretch))


def test_rigid_motion_moves_gaussians_rigidly():
    verts, faces = sphere()
    topology, own = build_topology(verts, faces), gaussians(faces, 60)
    turn = axis_angle_to_matrix(torch.tensor([0.7, -2.1, 1.3], dtype=torch.float64))
    shift = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    rest = carry(verts[None], topology, own)
    moved = carry((verts @ turn.T + shift)[None], topology, own)
    torch.testing.assert_close(moved[0], rest[0] @ turn.T + shift)
    torch.testing.assert_close(quat_to_matrix(moved[1]), turn @ quat_to_matrix(rest[1]))
    torch.testing.assert_close(moved[2], rest[2])


def test_growth_scales_gaussians_within_limits():
    verts, faces = sphere()
    topology, own = build_topology(verts, faces), gaussians(faces, 20)
    rest = carry(verts[None], topology, own)[2]
    torch.testing.assert_close(carry(1.5 * verts[None], topology, own)[2], 1.5 * rest)
    torch.testing.assert_close(carry(9 * verts[None], topology, own)[2], 2 * rest)
    torch.testing.assert_close(carry(0.01 * verts[None], topology, own)[2], 0.5 * rest)


@pytest.mark.parametrize("seed", range(5))
def test_both_faces_of_an_edge_agree(seed):
    """The same point on an edge, five millimetres up, bound to either face, lands on the same place."""
    verts, faces = sphere()
    topology = build_topology(verts, faces)
    left, right, share = [], [], torch.tensor([0.3, 0.7], dtype=torch.float64)
    for face, row in enumerate(topology.neighbours.tolist()):
        for corner, other in enumerate(row):
            if other > face:
                a, b = faces[face, (corner + 1) % 3], faces[face, (corner + 2) % 3]
                for side, target in ((face, left), (other, right)):
                    bary = torch.zeros(3, dtype=torch.float64)
                    bary[faces[side] == a], bary[faces[side] == b] = share[0], share[1]
                    target.append((side, bary))
    posed = expression(verts, seed)[None]
    results = []
    for side in (left, right):
        count = len(side)
        own = [
            torch.tensor([face for face, _ in side], dtype=torch.int32), torch.stack([bary for _, bary in side]),
            torch.full((count,), 0.005, dtype=torch.float64), torch.full((count, 3), 0.001, dtype=torch.float64),
            torch.tensor([0.5, 0.1, -0.3, 0.8], dtype=torch.float64).repeat(count, 1), torch.full((count, 3), -6.0, dtype=torch.float64),
        ]  # fmt: skip
        results.append(carry(posed, topology, own))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 1e-6


def test_agrees_with_the_definition():
    verts, faces = sphere(16, 24)
    topology = build_topology(verts, faces)
    posed = torch.stack([expression(verts, 1), expression(verts, 2)])
    own = gaussians(faces, 500)
    for got, want in zip(vertex_frames(posed, topology), reference.vertex_frames(posed, topology), strict=True):
        torch.testing.assert_close(got, want)
    frames = reference.vertex_frames(posed, topology)
    got, want = bind(posed, *frames, topology, *own), reference.bind(posed, *frames, topology, *own)
    torch.testing.assert_close(got[0], want[0])
    torch.testing.assert_close(quat_to_matrix(got[1]), quat_to_matrix(want[1]))
    torch.testing.assert_close(got[2], want[2])
    single = topology.to(torch.float32)
    means = carry(posed.float(), single, [own[0], *(t.float() for t in own[1:])])[0]
    torch.testing.assert_close(means.double(), got[0], rtol=1e-5, atol=1e-6)


def test_frame_gradients():
    verts, faces = sphere(4, 5)
    topology = build_topology(verts, faces)
    posed = torch.stack([expression(verts, 3, 0.01), expression(verts, 4, 0.01)]).requires_grad_()
    assert gradcheck(lambda x: vertex_frames(x, topology), (posed,), eps=1e-7, atol=1e-5)


def test_bind_gradients():
    verts, faces = sphere(4, 5)
    topology = build_topology(verts, faces)
    posed = torch.stack([expression(verts, 3, 0.01), expression(verts, 4, 0.01)])
    frames = vertex_frames(posed, topology)
    own = gaussians(faces, 7)
    inputs = [t.detach().requires_grad_() for t in (posed, *frames, *own[1:])]
    assert gradcheck(lambda x, r, s, *rest: bind(x, r, s, topology, own[0], *rest), inputs, eps=1e-7, atol=1e-5)


def test_gradient_through_both_reaches_the_vertices():
    verts, faces = sphere(4, 5)
    topology, own = build_topology(verts, faces), gaussians(faces, 6)
    posed = expression(verts, 5, 0.01)[None].requires_grad_()
    assert gradcheck(lambda x: carry(x, topology, own), (posed,), eps=1e-7, atol=1e-5)


def test_bit_identical_for_any_number_of_threads():
    verts, faces = sphere(20, 30, torch.float32)
    topology, own = build_topology(verts, faces), gaussians(faces, 3000, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaves = [t.clone().requires_grad_() for t in (torch.stack([verts, expression(verts, 1)]), *own[1:])]
            out = carry(leaves[0], topology, [own[0], *leaves[1:]])
            sum((t * t.detach()).sum() for t in out).backward()
            results.append([*out, *(t.grad for t in leaves)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("broken", ["collapsed", "line", "one face", "empty"])
def test_degenerate_meshes_give_finite_answers(broken):
    verts, faces = sphere()
    topology, own = build_topology(verts, faces), gaussians(faces, 80 if broken != "empty" else 0)
    posed = verts.clone()
    if broken == "collapsed":
        posed = posed * 0
    elif broken == "line":
        posed = posed * torch.tensor([1.0, 0, 0])
    elif broken == "one face":
        posed[faces[3, 1]] = posed[faces[3, 0]]
    posed = posed[None].requires_grad_()
    out = carry(posed, topology, own)
    sum(t.sum() for t in out).backward()
    assert all(t.isfinite().all() for t in (*out, posed.grad))


def test_values_that_are_not_finite_do_not_crash():
    verts, faces = sphere()
    topology, own = build_topology(verts, faces), gaussians(faces, 50)
    posed = verts[None].clone()
    posed[0, 5] = math.nan
    means = carry(posed, topology, own)[0]
    assert means.isnan().any() and means.isfinite().any()


def test_bad_arguments_are_named():
    verts, faces = sphere()
    topology, own = build_topology(verts, faces), gaussians(faces, 5)
    frames = vertex_frames(verts[None], topology)
    own[0][2] = len(faces)
    with pytest.raises(RuntimeError, match=r"face_ids must be below F = \d+, Gaussian 2"):
        bind(verts[None], *frames, topology, *own)
    with pytest.raises(ValueError, match=r"verts must be \[B, V, 3\]"):
        vertex_frames(verts, topology)
    with pytest.raises(ValueError, match="vertices below V = 4"):
        build_topology(verts[:4], faces)


def test_neighbours_share_the_edge():
    _, faces = sphere()
    neighbours = find_neighbours(faces)
    assert (neighbours >= 0).all()
    for face, row in enumerate(neighbours.tolist()):
        for corner, other in enumerate(row):
            edge = {int(faces[face, (corner + 1) % 3]), int(faces[face, (corner + 2) % 3])}
            assert edge <= set(faces[other].tolist()) and other != face
    assert (find_neighbours(torch.tensor([[0, 1, 2]])) == -1).all()


def test_opcheck():
    verts, faces = sphere(4, 5)
    topology, own = build_topology(verts, faces), gaussians(faces, 4)
    posed = verts[None].clone().requires_grad_()
    mesh = (topology.faces, topology.starts, topology.corners)
    torch.library.opcheck(ops.vertex_frames.default, (posed, *mesh, topology.tangents, topology.frames, topology.areas))
    frames = [t.detach().requires_grad_() for t in vertex_frames(posed, topology)]
    torch.library.opcheck(ops.bind.default, (posed, *frames, *mesh, topology.normals, *own))
