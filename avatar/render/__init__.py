"""From Gaussians or a mesh to pictures."""

from avatar.render.rasterize import available_backends, render

__all__ = ["available_backends", "render"]
