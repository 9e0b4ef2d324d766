"""ICT-FaceKit Light (MIT, USC Institute for Creative Technologies) from its .npz packing, centimetres to metres.

The model has no joints, so they are made here:

- jaw: `jawOpen` turns the lower teeth rigidly (25.33 degrees about +X); the jaw joint stands on that hinge and the skin
  takes part in it as far as `jawOpen` moves it along. The expression stays as published, so `jawOpen` = 1 and a jaw
  pose of 25.33 degrees are two ways to say nearly the same: use one of them.
- eyes: the eyeballs turn rigidly about the centres of their outer shells. The look expressions move the lids only.
- neck at (0, -9, -1) cm and root at (0, -16, -1) cm are invented; the skin of the neck blends from one to the other.

The outer shell of each eye is a cornea, and tear film, eye blend and eye occlusion are glassy overlays: drawn opaque
they would hide the iris. Their vertices keep their numbers, their faces are left out. `eyelid_basis` is eyeBlink_L/R.
The mesh does not come with MediaPipe landmarks; the set "ibug68" is the published one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from avatar.head.atlas import pack
from avatar.head.invented_joints import (
    following,
    hinge,
    nearest_vertices,
    regress_point,
    rigid_motion,
    sphere_centre,
)
from avatar.head.model import HeadModel, Landmarks
from avatar.head.source_file import Array, HeadFileError, check_ids, checked, read_npz, read_source, sha256, texts

MODEL_ID = "ict-light"
LICENCE = "ICT Face Model Light, MIT, (c) 2020 USC Institute for Creative Technologies"
CM = 0.01

LAYOUT = {
    "template_cm": ("V 3", "f"),
    "faces": ("F 4", "i"),
    "uv": ("U 2", "f"),
    "faces_uv": ("F 4", "i"),
    "face_material": ("F", "i"),
    "materials": ("M", "s"),
    "identity_basis_cm": ("I V 3", "f"),
    "expression_basis_cm": ("E V 3", "f"),
    "expression_names": ("E", "s"),
    "region_names": ("R", "s"),
    "region_first_last": ("R 2", "i"),
    "landmark68": ("68", "i"),
}
REGIONS = (
    "face", "head_neck", "mouth_socket", "eye_socket_l", "eye_socket_r", "gums_tongue", "teeth", "eyeball_l",
    "eyeball_r", "lacrimal_l", "lacrimal_r", "eyeblend_l", "eyeblend_r", "occl_l", "occl_r", "lashes_l", "lashes_r",
)  # fmt: skip
HIDDEN = ("M_ScleraLeft", "M_ScleraRight", "M_EyeOcclusion", "M_EyeBlend", "M_LacrimalFluid")
# one texture each, in the order of `avatar.head.atlas.PLACES`
TEXTURES = ("M_Face", "M_BackHead", "M_GumsTongue", "M_Teeth", "M_EyeLashes", "M_IrisLeft", "M_IrisRight")
NEEDED_EXPRESSIONS = ("jawOpen", "eyeBlink_L", "eyeBlink_R")

JOINT_NAMES = ("root", "neck", "jaw", "eye_left", "eye_right")
PARENTS = (-1, 0, 1, 1, 1)
ROOT_CM, NECK_CM = (0.0, -16.0, -1.0), (0.0, -9.0, -1.0)
NECK_BLEND_CM = (-15.0, -9.0)  # below: shoulders, on the root; above: head; the chin's lowest point lies at -8.6
SUPPORT = 200  # vertices that an invented joint follows


def load(path: Path) -> HeadModel:
    """ICT Face Model Light from the user's ict_light.npz: 26,719 vertices, 100 identities, 57 expressions.

    Raises FileNotFoundError, or HeadFileError naming file, key, what was expected and what came.
    """
    path = Path(path)
    data = read_source(path)
    raw = read_npz(path, data, tuple(LAYOUT))
    sizes: dict[str, int] = {}
    file = {key: checked(path, key, raw.pop(key), *LAYOUT[key], sizes) for key in LAYOUT}
    verts = sizes["V"]
    names = texts(path, "expression_names", file["expression_names"])
    missing = [name for name in NEEDED_EXPRESSIONS if name not in names]
    if missing:
        raise HeadFileError(path, "expression_names", ", ".join(missing), "a list without", "is this the right file?")
    regions = _regions(path, file, verts)
    faces, faces_uv, material = _triangles(path, file, verts)
    uvs, faces_uv = pack(_own_tile(file["uv"][faces_uv]), material)
    template = file["template_cm"] * np.float32(CM)
    identity = np.ascontiguousarray(file["identity_basis_cm"].transpose(1, 2, 0)) * np.float32(CM)
    expression = np.ascontiguousarray(file["expression_basis_cm"].transpose(1, 2, 0)) * np.float32(CM)
    parts = _parts(file, regions)
    eyes = [sphere_centre(template[_shell(path, file, name)]) for name in ("M_ScleraLeft", "M_ScleraRight")]
    regressor, weights = _joints(template, expression[:, :, names.index("jawOpen")], regions, parts, eyes)
    return HeadModel(
        model_id=MODEL_ID,
        sha256=sha256(data),
        licence=LICENCE,
        template=torch.from_numpy(template),
        faces=torch.from_numpy(faces),
        uvs=torch.from_numpy(uvs),
        faces_uv=torch.from_numpy(faces_uv),
        identity_basis=torch.from_numpy(identity),
        expression_basis=torch.from_numpy(expression),
        expression_names=names,
        joint_names=JOINT_NAMES,
        parents=PARENTS,
        joint_regressor=torch.from_numpy(regressor),
        skin_weights=torch.from_numpy(weights),
        eyelid_basis=torch.from_numpy(
            np.ascontiguousarray(expression[:, :, [names.index("eyeBlink_L"), names.index("eyeBlink_R")]])
        ),
        regions={_side(name): torch.from_numpy(ids) for name, ids in regions.items()},
        parts={name: torch.from_numpy(ids) for name, ids in parts.items()},
        landmarks={"ibug68": _landmarks(path, file["landmark68"], faces)},
    )


def _side(name: str) -> str:
    """eyeball_l -> eyeball_left"""
    return name.removesuffix("_l") + "_left" if name.endswith("_l") else (
        name.removesuffix("_r") + "_right" if name.endswith("_r") else name
    )  # fmt: skip


def _regions(path: Path, file: dict[str, Array], verts: int) -> dict[str, Array]:
    """Vertex ids of the published regions, which follow each other and cover the mesh."""
    names = texts(path, "region_names", file["region_names"])
    if names != REGIONS:
        raise HeadFileError(path, "region_names", ", ".join(REGIONS), ", ".join(names)[:300], "is this ICT Light?")
    ranges = file["region_first_last"]
    starts = np.append(ranges[:, 0], verts)
    if starts[0] != 0 or not np.array_equal(ranges[:, 1] + 1, starts[1:]) or bool((np.diff(starts) < 1).any()):
        raise HeadFileError(
            path, "region_first_last", f"ranges that cover 0 .. {verts - 1} in order", "others", "is the file damaged?"
        )
    return {name: np.arange(first, last + 1) for name, (first, last) in zip(names, ranges.tolist(), strict=True)}


def _triangles(path: Path, file: dict[str, Array], verts: int) -> tuple[Array, Array, Array]:
    """Quads and padded triangles as triangles, without the glassy shells: faces, faces_uv [F, 3], texture [F]."""
    quads, quads_uv = file["faces"], file["faces_uv"]
    materials = texts(path, "materials", file["materials"])
    check_ids(path, "face_material", file["face_material"], len(materials), "material")
    unknown = [name for name in materials if name not in TEXTURES + HIDDEN]
    if unknown:
        raise HeadFileError(path, "materials", ", ".join(TEXTURES + HIDDEN), unknown[0][:60], "is this ICT Light?")
    texture = np.array([TEXTURES.index(name) if name in TEXTURES else -1 for name in materials])[file["face_material"]]
    is_quad = quads[:, 3] != -1
    for key, ids, count in (("faces", quads, verts), ("faces_uv", quads_uv, len(file["uv"]))):
        check_ids(path, key, ids[:, :3], count, "vertex")
        check_ids(path, key, ids[is_quad, 3], count, "vertex")
    drawn, halves = texture >= 0, (texture >= 0) & is_quad
    faces = np.concatenate([quads[drawn][:, [0, 1, 2]], quads[halves][:, [0, 2, 3]]])
    faces_uv = np.concatenate([quads_uv[drawn][:, [0, 1, 2]], quads_uv[halves][:, [0, 2, 3]]])
    if not len(faces):
        raise HeadFileError(path, "faces", "faces that are drawn", "none", "is this ICT Light?")
    return faces, faces_uv, np.concatenate([texture[drawn], texture[halves]])


def _own_tile(corners: Array) -> Array:
    """Corners [F, 3, 2] with the number of their texture, which the file adds to u, taken off."""
    return np.asarray(corners - np.floor(corners.mean(axis=1, keepdims=True)))


def _parts(file: dict[str, Array], regions: dict[str, Array]) -> dict[str, Array]:
    """Vertex ids by part; every vertex in exactly one."""
    gums, teeth = regions["gums_tongue"], regions["teeth"]
    tongue = gums[np.isin(gums, _tongue(file, gums))]
    # teeth are one list: those that the opening jaw takes along are the lower ones
    moved = np.linalg.norm(_expression(file, "jawOpen")[teeth], axis=1)
    lower = moved > moved.max() / 20  # the last molars, near the hinge, move least
    join = np.concatenate
    return {
        "skin": join([regions["face"], regions["head_neck"], regions["eye_socket_l"], regions["eye_socket_r"]]),
        "mouth_cavity": join([regions["mouth_socket"], np.setdiff1d(gums, tongue)]),
        "tongue": tongue,
        "teeth_upper": teeth[~lower],
        "teeth_lower": teeth[lower],
        "eye_left": regions["eyeball_l"],
        "eye_right": regions["eyeball_r"],
        "eye_overlays": np.arange(regions["lacrimal_l"][0], regions["occl_r"][-1] + 1),
        "lashes": join([regions["lashes_l"], regions["lashes_r"]]),
    }


def _expression(file: dict[str, Array], name: str) -> Array:
    index = [str(entry) for entry in file["expression_names"]].index(name)
    return np.asarray(file["expression_basis_cm"][index])


def _tongue(file: dict[str, Array], gums: Array) -> Array:
    """The tongue hangs together with the gums; its texture island, which ends with their last vertex, tells it."""
    quads, quads_uv = file["faces"], file["faces_uv"]
    inside = (quads[:, 0] >= gums[0]) & (quads[:, 0] <= gums[-1])
    quads, quads_uv = quads[inside], quads_uv[inside]
    island = quads_uv[quads == gums[-1]][:1]
    while True:
        touching = np.isin(quads_uv, island).any(axis=1)
        grown = np.setdiff1d(quads_uv[touching], [-1])
        if len(grown) == len(island):
            return np.setdiff1d(quads[touching], [-1])
        island = grown


def _joints(
    template: Array, jaw_open: Array, regions: dict[str, Array], parts: dict[str, Array], eyes: list[Array]
) -> tuple[Array, Array]:
    """Joint regressor [5, V] and skin weights [V, 5]; template and jaw_open [V, 3] m, eyes: left and right centre."""
    lower = parts["teeth_lower"]
    rotation, shift = rigid_motion(template[lower], template[lower] + jaw_open[lower])
    jaw = hinge(rotation, shift)
    motion = (template - jaw) @ (rotation - np.eye(3)).T
    root, neck = np.array(ROOT_CM) * CM, np.array(NECK_CM) * CM
    skin = np.concatenate([regions["face"], regions["head_neck"]])
    rows = [regress_point(template, point, nearest_vertices(template, point, skin, SUPPORT))
            for point in (root, neck, jaw)]  # fmt: skip
    rows += [regress_point(template, eyes[0], regions["eyeball_l"]),
             regress_point(template, eyes[1], regions["eyeball_r"])]  # fmt: skip

    weights = np.zeros((len(template), len(JOINT_NAMES)))
    low, high = (height * CM for height in NECK_BLEND_CM)
    ramp = ((template[:, 1] - low) / (high - low)).clip(0.0, 1.0)
    head = ramp * ramp * (3 - 2 * ramp)
    weights[:, 0] = 1 - head
    open_share = following(jaw_open, motion)
    open_share[lower] = 1.0
    weights[:, 2] = head * open_share
    weights[:, 1] = head - weights[:, 2]
    for joint, eye in ((3, "eyeball_l"), (4, "eyeball_r")):
        weights[regions[eye]] = np.eye(len(JOINT_NAMES))[joint]
    return np.stack(rows), weights.astype(np.float32)


def _shell(path: Path, file: dict[str, Array], material: str) -> Array:
    """Vertex ids of the outer shell of an eye: rounder than the inner one, whose iris is flat, so it has the centre."""
    index = texts(path, "materials", file["materials"])
    if material not in index:
        raise HeadFileError(path, "materials", material, "a list without", "is this ICT Light?")
    ids = np.setdiff1d(file["faces"][file["face_material"] == index.index(material)], [-1])
    if len(ids) < 4:
        raise HeadFileError(path, "face_material", f"faces of {material}", f"{len(ids)} vertices", "is this ICT Light?")
    return ids


def _landmarks(path: Path, ids: Array, faces: Array) -> Landmarks:
    """Landmark vertices as corners of the first triangle that has them."""
    check_ids(path, "landmark68", ids, int(faces.max()) + 1, "vertex")
    flat = faces.reshape(-1)
    order = np.argsort(flat, kind="stable")
    at = np.searchsorted(flat[order], ids)
    corner = order[np.minimum(at, len(order) - 1)]
    if not np.array_equal(flat[corner], ids):
        raise HeadFileError(path, "landmark68", "vertices of drawn faces", "others", "is the file damaged?")
    return Landmarks(
        face_ids=torch.from_numpy(corner // 3),
        bary=torch.eye(3)[torch.from_numpy(corner % 3)],
        ids=torch.arange(len(ids)),
    )
