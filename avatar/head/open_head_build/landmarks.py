"""Registers MediaPipe's canonical face to the template and names regions of the surface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from . import dentition
from .rig import rigid_fit
from .rings import LID_EDGE, LIPS_END, LIPS_MEET, halves, walk_rings
from .source import Bools, Floats, Ints, Source
from .topology import IRIS_ANGLE, Topology

# Index lists of the published MediaPipe face mesh; "right" is the subject's right.
RIGHT_EYE = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
OUTER_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
RIGHT_BROW = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
LEFT_BROW = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
IBUG68 = (
    127, 234, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 454, 356,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip

NOSE = ("scale-vert", "scale-horiz", "hump", "width1", "width2")  # targets that move all of it between them
LID_RINGS = 6  # rings of skin around an eye that count as its lids
BARY_STEPS = 16384  # barycentric positions are multiples of its inverse: exact in float32, and they sum to one


@dataclass(frozen=True)
class Points:
    """Points on the surface."""

    face_ids: Ints
    """[L]"""
    bary: Floats
    """[L, 3]"""

    def on(self, verts: Floats, faces: Ints) -> Floats:
        """Where the points lie on a mesh. [L, 3]"""
        return np.asarray(np.einsum("lk,lkc->lc", self.bary, verts[faces[self.face_ids]]))


def read_canonical(path: Path) -> tuple[Floats, Ints]:
    """Vertices in metres [468, 3] and triangles of the canonical face model."""
    lines = [line.split() for line in path.read_text().splitlines()]
    verts = [[float(x) for x in words[1:4]] for words in lines if words[:1] == ["v"]]
    faces = [[int(word.split("/")[0]) - 1 for word in words[1:4]] for words in lines if words[:1] == ["f"]]
    return np.array(verts) * 0.01, np.array(faces)


def closest_points(points: Floats, verts: Floats, faces: Ints, allowed: Ints, candidates: int = 40) -> Points:
    """Nearest point on the allowed triangles for every point: exact on the nearest `candidates` triangles."""
    corner = verts[faces[allowed]]
    near = np.sort(cKDTree(corner.mean(1)).query(points, k=min(candidates, len(allowed)))[1], axis=1)  # [P, K]
    a, b, c = (corner[near, i] for i in range(3))
    p = points[:, None]

    def on_segment(start: Floats, end: Floats) -> Floats:
        along = end - start
        return np.asarray(np.clip(((p - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-18), 0, 1))

    normal = np.cross(b - a, c - a)
    scale = np.maximum((normal**2).sum(-1), 1e-18)
    u = (np.cross(c - b, p - b) * normal).sum(-1) / scale
    v = (np.cross(a - c, p - c) * normal).sum(-1) / scale
    inside = np.stack([u, v, 1 - u - v], axis=-1)
    ab, bc, ca = on_segment(a, b), on_segment(b, c), on_segment(c, a)
    zero = np.zeros_like(ab)
    choices = np.stack(
        [
            inside,
            np.stack([1 - ab, ab, zero], -1),
            np.stack([zero, 1 - bc, bc], -1),
            np.stack([ca, zero, 1 - ca], -1),
        ],
        axis=2,
    )  # [P, K, 4, 3]
    spots = np.einsum("pkmi,pkic->pkmc", choices, corner[near])
    distance = np.linalg.norm(spots - p[:, :, None], axis=-1)
    distance[:, :, 0][(inside < 0).any(-1)] = np.inf
    # Rounded to a nanometre so that of two triangles that share the point the first wins on every machine.
    best = np.round(distance.reshape(len(points), -1), 9).argmin(1)
    k, m = np.divmod(best, 4)
    row = np.arange(len(points))
    bary = np.round(choices[row, k, m] * BARY_STEPS) / BARY_STEPS
    bary[:, 2] = 1 - bary[:, 0] - bary[:, 1]
    return Points(allowed[near[row, k]], bary)


def along(curve: Floats, fractions: Floats) -> Floats:
    """Points of a polyline at fractions of its length. [n, 3], [m] -> [m, 3]"""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    return np.stack([np.interp(fractions * length[-1], length, curve[:, k]) for k in range(3)], axis=1)


def ring_targets(ring: tuple[int, ...], canonical: Floats, upper: Floats, lower: Floats) -> Floats:
    """Where the points of a canonical ring (starting at its first corner, over the top) fall on a seam. [n, 3]"""
    half = len(ring) // 2
    over, under = ring[: half + 1], (ring[0], *reversed(ring[half:]))
    if canonical[ring[0], 0] > canonical[ring[half], 0]:
        upper, lower = upper[::-1], lower[::-1]

    def fractions(chain: tuple[int, ...]) -> Floats:
        steps = np.linalg.norm(np.diff(canonical[list(chain)], axis=0), axis=1)
        return np.asarray(np.concatenate([[0], np.cumsum(steps)]) / steps.sum())

    above, below = along(upper, fractions(over)), along(lower, fractions(under))
    return np.concatenate([above, below[1:-1][::-1]])


def register(canonical: Floats, canonical_faces: Ints, topology: Topology, template: Floats) -> Points:
    """Points of the canonical face and the ten iris points on the template. 478 points"""
    drawn: list[int] = []
    goals = []
    for ring, seam, number in (
        (INNER_LIPS, "mouth_cavity", LIPS_MEET),
        (OUTER_LIPS, "mouth_cavity", LIPS_END),
        (RIGHT_EYE, "socket_right", LID_EDGE),
        (LEFT_EYE, "socket_left", LID_EDGE),
    ):
        drawn += ring
        upper, lower = halves(walk_rings(topology, seam, number + 1)[number], template)
        goals.append(ring_targets(ring, canonical, template[upper], template[lower]))
    mouth, right = goals[0], goals[2]
    skin = topology.pieces["skin_head"]
    midline = skin[np.abs(template[skin, 0]) < 1e-6]
    middle = template[midline]
    eye_y, mouth_y = right[0, 1], mouth[0, 1]
    front = middle[:, 2] > 0.02

    def on_midline(low: float, high: float, pick: int) -> Floats:
        """The most prominent (pick = 1) or deepest (-1) point of the profile between two heights."""
        here = middle[front & (middle[:, 1] > low) & (middle[:, 1] < high)]
        return np.asarray(here[(pick * here[:, 2]).argmax()])

    tip = on_midline(mouth_y, eye_y, 1)
    under_nose = on_midline(mouth_y + 0.008, tip[1] - 0.004, -1)
    root = on_midline(eye_y - 0.005, eye_y + 0.02, -1)
    dent = on_midline(mouth_y - 0.030, mouth_y - 0.010, -1)
    chin = on_midline(mouth_y - 0.055, dent[1] - 0.005, 1)
    anchors = [*drawn, 4, 2, 168, 18, 199]
    places = np.concatenate([*goals, [tip, under_nose, root, dent, chin]])

    turn, _ = rigid_fit(canonical[anchors], places)
    a, b = canonical[anchors], places
    scale = np.linalg.norm(b - b.mean(0)) / np.linalg.norm(a - a.mean(0))
    turn, shift = rigid_fit(a * scale, b)
    current = canonical * scale @ turn.T + shift

    labels = np.isin(topology.faces, skin).all(1)
    centre = template[topology.faces].mean(1)
    allowed = np.flatnonzero(labels & (centre[:, 2] > 0.0))
    links = np.unique(np.sort(np.concatenate([canonical_faces[:, [0, 1]], canonical_faces[:, [1, 2]],
                                              canonical_faces[:, [2, 0]]]), axis=1), axis=0)  # fmt: skip
    size = len(canonical)
    laplace = np.zeros((size, size))
    for i, j in links:
        laplace[i, i] += 1
        laplace[j, j] += 1
        laplace[i, j] -= 1
        laplace[j, i] -= 1
    smooth = laplace @ laplace
    fixed = np.zeros(size)
    fixed[anchors] = 1
    goal = np.zeros((size, 3))
    goal[anchors] = places
    start = current.copy()
    # Each round moves the face as smoothly as it can towards the anchors and its nearest surface points.
    for stiffness, pull in ((10.0, 0.0), (3.0, 0.1), (1.0, 0.3), (0.3, 1.0), (0.1, 1.0), (0.1, 1.0), (0.05, 1.0)):
        near = closest_points(current, template, topology.faces, allowed).on(template, topology.faces)
        weight = np.where(fixed > 0, 30.0, pull)
        wanted = np.where(fixed[:, None] > 0, goal, near) - start
        offset = np.linalg.solve(stiffness * smooth + np.diag(weight), weight[:, None] * wanted)
        current = start + offset
    current[anchors] = places
    found = closest_points(current, template, topology.faces, allowed)
    irises = [iris_points(piece, topology, template) for piece in ("eye_right", "eye_left")]
    return Points(
        np.concatenate([found.face_ids, *(iris.face_ids for iris in irises)]),
        np.concatenate([found.bary, *(iris.bary for iris in irises)]),
    )


def iris_points(piece: str, topology: Topology, template: Floats) -> Points:
    """Centre, then the iris edge at subject's left, top, subject's right, bottom of one eyeball. 5 points"""
    ids = topology.pieces[piece]
    ball = template[ids]
    centre = (ball[0] + ball[-1]) / 2
    radius = np.linalg.norm(ball[0] - centre)
    side, angle = np.sin(np.radians(IRIS_ANGLE)), np.cos(np.radians(IRIS_ANGLE))
    spots = np.array([[0, 0, 1], [side, 0, angle], [0, side, angle], [-side, 0, angle], [0, -side, angle]])
    allowed = np.flatnonzero(np.isin(topology.faces, ids).all(1))
    return closest_points(centre + radius * spots, template, topology.faces, allowed)


def inside_polygon(points: Floats, polygon: Floats) -> Bools:
    """Whether points lie in a closed polygon of the plane (even-odd rule). [n, 2], [m, 2] -> [n]"""
    x, y = points[:, 0, None], points[:, 1, None]
    a, b = polygon, np.roll(polygon, -1, axis=0)
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    at = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / np.where(a[:, 1] == b[:, 1], 1, b[:, 1] - a[:, 1])
    return np.asarray((crosses & (x < at)).sum(1) % 2 == 1)


def name_regions(
    source: Source, topology: Topology, template: Floats, weights: Floats, basis: dict[str, Floats], canonical: Floats
) -> dict[str, Ints]:
    """Regions of the surface by name. `basis` holds expression columns, `canonical` the 478 registered points."""
    skin = np.concatenate([topology.pieces["skin_head"], topology.pieces["skin_body"]])
    is_skin = np.zeros(len(template), bool)
    is_skin[skin] = True
    is_skin[topology.pieces["socket_left"]] = is_skin[topology.pieces["socket_right"]] = True
    front = template[:, 2] > 0.0

    def moved_by(*names: str, share: float) -> Bools:
        """Skin that a source target displaces by at least `share` of its largest displacement."""
        size = np.zeros(len(template))
        for name in names:
            delta = np.linalg.norm(topology.carry(source.target(f"mpfb2/targets/{name}")), axis=1)
            size = np.maximum(size, delta / delta.max())
        return is_skin & (size > share)

    def within(ring: tuple[int, ...]) -> Bools:
        return np.asarray(is_skin & front & inside_polygon(template[:, :2], canonical[list(ring), :2]))

    oval = within(FACE_OVAL)
    # The whole ear rides on a shift; scaling barely moves its middle.
    ear_left = moved_by("ears/l-ear-trans-backward", "ears/l-ear-trans-up", share=0.85)
    ear_right = moved_by("ears/r-ear-trans-backward", "ears/r-ear-trans-up", share=0.85)
    ears = ear_left | ear_right
    upper_lip, lower_lip = (
        np.isin(np.arange(len(template)), np.concatenate(parts))
        for parts in zip(
            *(halves(r, template) for r in walk_rings(topology, "mouth_cavity", LIPS_END + 1)), strict=True
        )
    )

    def lid(side: str) -> Bools:
        rings = np.concatenate(walk_rings(topology, f"socket_{side}", LID_RINGS))
        blinks = np.linalg.norm(basis[f"eyeBlink{side.capitalize()}"], axis=1) > 0.001
        return np.asarray(is_skin & (blinks | np.isin(np.arange(len(template)), rings)))

    chest = weights[:, 1]
    neck = is_skin & (chest > 0.02) & (chest < 0.9) & (template[:, 1] < canonical[152, 1] + 0.03)
    torso = is_skin & (chest >= 0.9)
    brow = canonical[list(RIGHT_BROW + LEFT_BROW), 1].max()
    regions = {
        "face": oval & ~ears,
        "lips": upper_lip | lower_lip,
        "upper_lip": upper_lip,
        "lower_lip": lower_lip,
        "nose": moved_by(*(f"nose/nose-{name}-incr" for name in NOSE), share=0.2) & oval,
        "forehead": oval & (template[:, 1] > brow),
        "eye_region_left": is_skin & front & (np.linalg.norm(template - canonical[473], axis=1) < 0.026),
        "eye_region_right": is_skin & front & (np.linalg.norm(template - canonical[468], axis=1) < 0.026),
        "eyelid_left": lid("left"),
        "eyelid_right": lid("right"),
        "ear_left": ear_left,
        "ear_right": ear_right,
        "ears": ears,
        "neck": neck,
        "torso": torso,
        "shoulders": torso & (np.abs(template[:, 0]) > 0.09),
        "mouth_inner": np.isin(
            np.arange(len(template)),
            np.concatenate([topology.pieces[p] for p in ("mouth_cavity", "teeth_upper", "teeth_lower", "tongue")]),
        ),
    }
    for name in ("teeth_upper", "teeth_lower"):
        ids = topology.pieces[name]
        gums = np.isin(np.arange(len(ids)) % dentition.RINGS, dentition.GUM_RINGS)
        regions.setdefault("gums", np.zeros(len(template), bool))[ids] = gums
    regions["scalp"] = scalp(template, is_skin & ~ears & ~neck & ~torso, canonical, ears)
    return {name: np.flatnonzero(mask) for name, mask in sorted(regions.items())}


def scalp(template: Floats, mask: Bools, canonical: Floats, ears: Bools) -> Bools:
    """Where hair grows: above a line that runs over the forehead, before the ears and down to the nape."""
    ear = template[ears]
    front, back, low, top = ear[:, 2].max(), ear[:, 2].min(), ear[:, 1].min(), ear[:, 1].max()
    hairline = canonical[10]
    line = (  # forwards, upwards
        (template[:, 2].min(), low - 0.025),
        (back - 0.012, low - 0.015),
        (back - 0.002, low + 0.02),
        (back + 0.006, top + 0.004),
        (front - 0.004, top + 0.004),
        (front, low + 0.035),
        (front + 0.008, low + 0.038),
        (front + 0.016, canonical[[127, 356], 1].mean() + 0.012),
        (hairline[2] - 0.035, hairline[1] - 0.004),
        (hairline[2], hairline[1]),
    )
    forwards, upwards = zip(*line, strict=True)
    return np.asarray(mask & (template[:, 1] > np.interp(template[:, 2], forwards, upwards)))
