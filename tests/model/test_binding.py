"""Binding as the avatar uses it: modes, seeding on a surface, walking over edges."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avatar.geometry.frames import build_topology
from avatar.geometry.rotations import quat_to_matrix
from avatar.model.binding import Binding, bind_to_surface, face_frames, walk
from avatar.model.seeding import apportion, seed
from avatar.types import MeshState

_spec = importlib.util.spec_from_file_location("bind_meshes", Path(__file__).parents[1] / "ops" / "test_bind.py")
_meshes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_meshes)
sphere, expression = _meshes.sphere, _meshes.expression


def place(binding, verts, faces):
    """Surface points of a binding. [N, 3]"""
    return (binding.bary[..., None] * verts[faces[binding.face_ids.long()]]).sum(1)


def binding_on(face_ids, bary, **changes):
    count = len(face_ids)
    zero = torch.zeros(count, dtype=torch.float64)
    base = Binding(face_ids, bary, zero, torch.zeros(count, 3, dtype=torch.float64),
                   torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).repeat(count, 1),
                   torch.full((count, 3), -6.0, dtype=torch.float64))  # fmt: skip
    return replace(base, **changes)


def test_the_frame_per_face_tears_where_the_smooth_one_does_not():
    verts, faces = sphere()
    topology = build_topology(verts, faces)
    posed = MeshState(expression(verts, 7)[None])
    at = [(f, c, o) for f, row in enumerate(topology.neighbours.tolist()) for c, o in enumerate(row) if o > f]
    here, there = torch.tensor([f for f, _, _ in at]).int(), torch.tensor([o for _, _, o in at]).int()
    points = torch.stack([verts[faces[f, [(c + 1) % 3, (c + 2) % 3]]].mean(0) for f, c, _ in at])
    gaps = {}
    frames, sizes, centres = face_frames(verts[None], faces)
    for mode in ("smooth", "face"):
        means = []
        for side in (here, there):
            face = side.long()
            on_edge = torch.stack(
                [((faces[s][:, None] == faces[[o, f][k]][None]).any(1)).double() * 0.5
                 for k, _ in [(0 if side is here else 1, 0)] for s, (f, _, o) in zip(face, at, strict=True)]
            )  # fmt: skip
            normal = (on_edge[..., None] * topology.normals[faces[face]]).sum(1)
            lifted = points + 0.005 * torch.nn.functional.normalize(normal, dim=-1)
            local = (frames[0, face].transpose(1, 2) @ (lifted - centres[0, face])[..., None])[..., 0] / sizes[
                0, face, None
            ]
            binding = binding_on(
                side, on_edge, height=torch.full((len(side),), 0.005 if mode == "smooth" else 0.0, dtype=torch.float64),
                offset=torch.zeros_like(local) if mode == "smooth" else local, mode=mode,
            )  # fmt: skip
            means.append(binding(posed, topology).means[0])
        gaps[mode] = (means[0] - means[1]).norm(dim=-1)
    assert gaps["smooth"].max() < 1e-6
    assert gaps["face"].mean() > 1e-4  # a tenth of a millimetre, visible as a crack


def test_the_face_frame_is_the_published_one():
    verts, faces = sphere()
    frames, sizes, centres = face_frames(verts[None], faces)
    v = verts[faces[17]]
    base, side = v[1] - v[0], v[2] - v[0]
    a0 = base / base.norm()
    normal = torch.linalg.cross(base, side)
    torch.testing.assert_close(frames[0, 17, :, 0], a0)
    torch.testing.assert_close(frames[0, 17, :, 1], normal / normal.norm())
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones_like(sizes))
    height = normal.norm() / base.norm()
    torch.testing.assert_close(sizes[0, 17], (base.norm() + height) / 2)
    torch.testing.assert_close(centres[0, 17], v.mean(0))


def test_face_mode_moves_rigidly_with_its_face():
    verts, faces = sphere()
    topology = build_topology(verts, faces)
    binding = binding_on(torch.tensor([3, 9]).int(), torch.full((2, 3), 1 / 3, dtype=torch.float64),
                         offset=torch.tensor([[0.1, 0.2, 0.3], [0.0, 1.0, 0.0]], dtype=torch.float64), mode="face")  # fmt: skip
    turn = quat_to_matrix(torch.tensor([0.3, 0.5, -0.7, 0.2], dtype=torch.float64))
    rest, moved = binding(MeshState(verts[None]), topology), binding(MeshState((verts @ turn.T)[None]), topology)
    torch.testing.assert_close(moved.means, rest.means @ turn.T)
    torch.testing.assert_close(moved.scales, rest.scales)


def test_gaussians_on_a_surface_lie_flat_on_it():
    verts, faces = sphere(16, 24)
    topology = build_topology(verts, faces)
    binding = bind_to_surface(*seed(verts, faces, 2000), verts, topology)
    bound = binding(MeshState(verts[None]), topology)
    torch.testing.assert_close(bound.means[0], place(binding, verts, faces))
    thin = quat_to_matrix(bound.quats[0])[:, :, 2]
    outward = torch.nn.functional.normalize(bound.means[0], dim=-1)
    assert (thin * outward).sum(-1).min() > 0.98
    assert (bound.scales[0, :, 2] < bound.scales[0, :, 0]).all()


class TestWalk:
    def test_a_step_over_an_edge_lands_on_the_neighbour_at_the_same_place(self):
        verts, faces = sphere(30, 40)
        flat = verts.clone()
        topology = build_topology(flat, faces)
        count = len(faces)
        bary = torch.tensor([0.7, 0.45, -0.15], dtype=torch.float64).repeat(count, 1)
        before = binding_on(torch.arange(count).int(), bary)
        after = walk(before, verts, topology)
        assert (after.bary >= 0).all() and torch.allclose(after.bary.sum(1), torch.ones(count, dtype=torch.float64))
        assert torch.equal(after.face_ids, topology.neighbours[:, 2])
        gap = (place(before, verts, faces) - place(after, verts, faces)).norm(dim=-1)
        edge = (verts[faces[:, 1]] - verts[faces[:, 0]]).norm(dim=-1)
        assert (gap / edge).max() < 0.1  # the surface bends, the path does not

    def test_on_a_flat_mesh_the_place_is_exact_over_many_faces(self):
        xs = torch.arange(6, dtype=torch.float64)
        verts = torch.stack([xs.repeat(6), xs.repeat_interleave(6), torch.zeros(36)], -1)
        quad = torch.tensor(
            [[r * 6 + c, r * 6 + c + 1, r * 6 + c + 7, r * 6 + c + 6] for r in range(5) for c in range(5)]
        )
        faces = torch.cat([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])
        topology = build_topology(verts, faces)
        g = torch.Generator().manual_seed(0)
        start = torch.randint(len(faces), (200,), generator=g)
        bary = torch.rand(200, 3, generator=g, dtype=torch.float64) * 3 - 1
        bary[:, 2] = 1 - bary[:, 0] - bary[:, 1]
        before = binding_on(start.int(), bary)
        target = place(before, verts, faces)
        inside = ((target[:, :2] > 0) & (target[:, :2] < 5)).all(1)
        after = walk(before, verts, topology, steps=64)
        reached = (place(after, verts, faces) - target).norm(dim=-1) < 1e-9
        assert inside.sum() > 50 and reached[inside].double().mean() > 0.9  # a straight walk may leave over a corner
        assert (after.bary >= 0).all()

    def test_at_a_boundary_it_stops_on_the_edge(self):
        verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
        topology = build_topology(verts, torch.tensor([[0, 1, 2]]))
        after = walk(binding_on(torch.tensor([0]).int(), torch.tensor([[1.5, -0.2, -0.3]]).double()), verts, topology)
        assert after.face_ids.tolist() == [0] and after.bary.tolist() == [[1.0, 0.0, 0.0]]

    def test_what_is_inside_stays(self):
        verts, faces = sphere()
        topology = build_topology(verts, faces)
        before = binding_on(*seed(verts, faces, 300))
        after = walk(before, verts, topology)
        assert torch.equal(after.face_ids, before.face_ids)
        torch.testing.assert_close(after.bary, before.bary)

    def test_values_that_are_not_finite_end_at_the_centre(self):
        verts, faces = sphere()
        topology = build_topology(verts, faces)
        bary = torch.tensor([[math.nan, 0, 1], [math.inf, 0, 0]], dtype=torch.float64)
        after = walk(binding_on(torch.tensor([4, 5]).int(), bary), verts, topology)
        torch.testing.assert_close(after.bary, torch.full((2, 3), 1 / 3, dtype=torch.float64))


class TestSeeding:
    def test_every_face_gets_one_and_large_faces_more(self):
        verts, faces = sphere()
        verts[:, 0] *= 3
        face_ids, bary = seed(verts, faces, 5000)
        count = torch.bincount(face_ids.long(), minlength=len(faces))
        area = torch.linalg.cross(
            verts[faces[:, 1]] - verts[faces[:, 0]], verts[faces[:, 2]] - verts[faces[:, 0]]
        ).norm(dim=-1)
        assert len(face_ids) == 5000 and count.min() >= 1
        assert (count - area / area.sum() * 5000).abs().max() <= 1.01
        assert (bary >= 0).all() and torch.allclose(bary.sum(1), torch.ones(5000, dtype=torch.float64))

    def test_weights_raise_the_density(self):
        verts, faces = sphere()
        weights = torch.ones(len(faces))
        weights[:40] = 4
        few, many = (torch.bincount(seed(verts, faces, 4000, w)[0].long())[:40].sum() for w in (None, weights))
        assert 2.2 < many / few < 4

    def test_fewer_points_than_faces_are_spread(self):
        verts, faces = sphere()
        face_ids, _ = seed(verts, faces, 20)
        assert len(face_ids) == 20 and len(face_ids.unique()) > 15

    def test_same_generator_same_points_and_they_fill_the_triangle(self):
        verts, faces = torch.eye(3, dtype=torch.float64), torch.tensor([[0, 1, 2]])
        first = seed(verts, faces, 1000, generator=torch.Generator().manual_seed(3))
        again = seed(verts, faces, 1000, generator=torch.Generator().manual_seed(3))
        assert torch.equal(first[1], again[1])
        assert (first[1].mean(0) - 1 / 3).abs().max() < 0.01 and first[1].min() < 0.02

    def test_apportioned_numbers_add_up(self):
        for count in (1, 7, 50, 1000):
            share = torch.rand(23, generator=torch.Generator().manual_seed(count)).double() ** 4
            parts = apportion(share, count)
            assert int(parts.sum()) == count and (parts >= (1 if count >= 23 else 0)).all()

    def test_bad_arguments_are_named(self):
        verts, faces = sphere()
        with pytest.raises(ValueError, match="not all zero"):
            seed(verts, faces, 10, torch.zeros(len(faces)))
        with pytest.raises(ValueError, match="with faces and count"):
            seed(verts, faces[:0], 10)
        with pytest.raises(ValueError, match='mode must be "smooth" or "face"'):
            binding_on(torch.tensor([0]).int(), torch.ones(1, 3).double() / 3, mode="other")
