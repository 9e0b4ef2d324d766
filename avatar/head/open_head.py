"""open_head: the packaged default head, a bust that works without any registration form (CC0).

It is a designed model, not a scan-statistical one: its identities are principal modes of mixtures of an artist's
targets. Built by `python -m avatar.head.open_head_build`.

What moves what:

- Expressions are the primary interface: 52 ARKit units by name, in alphabetical order, 0..1. `jawOpen` moves skin,
  lower teeth and tongue by itself; do not combine it with a jaw rotation.
- The jaw joint is for trackers that speak in rotations (FLAME's way): turning it by `JAW_OPEN` radians about +X lands
  exactly on `jawOpen = 1`, on the teeth by rotation, on the skin by rotation and corrective.
- `eyeLook*` moves the lids only, as ARKit defines it. The eyeballs turn about their centres by `HeadPose.eyes`; with
  all zeros they look straight ahead. `gaze_from_expression` gives the rotations that belong to ARKit coefficients.
- `eyelid_basis` is `eyeBlinkLeft` and `eyeBlinkRight` again, for trackers that measure the lids separately.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load as read_tensors
from torch import Tensor

from avatar.checks import check_shapes
from avatar.head.model import HeadModel, Landmarks

ASSETS = Path(__file__).parent / "assets"

JAW_OPEN = 0.4195
"""Rotation of the jaw about +X that equals jawOpen = 1, radians."""
GAZE = {"Down": 0.34, "In": 0.45, "Out": 0.45, "Up": 0.30}
"""Rotation of an eyeball at a full eyeLook unit, radians."""
PUPIL_ANGLE, IRIS_ANGLE = math.radians(9.2), math.radians(23.5)
"""Edge of the pupil and of the iris as seen from the eyeball's centre, radians from the gaze axis."""

# Colours of the preview, sRGB 0..1.
SKIN, BLUSH, SHADE, LIPS = (0.83, 0.66, 0.57), (0.80, 0.52, 0.45), (0.62, 0.44, 0.38), (0.71, 0.41, 0.38)
HAIR, LASHES, DARK = (0.19, 0.13, 0.10), (0.16, 0.11, 0.09), (0.10, 0.03, 0.03)
MOUTH, TONGUE, TEETH, GUMS = (0.36, 0.12, 0.12), (0.72, 0.36, 0.35), (0.93, 0.90, 0.83), (0.70, 0.38, 0.37)
PUPIL, IRIS, EYE_WHITE = (0.03, 0.03, 0.03), (0.34, 0.24, 0.16), (0.93, 0.92, 0.91)
BROWS = (
    ((46, 53, 52, 65, 55), (70, 63, 105, 66, 107)),
    ((276, 283, 282, 295, 285), (300, 293, 334, 296, 336)),
)
"""MediaPipe points along the lower and upper edge of the right and the left brow, from the temple inwards."""


@lru_cache(maxsize=1)
def load() -> HeadModel:
    """The packaged head, float32 on the CPU; the same object at every call.

    Raises FileNotFoundError where the package lacks the asset and ValueError where its hash does not match.
    """
    return read(ASSETS)


def read(folder: Path) -> HeadModel:
    """Read open_head.safetensors and its card open_head.json from `folder`, checking the hash."""
    file, card_file = folder / "open_head.safetensors", folder / "open_head.json"
    for path in (file, card_file):
        if not path.exists():
            raise FileNotFoundError(f"open_head: {path} is missing; reinstall avatar-engine, or rebuild it with "
                                    "python -m avatar.head.open_head_build")  # fmt: skip
    card = json.loads(card_file.read_text())
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != card["sha256"]:
        raise ValueError(
            f"open_head: {file} is damaged: expected sha256 {card['sha256']}, got {digest} over {len(content)} bytes; "
            "reinstall avatar-engine"
        )
    data = read_tensors(content)
    template = data["template"]
    names = tuple(card["expression_names"])
    expressions = torch.zeros(len(template), 3, len(names))
    expressions[data["expression_rows"].long()] = data["expression_basis"].float()
    lids = [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]
    return HeadModel(
        model_id=card["model_id"],
        sha256=digest,
        licence=card["licence"],
        template=template,
        faces=data["faces"].long(),
        uvs=data["uvs"],
        faces_uv=data["faces_uv"].long(),
        identity_basis=data["identity_basis"].float(),
        expression_basis=expressions,
        expression_names=names,
        joint_names=tuple(card["joint_names"]),
        parents=tuple(card["parents"]),
        joint_regressor=data["joint_regressor"],
        skin_weights=data["skin_weights"],
        eyelid_basis=expressions[:, :, lids].contiguous(),
        pose_correctives=jaw_correctives(data["jaw_corrective"].float(), card["joint_names"]),
        regions=named(data, "regions/"),
        parts=named(data, "parts/"),
        landmarks=landmark_sets(data),
    )


def named(data: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Id lists whose key starts with `prefix`, by the rest of the key. int64"""
    return {key.removeprefix(prefix): value.long() for key, value in data.items() if key.startswith(prefix)}


def jaw_correctives(corrective: Tensor, joints: list[str]) -> Tensor:
    """Directions for the row-major vec(R - I) of every joint but the root. [V, 3] -> [V, 3, 9 (J - 1)]

    The jaw's one corrective rides on R[2,1] - R[1,2], twice the sine of the opening: turning sideways stays clean.
    """
    directions = torch.zeros(*corrective.shape, 9 * (len(joints) - 1))
    first = 9 * (joints.index("jaw") - 1)
    directions[:, :, first + 7] = corrective / (2 * math.sin(JAW_OPEN))
    directions[:, :, first + 5] = -directions[:, :, first + 7]
    return directions


def landmark_sets(data: dict[str, Tensor]) -> dict[str, Landmarks]:
    """All 478 MediaPipe points and the 68 of iBUG among them."""
    faces, bary, chosen = data["landmarks/face_ids"].long(), data["landmarks/bary"], data["landmarks/ibug68"].long()
    return {
        "mediapipe478": Landmarks(faces, bary, torch.arange(len(faces))),
        "ibug68": Landmarks(faces[chosen], bary[chosen], torch.arange(len(chosen))),
    }


def gaze_from_expression(expr: Tensor, names: tuple[str, ...]) -> Tensor:
    """Eyeball rotations that belong to the eyeLook units: expr [B, E] -> HeadPose.eyes [B, 6], axis-angle radians."""
    check_shapes("gaze_from_expression", expr=(expr, f"B {len(names)}"))

    def unit(name: str) -> Tensor:
        return expr[:, names.index(f"eyeLook{name}")]

    rotations = []
    for side, inwards in (("Left", -1.0), ("Right", 1.0)):  # the left eye looks in towards -X
        pitch = GAZE["Down"] * unit("Down" + side) - GAZE["Up"] * unit("Up" + side)
        yaw = inwards * (GAZE["In"] * unit("In" + side) - GAZE["Out"] * unit("Out" + side))
        rotations += [pitch, yaw, torch.zeros_like(pitch)]
    return torch.stack(rotations, dim=1)


def preview_colors(head: HeadModel) -> Tensor:
    """A plausible colour for every vertex of open_head, for previews and demos, sRGB 0..1. [V, 3]"""
    verts = head.template
    colors = torch.tensor(SKIN).repeat(len(verts), 1)

    def tint(amount: Tensor, color: tuple[float, float, float]) -> None:
        """Mix `color` in; amount 0..1. [V]"""
        colors.lerp_(torch.tensor(color).expand_as(colors), amount.clamp(0, 1)[:, None])

    def inside(*names: str) -> Tensor:
        mask = torch.zeros(len(verts))
        for name in names:
            mask[head.regions[name] if name in head.regions else head.parts[name]] = 1
        return mask

    def soft(mask: Tensor, rounds: int) -> Tensor:
        """Spread a mask over neighbouring triangles. [V]"""
        corners = head.faces.flatten()
        count = torch.bincount(corners, minlength=len(mask)).clamp(min=1)
        for _ in range(rounds):
            spread = mask[head.faces].mean(1).repeat_interleave(3)
            mask = torch.zeros_like(mask).index_add_(0, corners, spread) / count
        return mask

    def near(point: Tensor, radius: float) -> Tensor:
        """Soft disc around a point, 1 at its centre. [V]"""
        return torch.exp(-(((verts - point).norm(dim=1) / radius) ** 2))

    points = head.landmarks["mediapipe478"]
    marks = (head.template[head.faces[points.face_ids]] * points.bary[:, :, None]).sum(1)
    for cheek in (50, 280):
        tint(0.35 * near(marks[cheek], 0.022), BLUSH)
    tint(0.30 * near(marks[4], 0.014) + 0.4 * soft(inside("ears"), 3), BLUSH)
    tint(0.2 * soft(inside("eyelid_left", "eyelid_right"), 2), SHADE)
    tint(0.95 * (2.2 * soft(inside("scalp"), 2) - 0.6) * inside("skin"), HAIR)
    for lower, upper in BROWS:
        line = marks[list(lower)].lerp(marks[list(upper)], 0.45)
        line[-1] = line[-2].lerp(line[-1], 0.6)
        stroke = torch.cat([line[:-1].lerp(line[1:], f) for f in (0.0, 0.25, 0.5, 0.75, 1.0)])
        distance = torch.cdist(verts, stroke).min(1).values
        tint(1.1 * torch.exp(-((distance / 0.0048) ** 2)) * inside("skin"), HAIR)
    tint(0.7 * soft(inside("lips"), 1) * inside("lips"), LIPS)
    tint(inside("mouth_cavity"), MOUTH)
    tint(inside("tongue"), TONGUE)
    tint(inside("teeth_upper", "teeth_lower"), TEETH)
    tint(inside("gums"), GUMS)
    behind = (marks[13, 2] - 0.015 - verts[:, 2]) / 0.05  # little light reaches the back of the mouth
    tint(0.85 * behind.clamp(0, 1) * inside("mouth_inner"), DARK)
    tint(inside("lashes"), LASHES)
    for eye in ("eye_left", "eye_right"):
        ids = head.parts[eye]
        centre = head.joint_regressor[head.joint_names.index(eye)] @ verts
        off_axis = verts[ids] - centre
        angle = torch.atan2(off_axis[:, :2].norm(dim=1), off_axis[:, 2])
        pupil, iris, white = (torch.tensor(color) for color in (PUPIL, IRIS, EYE_WHITE))
        rim = (angle > 0.85 * IRIS_ANGLE)[:, None]
        colors[ids] = torch.where((angle < IRIS_ANGLE)[:, None], torch.where(rim, 0.6 * iris, iris), white)
        colors[ids[angle < PUPIL_ANGLE]] = pupil
    return colors.clamp(0, 1)
