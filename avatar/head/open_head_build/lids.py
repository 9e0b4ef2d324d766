"""Opens the neutral eye a little and makes the blink close: measured on the rings of vertices around the lid margin.

Angles are seen from the eyeball's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .rings import LID_FRONT, halves, walk_rings
from .source import Floats, Ints
from .topology import Topology

NEUTRAL_WIDE = 0.35  # share of eyeWide in the neutral face: the source's lids hide a third of the iris
WIDE_LEFT = 0.85  # what remains of eyeWide on top of that
LOWER_SHARE = 0.12  # share of the opening that the lower lid closes
BOW = 1.8  # exponent of the closed line; 2 is a parabola
OVERLAP = np.radians(3.0)  # how far the upper margin passes the lower, 0.8 mm: closes on other identities as well
CLEARANCE = 0.0003  # metres that the upper margin lifts off while it closes: it travels on a chord, not on the ball
FALLOFF = np.radians(13.0)  # reach of the lower lid's motion below its margin


@dataclass(frozen=True)
class Eye:
    """One eyeball and the rings of skin around its opening."""

    centre: Floats
    """[3]"""
    radius: float
    """metres"""
    rings: list[Ints]
    """Vertex ids from the seam outwards, in walking order. 28 each"""

    def angles(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Azimuth to the subject's left, elevation (radians) and distance of points. [n, 3] -> [n] each"""
        offset = points - self.centre
        return (
            np.arctan2(offset[:, 0], offset[:, 2]),
            np.arctan2(offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])),
            np.linalg.norm(offset, axis=1),
        )

    def points(self, azimuth: Floats, elevation: Floats, distance: Floats) -> Floats:
        """The inverse of `angles`. [n] each -> [n, 3]"""
        flat = distance * np.cos(elevation)
        offset = [flat * np.sin(azimuth), distance * np.sin(elevation), flat * np.cos(azimuth)]
        return self.centre + np.stack(offset, axis=1)


def find_eye(side: str, topology: Topology, template: Floats) -> Eye:
    """The eye of one side, "left" or "right"."""
    ball = template[topology.pieces[f"eye_{side}"]]
    centre = (ball[0] + ball[-1]) / 2
    return Eye(centre, float(np.linalg.norm(ball[0] - centre)), walk_rings(topology, f"socket_{side}", 6))


def closing(eye: Eye, template: Floats, source_blink: Floats) -> Floats:
    """Displacement that closes one eye, from the source's own blink. [V, 3]

    Every column of the upper lid is scaled so that the outer edge of its margin lands just past the lower one; the
    lower lid rises to meet it. Work is done in angles, so the lid stays on the ball.
    """
    moved = np.linalg.norm(source_blink, axis=1) > 0
    azimuth, elevation, distance = eye.angles(template)
    azimuth_to, elevation_to, distance_to = eye.angles(template + source_blink)
    above, below = halves(eye.rings[LID_FRONT], np.stack([azimuth, elevation], axis=1))
    grid = np.linspace(azimuth[above[0]], azimuth[above[-1]], 61)

    def over_grid(ids: Ints, values: Floats) -> Floats:
        return np.interp(grid, np.maximum.accumulate(azimuth[ids]), values[ids])

    upper, lower, upper_to = over_grid(above, elevation), over_grid(below, elevation), over_grid(above, elevation_to)
    opening = np.maximum(upper - lower, 0)
    # The lids meet on a smooth bow from corner to corner; the lower margin alone would kink at the inner corner.
    along = (grid - grid[0]) / (grid[-1] - grid[0])
    corners = lower[0] + along * (lower[-1] - lower[0])
    bow = np.maximum(corners - lower - LOWER_SHARE * opening, 0).max()
    line = np.clip(corners - bow * (1 - np.abs(2 * along - 1) ** BOW), lower, np.maximum(upper, lower))
    fade = np.clip(opening / np.radians(16.0), 0, 1)  # nothing to pass where the lids join
    wanted = line - OVERLAP * fade - upper
    source = np.minimum(upper_to - upper, np.radians(-1.0))
    gain = np.clip(wanted / source, 0.05, 2.0)
    gain = np.convolve(np.pad(gain, 5, mode="edge"), np.ones(11) / 11, mode="valid")
    scale = np.interp(azimuth, grid, gain)

    depth = np.interp(azimuth, grid, lower) - elevation
    rise = np.interp(azimuth, grid, line - lower, left=0, right=0)
    near = np.exp(-np.square(np.maximum(depth, 0) / FALLOFF)) * (depth > -np.radians(1.0))
    near *= distance < eye.radius + 0.008
    lift = np.interp(azimuth, grid, CLEARANCE * fade, left=0, right=0)
    drop = np.clip((elevation - elevation_to) / np.radians(20.0), 0, 1)
    closed = eye.points(
        azimuth + scale * (azimuth_to - azimuth),
        elevation + scale * (elevation_to - elevation) + rise * near,
        distance + np.where(drop > 0, lift * drop, 0) + scale * (1 - drop) * (distance_to - distance),
    )
    result = closed - template
    result[~(moved | (near * rise > 1e-4))] = 0
    return result
