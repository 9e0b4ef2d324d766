"""The 52 ARKit units on the head's vertices, and the lids' own basis."""

from __future__ import annotations

import numpy as np

from . import lids
from .rig import rigid_fit
from .source import Floats, Source
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


def expression_basis(topology: Topology, units: dict[str, Floats], template: Floats, tongue: Floats) -> Floats:
    """All units as columns; the eyeballs stay still, gaze belongs to the eye joints. [V, 3, 52]

    `tongue` [V, 3] is how far the template's tongue was laid down: it turns with the jaw, and sticks out as before.
    """
    columns = {name: topology.carry(units[name]) for name in ARKIT}
    teeth = topology.pieces["teeth_lower"]
    turn, _ = rigid_fit(template[teeth], template[teeth] + columns["jawOpen"][teeth])
    columns["jawOpen"] += tongue @ turn.T - tongue
    columns["tongueOut"] -= tongue
    for side in ("left", "right"):
        eye = lids.find_eye(side, topology, template)
        name = side.capitalize()
        columns[f"eyeBlink{name}"] = lids.closing(eye, template, columns[f"eyeBlink{name}"])
        columns[f"eyeWide{name}"] *= lids.WIDE_LEFT
    basis = np.stack([columns[name] for name in ARKIT], axis=2)
    for piece in ("eye_left", "eye_right"):
        basis[topology.pieces[piece]] = 0
    return basis
