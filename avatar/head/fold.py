"""Posing a head: fold a subject's identity once, then every batch of moments is one operator call.

rig = prepare(head)             # once per head model
folded = fold(rig, identity)    # once per subject, or per step while the identity is being fitted
mesh = folded.pose(pose)        # per batch of moments
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.head.model import HeadModel
from avatar.ops.skin import SkinConstants, skin
from avatar.types import HeadPose, MeshState, Record


@dataclass(frozen=True, repr=False)
class Rig(Record):
    """What of a head does not depend on who wears it, laid out as the operator reads it. Constants: no gradient."""

    model_id: str
    """Head model it was made from."""
    template: Tensor
    """Mean head at rest, metres. [V, 3]"""
    identity_basis: Tensor
    """Shape directions for unit-variance coefficients, metres. [V, 3, S]"""
    joint_regressor: Tensor
    """Joint positions from the shaped mesh. [J, V]"""
    constants: SkinConstants
    """Expressions, two eyelids and pose correctives, joints, weights and tree."""
    joint_names: tuple[str, ...]
    """Name of every joint, which says what part of a pose turns it. J entries"""


@dataclass(frozen=True, repr=False)
class FoldedHead(Record):
    """A head with its identity folded in, ready to be posed."""

    rig: Rig
    """The head model."""
    verts: Tensor
    """The subject at rest: template and identity, metres. [V, 3]"""
    joints: Tensor
    """The subject's joints at rest, metres. [J, 3]"""

    def pose(self, pose: HeadPose) -> MeshState:
        """The mesh at every moment of `pose`, all in one operator call.

        `pose.rotation` turns the joint root, `pose.neck` neck, `pose.jaw` jaw, `pose.eyes` eye_left and eye_right;
        a joint without such a name (chest) keeps its place in its parent, and a part of the pose whose joint the head
        lacks does nothing. Differentiable with respect to the pose and to `verts` and `joints`, hence to the identity.

        Raises ValueError when the number of expressions is another than the head's.
        """
        rig = self.rig
        expressions = rig.constants.joint_basis.shape[2] - 2
        if pose.expr.shape[1] != expressions:
            raise ValueError(
                f"FoldedHead.pose: {rig.model_id} has {expressions} expressions, pose.expr has {pose.expr.shape[1]}; "
                "were these coefficients made for another head?"
            )
        still = torch.zeros_like(pose.rotation)
        turns = {
            "root": pose.rotation,
            "neck": pose.neck,
            "jaw": pose.jaw,
            "eye_left": pose.eyes[:, :3],
            "eye_right": pose.eyes[:, 3:],
        }
        rotations = torch.stack([turns.get(name, still) for name in rig.joint_names], dim=1)
        coeffs = torch.cat([pose.expr, pose.eyelids], dim=1)
        return MeshState(*skin(self.verts, self.joints, coeffs, rotations, pose.translation, rig.constants))


def prepare(head: HeadModel) -> Rig:
    """Lay a head out for the operator: stack and pack its bases, regress how they move the joints.

    Takes tens of milliseconds, so do it once per head model and hold on to the result.
    Raises ValueError for a head whose first joint is not the root.
    """
    if head.joint_names[0] != "root":
        raise ValueError(
            f"prepare: the first joint of {head.model_id} must be named root, so that a pose's rotation turns the "
            f"whole head, got {', '.join(head.joint_names)}"
        )
    shapes = torch.cat([head.expression_basis, head.eyelid_basis], dim=2)
    joint_basis = torch.einsum("jv,vdc->jdc", head.joint_regressor.double(), shapes.double()).to(shapes.dtype)
    basis = shapes if head.pose_correctives is None else torch.cat([shapes, head.pose_correctives], dim=2)
    return Rig(
        model_id=head.model_id,
        template=head.template,
        identity_basis=head.identity_basis,
        joint_regressor=head.joint_regressor,
        constants=SkinConstants.of(basis, joint_basis, head.skin_weights, head.parents),
        joint_names=head.joint_names,
    )


def fold(head: HeadModel | Rig, identity: Tensor) -> FoldedHead:
    """The head of one subject: template + identity_basis identity, and the joints of that mesh. identity [S].

    Differentiable with respect to the identity. Give it the `Rig` of `prepare(head)` when it is called more than once;
    a `HeadModel` is prepared on every call.
    """
    rig = prepare(head) if isinstance(head, HeadModel) else head
    check_shapes(f"fold {rig.model_id}", identity_basis=(rig.identity_basis, "V 3 S"), identity=(identity, "S"))
    check_float(f"fold {rig.model_id}", identity_basis=rig.identity_basis, identity=identity)
    verts = rig.template + rig.identity_basis @ identity
    return FoldedHead(rig, verts, rig.joint_regressor @ verts)
