"""Small head files of exactly the published layouts, made from numbers: no published model is in this repository."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from avatar.head import flame, gnm, ict
from avatar.head.flame_teeth import LIP_LOWER, LIP_UPPER


class Py2Pickle:
    """Writes what Python 2's cPickle wrote with protocol 2 for numpy, scipy and chumpy objects, opcode by opcode."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def put(self) -> None:
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)
        self.memo += 1

    def glob(self, module: str, name: str) -> None:
        self.out += b"c" + f"{module}\n{name}\n".encode()
        self.put()

    def text(self, value: bytes) -> None:
        self.out += (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
        self.put()

    def value(self, value: Any) -> None:
        if value is None:
            self.out += b"N"
        elif isinstance(value, bool):
            self.out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            small = 0 <= value < 256
            self.out += b"K" + bytes([value]) if small else b"J" + struct.pack("<i", value)
        elif isinstance(value, str):
            self.text(value.encode("latin1"))
        elif isinstance(value, bytes):
            self.text(value)
        elif isinstance(value, tuple):
            self.out += b"("
            for entry in value:
                self.value(entry)
            self.out += b"t"
            self.put()
        elif isinstance(value, list):
            self.out += b"]"
            self.put()
            self.out += b"("
            for entry in value:
                self.value(entry)
            self.out += b"e"
        elif isinstance(value, dict):
            self.out += b"}"
            self.put()
            self.out += b"("
            for key, entry in value.items():
                self.value(key)
                self.value(entry)
            self.out += b"u"
        elif isinstance(value, np.ndarray):
            self.ndarray(value)
        elif isinstance(value, csc_matrix):
            self.csc(value)
        elif isinstance(value, Ch):
            self.chumpy(value)
        else:
            raise TypeError(type(value))

    def ndarray(self, array: np.ndarray) -> None:
        self.glob("numpy.core.multiarray", "_reconstruct")
        self.glob("numpy", "ndarray")
        self.value((0,))
        self.text(b"b")
        self.out += b"\x87R"
        self.put()
        self.out += b"("
        self.value(1)
        self.value(array.shape)
        self.glob("numpy", "dtype")
        self.text(array.dtype.str[1:].encode())
        self.out += b"K\x00K\x01\x87R"
        self.put()
        self.value((3, array.dtype.str[0], None, None, None, -1, -1, 0))
        self.out += b"b"
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self.value(bool(fortran))
        self.text(array.tobytes(order="F" if fortran else "C"))
        self.out += b"tb"

    def csc(self, matrix: csc_matrix) -> None:
        self.glob("copy_reg", "_reconstructor")
        self.out += b"("
        self.glob("scipy.sparse.csc", "csc_matrix")
        self.glob("__builtin__", "object")
        self.out += b"NtR"
        self.put()
        self.value(
            {"_shape": matrix.shape, "maxprint": 50, "indices": matrix.indices, "indptr": matrix.indptr,
             "data": matrix.data, "format": "csc"}
        )  # fmt: skip
        self.out += b"b"

    def chumpy(self, value: Ch) -> None:
        self.glob("chumpy.reordering" if value.selected else "chumpy.ch", "Select" if value.selected else "Ch")
        self.out += b")\x81"
        self.put()
        self.out += b"}("
        for key, entry in value.state.items():
            self.value(key)
            self.value(entry)
        self.text(b"_dirty_vars")
        self.glob("__builtin__", "set")
        self.out += b"]\x85Ru"
        self.out += b"b"


class Ch:
    """A chumpy array to be written: plain, or a Select of the first columns of a wider one."""

    def __init__(self, array: np.ndarray, selected: bool = False) -> None:
        self.selected = selected
        if selected:
            wide = np.concatenate([array, array[..., :1]], axis=-1)
            columns = np.arange(wide.size).reshape(wide.shape)[..., :-1]
            self.state: dict[str, Any] = {"a": Ch(wide), "idxs": columns.reshape(-1), "preferred_shape": array.shape}
        else:
            self.state = {"x": array}


def py2_pickle(value: Any) -> bytes:
    """A value as Python 2 would have pickled it."""
    writer = Py2Pickle()
    writer.value(value)
    return bytes(writer.out) + b"."


def flame_values(
    verts: int = flame.VERTS, faces: int = flame.FACES, shapes: int = 6, expressions: int = 4, dtype: str = "f8"
) -> dict[str, Any]:
    """Arrays in FLAME's shapes: a blob of 30 cm about 1.5 m above the origin, eyeballs on the eye joints, lips."""
    rng = np.random.default_rng(1)
    around = np.linspace(0, 60 * np.pi, verts)
    height = np.linspace(-1, 1, verts)
    ring = np.sqrt(1 - height**2)
    template = np.stack([0.08 * ring * np.sin(around), 1.47 + 0.15 * height, 0.1 * ring * np.cos(around)], axis=1)
    weights = np.zeros((verts, 5))
    head = np.clip((height + 1) / 1.5, 0, 1)
    weights[:, 0], weights[:, 1] = 1 - head, 0.75 * head
    weights[:, 2] = 0.25 * head
    eye = verts // 10
    for joint, ids in ((3, slice(verts - 2 * eye, verts - eye)), (4, slice(verts - eye, verts))):
        weights[ids] = np.eye(5)[joint]
        template[ids] = [0.03 if joint == 3 else -0.03, 1.5, 0.07] + 0.012 * rng.normal(size=(eye, 3)).clip(-1, 1)
    if verts > max(LIP_UPPER + LIP_LOWER):
        across = np.linspace(0.025, -0.025, 15)
        for ids, y in ((LIP_UPPER, 1.443), (LIP_LOWER, 1.437)):
            template[list(ids)] = np.stack([across, np.full(15, y), 0.1 - 8 * across**2], axis=1)
    regressor = np.zeros((5, verts))
    for joint in range(5):
        chosen = rng.choice(verts, size=min(20, verts), replace=False)
        regressor[joint, chosen] = 1 / len(chosen)
    first = np.arange(faces) % verts
    return {
        "v_template": template.astype(dtype),
        "f": np.stack([first, (first + 1) % verts, (first + 7) % verts], axis=1).astype(np.uint32),
        "shapedirs": (0.002 * rng.normal(size=(verts, 3, shapes + expressions))).astype(dtype),
        "posedirs": (1e-4 * rng.normal(size=(verts, 3, 36))).astype(dtype),
        "J_regressor": csc_matrix(regressor),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], dtype=np.uint32),
        "weights": weights.astype(dtype),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def flame_pickle(values: dict[str, Any], selected: bool = False) -> bytes:
    """The published form: Python 2, protocol 2, chumpy around the directions, scipy around the regressor."""
    wrapped = {**values, "shapedirs": Ch(values["shapedirs"], selected), "posedirs": Ch(values["posedirs"])}
    return py2_pickle(wrapped)


def flame_resaved(values: dict[str, Any], protocol: int = 4) -> bytes:
    """The same saved again in Python 3."""
    return pickle.dumps(values, protocol=protocol)


def npz(values: dict[str, Any], compressed: bool = False) -> bytes:
    """A .npz of the values."""
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **values)
    return out.getvalue()


def npy(value: Any) -> bytes:
    """A .npy of a value, pickled inside where it is no array of numbers, as the landmark embeddings are."""
    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


def embedding(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks on FLAME's faces: face ids [*shape], barycentrics [*shape, 3]."""
    rng = np.random.default_rng(2)
    bary = rng.random((*shape, 3)) + 0.1
    return rng.integers(0, flame.FACES, shape), bary / bary.sum(axis=-1, keepdims=True)


def gnm_values(turn_degrees: float = 6.0) -> tuple[dict[str, Any], np.ndarray]:
    """Arrays in GNM 3's layout with a known jaw hinge, and that hinge [3] m."""
    rng = np.random.default_rng(3)
    hinge = np.array([0.0, -0.01, 0.02])

    def arch(count: int, y: float) -> np.ndarray:
        t = np.linspace(-1.2, 1.2, count)
        return np.stack([0.03 * np.sin(t), y + 0.004 * rng.random(count), 0.04 + 0.05 * np.cos(t)], axis=1)

    around, up = np.meshgrid(np.linspace(-np.pi, np.pi, 24, endpoint=False), np.linspace(-0.2, 0.13, 16))
    skin = np.stack([0.08 * np.sin(around), up, 0.02 + 0.095 * np.cos(around)], axis=-1).reshape(-1, 3)
    eye = 0.012 * np.stack([np.sin(around), up * 6, np.cos(around)], axis=-1).reshape(-1, 3)[::8]
    pieces = {
        "skin": skin,
        "left_eye": eye + np.array([0.03, 0.03, 0.09]),
        "right_eye": eye + np.array([-0.03, 0.03, 0.09]),
        "upper_teeth_and_gums": arch(30, -0.03),
        "lower_teeth_and_gums": arch(30, -0.045),
        "tongue": arch(20, -0.045) * [0.6, 1, 0.9],
    }
    template = np.concatenate(list(pieces.values()))
    verts = len(template)
    ends = np.cumsum([len(piece) for piece in pieces.values()])
    groups = {name: np.zeros(verts) for name in (*pieces, "eye_exteriors", "mouth_sock", "left_ear")}
    for name, piece, end in zip(pieces, pieces.values(), ends, strict=True):
        groups[name][end - len(piece) : end] = 1.0
    groups["eye_exteriors"][[ends[0], ends[0] + 1, ends[0] + 2]] = 1.0
    groups["mouth_sock"][:24] = 0.9
    groups["left_ear"][100:110] = 0.7

    lower = groups["lower_teeth_and_gums"] + groups["tongue"]
    chin = ((template[:, 1] < -0.03) & (template[:, 1] > -0.09) & (template[:, 2] > 0.05)) * groups["skin"]
    angle = np.radians(turn_degrees)
    opening = np.cross([angle, 0, 0], template - hinge) * (lower + chin)[:, None]
    slide = np.zeros((verts, 3))
    slide[:, 0] = 0.002 * (lower + chin)
    smile = np.zeros((verts, 3))
    smile[:, 1] = 0.004 * chin
    names = ["left_eye_region_000", *(f"lower_face_region_{i:03d}" for i in range(4)), "tongue_mean"]
    noise = 1e-3 * rng.normal(size=(verts, 3)) * groups["skin"][:, None]
    directions = [noise, opening + smile, slide, 0.3 * opening - smile, smile, noise[::-1] * 0]
    head_share = np.clip((template[:, 1] + 0.2) / 0.1, 0, 1)
    weights = np.stack([1 - head_share, head_share, 0 * head_share, 0 * head_share])
    for joint, name in ((2, "left_eye"), (3, "right_eye")):
        weights[:, groups[name] > 0] = np.eye(4)[joint][:, None]
    joints = np.array([[0, -0.15, 0.0], [0, -0.06, 0.01], [0.03, 0.03, 0.09], [-0.03, 0.03, 0.09]])
    near = np.linalg.norm(template[None] - joints[:, None], axis=2)
    regressor = np.exp(-((near / 0.05) ** 2))
    regressor /= regressor.sum(axis=1, keepdims=True)
    joints = regressor @ template + 1e-4 * rng.normal(size=(4, 3))
    first = np.concatenate([np.arange(end - len(piece), end - 2) for piece, end in zip(pieces.values(), ends,
                                                                                      strict=True)])  # fmt: skip
    triangles = np.stack([first, first + 1, first + 2], axis=1)
    values = {
        "version": np.array("3.0"),
        "variant": np.array("head"),
        "template_vertex_positions": template.astype("f4"),
        "template_joint_positions": joints.astype("f4"),
        "vertex_identity_basis": (1e-3 * rng.normal(size=(5, verts, 3))).astype("f4"),
        "joint_identity_basis": np.zeros((5, 4, 3), "f4"),
        "expression_basis": np.stack(directions).astype("f4"),
        "identity_names": np.array([f"head_{i:03d}" for i in range(5)]),
        "expression_names": np.array(names),
        "joint_names": np.array(["neck", "head", "left_eye", "right_eye"]),
        "joint_parent_indices": np.array([-1, 0, 1, 1]),
        "skinning_weights": weights.astype("f4"),
        "quads": np.zeros((1, 4), "i4"),
        "triangles": triangles.astype("i4"),
        "quad_uvs": np.zeros((1, 4, 2), "f4"),
        "triangle_uvs": rng.random((len(triangles), 3, 2)).astype("f4"),
        "mesh_component_names": np.array(list(pieces)),
        "mirror_indices": np.arange(verts),
        "joint_regressor": regressor.astype("f4"),
        "pose_correctives_regressor": np.zeros((36, 3 * verts), "f4"),
        "vertex_groups": np.stack(list(groups.values())).astype("f4"),
        "vertex_group_names": np.array(list(groups)),
    }
    assert set(gnm.LAYOUT) <= set(values)
    return values, hinge


ICT_COUNTS = dict(zip(ict.REGIONS, (400, 220, 60, 24, 24, 60, 60, 60, 60, 8, 8, 6, 6, 8, 8, 12, 12), strict=True))
ICT_HINGE_CM = np.array([0.0, -0.5, 1.8])


def ict_values(turn_degrees: float = 25.0) -> dict[str, Any]:
    """Arrays in ICT Light's packing: points about where each region lies, in quads, with a known jaw hinge."""
    rng = np.random.default_rng(4)
    last = np.cumsum(list(ICT_COUNTS.values())) - 1
    first = last - np.array(list(ICT_COUNTS.values())) + 1
    places = {
        "face": ([0, -2, 7], [7, 10, 5]),
        "head_neck": ([0, -4, -3], [9, 15, 5]),
        "teeth": ([0, -3, 8], [3, 2, 2]),
    }
    template = np.zeros((last[-1] + 1, 3))
    for name, start, end in zip(ICT_COUNTS, first, last, strict=True):
        centre, size = places.get(name, ([0, -3, 6], [2, 2, 2]))
        template[start : end + 1] = centre + np.array(size) * rng.uniform(-1, 1, (end - start + 1, 3))
    for name, side in (("eyeball_l", 1), ("eyeball_r", -1)):
        ids = np.arange(first[ict.REGIONS.index(name)], last[ict.REGIONS.index(name)] + 1)
        ball = rng.normal(size=(len(ids), 3))
        ball /= np.linalg.norm(ball, axis=1, keepdims=True)
        template[ids] = [side * 3.0, 3.6, 8.0] + ball * np.where(np.arange(len(ids)) < 30, 1.5, 1.3)[:, None]
    materials = {"face": "M_Face", "gums_tongue": "M_GumsTongue", "teeth": "M_Teeth"}
    materials |= {"lacrimal_l": "M_LacrimalFluid", "lacrimal_r": "M_LacrimalFluid", "eyeblend_l": "M_EyeBlend",
                  "eyeblend_r": "M_EyeBlend", "occl_l": "M_EyeOcclusion", "occl_r": "M_EyeOcclusion",
                  "lashes_l": "M_EyeLashes", "lashes_r": "M_EyeLashes"}  # fmt: skip
    names = sorted(set(ict.TEXTURES + ict.HIDDEN))
    quads, material, uv = [], [], np.zeros((len(template), 2))
    for name, start, end in zip(ICT_COUNTS, first, last, strict=True):
        texture = {"eyeball_l": "M_ScleraLeft", "eyeball_r": "M_ScleraRight"}.get(
            name, materials.get(name, "M_BackHead")
        )
        for place, vertex in enumerate(range(start, end - 2)):
            inner = name.startswith("eyeball") and place >= 30
            if name.startswith("eyeball") and 27 <= place < 30:
                continue  # the two shells do not touch
            quads.append([vertex, vertex + 1, vertex + 2, -1 if place % 7 == 6 else vertex + 3])
            material.append(names.index(texture.replace("Sclera", "Iris") if inner else texture))
        uv[start : end + 1] = rng.uniform(0.05, 0.95, (end - start + 1, 2))
        uv[start : end + 1, 0] += 3 if texture == "M_Teeth" else 0
    faces = np.array(quads)
    teeth = np.arange(first[6], last[6] + 1)
    angle = np.radians(turn_degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    opened = np.zeros_like(template)
    moved = np.concatenate([teeth[30:], np.flatnonzero((template[:, 1] < -4) & (np.arange(len(template)) < 400))])
    opened[moved] = (template[moved] - ICT_HINGE_CM) @ (turn - np.eye(3)).T
    blink = np.zeros((2, *template.shape))
    blink[0, :20, 1], blink[1, 20:40, 1] = -0.8, -0.8
    return {
        "template_cm": template.astype("f4"),
        "faces": faces.astype("i4"),
        "uv": uv.astype("f4"),
        "faces_uv": faces.astype("i4"),
        "face_material": np.array(material, dtype="i1"),
        "materials": np.array(names),
        "identity_basis_cm": (0.1 * rng.normal(size=(5, *template.shape))).astype("f4"),
        "expression_basis_cm": np.stack([blink[0], blink[1], opened]).astype("f4"),
        "expression_names": np.array(["eyeBlink_L", "eyeBlink_R", "jawOpen"]),
        "identity_names": np.array([f"identity{i:03d}" for i in range(5)]),
        "region_names": np.array(ict.REGIONS),
        "region_first_last": np.stack([first, last], axis=1).astype("i4"),
        "landmark68": np.arange(68, dtype="i4") * 3,
    }


def write(path: Path, data: bytes) -> Path:
    """Write bytes, return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
