"""The plain-torch definition as a backend: any device, any floating type, slow; memory grows with Gaussians x pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.ops import reference
from avatar.render.backend_cpu import split_channels, stack_channels
from avatar.types import Camera, Gaussians, Rendering


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
    g = gaussians
    means2d, conics, depths, radii, compensations = reference.project(
        g.means, g.quats, g.scales, g.opacities, camera.viewmats, camera.Ks, width, height, near, far
    )
    opacities = g.opacities * compensations if antialiased else g.opacities
    rgb = reference.sh_colors(g.sh, g.means, camera.positions)
    channels = stack_channels(rgb, depths if depth else None, extra)
    behind = None
    if background is not None:
        behind = torch.cat([background, background.new_zeros(len(background), channels.shape[2] - 3)], dim=1)
    image, alpha = reference.blend(means2d, conics, opacities, channels, depths, radii, width, height, behind)
    rgb_image, depth_image, extra_image = split_channels(image, alpha, depth, extra is not None)
    return Rendering(rgb_image, alpha, depth_image, extra_image, means2d, radii)
