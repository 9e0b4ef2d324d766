"""FLAME 2020, 2023 and 2023 Open from the user's own file (Li et al. 2017, https://flame.is.tue.mpg.de).

The model file is the published pickle (Python 2, or saved again in Python 3 with protocol 4) or a .npz with the same
keys. Nothing in it is executed, see `avatar.head.pickle_reader`. What lies beside it is used where it is found:

    FLAME_masks.pkl                              regions
    flame_static_embedding*.pkl                  51 or 68 landmarks
    flame_dynamic_embedding.npy                  17 contour landmarks for each of 79 head turns
    landmark_embedding*.npy                      both of them in one file
    mediapipe_landmark_embedding.npz             105 MediaPipe landmarks
    l_eyelid.npy, r_eyelid.npy                   closing of the lids
    head_template_mesh.obj, FLAME_texture.npz    texture coordinates

each in the folder itself or in a folder of its own name. FLAME itself has no eyelid directions: without the two files
`eyelid_basis` is zero and eyelid coefficients do nothing. Without texture coordinates a cylindrical layout is made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avatar.head.flame_teeth import LIP_LOWER, LIP_UPPER, make_teeth
from avatar.head.model import HeadModel, Landmarks
from avatar.head.pickle_reader import read_pickle, single_object, to_array
from avatar.head.source_file import (
    Array,
    HeadFileError,
    check_ids,
    check_rows_sum_to_one,
    checked,
    first_existing,
    parse_npy,
    read_npz,
    read_source,
    required_keys,
    sha256,
    side_last,
)

VERTS, FACES, JOINTS = 5023, 9976, 5
SHAPES, EXPRESSIONS = 300, 100
JOINT_NAMES = ("root", "neck", "jaw", "eye_left", "eye_right")
PARENTS = (-1, 0, 1, 1, 1)
KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")

# Name of a version: its licence, and what the file's or its folder's name looks like, the most specific first.
LICENCES = {
    "flame-2023-open": "FLAME 2023 Open, CC-BY-4.0, Max Planck Institute for Intelligent Systems",
    "flame-2023-no-jaw": "FLAME 2023 (no jaw), the licence accepted at flame.is.tue.mpg.de; not to be passed on",
    "flame-2023": "FLAME 2023, the licence accepted at flame.is.tue.mpg.de; not to be passed on",
    "flame-2020": "FLAME 2020, the licence accepted at flame.is.tue.mpg.de; not to be passed on",
}
NAMES = (
    ("flame-2023-open", re.compile(r"2023[ _-]?open", re.IGNORECASE)),
    ("flame-2023-no-jaw", re.compile(r"2023[ _-]?no[ _-]?jaw", re.IGNORECASE)),
    ("flame-2023", re.compile(r"flame[ _-]?2023", re.IGNORECASE)),
    ("flame-2020", re.compile(r"flame[ _-]?2020", re.IGNORECASE)),
)

MASKS = ("FLAME_masks.pkl", "FLAME_masks/FLAME_masks.pkl")
STATIC = ("flame_static_embedding.pkl", "flame_static_embedding_68.pkl")
DYNAMIC = ("flame_dynamic_embedding.npy",)
EMBEDDINGS = ("landmark_embedding.npy", "landmark_embedding_with_eyes.npy")
MEDIAPIPE = ("mediapipe_landmark_embedding.npz", "mediapipe_landmark_embedding/mediapipe_landmark_embedding.npz")
EYELIDS = {side: (f"{side}_eyelid.npy", f"blendshapes/{side}_eyelid.npy") for side in ("l", "r")}
OBJS = ("head_template_mesh.obj", "head_template.obj")
TEXTURES = ("FLAME_texture.npz", "FLAME_albedo_from_BFM.npz")

CONTOUR_ROWS, CONTOUR_POINTS = 79, 17  # -39 .. 39 degrees of yaw, and the jaw line of the 68-point set


@dataclass(frozen=True)
class FlameArrays:
    """The checked content of a FLAME file, float32 and int64."""

    template: Array
    """[V, 3] m"""
    faces: Array
    """[F, 3]"""
    shapedirs: Array
    """Identity directions, then expressions. [V, 3, K] m"""
    posedirs: Array
    """[V, 3, 36] m"""
    joint_regressor: Array
    """[5, V]"""
    skin_weights: Array
    """[V, 5]"""


def load(path: Path, *, version: str | None = None, teeth: bool = True, identity_count: int = SHAPES) -> HeadModel:
    """A FLAME head from the user's .pkl or .npz file.

    `version` is flame-2020, flame-2023, flame-2023-no-jaw (whose expressions open the mouth) or flame-2023-open. The
    files do not say which one they are: where it is None the file's name decides, then its folder's; generic_model.pkl
    in a folder without a year is an error that asks.
    `teeth` adds 120 vertices and 168 faces behind the lips, in the numbering of GaussianAvatars: 5,143 and 10,144.
    `identity_count` is where the identity directions end and the expressions begin; a file with fewer than 400
    directions is accepted with a warning that says how they were split.

    Raises FileNotFoundError, or HeadFileError naming file, key, what was expected and what came.
    """
    path = Path(path)
    model_id = version_of(path, version)
    data = read_source(path)
    arrays = read_arrays(data, path)
    directions = arrays.shapedirs.shape[2]
    if not 0 < identity_count < directions:
        raise HeadFileError(
            path, "shapedirs", f"more than {identity_count} directions, expressions after the identities",
            f"{directions}", "pass identity_count= for a file with fewer",
        )  # fmt: skip
    if directions != SHAPES + EXPRESSIONS:
        warnings.warn(
            f"{path}: {directions} directions instead of {SHAPES + EXPRESSIONS}: taking the first {identity_count} as "
            f"identity and {directions - identity_count} as expression",
            stacklevel=2,
        )
    return _assemble(path, data, model_id, arrays, identity_count, teeth)


def version_of(path: Path, version: str | None = None) -> str:
    """Which FLAME a file is, by its name, its folder's name or what the caller says; these must not contradict."""
    if version is not None and version not in LICENCES:
        raise ValueError(f"FLAME version must be one of {', '.join(LICENCES)}, got {version!r}")
    named = next((name for name, pattern in NAMES if pattern.search(path.name)), None)
    if named is not None and version not in (None, named):
        raise HeadFileError(path, "file", f"a {version} file", f"the name of {named}", f"load it as {named}")
    found = version or named or next((name for name, pattern in NAMES if pattern.search(path.parent.name)), None)
    if found is None:
        raise HeadFileError(
            path, "file", "a name that tells the version, as flame2023.pkl does", path.name,
            f"pass version= one of {', '.join(LICENCES)}",
        )  # fmt: skip
    return found


def read_arrays(data: bytes, path: Path, verts: int = VERTS, faces: int = FACES) -> FlameArrays:
    """The checked arrays in the bytes of a FLAME file. `verts` and `faces` are FLAME's, other sizes are for tests."""
    if data[:2] == b"PK":
        members = read_npz(path, data, KEYS)
        values = {key: read_pickle(value, path, key) if isinstance(value, bytes) else value
                  for key, value in members.items()}  # fmt: skip
    else:
        values = read_pickle(data, path)
        if not isinstance(values, dict):
            raise HeadFileError(path, "pickle", "a dict of arrays", type(values).__name__, "is this the right file?")
        required_keys(path, values, KEYS)
    sizes = {"V": verts, "F": faces, "J": JOINTS}

    def get(key: str, pattern: str, kind: str) -> Array:
        return checked(path, key, to_array(single_object(values[key], path, key), path, key), pattern, kind, sizes)

    arrays = FlameArrays(
        template=get("v_template", "V 3", "f"),
        faces=get("f", "F 3", "i"),
        shapedirs=get("shapedirs", "V 3 K", "f"),
        posedirs=get("posedirs", "V 3 36", "f"),
        joint_regressor=get("J_regressor", "J V", "f"),
        skin_weights=get("weights", "V J", "f"),
    )
    check_ids(path, "f", arrays.faces, verts, "vertex")
    check_rows_sum_to_one(path, "weights", arrays.skin_weights)
    check_rows_sum_to_one(path, "J_regressor", arrays.joint_regressor)
    parents = get("kintree_table", "2 J", "i")[0].tolist()
    if tuple(parents[1:]) != PARENTS[1:]:
        raise HeadFileError(path, "kintree_table", f"parents {list(PARENTS)}", f"{parents}", "is this a FLAME file?")
    return arrays


def contour_row(yaw_degrees: Tensor | float) -> Tensor:
    """Row of the 79 contours for a head turn, in whole degrees. yaw_degrees of any shape -> int64, the same shape.

    The tables' convention: positive where the subject turns to the own right, that is minus the rotation about +Y.
    0 .. 39 degrees are rows 0 .. 39, -1 .. -38 are rows 40 .. 77, everything beyond takes the outermost row.
    """
    yaw = torch.as_tensor(yaw_degrees, dtype=torch.float64).round().clamp(-39, 39)
    return torch.where(yaw >= 0, yaw, 39 - yaw).long()


def contour(head: HeadModel, yaw_degrees: float) -> Landmarks:
    """The 17 points of the visible jaw line at a head turn (see `contour_row`), as ids 0 .. 16 of the 68-point set."""
    if "flame_contour" not in head.landmarks:
        raise ValueError(
            f"{head.model_id} has no contour landmarks: put flame_dynamic_embedding.npy or landmark_embedding.npy "
            "beside the model file and load it again"
        )
    rows = head.landmarks["flame_contour"]
    start = int(contour_row(yaw_degrees)) * CONTOUR_POINTS
    taken = slice(start, start + CONTOUR_POINTS)
    return Landmarks(face_ids=rows.face_ids[taken], bary=rows.bary[taken], ids=rows.ids[taken])


def _assemble(
    path: Path, data: bytes, model_id: str, arrays: FlameArrays, identity_count: int, teeth: bool
) -> HeadModel:
    folder = path.parent
    template, faces, weights = arrays.template, arrays.faces, arrays.skin_weights
    identity = np.ascontiguousarray(arrays.shapedirs[:, :, :identity_count])
    expression = np.ascontiguousarray(arrays.shapedirs[:, :, identity_count:])
    regressor, posedirs = arrays.joint_regressor, arrays.posedirs
    eyelids = _eyelids(folder, len(template))
    # by weight rather than by number: the eyeballs are the vertices that the eye joints carry
    parts = {"eye_left": np.flatnonzero(weights[:, 3] > 0.5), "eye_right": np.flatnonzero(weights[:, 4] > 0.5)}
    parts["skin"] = np.setdiff1d(np.arange(len(template)), np.concatenate(list(parts.values())))
    uvs, faces_uv = _uvs(folder, template, faces, parts)
    landmarks = _landmarks(folder, len(faces))
    regions = {"lips": np.array(LIP_UPPER + LIP_LOWER), **_regions(folder, len(template))}
    if teeth:
        added = make_teeth(template, identity)
        start, count = len(template), len(added.verts)
        faces = np.concatenate([faces, added.faces + start])
        faces_uv = np.concatenate([faces_uv, added.faces + len(uvs)])
        uvs = np.concatenate([uvs, added.uvs])
        template = np.concatenate([template, added.verts])
        identity = np.concatenate([identity, added.identity_basis])
        expression, posedirs, eyelids, weights = (
            np.concatenate([rows, np.zeros((count, *rows.shape[1:]), dtype=rows.dtype)])
            for rows in (expression, posedirs, eyelids, weights)
        )
        regressor = np.concatenate([regressor, np.zeros((JOINTS, count), dtype=regressor.dtype)], axis=1)
        weights[added.upper + start, 1] = 1.0
        weights[added.lower + start, 2] = 1.0
        parts["teeth_upper"], parts["teeth_lower"] = added.upper + start, added.lower + start
        regions["teeth_upper"], regions["teeth_lower"] = parts["teeth_upper"], parts["teeth_lower"]
    return HeadModel(
        model_id=model_id,
        sha256=sha256(data),
        licence=LICENCES[model_id],
        template=torch.from_numpy(template),
        faces=torch.from_numpy(faces),
        uvs=torch.from_numpy(uvs),
        faces_uv=torch.from_numpy(faces_uv),
        identity_basis=torch.from_numpy(identity),
        expression_basis=torch.from_numpy(expression),
        expression_names=tuple(f"expression{index:03d}" for index in range(expression.shape[2])),
        joint_names=JOINT_NAMES,
        parents=PARENTS,
        joint_regressor=torch.from_numpy(regressor),
        skin_weights=torch.from_numpy(weights),
        eyelid_basis=torch.from_numpy(eyelids),
        pose_correctives=torch.from_numpy(posedirs),
        regions={name: torch.from_numpy(ids) for name, ids in regions.items()},
        parts={name: torch.from_numpy(ids) for name, ids in parts.items() if len(ids)},
        landmarks=landmarks,
    )


def _eyelids(folder: Path, verts: int) -> Array:
    """Closing of the left and right lid, metres, zero where the files are missing. [V, 3, 2]"""
    basis = np.zeros((verts, 3, 2), dtype=np.float32)
    paths = {side: first_existing(folder, names) for side, names in EYELIDS.items()}
    for column, (side, path) in enumerate(paths.items()):
        if path is None:
            continue
        array = parse_npy(read_source(path), path, f"{side}_eyelid")
        if isinstance(array, np.ndarray) and array.ndim == 3:  # saved with a batch dimension of one
            array = array[0]
        basis[:, :, column] = checked(path, f"{side}_eyelid", array, "V 3", "f", {"V": verts})
    return basis


def _regions(folder: Path, verts: int) -> dict[str, Array]:
    """Vertex ids by region from the masks file; the side of a name comes last: left_ear -> ear_left."""
    path = first_existing(folder, MASKS)
    if path is None:
        return {}
    regions = {}
    for name, value in _dict_of(read_pickle(read_source(path), path), path).items():
        ids = checked(path, name, to_array(value, path, name), "N", "i", {})
        check_ids(path, name, ids, verts, "vertex")
        regions[side_last(name)] = ids
    return regions


def _dict_of(value: object, path: Path) -> Mapping[str, object]:
    value = single_object(value, path, "file")
    if not isinstance(value, dict):
        raise HeadFileError(path, "file", "a dict of arrays", type(value).__name__, "is this the right file?")
    return value


def _landmarks(folder: Path, faces: int) -> dict[str, Landmarks]:
    """Every landmark set that the files beside the model give: ibug68, flame_contour, mediapipe478."""
    found: dict[str, Landmarks] = {}
    tables: list[tuple[Path, Mapping[str, object]]] = []
    path = first_existing(folder, EMBEDDINGS)
    if path is not None:
        tables.append((path, _npy_dict(path)))
    path = first_existing(folder, STATIC)
    if path is not None:
        values = _dict_of(read_pickle(read_source(path), path), path)
        required_keys(path, values, ("lmk_face_idx", "lmk_b_coords"))
        tables.append((path, {f"static_{key}": values[key] for key in ("lmk_face_idx", "lmk_b_coords")}))
    path = first_existing(folder, DYNAMIC)
    if path is not None:
        values = _npy_dict(path)
        required_keys(path, values, ("lmk_face_idx", "lmk_b_coords"))
        tables.append((path, {f"dynamic_{key}": values[key] for key in ("lmk_face_idx", "lmk_b_coords")}))

    static = full = None
    for path, values in tables:
        static = _points(path, values, "static", faces) or static
        full = _points(path, values, "full", faces) or full
        dynamic = _points(path, values, "dynamic", faces)
        if dynamic is not None:
            if len(dynamic.ids) != CONTOUR_ROWS * CONTOUR_POINTS:
                raise HeadFileError(
                    path, "dynamic", f"{CONTOUR_ROWS} x {CONTOUR_POINTS} points", f"{len(dynamic.ids)}",
                    "is this the right file?",
                )  # fmt: skip
            ids = torch.arange(CONTOUR_POINTS).repeat(CONTOUR_ROWS)
            found["flame_contour"] = Landmarks(face_ids=dynamic.face_ids, bary=dynamic.bary, ids=ids)
    inner = static or full
    if inner is not None and len(inner.ids) != 51 and len(inner.ids) < 68:
        raise HeadFileError(
            folder, "landmark embedding", "51 or 68 points", f"{len(inner.ids)}", "use FLAME's own embedding"
        )
    if inner is not None and len(inner.ids) == 51:
        inner = Landmarks(face_ids=inner.face_ids, bary=inner.bary, ids=inner.ids + CONTOUR_POINTS)
        if "flame_contour" in found:
            frontal = Landmarks(
                **{name: getattr(found["flame_contour"], name)[:CONTOUR_POINTS] for name in ("face_ids", "bary", "ids")}
            )
            inner = Landmarks(
                face_ids=torch.cat([frontal.face_ids, inner.face_ids]),
                bary=torch.cat([frontal.bary, inner.bary]),
                ids=torch.cat([frontal.ids, inner.ids]),
            )
        elif full is not None and len(full.ids) >= 68:
            inner = full
    if inner is not None:
        found["ibug68"] = Landmarks(face_ids=inner.face_ids[:68], bary=inner.bary[:68], ids=inner.ids[:68])
    path = first_existing(folder, MEDIAPIPE)
    if path is not None:
        found["mediapipe478"] = _mediapipe(path, faces)
    return found


def _npy_dict(path: Path) -> Mapping[str, object]:
    payload = parse_npy(read_source(path), path, "file")
    if not isinstance(payload, bytes):
        raise HeadFileError(path, "file", "a dict of arrays", "a plain array", "is this the right file?")
    return _dict_of(read_pickle(payload, path, "file"), path)


def _points(path: Path, values: Mapping[str, object], group: str, faces: int) -> Landmarks | None:
    """One group of an embedding, its points in one row, numbered from 0; None where the file has no such group."""
    names = ((f"{group}_lmk_face_idx", f"{group}_lmk_b_coords"), (f"{group}_lmk_faces_idx", f"{group}_lmk_bary_coords"))
    pair = next((pair for pair in names if all(name in values for name in pair)), None)
    if pair is None:
        return None
    ids, bary = (to_array(values[name], path, name) for name in pair)
    sizes = {"L": ids.size}
    ids = checked(path, pair[0], ids.reshape(-1), "L", "i", sizes)
    if bary.size != 3 * ids.size:
        raise HeadFileError(path, pair[1], f"{3 * ids.size} numbers", f"{bary.size}", "is this the right file?")
    bary = checked(path, pair[1], bary.reshape(-1, 3), "L 3", "f", sizes)
    return _on_faces(path, pair, ids, bary, np.arange(ids.size), faces)


def _on_faces(path: Path, keys: tuple[str, str], face_ids: Array, bary: Array, ids: Array, faces: int) -> Landmarks:
    check_ids(path, keys[0], face_ids, faces, "face")
    check_rows_sum_to_one(path, keys[1], bary, tolerance=1e-2)
    return Landmarks(
        face_ids=torch.from_numpy(face_ids), bary=torch.from_numpy(bary), ids=torch.from_numpy(ids.astype(np.int64))
    )


def _mediapipe(path: Path, faces: int) -> Landmarks:
    arrays = read_npz(path, read_source(path), ("lmk_face_idx", "lmk_b_coords", "landmark_indices"))
    sizes: dict[str, int] = {}
    face_ids = checked(path, "lmk_face_idx", arrays["lmk_face_idx"], "L", "i", sizes)
    bary = checked(path, "lmk_b_coords", arrays["lmk_b_coords"], "L 3", "f", sizes)
    ids = checked(path, "landmark_indices", arrays["landmark_indices"], "L", "i", sizes)
    check_ids(path, "landmark_indices", ids, 478, "MediaPipe landmark")
    return _on_faces(path, ("lmk_face_idx", "lmk_b_coords"), face_ids, bary, ids, faces)


def _uvs(folder: Path, template: Array, faces: Array, parts: Mapping[str, Array]) -> tuple[Array, Array]:
    """Texture coordinates [U, 2] and triangles into them [F, 3]: from a file beside the model, else cylindrical."""
    path = first_existing(folder, OBJS)
    if path is not None:
        uvs, faces_uv = _obj_uvs(path, faces)
    else:
        path = first_existing(folder, TEXTURES)
        if path is None:
            return cylinder_uvs(template, faces, parts["eye_left"], parts["eye_right"])
        arrays = read_npz(path, read_source(path), ("vt", "ft"))
        uvs = checked(path, "vt", arrays["vt"], "U 2", "f", {})
        faces_uv = checked(path, "ft", arrays["ft"], "F 3", "i", {"F": len(faces)})
    check_ids(path, "texture faces", faces_uv, len(uvs), "texture vertex")
    if float(uvs.min()) < -1e-3 or float(uvs.max()) > 1.001:
        raise HeadFileError(path, "texture vertices", "coordinates 0 .. 1", f"{uvs.min()} .. {uvs.max()}", "check it")
    return uvs.clip(0.0, 1.0), faces_uv


def _obj_uvs(path: Path, faces: Array) -> tuple[Array, Array]:
    """Texture vertices and triangles of an .obj whose vertex triangles are the model's."""
    uvs, corners = [], []
    for number, line in enumerate(read_source(path, 1 << 26).decode("utf-8", "replace").splitlines(), 1):
        kind, _, rest = line.partition(" ")
        try:
            if kind == "vt":
                uvs.append([float(word) for word in rest.split()[:2]])
            elif kind == "f":
                corners.append([[int(part) for part in word.split("/")[:2]] for word in rest.split()])
        except ValueError as error:
            raise HeadFileError(path, f"line {number}", "numbers", line[:60], "export the mesh again") from error
    if any(len(uv) != 2 for uv in uvs) or any(
        len(corner) != 3 or any(len(pair) != 2 for pair in corner) for corner in corners
    ):
        raise HeadFileError(path, "mesh", "triangles with texture coordinates", "others", "export it with them")
    if len(corners) != len(faces) or not uvs:
        raise HeadFileError(path, "mesh", f"{len(faces)} triangles with texture coordinates", f"{len(corners)}",
                            "use FLAME's own template mesh")  # fmt: skip
    pairs = np.array(corners, dtype=object)
    if not np.array_equal(pairs[:, :, 0] - 1, faces):
        raise HeadFileError(path, "mesh", "the triangles of the model file", "others", "use FLAME's own template mesh")
    ids = checked(path, "mesh", np.array((pairs[:, :, 1] - 1).tolist()), "F 3", "i", {})
    return checked(path, "mesh", np.array(uvs, dtype=np.float64), "U 2", "f", {}), ids


def cylinder_uvs(template: Array, faces: Array, eye_left: Array, eye_right: Array) -> tuple[Array, Array]:
    """A texture layout from the template alone, the same for every file. uvs [U, 2] in 0..1, faces_uv [F, 3].

    Skin is unrolled from a vertical cylinder (the back of the head at both sides, v below 0.94), which folds texels
    over each other inside the mouth and behind the ears. The eyeballs lie flat in the top corners. Faces across the
    seam get texture vertices of their own at u = 1.
    """
    centre = (template.max(axis=0) + template.min(axis=0)) / 2
    x, y, z = (template - centre).T
    height = (y - y.min()) / max(float(np.ptp(y)), 1e-9)
    uvs = np.stack([0.5 + np.arctan2(x, z) / (2 * np.pi), 0.94 * height], axis=1)
    for eye, left in ((eye_left, 0.7), (eye_right, 0.0)):
        if len(eye):
            flat = template[eye, :2]
            unit = (flat - flat.min(axis=0)) / np.maximum(np.ptp(flat, axis=0), 1e-9)
            uvs[eye] = [left, 0.95] + unit * [0.3, 0.05]
    faces_uv = faces.copy()
    eyes = np.zeros(len(template), dtype=bool)
    eyes[np.concatenate([eye_left, eye_right])] = True
    across = (np.ptp(uvs[faces, 0], axis=1) > 0.5) & ~eyes[faces].any(axis=1)
    corners = across[:, None] & (uvs[faces, 0] < 0.5)
    copied, places = np.unique(faces[corners], return_inverse=True)
    faces_uv[corners] = len(uvs) + places
    seam = np.stack([np.ones(len(copied)), uvs[copied, 1]], axis=1)
    return np.concatenate([uvs, seam]).clip(0.0, 1.0).astype(np.float32), faces_uv
