"""Pictures of a head model at a glance: identities, angles and every expression, labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import imageio.v3 as imageio
import torch
from torch import Tensor

from avatar.head.fold import fold, prepare
from avatar.head.model import HeadModel
from avatar.render.mesh import shade_mesh
from avatar.types import Camera, HeadPose
from avatar.video import to_bytes

BACKDROP = (0.93, 0.94, 0.95)
NEUTRAL_SKIN = (0.80, 0.62, 0.53)


def portrait_camera(
    head: HeadModel, width: int, height: int, yaw: float = 0.0, pitch: float = 0.0, fill: float = 1.45
) -> Camera:
    """A camera that looks at the middle of the face from 1.2 m.

    yaw, pitch: radians towards the subject's left and up; fill: picture height in heights of the head without its neck.
    """
    verts = head.template
    top = float(verts[:, 1].max())
    jaw = float(verts[head.parts["teeth_lower"], 1].min()) if "teeth_lower" in head.parts else top - 0.21
    tall = (top - jaw) * 1.15  # the chin lies a little under the lower teeth
    centre = torch.tensor([0.0, top - 0.5 * tall, float(verts[:, 2].mean())])
    distance = 1.2
    c, s, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    forward = -torch.tensor([s * cp, sp, c * cp])
    right = torch.tensor([c, 0.0, -s])
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward])
    position = centre - distance * forward
    viewmat = torch.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ position
    focal = distance * height / (fill * tall)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(viewmat[None], K[None], width, height)


def head_colors(head: HeadModel) -> Tensor:
    """Preview colours per vertex, sRGB 0..1: painted for open_head, by part for every other head. [V, 3]"""
    if head.model_id.startswith("open_head"):
        from avatar.head.open_head import preview_colors

        return preview_colors(head)
    colors = torch.tensor(NEUTRAL_SKIN).repeat(len(head.template), 1)
    tints = {
        "teeth": (0.92, 0.90, 0.85),
        "eye": (0.92, 0.92, 0.92),
        "tongue": (0.75, 0.38, 0.38),
        "mouth": (0.45, 0.18, 0.18),
    }
    for name, ids in head.parts.items():
        for prefix, tint in tints.items():
            if name.startswith(prefix):
                colors[ids] = torch.tensor(tint)
    return colors


def contact_sheet(head: HeadModel, cell: int = 192, columns: int = 8) -> Tensor:
    """Identities, angles and all expressions of a head as one labelled picture. [H, W, 3], 0..1

    cell: width of one picture, pixels. The identities are drawn with a fixed seed.
    """
    rig = prepare(head)
    colors = head_colors(head)
    generator = torch.Generator().manual_seed(4)
    count, shapes = len(head.expression_names), head.identity_basis.shape[2]
    rest = HeadPose.rest(count)
    cells: list[tuple[str, Tensor]] = []

    def draw(label: str, identity: Tensor, pose: HeadPose, yaw: float = 0.0) -> None:
        camera = portrait_camera(head, cell, cell * 5 // 4, yaw=yaw)
        verts = fold(rig, identity).pose(pose).verts
        picture = shade_mesh(verts, head.faces, camera, colors=colors, background=BACKDROP).rgb[0]
        cells.append((label, picture))

    mean = torch.zeros(shapes)
    for angle in (-90, -45, 0, 45):
        draw(f"mean {angle:+d} deg", mean, rest, math.radians(angle))
    for k in range(2 * columns - 4):
        scale = 0.9 if shapes > 1 else 1.0
        draw(f"identity {k + 1}", scale * torch.randn(shapes, generator=generator), rest, math.radians(18))
    for k, name in enumerate(head.expression_names[:160]):
        expr = torch.zeros(1, count)
        expr[0, k] = 1.0
        draw(name, mean, replace(rest, expr=expr), math.radians(12))
    for label, change in {
        "jaw 15 deg": {"jaw": torch.tensor([[math.radians(15), 0, 0]])},
        "neck turned 30 deg": {"neck": torch.tensor([[0, math.radians(30), 0]])},
        "neck bowed 20 deg": {"neck": torch.tensor([[math.radians(20), 0, 0]])},
        "eyes left 20 deg": {"eyes": torch.tensor([[0, math.radians(20), 0, 0, math.radians(20), 0]])},
        "lids closed": {"eyelids": torch.ones(1, 2)},
        "lids half closed": {"eyelids": torch.full((1, 2), 0.5)},
    }.items():
        draw(label, mean, replace(rest, **change))
    return tile(cells, columns)


def tile(cells: Sequence[tuple[str, Tensor]], columns: int) -> Tensor:
    """Labelled pictures of one size side by side. cells: (label, [h, w, 3]). Returns [H, W, 3]."""
    height, width = cells[0][1].shape[:2]
    rows = -(-len(cells) // columns)
    sheet = torch.tensor(BACKDROP).expand(rows * height, columns * width, 3).clone()
    for k, (_, picture) in enumerate(cells):
        row, column = divmod(k, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture.detach()
    canvas = to_bytes(sheet).numpy()
    for k, (label, _) in enumerate(cells):
        row, column = divmod(k, columns)
        place = (column * width + 6, row * height + height - 8)
        cv2.putText(canvas, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.40, (40, 40, 40), 1, cv2.LINE_AA)
    return torch.from_numpy(canvas).float() / 255


def save_picture(path: Path, image: Tensor) -> None:
    """Write a picture [H, W, 3], 0..1, as a PNG or JPEG by the name's ending; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, to_bytes(image).numpy())
