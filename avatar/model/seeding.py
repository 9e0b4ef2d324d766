"""Where the first Gaussians sit on a mesh."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.checks import check_shapes
from avatar.geometry.frames import face_edges

PLASTIC = 1.32471795724474602596  # the ratio behind the most even two-dimensional sequence (Roberts 2018, R2)


def seed(
    verts: Tensor, faces: Tensor, count: int, weights: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Spread `count` points over a mesh in proportion to area, at least one per face where there are enough.

    verts [V, 3] m, faces [F, 3], weights [F] multiply the areas (lips, lids and teeth deserve more); `generator` turns the
    sequence inside the triangles. Returns face_ids [count] int32, ascending, and bary [count, 3]. The same arguments give
    the same points. Raises ValueError for no faces, a negative or non-finite weight, or weights that are all zero.
    """
    check_shapes("seed", verts=(verts, "V 3"), faces=(faces, "F 3"), weights=(weights, "F"))
    if len(faces) == 0 or count < 1:
        raise ValueError(
            f"seed: needs a mesh with faces and count of at least 1, got {len(faces)} faces, count {count}"
        )
    e1, e2 = face_edges(verts.double(), faces)
    share = torch.linalg.cross(e1, e2).norm(dim=-1)
    if weights is not None:
        share = share * weights.double()
    if not bool(share.isfinite().all()) or float(share.min()) < 0 or float(share.sum()) <= 0:
        raise ValueError("seed: areas times weights must be finite, not negative and not all zero")
    per_face = apportion(share, count)
    face_ids = torch.repeat_interleave(torch.arange(len(faces)), per_face)
    rank = torch.arange(count) - (per_face.cumsum(0) - per_face)[face_ids]  # which point of its face
    start = torch.rand(len(faces), 2, generator=generator, dtype=torch.float64)[face_ids]
    u = (start[:, 0] + rank / PLASTIC) % 1
    v = (start[:, 1] + rank / PLASTIC**2) % 1
    root = u.sqrt()
    bary = torch.stack([1 - root, root * (1 - v), root * v], -1)
    return face_ids.int(), bary.to(verts.dtype)


def apportion(share: Tensor, count: int) -> Tensor:
    """Whole numbers in proportion to `share` that add up to `count`; at least one each where count >= len(share).

    The largest remainders are rounded up; equal ones in their order. share [F] -> [F] int64
    """
    base = 1 if count >= len(share) else 0
    wish = share / share.sum() * count
    whole = wish.floor().long().clamp_min(base)
    while int(whole.sum()) > count:  # the minimum took more than there is: take from those furthest above their wish
        over = torch.where(whole > base, whole - wish, torch.full_like(wish, -torch.inf))
        take = min(int(whole.sum()) - count, int((whole > base).sum()))
        whole[torch.argsort(over, descending=True, stable=True)[:take]] -= 1
    missing = count - int(whole.sum())
    rest = torch.argsort(wish - whole, descending=True, stable=True)
    whole[rest[: missing % len(share)]] += 1
    return whole + missing // len(share)
