"""The 52 ARKit units on the head's vertices, and the lids' own basis."""

from __future__ import annotations

import numpy as np

from . import lids
from .rig import rigid_fit
from .rings import LIPS_END, walk_rings
from .source import Floats, Ints, Source
from .topology import Topology

ARKIT = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

FOLDED = ("mouthSmileLeft", "mouthSmileRight")  # units whose full strokes cut a trench into the cheek
SOFTENING = 3  # rounds of averaging over neighbours
TONGUE_NARROWER = 0.25  # share of its width: the source's reaches through the molars
TONGUE_LOWER = 0.007  # metres
TONGUE_BACK = 0.004  # metres, at the tip


def mirror_name(name: str) -> str:
    """The unit of the other side, or the name itself where there is none."""
    if name.endswith("Left"):
        return name.removesuffix("Left") + "Right"
    return name.removesuffix("Right") + "Left" if name.endswith("Right") else name


def read_units(source: Source) -> dict[str, Floats]:
    """Displacements of all units on the source; left and right mirror each other exactly. {name: [N, 3]}"""
    raw = {name: source.target(f"faceunits01/targets/faceunits/{name}") for name in ARKIT}
    flip = np.array([-1.0, 1.0, 1.0])
    return {name: (raw[name] + raw[mirror_name(name)][source.mirror] * flip) / 2 for name in ARKIT}


def rest_tongue(topology: Topology, template: Floats) -> Floats:
    """Displacement that lays the tongue down between the lower teeth; the source's fills the mouth. [V, 3]"""
    ids = topology.pieces["tongue"]
    points = template[ids]
    back, front = points[:, 2].min(), points[:, 2].max()
    forward = (points[:, 2] - back) / (front - back)
    offset = np.zeros_like(template)
    offset[ids, 0] = -TONGUE_NARROWER * points[:, 0]
    offset[ids, 1] = -TONGUE_LOWER * np.clip(forward / 0.6, 0, 1)
    offset[ids, 2] = -TONGUE_BACK * forward
    return offset


def soften(column: Floats, faces: Ints, skin: Ints, kept: Ints) -> Floats:
    """Spread a displacement over the skin so that folds stay shallow; the vertices `kept` stay exact. [V, 3]"""
    triangles = faces[np.isin(faces, skin).all(1)]
    count = np.maximum(np.bincount(triangles.ravel(), minlength=len(column)), 1)[:, None]
    free = np.setdiff1d(np.unique(triangles), kept)
    result = column.copy()
    for _ in range(SOFTENING):
        spread = np.zeros_like(result)
        np.add.at(spread, triangles.ravel(), np.repeat(result[triangles].mean(1), 3, axis=0))
        result[free] = (spread / count)[free]
    return result


def expression_basis(topology: Topology, units: dict[str, Floats], template: Floats, tongue: Floats) -> Floats:
    """All units as columns; the eyeballs stay still, gaze belongs to the eye joints. [V, 3, 52]

    `tongue` [V, 3] is how far the template's tongue was laid down: it turns with the jaw, and sticks out as before.
    """
    columns = {name: topology.carry(units[name]) for name in ARKIT}
    teeth = topology.pieces["teeth_lower"]
    turn, _ = rigid_fit(template[teeth], template[teeth] + columns["jawOpen"][teeth])
    columns["jawOpen"] += tongue @ turn.T - tongue
    columns["tongueOut"] -= tongue
    lips = np.concatenate(walk_rings(topology, "mouth_cavity", LIPS_END + 1))
    for name in FOLDED:
        columns[name] = soften(columns[name], topology.faces, topology.pieces["skin_head"], lips)
    for side in ("left", "right"):
        eye = lids.find_eye(side, topology, template)
        name = side.capitalize()
        columns[f"eyeBlink{name}"] = lids.closing(eye, template, columns[f"eyeBlink{name}"])
        columns[f"eyeWide{name}"] *= lids.WIDE_LEFT
    basis = np.stack([columns[name] for name in ARKIT], axis=2)
    for piece in ("eye_left", "eye_right"):
        basis[topology.pieces[piece]] = 0
    return basis
