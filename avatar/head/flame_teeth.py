"""Teeth for FLAME, which has none: the 120 vertices and 168 faces that GaussianAvatars and VHAP data assume.

Two bands of four rings of 15 vertices, front root, front edge, back edge, back root, follow the line between the lips.
Their files refer to vertices and faces by number, so order and corner order here are a file format, not a choice:
vertices upper root, lower root, upper edge, lower edge, upper root back, upper edge back, lower root back, lower edge
back; faces front, back and edge of the upper band, then of the lower one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avatar.head.source_file import Array

RING = 15  # vertices across, from the subject's left to the right
LIP_UPPER = (1713, 1715, 1716, 1735, 1696, 1694, 1657, 3543, 2774, 2811, 2813, 2850, 2833, 2832, 2830)
LIP_LOWER = (1576, 1577, 1773, 1774, 1795, 1802, 1865, 3503, 2948, 2905, 2898, 2881, 2880, 2713, 2712)

# Rings in file order: upper?, height and depth in units of the mean lip distance, and the row of texels from the top.
# GaussianAvatars gives several rings the same texels; here each band unrolls root, edge, edge back, root back.
RINGS = (
    (True, 2.1, -1.5, 0),
    (False, -2.1, -1.9, 7),
    (True, 0.1, -1.5, 1),
    (False, -0.1, -1.9, 6),
    (True, 2.1, -2.5, 3),
    (True, 0.1, -2.5, 2),
    (False, -2.1, -2.9, 4),
    (False, -0.1, -2.9, 5),
)
UPPER_ROOT, LOWER_ROOT, UPPER_EDGE, LOWER_EDGE, UPPER_ROOT_BACK, UPPER_EDGE_BACK, LOWER_ROOT_BACK, LOWER_EDGE_BACK = (
    range(len(RINGS))
)
# Strips of quads between two rings p and q. Corners: p, q at place i, P, Q at place i + 1. The diagonal flips in the
# middle, so that left and right mirror each other: two triangles for i < 7, two for i >= 7.
STRIPS = (
    (UPPER_ROOT, UPPER_EDGE, ("pQq", "pPQ"), ("pPq", "PQq")),
    (UPPER_ROOT_BACK, UPPER_EDGE_BACK, ("pqQ", "pQP"), ("pqP", "PqQ")),
    (UPPER_EDGE_BACK, UPPER_EDGE, ("pqP", "PqQ"), ("pqQ", "pQP")),
    (LOWER_EDGE, LOWER_ROOT, ("pPq", "PQq"), ("pQq", "pPQ")),
    (LOWER_ROOT_BACK, LOWER_EDGE_BACK, ("pQq", "pPQ"), ("pPq", "PQq")),
    (LOWER_EDGE_BACK, LOWER_EDGE, ("pPq", "PQq"), ("pQq", "pPQ")),
)
TEXELS_U = (0.62, 0.38)  # a corner of FLAME's texture that its own layout leaves free
TEXELS_V = (0.9917, 0.9575)


@dataclass(frozen=True)
class Teeth:
    """What is appended to FLAME, numbered from 0. T = 120."""

    verts: Array
    """Positions, metres, template space. [T, 3]"""
    faces: Array
    """Triangles, counter-clockwise from outside. [168, 3]"""
    uvs: Array
    """Texture coordinates, every vertex its own texel. [T, 2]"""
    identity_basis: Array
    """Shape directions, metres: the mean of both lips. [T, 3, S]"""
    upper: Array
    """Vertex ids of the upper band, which rests on the neck joint. [60]"""
    lower: Array
    """Vertex ids of the lower band, which turns with the jaw joint. [60]"""


def teeth_faces() -> Array:
    """Triangles of both bands, in file order. [168, 3]"""
    faces = []
    for p, q, left, right in STRIPS:
        for i in range(RING - 1):
            corner = {"p": p * RING + i, "q": q * RING + i, "P": p * RING + i + 1, "Q": q * RING + i + 1}
            faces += [[corner[c] for c in triangle] for triangle in (left if i < RING // 2 else right)]
    return np.array(faces, dtype=np.int64)


def make_teeth(template: Array, identity_basis: Array) -> Teeth:
    """Teeth behind the lips of a FLAME template. template [V, 3] m, identity_basis [V, 3, S]; V = 5023."""
    upper, lower = template[list(LIP_UPPER)], template[list(LIP_LOWER)]
    unit = np.linalg.norm(upper - lower, axis=1).mean()
    middle = (upper + lower) / 2
    middle[:, 1] = middle[:, 1].mean()
    offsets = np.array([[0.0, height, depth] for _, height, depth, _ in RINGS], dtype=template.dtype) * unit
    rows = np.array([row for *_, row in RINGS]) / (len(RINGS) - 1)
    u = np.linspace(*TEXELS_U, RING)
    v = TEXELS_V[0] + rows * (TEXELS_V[1] - TEXELS_V[0])
    uvs = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), axis=-1).reshape(-1, 2)
    directions = (identity_basis[list(LIP_UPPER)] + identity_basis[list(LIP_LOWER)]) / 2
    is_upper = np.repeat([upper_band for upper_band, *_ in RINGS], RING)
    return Teeth(
        verts=(middle[None] + offsets[:, None]).reshape(-1, 3).astype(template.dtype),
        faces=teeth_faces(),
        uvs=uvs.astype(np.float32),
        identity_basis=np.tile(directions, (len(RINGS), 1, 1)),
        upper=np.flatnonzero(is_upper),
        lower=np.flatnonzero(~is_upper),
    )
