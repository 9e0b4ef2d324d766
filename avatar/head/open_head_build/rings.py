"""The closed rings of vertices that surround the mouth and each eye in the source's mesh."""

from __future__ import annotations

import numpy as np

from .source import Floats, Ints
from .topology import Topology

LIPS_MEET = 2  # ring of the mouth where the closed lips touch
LIPS_END = 7  # ring of the mouth along the border of the red
LID_EDGE = 2  # ring of an eye where the lid meets the eyeball
LID_FRONT = 3  # ring of an eye along the outer edge of the lid's margin


def walk_rings(topology: Topology, piece: str, count: int) -> list[Ints]:
    """Rings of skin from the seam with `piece` (mouth_cavity, socket_left, socket_right) outwards, in walking order."""
    ring = topology.seams[piece]
    seen = set(topology.pieces[piece].tolist()) | set(ring.tolist())
    rings = []
    for _ in range(count):
        rings.append(walk(ring, topology.faces))
        touching = topology.faces[np.isin(topology.faces, ring).any(1)]
        ring = np.array(sorted(set(touching.ravel().tolist()) - seen))
        seen |= set(ring.tolist())
    return rings


def walk(ring: Ints, faces: Ints) -> Ints:
    """A closed ring in the order in which its edges follow each other. [n]"""
    links: dict[int, list[int]] = {int(i): [] for i in ring}
    inside = np.isin(faces, ring)
    for face, member in zip(faces[inside.sum(1) >= 2].tolist(), inside[inside.sum(1) >= 2].tolist(), strict=True):
        for i, j in ((0, 1), (1, 2), (2, 0)):
            if member[i] and member[j] and face[j] not in links[face[i]]:
                links[face[i]].append(face[j])
                links[face[j]].append(face[i])
    start = min(links)
    path, last, step = [start], start, min(links[start])
    while step != start:
        if len(links[step]) != 2:
            raise ValueError(f"vertex {step} has {len(links[step])} neighbours in its ring, expected 2")
        path.append(step)
        last, step = step, links[step][0] if links[step][1] == last else links[step][1]
    return np.array(path)


def halves(ring: Ints, points: Floats) -> tuple[Ints, Ints]:
    """Upper and lower half of a ring, each from the subject's right corner to the left one, corners in both.

    `points` [V, 3] are positions or angles whose first column grows to the left and whose second grows upwards.
    """
    across = points[ring, 0]
    first, last, count = int(across.argmin()), int(across.argmax()), len(ring)
    walks = [(first + step * np.arange((last - first) * step % count + 1)) % count for step in (1, -1)]
    walks.sort(key=lambda part: -points[ring[part], 1].mean())
    return ring[walks[0]], ring[walks[1]]
