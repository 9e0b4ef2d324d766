"""gsplat's CUDA rasteriser behind the same call; import this only where a GPU is visible."""

from __future__ import annotations

import torch
from gsplat import rasterization
from torch import Tensor

from avatar.ops.sh import sh_colors
from avatar.render.backend_cpu import stack_channels
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
    """See `avatar.render.render`. gsplat draws one set of Gaussians per call, so frames go one after the other."""
    frames = []
    rgb = sh_colors(gaussians.sh, gaussians.means, camera.positions)
    for c in range(len(camera)):
        b = min(c, gaussians.means.shape[0] - 1)
        channels = stack_channels(rgb[c : c + 1], None, None if extra is None else extra[b : b + 1])[0]
        behind = None
        if background is not None:
            behind = torch.cat([background[c], background.new_zeros(channels.shape[1] - 3)])[None]
        image, alpha, info = rasterization(
            gaussians.means[b],
            gaussians.quats[b],
            gaussians.scales[b],
            gaussians.opacities[b],
            channels,
            camera.viewmats[c : c + 1],
            camera.Ks[c : c + 1],
            camera.width,
            camera.height,
            near_plane=near,
            far_plane=far,
            backgrounds=behind,
            render_mode="RGB+D" if depth else "RGB",
            rasterize_mode="antialiased" if antialiased else "classic",
            packed=False,
        )
        frames.append((image[0], alpha[0, ..., 0], info["means2d"][0], info["radii"][0]))
    image, alpha, means2d, radii = (torch.stack(parts) for parts in zip(*frames, strict=True))
    extras = image[..., 3 : 3 + extra.shape[2]] if extra is not None else None
    return Rendering(image[..., :3], alpha, image[..., -1] if depth else None, extras, means2d, radii.to(means2d.dtype))
