"""`avatar demo`: a turning, talking open head as a video and as still pictures, without any data of the user's."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from avatar.contact_sheet import BACKDROP, contact_sheet, head_colors, portrait_camera, save_picture, tile
from avatar.geometry.frames import build_topology
from avatar.head import load
from avatar.head.fold import fold, prepare
from avatar.head.model import HeadModel
from avatar.model.binding import bind_to_surface
from avatar.model.seeding import seed
from avatar.ops.reference import SH_C0
from avatar.progress import progress
from avatar.render import render
from avatar.render.mesh import light_surface, linear_to_srgb, srgb_to_linear, vertex_normals
from avatar.types import Camera, Gaussians, HeadPose
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


class Puppet:
    """A head made of Gaussians that ride on the posed mesh and are lit like it: the renderer and binding at work."""

    def __init__(self, head: HeadModel, identity: Tensor, count: int = 80_000) -> None:
        self.head = head
        self.folded = fold(prepare(head), identity)
        rest = self.folded.pose(HeadPose.rest(len(head.expression_names))).verts[0]
        self.topology = build_topology(rest, head.faces)
        weights = torch.ones(len(head.faces))
        fine = torch.zeros(len(rest), dtype=torch.bool)
        for name in (
            "lips",
            "eyelid_left",
            "eyelid_right",
            "teeth_upper",
            "teeth_lower",
            "eye_left",
            "eye_right",
            "lashes",
        ):
            for ids in (head.regions.get(name), head.parts.get(name)):
                if ids is not None:
                    fine[ids] = True
        weights[fine[head.faces].all(1)] = 4.0
        generator = torch.Generator().manual_seed(0)
        face_ids, bary = seed(rest, head.faces, count, weights, generator)
        self.binding = bind_to_surface(face_ids, bary, rest, self.topology)
        self.corners = head.faces[face_ids.long()]
        hairs = torch.isin(self.corners, head.parts.get("lashes", torch.zeros(0, dtype=torch.int64))).all(1)
        self.opacities = torch.where(hairs, 0.25, 0.97)  # a lash is far thinner than a splat
        self.colors = (bary[..., None] * head_colors(head)[self.corners]).sum(1)

    def gaussians(self, pose: HeadPose, camera: Camera) -> Gaussians:
        """The Gaussians of one moment (B = 1), lit for a camera."""
        mesh = self.folded.pose(pose)
        bound = self.binding(mesh, self.topology)
        normals = vertex_normals(mesh.verts, self.head.faces)[0][self.corners]
        normals = torch.nn.functional.normalize((self.binding.bary[..., None] * normals).sum(1), dim=-1)
        lit = light_surface(normals, bound.means[0], srgb_to_linear(self.colors), camera)
        sh = (linear_to_srgb(lit) - 0.5) / SH_C0
        return Gaussians(bound.means, bound.quats, bound.scales, self.opacities[None], sh[None, :, None])

    def draw(self, pose: HeadPose, camera: Camera) -> Tensor:
        """One picture. [H, W, 3], 0..1"""
        return render(self.gaussians(pose, camera), camera, torch.tensor(BACKDROP)).rgb[0]


def run(out: Path, seconds: float = 8.0, size: int = 448, fps: float = 25.0) -> None:
    """Write talk.mp4, turn.png, talk.png and heads.png into `out`, and say where they are and what comes next.

    seconds, fps: length and rate of the video; size: its width and height, pixels (even).
    """
    began = time.monotonic()
    head = load("open_head")
    identity = 0.6 * torch.randn(head.identity_basis.shape[2], generator=torch.Generator().manual_seed(12))
    motion = talking(head, seconds, fps)
    puppet, camera = Puppet(head, identity), portrait_camera(head, size, size)
    pictures = (puppet.draw(motion[k : k + 1], camera) for k in progress(range(len(motion)), "talk.mp4"))
    count = write_video(out / "talk.mp4", pictures, fps)

    small = portrait_camera(head, 224, 224)
    moments = [round(k * (len(motion) - 1) / 15) for k in range(16)]
    stills = [(f"{m / fps:.2f} s", puppet.draw(motion[m : m + 1], small)) for m in moments]
    save_picture(out / "talk.png", tile(stills, 8))
    rest = HeadPose.rest(len(head.expression_names))
    angles = range(-90, 91, 30)
    turn = [
        (f"{angle} deg", puppet.draw(rest, portrait_camera(head, 224, 280, math.radians(angle)))) for angle in angles
    ]
    save_picture(out / "turn.png", tile(turn, len(turn)))
    save_picture(out / "heads.png", contact_sheet(head))
    sys.stderr.write(
        f"\n{count} frames in {time.monotonic() - began:.0f} s. Look at:\n"
        + "".join(f"  {out / name}\n" for name in ("talk.mp4", "talk.png", "turn.png", "heads.png"))
        + "Next: avatar heads   (other head models)   avatar bench --quick   (how fast this machine is)\n"
    )
