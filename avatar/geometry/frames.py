"""Neighbourhood and rest frames of a mesh: what binding needs to know once per head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.checks import check_shapes
from avatar.types import Record


@dataclass(frozen=True, repr=False)
class Topology(Record):
    """A mesh at rest, prepared for frames per vertex and for walking over its edges."""

    faces: Tensor
    """Triangles. [F, 3] int32"""
    starts: Tensor
    """First entry of every vertex in `corners`. [V + 1] int32"""
    corners: Tensor
    """Corners (3 face + k) around each vertex, in order. [3 F] int32"""
    neighbours: Tensor
    """Face across the edge opposite to each corner, -1 at a boundary. [F, 3] int32"""
    tangents: Tensor
    """Rest tangent of each corner's vertex in the triangle's edges, weighted by its area. [F, 3, 2]"""
    frames: Tensor
    """Rest frame of every vertex, columns normal, tangent, bitangent. [V, 3, 3]"""
    areas: Tensor
    """Sum of the areas around every vertex at rest, m^2. [V]"""

    @property
    def normals(self) -> Tensor:
        """Rest normal of every vertex. [V, 3]"""
        return self.frames[:, :, 0].contiguous()


def face_edges(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Edges from the first to the second and third corner. verts [..., V, 3] -> two [..., F, 3]"""
    corners = verts[..., faces.long(), :]
    return corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]


def frames_from(normals: Tensor, tangents: Tensor) -> Tensor:
    """Orthonormal columns (normal, tangent, bitangent): the normal keeps its direction. [..., 3] x 2 -> [..., 3, 3]"""
    n = normals / normals.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    t = tangents - n * (n * tangents).sum(-1, keepdim=True)
    t = t / t.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    return torch.stack([n, t, torch.linalg.cross(n, t)], -1)


def sum_corners(values: Tensor, faces: Tensor, count: int) -> Tensor:
    """Sum over the corners of each vertex. values [..., F, 3, D] -> [..., V, D]"""
    flat = values.flatten(-3, -2)
    out = flat.new_zeros(*flat.shape[:-2], count, flat.shape[-1])
    return out.index_add(-2, faces.reshape(-1).long(), flat)


def build_topology(verts: Tensor, faces: Tensor) -> Topology:
    """Prepare a rest mesh. verts [V, 3] m, faces [F, 3]. Tangents point along +Y where that lies in the surface, else +Z.

    Raises ValueError for faces that name a vertex that does not exist.
    """
    check_shapes("build_topology", verts=(verts, "V 3"), faces=(faces, "F 3"))
    count = len(verts)
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= count):
        raise ValueError(f"build_topology: faces must name vertices below V = {count}, got {int(faces.max())}")
    faces = faces.long()
    e1, e2 = face_edges(verts, faces)
    cross = torch.linalg.cross(e1, e2)
    normals = sum_corners(cross[:, None].expand(-1, 3, -1), faces, count)
    areas = sum_corners(0.5 * cross.norm(dim=-1)[:, None, None].expand(-1, 3, 1), faces, count)[:, 0]
    unit = normals / normals.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    up = verts.new_tensor([0.0, 1.0, 0.0]).expand_as(unit)
    ahead = verts.new_tensor([0.0, 0.0, 1.0]).expand_as(unit)
    wish = torch.where((unit[:, 1:2].abs() < 0.8), up, ahead)
    frames = frames_from(normals, wish)

    wanted = frames[:, :, 1][faces]  # tangent of each corner's vertex, to be written as a e1 + b e2
    g11, g12, g22 = (e1 * e1).sum(-1), (e1 * e2).sum(-1), (e2 * e2).sum(-1)
    det = (g11 * g22 - g12 * g12).clamp_min(1e-30)[:, None]
    p1, p2 = (wanted * e1[:, None]).sum(-1), (wanted * e2[:, None]).sum(-1)
    a = (g22[:, None] * p1 - g12[:, None] * p2) / det
    b = (g11[:, None] * p2 - g12[:, None] * p1) / det
    weight = cross.norm(dim=-1)[:, None]
    tangents = torch.stack([a * weight, b * weight], -1)
    # one triangle's share only approximates the wish: the rest frame is the one that the rest mesh itself gives
    gathered = sum_corners(tangents[..., :1] * e1[:, None] + tangents[..., 1:] * e2[:, None], faces, count)
    frames = frames_from(normals, gathered)

    order = torch.argsort(faces.reshape(-1), stable=True)
    starts = torch.zeros(count + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(faces.reshape(-1), minlength=count).cumsum(0)
    return Topology(
        faces.int().contiguous(),
        starts.int(),
        order.int(),
        find_neighbours(faces),
        tangents.contiguous(),
        frames.contiguous(),
        areas.contiguous(),
    )


def find_neighbours(faces: Tensor) -> Tensor:
    """Face across the edge opposite to each corner; -1 at a boundary or where more than two faces meet. [F, 3] int32"""
    count = len(faces)
    pairs = torch.stack([faces[:, [1, 2]], faces[:, [2, 0]], faces[:, [0, 1]]], 1).reshape(-1, 2)
    keys = pairs.min(1).values * (int(faces.max()) + 1 if count else 1) + pairs.max(1).values
    ordered, place = torch.sort(keys, stable=True)
    _, sizes = torch.unique_consecutive(ordered, return_counts=True)
    firsts = sizes.cumsum(0) - sizes
    twin = torch.full((3 * count,), -1, dtype=torch.int64)
    shared = firsts[sizes == 2]
    twin[place[shared]] = place[shared + 1] // 3
    twin[place[shared + 1]] = place[shared] // 3
    return twin.reshape(count, 3).int()
