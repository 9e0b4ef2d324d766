"""Random but valid heads of any size: an egg-shaped closed mesh with smooth bases, for tests that need no real face."""

from __future__ import annotations

import math

import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from avatar.head.model import HeadModel, Landmarks

SPOTS = {  # joint: parent and position as a share of the half axes
    "root": ("", (0.0, -0.9, -0.2)),
    "chest": ("root", (0.0, -0.8, -0.2)),
    "neck": ("chest", (0.0, -0.6, -0.2)),
    "jaw": ("neck", (0.0, -0.2, 0.1)),
    "eye_left": ("neck", (0.35, 0.2, 0.7)),
    "eye_right": ("neck", (-0.35, 0.2, 0.7)),
}
HALF_AXES = (0.08, 0.12, 0.10)  # metres: half width, height and depth of a head


def generated_head(
    vertices: int = 200,
    expressions: int = 12,
    identities: int = 8,
    joints: tuple[str, ...] = ("root", "neck", "jaw", "eye_left", "eye_right"),
    *,
    correctives: bool = True,
    filled: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> HeadModel:
    """A head of the asked size. `filled` is the share of vertices that each expression moves (a round patch)."""
    rng = torch.Generator().manual_seed(seed)
    sphere = fibonacci_sphere(vertices)
    template = sphere * torch.tensor(HALF_AXES, dtype=torch.float64)
    hull = ConvexHull(sphere.numpy())
    faces = torch.tensor(hull.simplices, dtype=torch.int64)
    a, b, c = (sphere[faces[:, i]] for i in range(3))
    inward = (torch.linalg.cross(b - a, c - a) * (a + b + c)).sum(-1) < 0
    faces[inward] = faces[inward].flip(1)

    expression_basis = waves(sphere, expressions, 0.004, rng)
    if filled < 1:
        centres = torch.nn.functional.normalize(torch.randn(expressions, 3, generator=rng, dtype=torch.float64), dim=-1)
        nearness = sphere @ centres.T
        reach = nearness.sort(0).values[max(0, math.floor((1 - filled) * vertices) - 1)]
        expression_basis = expression_basis * ((nearness - reach) / (1 - reach)).clamp(min=0)[:, None, :]
    spots = torch.tensor([SPOTS[name][1] for name in joints], dtype=torch.float64)
    lids = (torch.cdist(sphere, torch.tensor([[0.4, 0.2, 0.9], [-0.4, 0.2, 0.9]], dtype=torch.float64)) < 0.3).double()
    regressor = torch.softmax(-20 * torch.cdist(spots, sphere) ** 2, 1)
    weights = torch.softmax(-12 * torch.cdist(sphere, spots) ** 2, 1)
    weights = torch.where(weights < 0.05, torch.zeros_like(weights), weights)
    directions = 9 * (len(joints) - 1)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).contiguous()

    def parent(name: str) -> int:
        above = SPOTS[name][0]
        while above and above not in joints:
            above = SPOTS[above][0]
        return joints.index(above) if above else -1

    points = torch.randint(len(faces), (68,), generator=rng)
    return HeadModel(
        model_id=f"generated-{vertices}-{seed}",
        sha256="0" * 64,
        licence="none, generated",
        template=cast(template),
        faces=faces,
        uvs=cast((sphere[:, :2] + 1) / 2),
        faces_uv=faces,
        identity_basis=cast(waves(sphere, identities, 0.003, rng)),
        expression_basis=cast(expression_basis),
        expression_names=tuple(f"expression{i}" for i in range(expressions)),
        joint_names=joints,
        parents=tuple(parent(name) for name in joints),
        joint_regressor=cast(regressor),
        skin_weights=cast(weights / weights.sum(1, keepdim=True)),
        eyelid_basis=cast(lids[:, None, :] * torch.tensor([0.0, -0.01, 0.002], dtype=torch.float64)[:, None]),
        pose_correctives=cast(waves(sphere, directions, 0.002, rng)) if correctives else None,
        regions={"lips": torch.nonzero((sphere[:, 1] + 0.4).abs() < 0.1)[:, 0]},
        parts={"skin": torch.arange(vertices)},
        landmarks={"ibug68": Landmarks(points, torch.full((68, 3), 1 / 3, dtype=dtype), torch.arange(68))},
    )


def fibonacci_sphere(count: int) -> Tensor:
    """Evenly spread points on the unit sphere, in patches as a modelled mesh numbers them. [count, 3] float64"""
    index = torch.arange(count, dtype=torch.float64)
    y = 1 - (2 * index + 1) / count
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = (1 - y * y).sqrt()
    points = torch.stack([radius * angle.cos(), y, radius * angle.sin()], -1)
    band = ((1 - y) / 2 * math.sqrt(count) / 3).floor()
    around = torch.atan2(points[:, 2], points[:, 0])
    return points[(band * 10 + around).argsort()]


def waves(points: Tensor, count: int, size: float, rng: torch.Generator) -> Tensor:
    """Smooth random displacement fields of about `size` metres. [V, 3, count] float64"""
    frequency = 2 * torch.randn(3, 3 * count, generator=rng, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(3 * count, generator=rng, dtype=torch.float64)
    return size * (points @ frequency + phase).cos().unflatten(-1, (3, count))
