"""Skinning as one operator: blendshapes, pose correctives, joint chain and linear blend skinning, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.ops._native import ops
from avatar.types import Record

BLOCK = 32  # vertices per block; SKIN_BLOCK in csrc/cpu/skin.h


@dataclass(frozen=True, repr=False)
class SparseColumns(Record):
    """A constant matrix over vertices, cut into blocks of 32 that keep only the columns that are not zero there.

    An expression moves a part of the face; what it does not move is neither stored nor read.
    """

    values: Tensor
    """One entry for each block and column kept, planes of 32 vertices; zero past the last vertex. [N, D, 32]"""
    columns: Tensor
    """Column of every entry. [N] int32"""
    starts: Tensor
    """First entry of every block, then N. [ceil(V / 32) + 1] int32"""

    def __post_init__(self) -> None:
        check_shapes("SparseColumns", values=(self.values, "N D 32"), columns=(self.columns, "N"))

    @staticmethod
    def of(dense: Tensor) -> SparseColumns:
        """Pack a dense matrix. [V, D, K]"""
        check_shapes("SparseColumns.of", dense=(dense, "V D K"))
        dense = dense.detach()
        missing = -len(dense) % BLOCK
        blocks = torch.cat([dense, dense.new_zeros(missing, *dense.shape[1:])]).unflatten(0, (-1, BLOCK))
        kept = (blocks != 0).any(2).any(1)
        values = blocks.permute(0, 3, 2, 1)[kept].contiguous()
        ends = kept.sum(1).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])
        return SparseColumns(values, kept.nonzero()[:, 1].to(torch.int32), starts.to(torch.int32))


def skin(
    rest: Tensor,
    joints: Tensor,
    coeffs: Tensor,
    rotations: Tensor,
    translation: Tensor,
    basis: SparseColumns,
    joint_basis: Tensor,
    weights: SparseColumns,
    parents: Tensor,
) -> tuple[Tensor, Tensor]:
    """Pose a mesh for a batch of moments in one pass over the basis; `avatar.ops.reference.skin` is the definition.

    rest: vertices at rest, metres. [V, 3]
    joints: joints at rest, metres. [J, 3]
    coeffs: blendshape coefficients. [B, C]
    rotations: turn of every joint relative to its parent, axis-angle radians. [B, J, 3]
    translation: metres. [B, 3]
    basis: directions of the blendshapes, then of vec(R - I) of every joint but the first, metres; packed from
        [V, 3, C + 9 (J - 1)].
    joint_basis: how the blendshapes move the joints, metres. [J, 3, C]
    weights: skinning weights, rows sum to one; packed from [V, 1, J].
    parents: parent of every joint, before it, or -1. [J] int64

    Returns verts [B, V, 3] metres and transforms [B, J, 3, 4], rest to posed.

    Gradients reach rest, joints, coeffs, rotations and translation, once. The bases, the weights and the tree are
    constants: they get none. float32 or float64, all of one kind. The same bits for any number of threads.
    Raises ValueError or TypeError naming the argument whose shape or dtype does not fit.
    """
    check_shapes(
        "skin",
        rest=(rest, "V 3"),
        joints=(joints, "J 3"),
        coeffs=(coeffs, "B C"),
        rotations=(rotations, "B J 3"),
        translation=(translation, "B 3"),
        joint_basis=(joint_basis, "J 3 C"),
        parents=(parents, "J"),
    )
    check_float(
        "skin",
        rest=rest,
        joints=joints,
        coeffs=coeffs,
        rotations=rotations,
        translation=translation,
        basis=basis.values,
        joint_basis=joint_basis,
        weights=weights.values,
    )
    verts, transforms, _ = ops.skin(
        rest.contiguous(),
        joints.contiguous(),
        coeffs.contiguous(),
        rotations.contiguous(),
        translation.contiguous(),
        basis.values,
        basis.columns,
        basis.starts,
        joint_basis,
        weights.values,
        weights.columns,
        weights.starts,
        parents,
    )
    return verts, transforms


@torch.library.register_fake("avatar::skin")
def _(rest: Tensor, joints: Tensor, coeffs: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    frames, blocks = coeffs.shape[0], (rest.shape[0] + BLOCK - 1) // BLOCK
    return (
        rest.new_empty(frames, rest.shape[0], 3),
        rest.new_empty(frames, joints.shape[0], 3, 4),
        rest.new_empty(frames, blocks, 3, BLOCK),
    )


@torch.library.register_fake("avatar::skin_backward")
def _(
    rest: Tensor, joints: Tensor, coeffs: Tensor, rotations: Tensor, translation: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t) for t in (rest, joints, coeffs, rotations, translation))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    verts, transforms, shaped = output
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


torch.library.register_autograd("avatar::skin", _backward, setup_context=_save)
