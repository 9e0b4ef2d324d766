"""GNM head, version 3, from the user's gnm_head.npz (Apache-2.0, https://github.com/google/GNM).

Its four joints map one to one: `neck`, on which the bust hangs, is our root; `head` is our neck; left_eye and right_eye
are the eyes. It has no jaw, so one is made from the model's own lower face:

1. Every lower-face direction moves the lower teeth nearly rigidly; the turn that explains most of these motions
   together (principal component of their velocity fields) is the opening of the jaw.
2. The jaw joint stands on that turn's axis, in the middle plane.
3. The combination of lower-face directions that best gives the lower teeth this turn says how far the skin takes part;
   that share of the head joint's weight goes to the jaw. Lower teeth and tongue go along entirely.

The expressions stay as published, also those that open the mouth. There are no eyelid directions (`eyelid_basis` is
zero; lids are among the eye-region expressions) and no landmarks in the file. The glassy front of the eyes (vertex
group eye_exteriors) is not drawn. The published pose correctives are all zero and then left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from avatar.head.atlas import pack
from avatar.head.invented_joints import following, nearest_regressor, nearest_vertices, regress_point
from avatar.head.model import HeadModel
from avatar.head.source_file import (
    Array,
    HeadFileError,
    check_ids,
    check_rows_sum_to_one,
    checked,
    read_npz,
    read_source,
    sha256,
    side_last,
    texts,
)

MODEL_ID = "gnm-3"
LICENCE = "GNM Head 3, Apache-2.0, Google LLC"

LAYOUT = {
    "template_vertex_positions": ("V 3", "f"),
    "template_joint_positions": ("J 3", "f"),
    "vertex_identity_basis": ("I V 3", "f"),
    "expression_basis": ("E V 3", "f"),
    "expression_names": ("E", "s"),
    "joint_names": ("J", "s"),
    "joint_parent_indices": ("J", "i"),
    "skinning_weights": ("J V", "f"),
    "triangles": ("F 3", "i"),
    "triangle_uvs": ("F 3 2", "f"),
    "mesh_component_names": ("C", "s"),
    "vertex_groups": ("G V", "n"),
    "vertex_group_names": ("G", "s"),
    "joint_regressor": ("J V", "f"),
    "pose_correctives_regressor": ("P Q", "f"),
}
THEIR_JOINTS = ("neck", "head", "left_eye", "right_eye")  # our root, neck, eye_left, eye_right
JOINT_NAMES = ("root", "neck", "jaw", "eye_left", "eye_right")
PARENTS = (-1, 0, 1, 1, 1)
COMPONENTS = {
    "skin": "skin",
    "left_eye": "eye_left",
    "right_eye": "eye_right",
    "upper_teeth_and_gums": "teeth_upper",
    "lower_teeth_and_gums": "teeth_lower",
    "tongue": "tongue",
}
JAW_DIRECTIONS = "lower_face"
IN_GROUP = 0.5  # vertex groups are soft masks
SUPPORT = 200  # vertices that the jaw joint follows


def load(path: Path) -> HeadModel:
    """GNM head 3 from the user's gnm_head.npz: 17,821 vertices, 253 identities, 383 expressions.

    Raises FileNotFoundError, or HeadFileError naming file, key, what was expected and what came.
    """
    path = Path(path)
    data = read_source(path)
    raw = read_npz(path, data, tuple(LAYOUT))
    sizes: dict[str, int] = {}
    file = {key: checked(path, key, raw.pop(key), *LAYOUT[key], sizes) for key in LAYOUT}
    names = texts(path, "expression_names", file["expression_names"])
    group_names = texts(path, "vertex_group_names", file["vertex_group_names"])
    groups = {name: np.flatnonzero(file["vertex_groups"][index] > IN_GROUP) for index, name in enumerate(group_names)}
    template = file["template_vertex_positions"]
    check_ids(path, "triangles", file["triangles"], len(template), "vertex")

    joints = _joint_order(path, file)
    owner = _owners(path, file, groups)
    parts = _parts(owner, groups)
    faces, uvs, faces_uv = _faces(file, owner, groups)
    jaw, share = _jaw(path, file, names, parts, file["template_joint_positions"][joints[1]])
    weights = file["skinning_weights"][joints].T.astype(np.float64)
    check_rows_sum_to_one(path, "skinning_weights", weights, tolerance=1e-2)
    weights /= weights.sum(axis=1, keepdims=True)
    opened = weights[:, 1] * share
    weights = np.column_stack([weights[:, 0], weights[:, 1] - opened, opened, weights[:, 2:]]).astype(np.float32)
    everywhere = np.arange(len(template))
    # the published regressor, moved by the least that makes its rows sum to one and meet the published joints
    rows = [nearest_regressor(template, file["template_joint_positions"][index], everywhere,
                              file["joint_regressor"][index].astype(np.float64)) for index in joints]  # fmt: skip
    follows = nearest_vertices(template, jaw, np.flatnonzero(weights[:, 2] > 0.5), SUPPORT)
    rows.insert(2, regress_point(template, jaw, follows))
    return HeadModel(
        model_id=MODEL_ID,
        sha256=sha256(data),
        licence=LICENCE,
        template=torch.from_numpy(template),
        faces=torch.from_numpy(faces),
        uvs=torch.from_numpy(uvs),
        faces_uv=torch.from_numpy(faces_uv),
        identity_basis=torch.from_numpy(np.ascontiguousarray(file["vertex_identity_basis"].transpose(1, 2, 0))),
        expression_basis=torch.from_numpy(np.ascontiguousarray(file["expression_basis"].transpose(1, 2, 0))),
        expression_names=names,
        joint_names=JOINT_NAMES,
        parents=PARENTS,
        joint_regressor=torch.from_numpy(np.stack(rows)),
        skin_weights=torch.from_numpy(weights),
        eyelid_basis=torch.zeros(len(template), 3, 2),
        pose_correctives=_pose_correctives(path, file["pose_correctives_regressor"], joints, len(template)),
        regions={side_last(name): torch.from_numpy(ids) for name, ids in groups.items() if len(ids)},
        parts={name: torch.from_numpy(ids) for name, ids in parts.items() if len(ids)},
    )


def _joint_order(path: Path, file: dict[str, Array]) -> list[int]:
    """Numbers of neck, head, left_eye and right_eye in the file, once their tree is the known one."""
    names = list(texts(path, "joint_names", file["joint_names"]))
    if sorted(names) != sorted(THEIR_JOINTS):
        raise HeadFileError(path, "joint_names", ", ".join(THEIR_JOINTS), ", ".join(names)[:200], "is this GNM head 3?")
    order = [names.index(name) for name in THEIR_JOINTS]
    parents = [int(file["joint_parent_indices"][index]) for index in order]
    if parents[1:] != [order[0], order[1], order[1]]:
        raise HeadFileError(
            path, "joint_parent_indices", "head on neck, eyes on head", f"{parents}", "is this GNM head 3?"
        )
    return order


def _owners(path: Path, file: dict[str, Array], groups: dict[str, Array]) -> Array:
    """Number of the mesh component of every vertex, in the order of COMPONENTS; skin where no group claims it. [V]"""
    components = texts(path, "mesh_component_names", file["mesh_component_names"])
    owner = np.zeros(len(file["template_vertex_positions"]), dtype=np.int64)
    for number, name in enumerate(COMPONENTS):
        if name not in components or not len(groups.get(name, ())):
            raise HeadFileError(
                path, "mesh_component_names, vertex_groups", f"a component {name} and its vertices",
                ", ".join(components)[:200], "is this GNM head 3?",
            )  # fmt: skip
        owner[groups[name]] = number
    return owner


def _parts(owner: Array, groups: dict[str, Array]) -> dict[str, Array]:
    """Vertex ids by part; every vertex in exactly one."""
    parts = {part: np.flatnonzero(owner == number) for number, part in enumerate(COMPONENTS.values())}
    cavity = np.intersect1d(parts["skin"], _group(groups, "mouth_sock"))
    return {**parts, "skin": np.setdiff1d(parts["skin"], cavity), "mouth_cavity": cavity}


def _group(groups: dict[str, Array], name: str) -> Array:
    return groups.get(name, np.array([], dtype=np.int64))


def _faces(file: dict[str, Array], owner: Array, groups: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Triangles without the glassy fronts of the eyes, texture vertices, and triangles into these."""
    glass = np.zeros(len(owner), dtype=bool)
    glass[_group(groups, "eye_exteriors")] = True
    drawn = ~glass[file["triangles"]].all(axis=1)
    faces = file["triangles"][drawn]
    uvs, faces_uv = pack(file["triangle_uvs"][drawn], owner[faces[:, 0]])
    return faces, uvs, faces_uv


def _jaw(
    path: Path, file: dict[str, Array], names: tuple[str, ...], parts: dict[str, Array], head: Array
) -> tuple[Array, Array]:
    """The jaw joint [3] m and how far each vertex goes along with it, 0..1 [V]; steps 1 to 3 of the module's text."""
    picked = [index for index, name in enumerate(names) if name.startswith(JAW_DIRECTIONS)]
    lower = parts["teeth_lower"]
    if not picked or len(lower) < 4:
        raise HeadFileError(path, "expression_names", f"directions {JAW_DIRECTIONS}...", "none", "is this GNM head 3?")
    template = file["template_vertex_positions"].astype(np.float64)
    basis = file["expression_basis"][picked]
    middle = template[lower].mean(axis=0)
    arm = template[lower] - middle
    # velocity of the teeth under (shift, turn): shift + turn x arm, as a matrix [3 N, 6]
    spin = np.stack([np.cross(axis, arm) for axis in np.eye(3)], axis=-1)
    system = np.concatenate([np.broadcast_to(np.eye(3), spin.shape), spin], axis=-1).reshape(-1, 6)
    q, r = np.linalg.qr(system)
    main = np.linalg.svd(basis[:, lower].reshape(len(picked), -1) @ q, full_matrices=False)[2][0]
    twist = np.linalg.lstsq(r, main, rcond=1e-9)[0]
    shift, turn = twist[:3], twist[3:]
    if (shift + np.cross(turn, arm[arm[:, 2].argmax()]))[1] > 0:  # opening takes the front teeth down
        shift, turn = -shift, -turn
    if abs(turn[0]) < 0.5 * np.linalg.norm(turn) or not np.linalg.norm(turn) > 1e-9:
        turn = np.array([1.0, 0.0, 0.0])  # the lower face mostly slides: turn it about the x axis
        hinge = np.array([0.0, template[lower, 1].max(), head[2]])
    else:
        hinge = middle + np.cross(turn, shift) / (turn @ turn)
        hinge -= turn * (hinge[0] / turn[0])
    inside = (hinge >= template.min(axis=0)) & (hinge <= template.max(axis=0))
    if not inside.all() or hinge[2] > template[lower, 2].min():
        hinge = np.array([0.0, template[lower, 1].max(), head[2]])  # above the teeth, at the depth of the head joint
    motion = np.cross(turn / np.linalg.norm(turn), template - hinge)
    rows = basis[:, lower].reshape(len(picked), -1).astype(np.float64)
    gram = rows @ rows.T
    gram[np.diag_indices_from(gram)] += 1e-3 * np.trace(gram) / len(picked) + 1e-12
    coefficients = np.linalg.solve(gram, rows @ motion[lower].reshape(-1))
    share = following(np.einsum("e,evc->vc", coefficients, basis), motion)
    for part, value in (("teeth_lower", 1.0), ("tongue", 1.0), ("teeth_upper", 0.0), ("eye_left", 0.0),
                        ("eye_right", 0.0)):  # fmt: skip
        share[parts[part]] = value
    return hinge, share


def _pose_correctives(path: Path, regressor: Array, joints: list[int], verts: int) -> torch.Tensor | None:
    """Directions by our joints without the root, the jaw's zero [V, 3, 36]; None where all are zero, as published."""
    if regressor.shape != (9 * len(joints), 3 * verts):
        raise HeadFileError(
            path, "pose_correctives_regressor", f"[{9 * len(joints)}, {3 * verts}]", str(list(regressor.shape)),
            "is this GNM head 3?",
        )  # fmt: skip
    if not regressor.any():
        return None
    by_joint = regressor.reshape(len(joints), 9, verts, 3)[joints]
    if by_joint[0].any():
        raise HeadFileError(
            path, "pose_correctives_regressor", "no correctives for the neck joint, our root", "some",
            "this version of GNM is not supported yet",
        )  # fmt: skip
    ours = np.stack([by_joint[1], np.zeros_like(by_joint[1]), by_joint[2], by_joint[3]])
    return torch.from_numpy(np.ascontiguousarray(ours.transpose(2, 3, 0, 1)).reshape(verts, 3, 36))
