"""One texture for heads whose parts each have a texture of their own."""

from __future__ import annotations

import numpy as np

from avatar.head.source_file import Array

MARGIN = 1 / 512  # of a tile, kept free at its border so that neighbours do not bleed at 512 texels
# Where tiles go: (left, bottom, size). The first, which is the face, takes nine sixteenths of the picture.
PLACES = (
    (0.0, 0.0, 0.75),
    (0.75, 0.0, 0.25),
    (0.75, 0.25, 0.25),
    (0.75, 0.5, 0.25),
    (0.75, 0.75, 0.25),
    (0.5, 0.75, 0.25),
    (0.25, 0.75, 0.25),
    (0.0, 0.75, 0.25),
)


def pack(corners: Array, tiles: Array) -> tuple[Array, Array]:
    """Lay out up to eight textures side by side. Equal corners of one tile become one texture vertex.

    corners [F, 3, 2], each tile's own coordinates, 0..1; tiles [F], which texture a triangle has, 0 is the face.
    Returns uvs [U, 2] in 0..1 and faces_uv [F, 3].
    """
    if len(tiles) and int(tiles.max()) >= len(PLACES):
        raise ValueError(f"pack: at most {len(PLACES)} textures fit, got {int(tiles.max()) + 1}")
    places = np.array(PLACES)[tiles]
    inset = MARGIN + corners.clip(0.0, 1.0).astype(np.float64) * (1 - 2 * MARGIN)
    packed = (places[:, None, :2] + inset * places[:, None, 2:]).astype(np.float32).reshape(-1, 2)
    bits = packed.view(np.uint32).astype(np.uint64)
    _, first, places_of = np.unique((bits[:, 0] << np.uint64(32)) | bits[:, 1], return_index=True, return_inverse=True)
    return packed[first], places_of.reshape(-1, 3)
