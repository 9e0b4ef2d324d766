from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from avatar.geometry.rotations import axis_angle_to_matrix
from avatar.head.fold import FoldedHead, fold, prepare
from avatar.head.model import HeadModel
from avatar.ops import reference
from avatar.types import HeadPose

Builder = Callable[..., HeadModel]
FLAME_JOINTS = ("root", "neck", "jaw", "eye_left", "eye_right")
BUST_JOINTS = ("root", "chest", "neck", "jaw", "eye_left", "eye_right")
PARTS = {"expr": 1.0, "jaw": 0.2, "neck": 0.3, "eyes": 0.3, "eyelids": 0.5, "rotation": 1.0, "translation": 1.0}


def random_pose(head: HeadModel, frames: int = 3, seed: int = 0, grad: bool = False) -> HeadPose:
    rng = torch.Generator().manual_seed(seed)
    rest = HeadPose.rest(len(head.expression_names), frames)
    parts = {
        name: (size * torch.randn(getattr(rest, name).shape, generator=rng, dtype=torch.float64))
        .to(head.template.dtype)
        .requires_grad_(grad)
        for name, size in PARTS.items()
    }
    return HeadPose(**parts)


def random_identity(head: HeadModel, seed: int = 5) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(head.identity_basis.shape[2], generator=rng, dtype=torch.float64).to(head.template.dtype)


def unfolded(head: HeadModel, identity: Tensor, pose: HeadPose) -> tuple[Tensor, Tensor]:
    """The published formula with everything in every call, joints written out one by one."""
    turns = {
        "root": pose.rotation,
        "chest": torch.zeros_like(pose.neck),
        "neck": pose.neck,
        "jaw": pose.jaw,
        "eye_left": pose.eyes[:, :3],
        "eye_right": pose.eyes[:, 3:],
    }
    return reference.skin_unfolded(
        head.template,
        torch.cat([head.identity_basis, head.expression_basis, head.eyelid_basis], 2),
        torch.cat([identity.expand(len(pose), -1), pose.expr, pose.eyelids], 1),
        head.pose_correctives,
        head.joint_regressor,
        axis_angle_to_matrix(torch.stack([turns[name] for name in head.joint_names], 1)),
        pose.translation,
        head.skin_weights,
        head.parents,
    )


@pytest.mark.parametrize("joints", [FLAME_JOINTS, BUST_JOINTS, ("root", "neck", "eye_left", "eye_right"), ("root",)])
@pytest.mark.parametrize("correctives", [True, False])
def test_a_folded_head_is_the_unfolded_head(
    generated_head: Builder, joints: tuple[str, ...], correctives: bool
) -> None:
    head = generated_head(300, joints=joints, correctives=correctives, filled=0.4, dtype=torch.float64)
    identity, pose = random_identity(head), random_pose(head)
    mesh = fold(head, identity).pose(pose)
    verts, transforms = unfolded(head, identity, pose)
    assert mesh.transforms is not None
    torch.testing.assert_close(mesh.verts, verts, rtol=0, atol=1e-13)
    torch.testing.assert_close(mesh.transforms, transforms, rtol=0, atol=1e-13)


def test_gradients_to_pose_and_identity_are_those_of_the_unfolded_head(generated_head: Builder) -> None:
    head = generated_head(300, joints=BUST_JOINTS, filled=0.4, dtype=torch.float64)
    identity, pose = random_identity(head).requires_grad_(), random_pose(head, grad=True)
    leaves = [identity, *(getattr(pose, f.name) for f in fields(pose))]
    pull = torch.randn(3, 300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    got = torch.autograd.grad(fold(head, identity).pose(pose).verts, leaves, pull)
    truth = torch.autograd.grad(unfolded(head, identity, pose)[0], leaves, pull)
    for a, b in zip(got, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_identity_gradient_by_finite_differences(generated_head: Builder) -> None:
    head = generated_head(12, expressions=2, identities=3, joints=("root", "neck", "jaw"), dtype=torch.float64)
    rig, pose = prepare(head), random_pose(head, 2)
    assert torch.autograd.gradcheck(lambda s: fold(rig, s).pose(pose).verts, (random_identity(head).requires_grad_(),))


def test_pose_gradient_by_finite_differences(generated_head: Builder) -> None:
    head = generated_head(12, expressions=2, identities=3, dtype=torch.float64)
    folded, pose = fold(head, random_identity(head)), random_pose(head, 2, grad=True)
    parts = tuple(getattr(pose, name) for name in PARTS)
    assert torch.autograd.gradcheck(lambda *p: folded.pose(HeadPose(**dict(zip(PARTS, p, strict=True)))).verts, parts)


def test_at_rest_the_mesh_is_the_subject(generated_head: Builder) -> None:
    head = generated_head(200)
    identity = random_identity(head)
    folded = fold(head, identity)
    mesh = folded.pose(HeadPose.rest(len(head.expression_names), 2))
    torch.testing.assert_close(folded.verts, head.template + head.identity_basis @ identity)
    torch.testing.assert_close(mesh.verts, folded.verts.expand(2, -1, -1), rtol=0, atol=1e-7)
    torch.testing.assert_close(fold(head, torch.zeros_like(identity)).verts, head.template)


def test_rigid_motion_moves_every_vertex_rigidly(generated_head: Builder) -> None:
    head = generated_head(200, dtype=torch.float64)
    folded, pose = fold(head, random_identity(head)), random_pose(head, 1)
    moved = replace(pose, rotation=torch.tensor([[0.2, 1.5, -0.4]], dtype=torch.float64), translation=pose.rotation)
    before, after = folded.pose(pose).verts[0], folded.pose(moved).verts[0]
    torch.testing.assert_close(torch.pdist(before), torch.pdist(after), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("part", "joint"),
    [("rotation", "root"), ("neck", "neck"), ("jaw", "jaw"), ("eye_left", "eye_left"), ("eye_right", "eye_right")],
)
def test_every_part_of_the_pose_turns_its_own_joint(generated_head: Builder, part: str, joint: str) -> None:
    head = generated_head(200, joints=BUST_JOINTS, correctives=False)
    turn, zero = torch.tensor([[0.0, 0.5, 0.0]]), torch.zeros(1, 3)
    pose = HeadPose.rest(len(head.expression_names))
    if part.startswith("eye"):
        pose = replace(pose, eyes=torch.cat([turn, zero] if part == "eye_left" else [zero, turn], 1))
    else:
        pose = replace(pose, **{part: turn})
    transforms = fold(head, random_identity(head)).pose(pose).transforms
    assert transforms is not None
    turned = {name for i, name in enumerate(head.joint_names) if not torch.equal(transforms[0, i, :, :3], torch.eye(3))}
    below = {joint}
    for name, parent in zip(head.joint_names, head.parents, strict=True):
        if parent >= 0 and head.joint_names[parent] in below:
            below.add(name)
    assert turned == below


def test_a_part_without_its_joint_does_nothing(generated_head: Builder) -> None:
    head = generated_head(100, joints=("root", "neck"))
    folded, pose = fold(head, random_identity(head)), random_pose(head, 1)
    closed = replace(pose, jaw=torch.zeros(1, 3), eyes=torch.zeros(1, 6))
    assert torch.equal(folded.pose(pose).verts, folded.pose(closed).verts)


def test_expression_and_eyelids_carry_the_joints_along(generated_head: Builder) -> None:
    head = generated_head(150, dtype=torch.float64)
    folded = fold(head, random_identity(head))
    pose = random_pose(head, 1)
    shaped = folded.verts + head.expression_basis @ pose.expr[0] + head.eyelid_basis @ pose.eyelids[0]
    transforms = folded.pose(pose).transforms
    assert transforms is not None
    joints = head.joint_regressor @ shaped
    root = transforms[0, 0, :, :3] @ joints[0] + transforms[0, 0, :, 3]
    torch.testing.assert_close(root, joints[0] + pose.translation[0], rtol=0, atol=1e-13)


def test_a_batch_is_its_frames_one_by_one(generated_head: Builder) -> None:
    head = generated_head(200)
    folded, pose = fold(head, random_identity(head)), random_pose(head, 5)
    together = folded.pose(pose).verts
    for i in range(5):
        torch.testing.assert_close(folded.pose(pose[i : i + 1]).verts[0], together[i], rtol=0, atol=5e-7)


def test_a_rig_is_reused_and_moves_as_a_record(generated_head: Builder) -> None:
    head = generated_head(200)
    identity, pose = random_identity(head), random_pose(head)
    rig = prepare(head)
    assert torch.equal(fold(rig, identity).pose(pose).verts, fold(head, identity).pose(pose).verts)
    double: FoldedHead = fold(rig, identity).to(torch.float64)
    torch.testing.assert_close(
        double.pose(pose.to(torch.float64)).verts.float(), fold(rig, identity).pose(pose).verts, rtol=0, atol=2e-6
    )


def test_errors_name_the_head_and_the_way_out(generated_head: Builder) -> None:
    head = generated_head(100)
    folded = fold(head, random_identity(head))
    with pytest.raises(ValueError, match=r"generated-100-0 has 12 expressions, pose\.expr has 52; .* another head"):
        folded.pose(HeadPose.rest(52))
    with pytest.raises(ValueError, match=r"fold generated-100-0: identity must be \[S\] with S = 8, got \[9\]"):
        fold(head, torch.zeros(9))
    with pytest.raises(ValueError, match=r"identity is torch\.float64"):
        fold(head, torch.zeros(8, dtype=torch.float64))
    rootless = generated_head(100, joints=("neck", "jaw"))
    with pytest.raises(ValueError, match=r"first joint of generated-100-0 must be named root.*got neck, jaw"):
        prepare(rootless)


def test_generated_heads_are_closed_and_face_outward(generated_head: Builder) -> None:
    head = generated_head(500, filled=0.25)
    a, b, c = (head.template[head.faces[:, i]].double() for i in range(3))
    volume = (torch.linalg.cross(a, b) * c).sum() / 6
    assert 0.9 < float(volume) / (4 / 3 * torch.pi * 0.08 * 0.12 * 0.10) < 1
    edges = torch.cat([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]])
    assert {(i, j) for i, j in edges.tolist()} == {(j, i) for i, j in edges.tolist()}
    moved = (head.expression_basis != 0).any(1).float().mean(0)
    assert moved.min() > 0.2 and moved.max() < 0.3
    torch.testing.assert_close(head.skin_weights.sum(1), torch.ones(500))
    torch.testing.assert_close(head.joint_regressor.sum(1), torch.ones(5))
