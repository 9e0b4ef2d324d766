"""Skinning as one operator: blendshapes, pose correctives, joint chain and linear blend skinning, with its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.ops._native import ops
from avatar.types import Record

BLOCK = 32  # vertices per block; SKIN_BLOCK in csrc/cpu/skin.h


@dataclass(frozen=True, repr=False)
class SkinConstants(Record):
    """What the operator holds fixed, packed for it by `of`.

    The mesh is cut into blocks of 32 vertices, and each block keeps only the columns that are not zero there: an
    expression moves a part of the face, and what it does not move is neither stored nor read.
    """

    basis: Tensor
    """One entry for each block and direction kept, metres; zero past the last vertex. [N, 3, 32]"""
    joint_basis: Tensor
    """How the blendshapes move the joints, metres. [J, 3, C]"""
    weights: Tensor
    """One entry for each block and joint kept. [M, 1, 32]"""
    tables: Tensor
    """First entry of every block and N, the direction of every entry; the same for the weights; the parents. int32"""

    def __post_init__(self) -> None:
        check_shapes(
            "SkinConstants",
            basis=(self.basis, f"N 3 {BLOCK}"),
            joint_basis=(self.joint_basis, "J 3 C"),
            weights=(self.weights, f"M 1 {BLOCK}"),
            tables=(self.tables, "T"),
        )

    @staticmethod
    def of(basis: Tensor, joint_basis: Tensor, weights: Tensor, parents: Sequence[int]) -> SkinConstants:
        """Pack the constants of a mesh.

        basis: directions of the blendshapes, then of vec(R - I) of every joint but the first, metres.
            [V, 3, C + 9 (J - 1)]; the latter may be left out where there are none, [V, 3, C]
        joint_basis: how the blendshapes move the joints, metres. [J, 3, C]
        weights: skinning weights, rows sum to one. [V, J]
        parents: parent of every joint, before it, or -1. J entries

        Raises ValueError naming what does not fit.
        """
        sizes = check_shapes(
            "SkinConstants.of", basis=(basis, "V 3 K"), joint_basis=(joint_basis, "J 3 C"), weights=(weights, "V J")
        )
        joints, shapes = sizes["J"], sizes["C"]
        if sizes["K"] not in (shapes, shapes + 9 * (joints - 1)):
            raise ValueError(
                f"SkinConstants.of: basis must have {shapes} blendshapes and then none or 9 (J - 1) = "
                f"{9 * (joints - 1)} pose correctives, got {sizes['K']} directions"
            )
        if len(parents) != joints or any(not -1 <= parent < joint for joint, parent in enumerate(parents)):
            raise ValueError(
                f"SkinConstants.of: parents must name an earlier joint or -1 for each of {joints} joints, "
                f"got {tuple(parents)}"
            )
        basis_values, basis_tables = _pack(basis)
        weight_values, weight_tables = _pack(weights[:, None, :])
        parent_table = torch.tensor(tuple(parents), dtype=torch.int32, device=basis.device)
        return SkinConstants(
            basis_values,
            joint_basis.detach().contiguous(),
            weight_values,
            torch.cat([*basis_tables, *weight_tables, parent_table]),
        )


def _pack(dense: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Non-zero columns of every block of vertices, and (starts, columns). [V, D, K] to [N, D, 32]."""
    dense = dense.detach()
    count = (len(dense) + BLOCK - 1) // BLOCK
    padding = dense.new_zeros(count * BLOCK - len(dense), *dense.shape[1:])
    blocks = torch.cat([dense, padding]).reshape(count, BLOCK, *dense.shape[1:])
    kept = (blocks != 0).any(2).any(1)
    ends = kept.sum(1).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
    return blocks.permute(0, 3, 2, 1)[kept].contiguous(), (starts, kept.nonzero()[:, 1].to(torch.int32))


def skin(
    rest: Tensor, joints: Tensor, coeffs: Tensor, rotations: Tensor, translation: Tensor, constants: SkinConstants
) -> tuple[Tensor, Tensor]:
    """Pose a mesh for a batch of moments in one pass over the basis; `avatar.ops.reference.skin` is the definition.

    rest: vertices at rest, metres. [V, 3]
    joints: joints at rest, metres. [J, 3]
    coeffs: blendshape coefficients. [B, C]
    rotations: turn of every joint relative to its parent, axis-angle radians. [B, J, 3]
    translation: metres. [B, 3]
    constants: bases, skinning weights and tree.

    Returns verts [B, V, 3] metres and transforms [B, J, 3, 4], rest to posed.

    Gradients reach rest, joints, coeffs, rotations and translation, once. The constants get none: fit an identity
    through rest and joints. float32 or float64, all of one kind. The same bits for any number of threads.
    Raises ValueError, TypeError or RuntimeError naming the argument whose shape or dtype does not fit.
    """
    check_shapes(
        "skin",
        rest=(rest, "V 3"),
        joints=(joints, "J 3"),
        coeffs=(coeffs, "B C"),
        rotations=(rotations, "B J 3"),
        translation=(translation, "B 3"),
        joint_basis=(constants.joint_basis, "J 3 C"),
    )
    check_float(
        "skin",
        rest=rest,
        joints=joints,
        coeffs=coeffs,
        rotations=rotations,
        translation=translation,
        basis=constants.basis,
    )
    verts, transforms, _ = ops.skin(
        rest.contiguous(),
        joints.contiguous(),
        coeffs.contiguous(),
        rotations.contiguous(),
        translation.contiguous(),
        constants.basis,
        constants.joint_basis,
        constants.weights,
        constants.tables,
    )
    return verts, transforms


def _shapes(rest: Tensor, joints: Tensor, coeffs: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    frames, blocks = coeffs.shape[0], (rest.shape[0] + BLOCK - 1) // BLOCK
    return (
        rest.new_empty(frames, rest.shape[0], 3),
        rest.new_empty(frames, joints.shape[0], 3, 4),
        rest.new_empty(frames, blocks, 3, BLOCK),
    )


def _backward_shapes(
    rest: Tensor, joints: Tensor, coeffs: Tensor, rotations: Tensor, translation: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in (rest, joints, coeffs, rotations, translation))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, transforms, shaped = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(shaped)
    ctx.save_for_backward(*inputs, shaped)
    ctx.transforms_shape = transforms.shape


def _backward(
    ctx: Any, v_verts: Tensor | None, v_transforms: Tensor | None, v_shaped: None
) -> tuple[Tensor | None, ...]:
    *inputs, shaped = ctx.saved_tensors
    if v_verts is None and v_transforms is None:
        return (None,) * len(inputs)
    rest, coeffs = inputs[0], inputs[2]
    v_verts = rest.new_zeros(len(coeffs), *rest.shape) if v_verts is None else v_verts.contiguous()
    v_transforms = rest.new_zeros(ctx.transforms_shape) if v_transforms is None else v_transforms.contiguous()
    grads = ops.skin_backward(*inputs, shaped, v_verts, v_transforms)
    return (*grads, *(None,) * (len(inputs) - len(grads)))


torch.library.register_fake("avatar::skin", _shapes)
torch.library.register_fake("avatar::skin_backward", _backward_shapes)
torch.library.register_autograd("avatar::skin", _backward, setup_context=_save)
