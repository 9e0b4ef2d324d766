"""How long posing a head takes on one thread, beside plain torch in the same run.

Ours: `FoldedHead.pose` and its backward to every part of the pose, through Python. Theirs: the published formula in
plain torch, identity in every call, forward and backward to the same tensors. Times are medians of this thread's CPU
time per frame; a batch of one is what a viewer does, a batch of sixteen what fitting does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from statistics import median

import torch
from torch import Tensor

from avatar.head import load
from avatar.head.fold import fold, prepare
from avatar.head.model import HeadModel
from avatar.ops import reference
from avatar.types import HeadPose

Metric = dict[str, str | float]
SPREAD = {"expr": 1.0, "jaw": 0.2, "neck": 0.2, "eyes": 0.2, "eyelids": 0.5, "rotation": 0.5, "translation": 0.5}


def run(quick: bool) -> list[Metric]:
    """The packaged head, and a dense one of FLAME's size filled with random directions."""
    return run_heads(quick, {"open_head": load("open_head"), "flame": flame_sized()})


def flame_sized(verts: int = 5023, expressions: int = 100, identities: int = 300, joints: int = 5) -> HeadModel:
    """A head with FLAME's counts and random contents: what matters for speed is how much there is to read."""
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    regressor = torch.zeros(joints, verts)
    regressor[:, :40] = 1 / 40
    weights = random(verts, joints).softmax(1)
    faces = torch.stack([torch.arange(verts - 2), torch.arange(1, verts - 1), torch.arange(2, verts)], 1)
    return HeadModel(
        model_id="flame_sized",
        sha256="",
        licence="generated",
        template=0.1 * random(verts, 3),
        faces=faces,
        uvs=torch.zeros(verts, 2),
        faces_uv=faces,
        identity_basis=1e-3 * random(verts, 3, identities),
        expression_basis=1e-3 * random(verts, 3, expressions),
        expression_names=tuple(f"expr_{k:03d}" for k in range(expressions)),
        joint_names=("root", "neck", "jaw", "eye_left", "eye_right"),
        parents=(-1, 0, 1, 1, 1),
        joint_regressor=regressor,
        skin_weights=weights,
        eyelid_basis=torch.zeros(verts, 3, 2),
        pose_correctives=1e-3 * random(verts, 3, 9 * (joints - 1)),
    )


def run_heads(quick: bool, heads: dict[str, HeadModel]) -> list[Metric]:
    """Measure every head under its name; a `quick` run takes about a second per head."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [metric for name, head in heads.items() for metric in measure(f"head.{name}", head, 15 if quick else 60)]
    finally:
        torch.set_num_threads(before)


def measure(prefix: str, head: HeadModel, rounds: int) -> list[Metric]:
    """Interleaved rounds of ours and theirs with a fresh pose each, for batches of one and sixteen."""
    rig = prepare(head)
    identity = torch.randn(head.identity_basis.shape[2])
    folded = fold(rig, identity)
    theirs = PlainTorch(head, identity)
    metrics: list[Metric] = []

    def add(key: str, value: float, unit: str) -> None:
        metrics.append(
            {"key": f"{prefix}.{key}", "value": value, "unit": unit, "direction": "higher" if unit == "x" else "lower"}
        )

    def infer(pose: HeadPose) -> None:
        folded.pose(pose)

    def ours(pose: HeadPose, pull: Tensor) -> None:
        folded.pose(pose).verts.backward(pull)

    def plain(pose: HeadPose, pull: Tensor) -> None:
        theirs(pose).backward(pull)

    def fit_identity(pose: HeadPose, pull: Tensor, coefficients: Tensor) -> None:
        fold(rig, coefficients).pose(pose).verts.backward(pull)

    for frames, suffix in ((1, ""), (16, "_batch16")):
        pull = torch.randn(frames, len(head.template), 3)
        same_result(folded.pose(random_pose(head, frames, 0)).verts, theirs(random_pose(head, frames, 0)))
        rows = []
        for seed in range(rounds + 3):
            still, pose, other = (random_pose(head, frames, seed, grad) for grad in (False, True, True))
            rows.append(
                (
                    thread_ms(infer, still),
                    thread_ms(ours, pose, pull),
                    thread_ms(plain, other, pull),
                    thread_ms(fit_identity, still, pull, identity.clone().requires_grad_()),
                )
            )
        fwd, fwd_bwd, torch_fwd_bwd, fitting = (median(times) / frames for times in zip(*rows[3:], strict=True))
        add(f"fwd_ms{suffix}", fwd, "ms")
        add(f"fwd_bwd_ms{suffix}", fwd_bwd, "ms")
        add(f"torch_fwd_bwd_ms{suffix}", torch_fwd_bwd, "ms")
        add(f"identity_fwd_bwd_ms{suffix}", fitting, "ms")
        add(f"x_torch{suffix}", torch_fwd_bwd / fwd_bwd, "x")
    return metrics


class PlainTorch:
    """A head as published code writes it: one dense basis of identity and expression, nothing cached."""

    def __init__(self, head: HeadModel, identity: Tensor) -> None:
        self.head = head
        self.identity = identity
        self.shape_basis = torch.cat([head.identity_basis, head.expression_basis, head.eyelid_basis], 2)

    def __call__(self, pose: HeadPose) -> Tensor:
        head = self.head
        still = torch.zeros_like(pose.neck)
        eye_left, eye_right = pose.eyes[:, :3], pose.eyes[:, 3:]
        turns = {
            "root": pose.rotation,
            "neck": pose.neck,
            "jaw": pose.jaw,
            "eye_left": eye_left,
            "eye_right": eye_right,
        }
        rotations = torch.stack([turns.get(name, still) for name in head.joint_names], 1)
        coeffs = torch.cat([self.identity.expand(len(pose), -1), pose.expr, pose.eyelids], 1)
        return reference.skin_unfolded(
            head.template, self.shape_basis, coeffs, head.pose_correctives, head.joint_regressor,
            rodrigues(rotations), pose.translation, head.skin_weights, head.parents,
        )[0]  # fmt: skip


def rodrigues(axis_angle: Tensor) -> Tensor:
    """The usual short formula, R = I + sin K + (1 - cos) K K, which avoids 0/0 by a nudge. [..., 3] to [..., 3, 3]"""
    angle = (axis_angle + 1e-8).norm(dim=-1, keepdim=True)
    x, y, z = (axis_angle / angle).unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*axis_angle.shape[:-1], 3, 3)
    rotation: Tensor = torch.eye(3) + angle.sin()[..., None] * k + (1 - angle.cos())[..., None] * (k @ k)
    return rotation


def random_pose(head: HeadModel, frames: int, seed: int, grad: bool = False) -> HeadPose:
    """Poses as lively as a talking person's, the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    rest = HeadPose.rest(len(head.expression_names), frames)
    parts = {f.name: torch.randn(getattr(rest, f.name).shape, generator=rng) * SPREAD[f.name] for f in fields(rest)}
    return HeadPose(**{name: part.requires_grad_(grad) for name, part in parts.items()})


def same_result(ours: Tensor, theirs: Tensor) -> None:
    """Nothing is timed before it is right: 10 micrometres at coordinates of a metre is float32's own error."""
    worst = float((ours - theirs).abs().max())
    if not worst < 1e-5:
        raise RuntimeError(f"head benchmark: vertices differ by {worst} m from the definition")


def thread_ms(body: Callable[..., None], *arguments: object) -> float:
    """Processor time of this thread in one call, milliseconds."""
    start = time.thread_time()
    body(*arguments)
    return (time.thread_time() - start) * 1e3
