"""Neighbourhoods and rest frames of a mesh."""

from __future__ import annotations

import pytest
import torch

from avatar.geometry.frames import build_topology, face_edges, find_neighbours, frames_from, sum_corners
from avatar.head import load


@pytest.fixture(scope="module")
def head():
    return load("open_head")


def test_frames_are_orthonormal_and_right_handed(head):
    topology = build_topology(head.template, head.faces)
    used = torch.unique(head.faces)
    gram = topology.frames[used].transpose(1, 2) @ topology.frames[used]
    torch.testing.assert_close(gram, torch.eye(3).expand_as(gram), atol=1e-4, rtol=0)
    assert (torch.linalg.det(topology.frames[used]) > 0.99).all()


def test_normals_of_the_head_point_outwards(head):
    topology = build_topology(head.template, head.faces)
    scalp = head.regions["scalp"]
    outward = head.template[scalp] - head.template[scalp].mean(0)
    outward = outward / outward.norm(dim=1, keepdim=True)
    assert ((topology.normals[scalp] * outward).sum(1) > 0).float().mean() > 0.97


def test_every_corner_is_listed_once_at_its_vertex(head):
    topology = build_topology(head.template, head.faces)
    assert torch.equal(topology.corners.sort().values, torch.arange(head.faces.numel(), dtype=torch.int32))
    flat = head.faces.reshape(-1)
    for vertex in (0, 17, 1234, len(head.template) - 1):
        corners = topology.corners[topology.starts[vertex] : topology.starts[vertex + 1]].long()
        assert (flat[corners] == vertex).all() and len(corners) == int((flat == vertex).sum())


def test_neighbourhood_is_mutual(head):
    neighbours = find_neighbours(head.faces)
    faces = torch.arange(len(neighbours))
    for corner in range(3):
        inside = neighbours[:, corner] >= 0
        back = neighbours[neighbours[inside, corner].long()].long()
        assert (back == faces[inside, None]).any(1).all()


def test_areas_add_up_to_three_times_the_surface(head):
    topology = build_topology(head.template, head.faces)
    e1, e2 = face_edges(head.template, head.faces)
    surface = 0.5 * torch.linalg.cross(e1, e2).norm(dim=-1).sum()
    torch.testing.assert_close(topology.areas.sum(), 3 * surface, rtol=1e-4, atol=0)


def test_an_edge_of_three_faces_is_nobodys_neighbour():
    fins = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert (find_neighbours(fins) == -1).all()


def test_sums_over_corners_go_where_they_belong():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    values = torch.arange(6.0).reshape(2, 3, 1)
    assert sum_corners(values, faces, 4)[:, 0].tolist() == [0.0, 1.0 + 4.0, 2.0 + 3.0, 5.0]
    batch = sum_corners(torch.stack([values, 2 * values]), faces, 4)
    assert batch.shape == (2, 4, 1) and torch.equal(batch[1], 2 * batch[0])


def test_the_first_column_keeps_the_normal():
    normals = torch.tensor([[0.0, 0, 2], [0, 3, 0]])
    frames = frames_from(normals, torch.tensor([[1.0, 0, 5], [1, 1, 0]]))
    torch.testing.assert_close(frames[:, :, 0], torch.tensor([[0.0, 0, 1], [0, 1, 0]]))
    torch.testing.assert_close(frames[:, :, 1], torch.tensor([[1.0, 0, 0], [1, 0, 0]]))
