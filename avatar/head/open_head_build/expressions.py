"""The 52 ARKit units on the head's vertices, and the lids' own basis."""

from __future__ import annotations

import numpy as np

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


def expression_basis(topology: Topology, units: dict[str, Floats]) -> Floats:
    """All units as columns; the eyeballs stay still, gaze belongs to the eye joints. [V, 3, 52]"""
    basis = np.stack([topology.carry(units[name]) for name in ARKIT], axis=2)
    for piece in ("eye_left", "eye_right"):
        basis[topology.pieces[piece]] = 0
    return basis
