"""The one description every parametric head is loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avatar.checks import check_shapes
from avatar.types import Record


@dataclass(frozen=True, repr=False)
class Landmarks(Record):
    """Points fixed on the surface of a head, in the order of a known set."""

    face_ids: Tensor
    """Face that carries each point. [L] int64"""
    bary: Tensor
    """Barycentric position on that face; rows sum to one. [L, 3]"""
    ids: Tensor
    """Number of each point in its set, for sets that are only partly on the mesh. [L] int64"""

    def __post_init__(self) -> None:
        check_shapes("Landmarks", face_ids=(self.face_ids, "L"), bary=(self.bary, "L 3"), ids=(self.ids, "L"))


@dataclass(frozen=True, repr=False)
class HeadModel(Record):
    """A parametric head: template, bases, joints, names. Immutable; see `avatar.head.fold` for posing it.

    Axes: +Y up, +Z forward, +X the subject's left; metres.
    """

    model_id: str
    """Name and version, for example "open_head-1"; coefficients of another model never fit."""
    sha256: str
    """Hash of the source file(s)."""
    licence: str
    """Licence of the model data, one line."""
    template: Tensor
    """Mean head at rest, metres. [V, 3]"""
    faces: Tensor
    """Triangles, counter-clockwise from outside. [F, 3] int64"""
    uvs: Tensor
    """Texture coordinates, 0..1, origin at the bottom left. [U, 2]"""
    faces_uv: Tensor
    """Triangles into `uvs`. [F, 3] int64"""
    identity_basis: Tensor
    """Shape directions for unit-variance coefficients, metres. [V, 3, S]"""
    expression_basis: Tensor
    """Expression directions, metres. [V, 3, E]"""
    expression_names: tuple[str, ...]
    """Name of every expression. E entries"""
    joint_names: tuple[str, ...]
    """A subset of root, chest, neck, jaw, eye_left, eye_right; parents before children. J entries"""
    parents: tuple[int, ...]
    """Parent of every joint, -1 for the root. J entries"""
    joint_regressor: Tensor
    """Joint positions from the shaped mesh; rows sum to one. [J, V]"""
    skin_weights: Tensor
    """Linear blend skinning weights; rows sum to one. [V, J]"""
    eyelid_basis: Tensor
    """Closing of the left and the right lid, metres at full closure. [V, 3, 2]"""
    pose_correctives: Tensor | None = None
    """Directions driven by vec(R - I) of every joint but the root, metres. [V, 3, 9 (J - 1)]"""
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    """Vertex ids by region of the surface (lips, nose, scalp, neck, ...); may overlap. int64"""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """Vertex ids by part (skin, teeth_upper, teeth_lower, tongue, mouth_cavity, eye_left, eye_right, lashes, torso,
    ...); every vertex belongs to exactly one. int64"""
    landmarks: Mapping[str, Landmarks] = field(default_factory=dict)
    """Landmark sets by name: "ibug68" and "mediapipe478"."""

    def __post_init__(self) -> None:
        sizes = check_shapes(
            f"HeadModel {self.model_id}",
            template=(self.template, "V 3"),
            faces=(self.faces, "F 3"),
            uvs=(self.uvs, "U 2"),
            faces_uv=(self.faces_uv, "F 3"),
            identity_basis=(self.identity_basis, "V 3 S"),
            expression_basis=(self.expression_basis, "V 3 E"),
            joint_regressor=(self.joint_regressor, "J V"),
            skin_weights=(self.skin_weights, "V J"),
            eyelid_basis=(self.eyelid_basis, "V 3 2"),
            pose_correctives=(self.pose_correctives, "V 3 P"),
        )
        if len(self.expression_names) != sizes["E"]:
            raise ValueError(
                f"HeadModel {self.model_id}: {sizes['E']} expressions but {len(self.expression_names)} names"
            )
        joints = len(self.joint_names)
        if joints != sizes["J"] or len(self.parents) != joints:
            raise ValueError(
                f"HeadModel {self.model_id}: joint_regressor has {sizes['J']} joints, "
                f"joint_names {joints}, parents {len(self.parents)}"
            )
        if any(parent >= joint for joint, parent in enumerate(self.parents)) or self.parents[0] != -1:
            raise ValueError(f"HeadModel {self.model_id}: parents must come before children, got {self.parents}")
        if self.pose_correctives is not None and sizes["P"] != 9 * (joints - 1):
            raise ValueError(
                f"HeadModel {self.model_id}: pose_correctives must have 9 (J - 1) = {9 * (joints - 1)} directions, "
                f"got {sizes['P']}"
            )
        if self.faces.dtype != torch.int64 or int(self.faces.max()) >= sizes["V"] or int(self.faces.min()) < 0:
            raise ValueError(f"HeadModel {self.model_id}: faces must be int64 vertex ids below V = {sizes['V']}")

    def __repr__(self) -> str:
        return (
            f"HeadModel({self.model_id}, {len(self.template)} vertices, {len(self.faces)} faces, "
            f"{self.identity_basis.shape[2]} identity, {len(self.expression_names)} expressions)"
        )
