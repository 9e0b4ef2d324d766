"""Pure functions on tensors: rotations, vertex frames, uv, spherical harmonics, cameras."""
