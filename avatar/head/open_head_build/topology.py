"""Cuts the bust out of the whole body: which vertices, faces and texture coordinates the head has.

Every vertex of the head is a fixed linear combination of source vertices, so whatever is known on the source (targets,
weights) is carried over by one sparse matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from .dentition import LOWER, UPPER, build_arch
from .source import Floats, Ints, Source

BUST_BOTTOM = -0.285  # metres from the pivot of the skull: below the collar bones, above the breast
ARM_CUT = 0.215  # half width of the bust at the height of the shoulders, metres
ARM_SLOPE = 0.45  # the cut leans inwards towards the bottom, square to the upper arm of the source's A-pose

SOCKET_ROWS = 2  # rows of faces kept behind each lid
LASH_LENGTH = 0.4  # of the source's ribbons
LASH_ROOT = 0.0012  # metres from the skin within which a lash vertex counts as its root

EYE_RINGS = (5.0, 8.5, 10.0, 16.0, 22.0, 25.0, 38.0, 55.0, 72.0, 95.0, 125.0)
"""Polar angles of an eyeball's rings from the gaze axis, degrees: dense where pupil, iris and white meet."""
EYE_SEGMENTS = 20
PUPIL_ANGLE = 9.2  # degrees from the gaze axis, between two rings
IRIS_ANGLE = 23.5

ATLAS = {  # rectangles of the texture: left, bottom, right, top
    "skin_head": (0.01, 0.46, 0.99, 0.99),
    "skin_body": (0.01, 0.01, 0.62, 0.44),
    "mouth_cavity": (0.64, 0.25, 0.86, 0.44),
    "socket_left": (0.88, 0.35, 0.99, 0.44),
    "socket_right": (0.88, 0.25, 0.99, 0.34),
    "eye_left": (0.64, 0.14, 0.74, 0.24),
    "eye_right": (0.75, 0.14, 0.85, 0.24),
    "teeth_upper": (0.64, 0.075, 0.84, 0.13),
    "teeth_lower": (0.64, 0.01, 0.84, 0.065),
    "tongue": (0.87, 0.12, 0.99, 0.24),
    "lashes_left": (0.86, 0.065, 0.99, 0.11),
    "lashes_right": (0.86, 0.01, 0.99, 0.055),
}


@dataclass(frozen=True)
class Topology:
    """The head's mesh and where it comes from."""

    rows: sparse.csr_matrix
    """Head vertices from source vertices. [V, N]"""
    faces: Ints
    """Triangles, counter-clockwise from outside. [F, 3]"""
    uvs: Floats
    """Texture coordinates, 0..1. [U, 2]"""
    faces_uv: Ints
    """Triangles into `uvs`. [F, 3]"""
    pieces: dict[str, Ints]
    """Vertex ids by atlas piece; a vertex on a seam belongs to the piece that comes first."""
    seams: dict[str, Ints]
    """Vertex ids that the skin shares with the mouth cavity or a socket: the lips' inner edge, the lid margins."""

    def carry(self, source_values: Floats) -> Floats:
        """Values on the head's vertices from values on the source's. [N, ...] -> [V, ...]"""
        flat = self.rows @ source_values.reshape(len(source_values), -1)
        return np.asarray(flat).reshape(-1, *source_values.shape[1:])


def islands(quads_uv: Ints, count: int) -> Ints:
    """Texture island of every face. [Q]"""
    corners, following = quads_uv.ravel(), np.roll(quads_uv, 1, 1).ravel()
    links = sparse.coo_matrix((np.ones(corners.size), (corners, following)), shape=(count, count))
    return np.asarray(sparse.csgraph.connected_components(links, directed=False)[1][quads_uv[:, 0]].astype(np.int64))


def triangulate(quads: Ints, points: Floats) -> Ints:
    """Order of corners that splits every quad along its shorter diagonal. [2 Q, 3]"""
    corner = points[quads]
    across = np.linalg.norm(corner[:, 0] - corner[:, 2], axis=1)
    along = np.linalg.norm(corner[:, 1] - corner[:, 3], axis=1)
    first = (across <= along + 1e-7)[:, None]  # the margin makes mirrored quads choose alike
    a = np.where(first, [0, 1, 2], [0, 1, 3])
    b = np.where(first, [0, 2, 3], [1, 2, 3])
    return np.stack([a, b], axis=1).reshape(-1, 3)


class Mesh:
    """Triangles whose vertices and texture coordinates are rows of weights over the source; grows while it is cut."""

    def __init__(self, verts: int, uvs: int) -> None:
        self.vert_rows: list[dict[int, float]] = [{i: 1.0} for i in range(verts)]
        self.uv_rows: list[dict[int, float]] = [{i: 1.0} for i in range(uvs)]

    def clip(self, faces: Ints, faces_uv: Ints, labels: Ints, level: Floats) -> tuple[Ints, Ints, Ints]:
        """Keep what lies where `level` is positive; faces that cross zero are cut there."""
        values = level.tolist()
        made: dict[tuple[int, int], int] = {}
        made_uv: dict[tuple[int, int], int] = {}

        def between(rows: list[dict[int, float]], cache: dict[tuple[int, int], int], a: int, b: int, t: float) -> int:
            key = (min(a, b), max(a, b))
            if key not in cache:
                blend = {k: (1 - t) * w for k, w in rows[a].items()}
                for k, w in rows[b].items():
                    blend[k] = blend.get(k, 0.0) + t * w
                cache[key] = len(rows)
                rows.append(blend)
            return cache[key]

        out, out_uv, out_labels = [], [], []
        for face, face_uv, label in zip(faces.tolist(), faces_uv.tolist(), labels.tolist(), strict=True):
            inside = [values[v] > 0 for v in face]
            polygon: list[tuple[int, int]] = []
            for i in range(3):
                j = (i + 1) % 3
                if inside[i]:
                    polygon.append((face[i], face_uv[i]))
                if inside[i] != inside[j]:
                    a, b, t = face[i], face[j], values[face[i]] / (values[face[i]] - values[face[j]])
                    polygon.append(
                        (
                            between(self.vert_rows, made, a, b, t),
                            between(self.uv_rows, made_uv, face_uv[i], face_uv[j], t),
                        )
                    )
            for k in range(1, len(polygon) - 1):
                corners = (polygon[0], polygon[k], polygon[k + 1])
                out.append([c[0] for c in corners])
                out_uv.append([c[1] for c in corners])
                out_labels.append(label)
        return np.array(out), np.array(out_uv), np.array(out_labels)


def to_sparse(rows: list[dict[int, float]], columns: int) -> sparse.csr_matrix:
    """Rows of weights as a matrix. [len(rows), columns]"""
    indptr = np.cumsum([0] + [len(row) for row in rows])
    indices = [k for row in rows for k in row]
    return sparse.csr_matrix(([w for row in rows for w in row.values()], indices, indptr), (len(rows), columns))


def affine_rows(points: Floats, frame: Floats) -> Floats:
    """Weights that move `points` with the best affine map of the cloud `frame`. [n, 3], [m, 3] -> [n, m]"""
    extended = np.concatenate([frame, np.ones((len(frame), 1))], axis=1)
    wanted = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return wanted @ np.linalg.pinv(extended.T).T


def fit_sphere(points: Floats) -> tuple[Floats, float]:
    """Least-squares centre and radius of a sphere. [n, 3] -> [3], radius"""
    system = np.concatenate([2 * points, np.ones((len(points), 1))], axis=1)
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(solution[3] + (solution[:3] ** 2).sum()))


def lip_height(faces: Ints, labels: Ints, points: Floats) -> float:
    """Height at which the closed lips meet on the midline, metres."""
    names = list(ATLAS)
    skin = np.unique(faces[labels == names.index("skin_head")])
    seam = np.intersect1d(skin, np.unique(faces[labels == names.index("mouth_cavity")]))
    return float(points[seam[np.abs(points[seam, 0]) < 1e-6], 1].mean())


def eyeball(centre: Floats, radius: float) -> tuple[Floats, Ints, Floats]:
    """A closed sphere in rings about +Z: points [n, 3], faces [f, 3], uvs [n, 2] (a disc seen from the front)."""
    polar = np.radians(np.repeat(EYE_RINGS, EYE_SEGMENTS))
    turn = np.tile(np.arange(EYE_SEGMENTS) * 2 * np.pi / EYE_SEGMENTS, len(EYE_RINGS))
    around = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points = np.concatenate([np.sin(polar)[:, None] * around, np.cos(polar)[:, None]], axis=1)
    points = np.concatenate([[[0, 0, 1]], points, [[0, 0, -1]]])
    disc = np.concatenate([[[0, 0]], polar[:, None] / np.pi * around, [[0, 0]]])
    faces = []
    for k in range(EYE_SEGMENTS):
        after = (k + 1) % EYE_SEGMENTS
        faces.append([0, 1 + k, 1 + after])
        for ring in range(len(EYE_RINGS) - 1):
            a, b = 1 + ring * EYE_SEGMENTS, 1 + (ring + 1) * EYE_SEGMENTS
            faces += [[a + k, b + k, b + after], [a + k, b + after, a + after]]
        last = 1 + (len(EYE_RINGS) - 1) * EYE_SEGMENTS
        faces.append([last + k, len(points) - 1, last + after])
    return centre + radius * points, np.array(faces), disc


def fit_rectangle(uvs: Floats, rectangle: tuple[float, float, float, float]) -> Floats:
    """Move and scale texture coordinates into a rectangle, keeping their aspect. [n, 2]"""
    low, high = uvs.min(0), uvs.max(0)
    box_low, box_high = np.array(rectangle[:2]), np.array(rectangle[2:])
    scale = ((box_high - box_low) / np.maximum(high - low, 1e-9)).min()
    return np.asarray((uvs - (low + high) / 2) * scale + (box_low + box_high) / 2)


def label_faces(source: Source, base: Floats, pivot: Floats) -> Ints:
    """Atlas piece of every source face, -1 where the head has no use for it. [Q]

    The body's texture islands are told apart by their size and by where they lie from the skull's pivot.
    """
    pieces = list(ATLAS)
    labels = np.full(len(source.groups), -1)
    island = islands(source.quads_uv, len(source.uvs))
    for label in np.unique(island[source.groups == "body"]):
        members = (source.groups == "body") & (island == label)
        offset = base[np.unique(source.quads[members])].mean(0) - pivot
        if members.sum() > 3500:
            name = "skin_body"
        elif members.sum() > 2500:
            name = "skin_head"
        elif offset[1] < -0.2:
            continue  # hands and feet
        elif abs(offset[0]) < 0.01:
            name = "mouth_cavity"
        else:
            name = "socket_left" if offset[0] > 0 else "socket_right"
        labels[members] = pieces.index(name)
    for name, group in (
        ("tongue", "helper-tongue"),
        ("lashes_left", "helper-l-eyelashes"),
        ("lashes_right", "helper-r-eyelashes"),
    ):
        labels[np.char.startswith(source.groups, group)] = pieces.index(name)
    for name in ("socket_left", "socket_right"):  # only the lids' backs: the rest lies hidden inside the eyeball
        socket = labels == pieces.index(name)
        kept = np.intersect1d(source.quads[socket], source.quads[labels == pieces.index("skin_head")])
        for _ in range(SOCKET_ROWS):
            near = socket & np.isin(source.quads, kept).any(1)
            kept = np.unique(source.quads[near])
        labels[socket & ~near] = -1
    return labels


def cut_bust(source: Source, base: Floats) -> Topology:
    """Crop, clip, triangulate and lay out the texture. `base` is the average adult on the source's vertices. [N, 3]"""
    pieces = list(ATLAS)
    pivot = base[source.ids("joint-head")].mean(0)
    labels = label_faces(source, base, pivot)
    chosen = labels >= 0
    order = triangulate(source.quads[chosen], base)
    pick = np.repeat(np.flatnonzero(chosen), 2)[:, None]
    faces, faces_uv, labels = source.quads[pick, order], source.quads_uv[pick, order], labels[pick[:, 0]]

    mesh = Mesh(len(source.verts), len(source.uvs))
    cuts: tuple[Callable[[Floats], Floats], ...] = (
        lambda p: p[:, 1] - pivot[1] - BUST_BOTTOM,
        lambda p: ARM_CUT - np.abs(p[:, 0]) + ARM_SLOPE * (p[:, 1] - pivot[1] + 0.15),
    )
    for cut in cuts:
        level = cut(np.asarray(to_sparse(mesh.vert_rows, len(base)) @ base))
        faces, faces_uv, labels = mesh.clip(faces, faces_uv, labels, level)
    rows = shorten_lashes(to_sparse(mesh.vert_rows, len(base)), faces, labels, base)
    uvs = np.asarray(to_sparse(mesh.uv_rows, len(source.uvs)) @ source.uvs)

    lips = lip_height(faces, labels, np.asarray(rows @ base))
    added: list[tuple[str, Ints, Floats, Ints, Floats]] = []  # piece, source vertices it follows, points, faces, uvs
    for side, name in (("l", "eye_left"), ("r", "eye_right")):
        frame = np.setdiff1d(source.ids(f"helper-{side}-eye"), source.ids(f"helper-{side}-eyelashes"))
        added.append((name, frame, *eyeball(*fit_sphere(base[frame]))))
    for arch, name in ((UPPER, "teeth_upper"), (LOWER, "teeth_lower")):
        frame = source.ids("helper-" + "-".join(reversed(name.split("_"))))
        added.append((name, frame, *build_arch(arch, base[frame[base[frame, 2].argmax()]], lips)))
    for name, frame, points, new_faces, new_uvs in added:
        weights = sparse.lil_matrix((len(points), len(base)))
        weights[:, frame] = affine_rows(points, base[frame])
        faces = np.concatenate([faces, new_faces + rows.shape[0]])
        faces_uv = np.concatenate([faces_uv, new_faces + len(uvs)])
        labels = np.concatenate([labels, np.full(len(new_faces), pieces.index(name))])
        rows = sparse.vstack([rows, weights]).tocsr()
        uvs = np.concatenate([uvs, new_uvs])
    return finish(rows, faces, uvs, faces_uv, labels, base)


def shorten_lashes(rows: sparse.csr_matrix, faces: Ints, labels: Ints, base: Floats) -> sparse.csr_matrix:
    """Draw the lashes' ribbons towards the lid: at full length an opaque ribbon reads as heavy make-up."""
    names = list(ATLAS)
    points = np.asarray(rows @ base)
    skin = np.unique(faces[labels == names.index("skin_head")])
    lashes = np.unique(faces[np.isin(labels, [names.index("lashes_left"), names.index("lashes_right")])])
    depth, _ = cKDTree(points[skin]).query(points[lashes])
    roots = lashes[depth < LASH_ROOT]
    nearest = roots[cKDTree(points[roots]).query(points[lashes])[1]]
    blend = sparse.identity(rows.shape[0], format="lil")
    blend[lashes] = 0
    for lash, root in zip(lashes, nearest, strict=True):
        blend[lash, root] += 1 - LASH_LENGTH
        blend[lash, lash] += LASH_LENGTH
    return (blend.tocsr() @ rows).tocsr()


def finish(rows: sparse.csr_matrix, faces: Ints, uvs: Floats, faces_uv: Ints, labels: Ints, base: Floats) -> Topology:
    """Drop what is unused, number vertices by piece, pack the atlas."""
    owner = np.full(rows.shape[0], len(ATLAS))
    for label in reversed(range(len(ATLAS))):
        owner[np.unique(faces[labels == label])] = label
    points = np.asarray(rows @ base)
    order = np.lexsort((np.arange(rows.shape[0]), owner))
    order = order[owner[order] < len(ATLAS)]
    renumber = np.full(rows.shape[0], -1)
    renumber[order] = np.arange(len(order))

    used = np.unique(faces_uv)
    renumber_uv = np.full(len(uvs), -1)
    renumber_uv[used] = np.arange(len(used))
    packed = np.zeros((len(used), 2))
    for label, (name, rectangle) in enumerate(ATLAS.items()):
        corners = faces_uv[labels == label]
        ids = np.unique(corners)
        layout = uvs[ids]
        if name == "skin_head":  # lies on its side in the source
            layout = np.stack([layout[:, 1], -layout[:, 0]], axis=1)
        x = points[faces[labels == label], 0].ravel()
        u = layout[np.searchsorted(ids, corners.ravel()), 0]
        if np.dot(x - x.mean(), u - u.mean()) < 0 and name.startswith("skin"):
            layout[:, 0] *= -1  # the subject's left to the right, as one sees a face
        packed[renumber_uv[ids]] = fit_rectangle(layout, rectangle)

    new_faces = renumber[faces]
    pieces = {name: np.flatnonzero(owner[order] == label) for label, name in enumerate(ATLAS)}
    names = list(ATLAS)
    skin = np.unique(new_faces[np.isin(labels, [names.index("skin_head"), names.index("skin_body")])])
    seams = {
        name: np.intersect1d(skin, np.unique(new_faces[labels == names.index(name)]))
        for name in ("mouth_cavity", "socket_left", "socket_right")
    }
    return Topology(
        rows=rows[order],
        faces=new_faces,
        uvs=packed,
        faces_uv=renumber_uv[faces_uv],
        pieces=pieces,
        seams=seams,
    )
