"""From Gaussians or a mesh to pictures."""
