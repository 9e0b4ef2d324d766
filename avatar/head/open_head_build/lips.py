"""Closes the slits that the average person's lips leave beside the corners of the mouth."""

from __future__ import annotations

import numpy as np

from .rings import halves, walk_rings
from .source import Floats, Ints
from .topology import Topology

SHARES = (1.0, 1.0, 1.0, 0.7, 0.4, 0.2)  # how far each ring around the mouth, from the inside, goes along
CONTACT = 0.0002  # metres that the lips overlap afterwards


def close_lips(topology: Topology, template: Floats) -> Floats:
    """Displacement that brings the lips together wherever one sees between them from the front. [V, 3]"""
    pairs = [halves(ring, template) for ring in walk_rings(topology, "mouth_cavity", len(SHARES))]
    reach = min(template[upper, 0].max() for upper, _ in pairs)
    grid = np.linspace(-reach, reach, 81)

    def height(ids: Ints) -> Floats:
        across = template[ids, 0]
        order = np.argsort(across, kind="stable")
        return np.asarray(np.interp(grid, across[order], template[ids[order], 1]))

    above = np.min([height(upper) for upper, _ in pairs], axis=0)
    below = np.max([height(lower) for _, lower in pairs], axis=0)
    gap = np.maximum(above - below + CONTACT, 0)
    gap = np.convolve(np.pad(gap, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    offset = np.zeros_like(template)
    for (upper, lower), share in zip(pairs, SHARES, strict=True):
        for ids, way in ((upper[1:-1], -0.5), (lower[1:-1], 0.5)):
            offset[ids, 1] = way * share * np.interp(template[ids, 0], grid, gap, left=0, right=0)
    return offset
