"""The engine's own CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.ops.raster import bin_splats, blend, blend_boxes, project
from avatar.ops.sh import sh_colors
from avatar.types import Camera, Gaussians, Rendering


def stack_channels(rgb: Tensor, depths: Tensor | None, extra: Tensor | None) -> Tensor:
    """Colour, depth and extra channels side by side. rgb [P, N, 3], depths [C, N], extra [B, N, D] -> [C, N, 3 + 1 + D]."""
    parts = [rgb]
    if depths is not None:
        parts.append(depths[..., None])
    if extra is not None:
        parts.append(extra)
    if len(parts) == 1:
        return rgb
    pictures = max(part.shape[0] for part in parts)
    return torch.cat([part.expand(pictures, -1, -1) for part in parts], dim=-1)


def split_channels(
    image: Tensor, alpha: Tensor, depth: bool, extra: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Undo `stack_channels` on a picture [C, D, H, W]: rgb, depth, extra as views."""
    pixels = image.permute(0, 2, 3, 1)
    first = 3 + int(depth)
    return (
        pixels if image.shape[1] == 3 else pixels[..., :3],
        image[:, 3] if depth else None,
        pixels[..., first:] if extra else None,
    )


def rasterize(
    gaussians: Gaussians,
    camera: Camera,
    background: Tensor | None,
    extra: Tensor | None,
    depth: bool,
    antialiased: bool,
    near: float,
    far: float,
) -> Rendering:
    """See `avatar.render.render`."""
    width, height = camera.width, camera.height
    splats = project(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        camera.viewmats,
        camera.Ks,
        width,
        height,
        near=near,
        far=far,
    )
    opacities = gaussians.opacities * splats.compensations if antialiased else gaussians.opacities
    rgb = sh_colors(gaussians.sh, gaussians.means, camera.positions)
    channels = stack_channels(rgb, splats.depths if depth else None, extra)
    behind = None
    if background is not None:
        behind = torch.cat([background, background.new_zeros(len(background), channels.shape[2] - 3)], dim=1)
    if gaussians.means.dtype == torch.float64:
        image, alpha = blend_boxes(splats, opacities, channels, width, height, behind)
    else:
        image, alpha = blend(
            splats, opacities, channels, bin_splats(splats, opacities, width, height), width, height, behind
        )
    pixels, depths, extras = split_channels(image, alpha, depth, extra is not None)
    return Rendering(pixels, alpha, depths, extras, splats.means2d, splats.radii)
