"""Gaussians that sit on a parametric head: where, how high, how large."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from avatar.checks import check_shapes
from avatar.geometry.frames import Topology
from avatar.geometry.rotations import matrix_to_quat, quat_multiply
from avatar.ops.bind import bind, vertex_frames
from avatar.types import MeshState, Record


@dataclass(frozen=True, repr=False)
class Bound(Record):
    """Bound Gaussians in the world, for a batch of moments."""

    means: Tensor
    """Centres, metres. [B, N, 3]"""
    quats: Tensor
    """Rotations (w, x, y, z). [B, N, 4]"""
    scales: Tensor
    """Standard deviations, metres. [B, N, 3]"""


@dataclass(frozen=True, repr=False)
class Binding(Record):
    """Places on a mesh. Tensors may require gradients; the record itself never changes."""

    face_ids: Tensor
    """Face that carries each Gaussian. [N] int32"""
    bary: Tensor
    """Place on that face; rows sum to one. [N, 3]"""
    height: Tensor
    """Distance along the rest normal, metres at rest (in face mode unused). [N]"""
    offset: Tensor
    """Further displacement: smooth mode in the rest mesh's axes, metres; face mode in the face's axes and sizes. [N, 3]"""
    quats: Tensor
    """Own rotation (w, x, y, z), in the same axes. [N, 4]"""
    log_scales: Tensor
    """Logarithm of the standard deviations: of metres at rest, or of face sizes in face mode. [N, 3]"""
    mode: Literal["smooth", "face"] = "smooth"
    """Blended vertex frames, or one rigid frame per face as GaussianAvatars has it (for import and export; it tears)."""

    def __post_init__(self) -> None:
        check_shapes(
            "Binding",
            face_ids=(self.face_ids, "N"),
            bary=(self.bary, "N 3"),
            height=(self.height, "N"),
            offset=(self.offset, "N 3"),
            quats=(self.quats, "N 4"),
            log_scales=(self.log_scales, "N 3"),
        )
        if self.mode not in ("smooth", "face"):
            raise ValueError(f'Binding: mode must be "smooth" or "face", got {self.mode!r}')

    def __call__(self, mesh: MeshState, topology: Topology) -> Bound:
        """The Gaussians on a posed mesh whose rest shape `topology` describes. mesh.verts [B, V, 3]."""
        if self.mode == "face":
            return self._on_faces(mesh.verts, topology)
        rotations, stretch = vertex_frames(mesh.verts, topology)
        own = (self.face_ids, self.bary, self.height, self.offset, self.quats, self.log_scales)
        return Bound(*bind(mesh.verts, rotations, stretch, topology, *own))

    def _on_faces(self, verts: Tensor, topology: Topology) -> Bound:
        frames, sizes, centres = face_frames(verts, topology.faces)
        face = self.face_ids.long()
        frame, size = frames[:, face], sizes[:, face, None]
        means = centres[:, face] + size * (frame @ self.offset[..., None])[..., 0]
        quats = quat_multiply(matrix_to_quat(frame), self.quats)
        return Bound(means, quats, self.log_scales.exp() * size)


def bind_to_surface(
    face_ids: Tensor, bary: Tensor, verts: Tensor, topology: Topology, *, thickness: float = 0.25
) -> Binding:
    """Flat round Gaussians lying on a rest mesh, sized so that neighbours just overlap.

    face_ids [N], bary [N, 3] from `avatar.model.seeding.seed`; verts [V, 3] m is the rest mesh; thickness: third axis in
    shares of the others.
    """
    corners = topology.faces[face_ids.long()].long()
    normal = torch.nn.functional.normalize((bary[..., None] * topology.normals[corners]).sum(1), dim=-1)
    a, b = verts[corners[:, 1]] - verts[corners[:, 0]], verts[corners[:, 2]] - verts[corners[:, 0]]
    area = 0.5 * torch.linalg.cross(a, b).norm(dim=-1)
    on_face = torch.bincount(face_ids.long(), minlength=len(topology.faces))[face_ids.long()]
    radius = (area / on_face).sqrt().clamp_min(1e-6) * 0.78
    along = torch.linalg.cross(
        normal, torch.where(normal[:, 1:2].abs() < 0.9, normal.new_tensor([0.0, 1, 0]), normal.new_tensor([1.0, 0, 0]))
    )
    along = torch.nn.functional.normalize(along, dim=-1)
    frame = torch.stack([along, torch.linalg.cross(normal, along), normal], -1)
    scales = torch.stack([radius, radius, radius * thickness], -1)
    count = len(face_ids)
    return Binding(
        face_ids, bary, verts.new_zeros(count), verts.new_zeros(count, 3), matrix_to_quat(frame), scales.log()
    )


def face_frames(verts: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """GaussianAvatars' frame of every face (Qian et al. 2024, as their data assumes it).

    verts [B, V, 3], faces [F, 3]. Returns columns edge, normal, and their negative cross product [B, F, 3, 3]; the mean
    of base and height as size [B, F]; centroids [B, F, 3].
    """
    corners = verts[:, faces.long()]
    base, side = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    a0 = torch.nn.functional.normalize(base, dim=-1)
    a1 = torch.nn.functional.normalize(torch.linalg.cross(a0, side), dim=-1)
    a2 = -torch.linalg.cross(a1, a0)
    size = 0.5 * (base.norm(dim=-1) + (a2 * side).sum(-1).abs())
    return torch.stack([a0, a1, a2], -1), size, corners.mean(2)


def walk(binding: Binding, verts: Tensor, topology: Topology, steps: int = 16) -> Binding:
    """Move Gaussians whose barycentrics have left their face onto the face they walked to.

    The point keeps its straight path: across each edge the neighbour is unfolded into the plane of the face that was
    left. At a boundary, or after `steps` faces, it stays on the nearest point of its last face. verts [V, 3] is the rest
    mesh. The new barycentrics are never negative and sum to one; a value that is not finite is put at the centre.
    """
    face = binding.face_ids.long().clone()
    bary = binding.bary.detach().clone()
    bad = ~bary.isfinite().all(-1)
    bary[bad] = 1 / 3
    bary = bary / bary.sum(-1, keepdim=True)
    faces, neighbours = topology.faces.long(), topology.neighbours.long()
    for _ in range(steps):
        out = torch.nonzero(bary.min(-1).values < 0)[:, 0]
        if len(out) == 0:
            break
        crossed = bary[out].argmin(-1)  # the edge opposite to the most negative corner
        beyond = neighbours[face[out], crossed]
        out, crossed, beyond = out[beyond >= 0], crossed[beyond >= 0], beyond[beyond >= 0]
        if len(out) == 0:
            break
        bary[out] = unfold(verts, faces[face[out]], bary[out], crossed, faces[beyond])
        face[out] = beyond
    bary = bary.clamp_min(0)
    bary = bary / bary.sum(-1, keepdim=True)
    return replace(binding, face_ids=face.to(binding.face_ids.dtype), bary=bary)


def unfold(verts: Tensor, here: Tensor, bary: Tensor, crossed: Tensor, there: Tensor) -> Tensor:
    """Barycentrics on the neighbour of a point in the plane of the face it left, as if the edge between were flat.

    here, there [M, 3] vertex ids, bary [M, 3], crossed [M] corner opposite to the shared edge. Returns [M, 3].
    """
    rows = torch.arange(len(here))
    a, b, apex = (here[rows, (crossed + k) % 3] for k in (1, 2, 0))
    edge = verts[b] - verts[a]
    length = edge.norm(dim=-1).clamp_min(1e-20)
    axis = edge / length[:, None]

    def flat(point: Tensor) -> tuple[Tensor, Tensor]:
        along = ((point - verts[a]) * axis).sum(-1)
        return along, (point - verts[a] - along[:, None] * axis).norm(dim=-1)

    apex_along, apex_high = flat(verts[apex])
    x = bary[rows, (crossed + 2) % 3] * length + bary[rows, crossed] * apex_along
    y = bary[rows, crossed] * apex_high  # negative: beyond the edge
    shared = (there == a[:, None]) | (there == b[:, None])
    far = torch.where(shared, torch.full_like(there, -1), there).amax(1)
    far_along, far_high = flat(verts[far])
    third = -y / far_high.clamp_min(1e-20)
    second = (x - third * far_along) / length
    values = {"a": 1 - second - third, "b": second, "far": third}
    new = torch.zeros_like(bary)
    for vertex, value in ((a, values["a"]), (b, values["b"]), (far, values["far"])):
        new = torch.where(there == vertex[:, None], value[:, None], new)
    return torch.where(new.isfinite().all(-1, keepdim=True), new, torch.full_like(new, 1 / 3))
