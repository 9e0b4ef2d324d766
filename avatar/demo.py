"""`avatar demo`: a turning, talking open head as a video and as still pictures, without any data of the user's."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from avatar.contact_sheet import BACKDROP, contact_sheet, head_colors, portrait_camera, save_picture, tile
from avatar.head import load
from avatar.head.fold import fold, prepare
from avatar.head.model import HeadModel
from avatar.progress import progress
from avatar.render.mesh import shade_mesh
from avatar.types import Camera, HeadPose
from avatar.video import write_video

# Mouth shapes as ARKit weights: a hand-made syllable table, good enough to see every part of the mouth at work.
MOUTH: Mapping[str, Mapping[str, float]] = {
    "rest": {},
    "closed": {"mouthPressLeft": 0.35, "mouthPressRight": 0.35, "mouthRollLower": 0.15, "mouthRollUpper": 0.1},
    "ah": {"jawOpen": 0.5, "mouthLowerDownLeft": 0.2, "mouthLowerDownRight": 0.2},
    "ee": {
        "jawOpen": 0.12,
        "mouthSmileLeft": 0.4,
        "mouthSmileRight": 0.4,
        "mouthUpperUpLeft": 0.2,
        "mouthUpperUpRight": 0.2,
    },
    "eh": {"jawOpen": 0.28, "mouthStretchLeft": 0.3, "mouthStretchRight": 0.3},
    "oh": {"jawOpen": 0.32, "mouthFunnel": 0.5},
    "oo": {"jawOpen": 0.1, "mouthPucker": 0.7},
    "ef": {"jawOpen": 0.06, "mouthRollLower": 0.5, "mouthUpperUpLeft": 0.15, "mouthUpperUpRight": 0.15},
    "el": {"jawOpen": 0.2, "tongueOut": 0.05},
}
SPEECH = (
    "rest closed ah el oh rest ee ef eh oh closed ah rest rest oo ee ah closed eh el oo rest ef ah ee closed oh rest"
)
SYLLABLE = 0.16  # seconds a shape is held: a relaxed speaker


def talking(head: HeadModel, seconds: float, fps: float) -> HeadPose:
    """A head that talks, blinks, looks around and turns: one pose per frame, deterministic. Needs ARKit names.

    Raises ValueError where the head has other expressions.
    """
    names = list(head.expression_names)
    missing = {name for shape in MOUTH.values() for name in shape} - set(names)
    if missing:
        raise ValueError(f"talking: head {head.model_id} lacks the expressions {', '.join(sorted(missing))}")
    count = round(seconds * fps)
    t = torch.arange(count) / fps
    expr = torch.zeros(count, len(names))
    words = SPEECH.split()
    keys = torch.zeros(len(words), len(names))
    for k, word in enumerate(words):
        for name, weight in MOUTH[word].items():
            keys[k, names.index(name)] = weight
    place = t / SYLLABLE % len(words)
    first = place.long()
    ease = (1 - torch.cos(math.pi * ((place - first) * 1.5).clamp(max=1))) / 2  # move, then hold
    expr += torch.lerp(keys[first], keys[(first + 1) % len(words)], ease[:, None])

    blink = torch.zeros(count)
    for moment in (0.9, 2.6, 3.0, 5.2, 7.1):
        blink = torch.maximum(blink, torch.exp(-(((t - moment) / 0.06) ** 2)))
    brow = 0.5 * torch.exp(-(((t - 3.8) / 0.5) ** 2)) + 0.3 * torch.exp(-(((t - 6.2) / 0.4) ** 2))
    expr[:, names.index("browInnerUp")] += brow
    smile = 0.7 * torch.exp(-(((t - seconds + 0.5) / 0.6) ** 2))
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        expr[:, names.index(name)] = torch.maximum(expr[:, names.index(name)], smile)

    zero = torch.zeros(count)
    turn = 2 * math.pi * t / seconds
    yaw = 0.55 * torch.sin(turn)
    gaze = -0.35 * yaw + 0.08 * torch.sin(7 * turn)  # the eyes stay nearer to the camera than the head
    look = torch.stack([0.04 * torch.sin(5 * turn), gaze, zero], 1)
    return HeadPose(
        expr=expr.clamp(0, 1),
        jaw=torch.zeros(count, 3),
        neck=torch.stack([0.07 * torch.sin(3 * turn), yaw, 0.05 * torch.sin(2 * turn)], 1),
        eyes=torch.cat([look, look], 1),
        eyelids=blink[:, None].expand(count, 2).clone(),
        rotation=torch.stack([zero, 0.2 * torch.sin(turn), zero], 1),
        translation=torch.zeros(count, 3),
    )


def frames(
    head: HeadModel, identity: Tensor, motion: HeadPose, camera: Camera, label: str = "talk"
) -> Iterator[Tensor]:
    """Shaded pictures of a moving head, one per pose. [H, W, 3], 0..1"""
    rig = prepare(head)
    folded = fold(rig, identity)
    colors = head_colors(head)
    for k in progress(range(len(motion)), label):
        mesh = folded.pose(motion[k : k + 1])
        yield shade_mesh(mesh.verts, head.faces, camera, colors=colors, background=BACKDROP).rgb[0]


def run(out: Path, seconds: float = 8.0, size: int = 448, fps: float = 25.0) -> None:
    """Write talk.mp4, turn.png, talk.png and heads.png into `out`, and say where they are and what comes next.

    seconds, fps: length and rate of the video; size: its width and height, pixels (even).
    """
    began = time.monotonic()
    head = load("open_head")
    identity = 0.6 * torch.randn(head.identity_basis.shape[2], generator=torch.Generator().manual_seed(12))
    motion = talking(head, seconds, fps)
    count = write_video(out / "talk.mp4", frames(head, identity, motion, portrait_camera(head, size, size)), fps)

    moments = [round(k * (len(motion) - 1) / 15) for k in range(16)]
    stills = [
        (
            f"{m / fps:.2f} s",
            next(frames(head, identity, motion[m : m + 1], portrait_camera(head, 224, 224), f"still {m}")),
        )
        for m in moments
    ]
    save_picture(out / "talk.png", tile(stills, 8))
    rest = HeadPose.rest(len(head.expression_names))
    angles = range(-90, 91, 30)
    turn = [
        (
            f"{angle} deg",
            next(frames(head, identity, rest, portrait_camera(head, 224, 280, math.radians(angle)), "turn")),
        )
        for angle in angles
    ]
    save_picture(out / "turn.png", tile(turn, len(turn)))
    save_picture(out / "heads.png", contact_sheet(head))
    sys.stderr.write(
        f"\n{count} frames in {time.monotonic() - began:.0f} s. Look at:\n"
        + "".join(f"  {out / name}\n" for name in ("talk.mp4", "talk.png", "turn.png", "heads.png"))
        + "Next: avatar heads   (other head models)   avatar bench --quick   (how fast this machine is)\n"
    )
