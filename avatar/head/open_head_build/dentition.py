"""Two arches of single teeth with gums, in place of the source's plain strips.

Each arch is a grid: columns run along the arch from the subject's right to left, three a tooth (the gap and two
shoulders), rings run from the outer gum over the crown to the inner gum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .source import Floats, Ints

MM = 1e-3
RINGS = 6
GUM_RINGS = (0, 5)


@dataclass(frozen=True)
class Arch:
    """Sizes of one arch, millimetres; teeth from the midline backwards (dental textbooks' averages)."""

    widths: tuple[float, ...]
    heights: tuple[float, ...]
    depths: tuple[float, ...]
    """Thickness of the crown from lip to tongue."""
    edges: tuple[float, ...]
    """How far each edge stays behind the first tooth's, towards the gum."""
    half_width: float
    """Of the arch at `length` behind its front."""
    length: float
    edge: float
    """Height of the first edge above the line where the lips meet."""
    front: float
    """How far the arch stands before the source's."""
    up: float
    """1 where the gum is above the edge, -1 where below."""


UPPER = Arch(
    widths=(8.4, 6.6, 7.6, 7.0, 6.8, 10.0), heights=(10.2, 9.0, 10.0, 8.5, 8.0, 7.5),
    depths=(2.6, 2.4, 3.2, 5.5, 6.5, 7.5), edges=(0.0, 0.7, 0.1, 0.7, 1.0, 1.3),
    half_width=29.0, length=46.0, edge=-1.6, front=2.6, up=1.0,
)  # fmt: skip
LOWER = Arch(
    widths=(5.4, 5.9, 6.8, 7.0, 7.2, 10.6), heights=(8.8, 9.0, 10.0, 8.5, 8.0, 7.5),
    depths=(2.4, 2.4, 3.0, 5.0, 6.0, 7.0), edges=(0.0, 0.0, -0.2, 0.3, 0.6, 0.8),
    half_width=26.5, length=43.0, edge=-2.1, front=2.4, up=-1.0,
)  # fmt: skip


def build_arch(arch: Arch, front: Floats, lips: float) -> tuple[Floats, Ints, Floats]:
    """Points [n, 3], faces [f, 3] and uvs [n, 2] of one arch.

    `front` is the foremost point of the source's arch, `lips` the height at which the closed lips meet, metres.
    """
    depth = np.linspace(0, 1.2, 4001) ** 2 * arch.length
    curve = np.stack([arch.half_width * np.sqrt(depth / arch.length), -depth], axis=1)  # x, z of the subject's left
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    columns: list[tuple[float, int, bool]] = [(0.0, 0, True)]  # distance, tooth, whether it is a gap
    start = 0.0
    for tooth, width in enumerate(arch.widths):
        columns += [(start + 0.22 * width, tooth, False), (start + 0.78 * width, tooth, False)]
        start += width
        columns.append((start, tooth, True))
    columns = [(-s, tooth, gap) for s, tooth, gap in reversed(columns[1:])] + columns

    points = []
    for distance, tooth, gap in columns:
        x, z = (np.interp(abs(distance), travelled, curve[:, k]) for k in range(2))
        ahead = np.array([np.interp(abs(distance) + 0.05, travelled, curve[:, k]) for k in range(2)]) - [x, z]
        outward = np.array([-ahead[1], ahead[0]]) / np.linalg.norm(ahead)
        place, normal = np.array([x, 0.0, z]), np.array([outward[0], 0.0, outward[1]])
        place[0], normal[0] = place[0] * np.sign(distance), normal[0] * np.sign(distance)
        height, thick = arch.heights[tooth], arch.depths[tooth]
        if gap:
            thick = (thick + arch.depths[min(tooth + 1, len(arch.depths) - 1)]) / 2
        edge = arch.edges[tooth] + (1.1 if gap else 0.0)
        neck = arch.edges[tooth] + height - (2.2 if gap else 0.0)
        inset = 0.8 if gap else 0.0
        profile = (  # outward, towards the gum
            (-1.2, height + 4.5),
            (-0.5 - 0.2 * inset, neck),
            (0.5 - inset, edge + 0.45 * height),
            (-0.2 - inset, edge),
            (-thick + 0.6 + inset, edge + 0.3),
            (-thick - 1.0, height + 2.0),
        )
        for out, rise in profile:
            points.append(place + out * normal + np.array([0.0, arch.edge + arch.up * rise, 0.0]))
    cloud = np.array(points) * MM
    cloud += [0.0, lips, front[2] + arch.front * MM]

    count = len(columns)
    index = np.arange(count * RINGS).reshape(count, RINGS)
    a, b, c, d = (index[i : count - 1 + i, j : RINGS - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, d, c], axis=1), np.stack([a, c, b], axis=1)])
    if arch.up < 0:
        faces = faces[:, ::-1]
    along = np.array([s for s, _, _ in columns])
    uvs = np.stack([np.repeat(along, RINGS), np.tile(np.linspace(0, 14, RINGS) * -arch.up, count)], axis=1)
    return cloud, faces, uvs
