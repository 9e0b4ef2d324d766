"""The definition of every native operator in plain torch: slow, readable, differentiable by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avatar.geometry.rotations import axis_angle_to_matrix

# ---- skin


def joint_transforms(matrices: Tensor, joints: Tensor, translation: Tensor, parents: Sequence[int]) -> Tensor:
    """Rest to posed transform of every joint of a tree.

    matrices [B, J, 3, 3] turn each joint relative to its parent, joints [B, J, 3] metres are their rest positions,
    translation [B, 3] metres moves the whole tree, parents[j] < j or -1. Returns [B, J, 3, 4].
    """
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand(len(matrices), 3, 3)
    rotations: list[Tensor] = []
    shifts: list[Tensor] = []
    for joint, parent in enumerate(parents):
        above, shift = (rotations[parent], shifts[parent]) if parent >= 0 else (identity, translation)
        own = above @ matrices[:, joint]
        rotations.append(own)
        shifts.append(shift + ((above - own) @ joints[:, joint, :, None])[..., 0])  # the joint itself moves with parent
    return torch.cat([torch.stack(rotations, 1), torch.stack(shifts, 1)[..., None]], -1)


def blend_transforms(shaped: Tensor, transforms: Tensor, weights: Tensor) -> Tensor:
    """Linear blend skinning. shaped [B, V, 3] metres, transforms [B, J, 3, 4], weights [V, J]. Returns [B, V, 3]."""
    blended = torch.einsum("vj,bjik->bvik", weights, transforms)
    return (blended[..., :3] @ shaped[..., None])[..., 0] + blended[..., 3]


def pose_features(matrices: Tensor) -> Tensor:
    """vec(R - I), row by row, of every joint but the first. [B, J, 3, 3] to [B, 9 (J - 1)]."""
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    return (matrices[:, 1:] - identity).flatten(1)


def skin(
    rest: Tensor,
    joints: Tensor,
    coeffs: Tensor,
    rotations: Tensor,
    translation: Tensor,
    basis: Tensor,
    joint_basis: Tensor,
    weights: Tensor,
    parents: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Pose a mesh: blendshapes, pose correctives, joint chain, linear blend skinning.

    rest [V, 3] and joints [J, 3] metres; coeffs [B, C]; rotations [B, J, 3] axis-angle radians relative to the parent;
    translation [B, 3] metres; basis [V, 3, C + 9 (J - 1)] metres, blendshapes then pose correctives;
    joint_basis [J, 3, C] metres; weights [V, J], rows sum to one; parents J joint ids, -1 for the root.
    Returns verts [B, V, 3] metres and transforms [B, J, 3, 4] from rest to posed.
    """
    matrices = axis_angle_to_matrix(rotations)
    features = torch.cat([coeffs, pose_features(matrices)], -1)
    shaped = rest + torch.einsum("bk,vdk->bvd", features, basis)
    moved = joints + torch.einsum("bc,jdc->bjd", coeffs, joint_basis)
    transforms = joint_transforms(matrices, moved, translation, parents)
    return blend_transforms(shaped, transforms, weights), transforms


def skin_unfolded(
    template: Tensor,
    shape_basis: Tensor,
    coeffs: Tensor,
    pose_correctives: Tensor | None,
    joint_regressor: Tensor,
    matrices: Tensor,
    translation: Tensor,
    weights: Tensor,
    parents: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The same mesh as published torch code computes it: identity in every call, joints regressed from every mesh.

    template [V, 3]; shape_basis [V, 3, L] metres, identity and blendshapes; coeffs [B, L]; pose_correctives
    [V, 3, 9 (J - 1)]; joint_regressor [J, V]; matrices [B, J, 3, 3] turn each joint relative to its parent; the rest as
    in `skin`. It checks the folding and is what benchmarks compare against.
    """
    shaped = template + torch.einsum("bl,vdl->bvd", coeffs, shape_basis)
    joints = torch.einsum("jv,bvd->bjd", joint_regressor, shaped)
    if pose_correctives is not None:
        directions = pose_correctives.flatten(0, 1).T
        shaped = shaped + (pose_features(matrices) @ directions).view_as(shaped)
    transforms = joint_transforms(matrices, joints, translation, parents)
    return blend_transforms(shaped, transforms, weights), transforms
