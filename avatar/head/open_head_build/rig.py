"""Joints, joint regressor, skin weights and the corrective that makes jaw rotation reproduce jawOpen."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from .source import Floats, Ints, Source
from .topology import Topology

JOINTS = ("root", "chest", "neck", "jaw", "eye_left", "eye_right")
PARENTS = (-1, 0, 1, 2, 2, 2)

NECK_BONES = {"neck01": 0.12, "neck02": 0.45, "neck03": 0.85}  # share of the neck joint; the chest keeps the rest
CHEST_BONES = ("spine", "clavicle", "shoulder", "upperarm", "breast", "root")


def rigid_fit(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Rotation and translation that best carry one cloud onto another (Kabsch). [n, 3] twice -> [3, 3], [3]"""
    a, b = before.mean(0), after.mean(0)
    u, _, vt = np.linalg.svd((before - a).T @ (after - b))
    turn = vt.T @ np.diag([1, 1, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    return turn, b - turn @ a


def fit_jaw(before: Floats, after: Floats) -> tuple[float, Floats, float]:
    """Hinge of the jaw from the lower teeth: angle about +X, pivot on the midline, largest residual in metres."""
    turn, shift = rigid_fit(before, after)
    angle = float(Rotation.from_matrix(turn).as_rotvec()[0])
    plane = np.eye(2) - turn[1:, 1:]  # the motion is symmetric, so it is a rotation in the y-z plane
    pivot = np.concatenate([[0.0], np.linalg.solve(plane, shift[1:])])
    hinge = Rotation.from_rotvec([angle, 0, 0]).as_matrix()
    residual = np.linalg.norm((before - pivot) @ hinge.T + pivot - after, axis=1).max()
    return angle, pivot, float(residual)


def regressor_row(template: Floats, support: Ints, position: Floats) -> Floats:
    """Weights over `support` that sum to one, reproduce `position` and stay as equal as they can. [V]"""
    system = np.concatenate([template[support].T, np.ones((1, len(support)))])
    even = np.full(len(support), 1 / len(support))
    wanted = np.append(position, 1.0)
    row = np.zeros(len(template))
    row[support] = even + np.linalg.pinv(system) @ (wanted - system @ even)
    return row


def place_joints(
    source: Source, topology: Topology, base: Floats, template: Floats, jaw: Floats
) -> tuple[Floats, Floats]:
    """Joint positions [J, 3] and regressor [J, V]. `base` is the template on the source's vertices."""

    def cube(name: str) -> Floats:
        return np.asarray(base[source.ids(name)].mean(0))

    neck_base, skull = cube("joint-neck"), cube("joint-head")
    positions = np.stack(
        [
            neck_base,
            np.array([0.0, template[:, 1].min(), neck_base[2]]),
            neck_base + 0.55 * (skull - neck_base),
            jaw,
            template[topology.pieces["eye_left"]].mean(0),
            template[topology.pieces["eye_right"]].mean(0),
        ]
    )
    skin = np.concatenate([topology.pieces["skin_head"], topology.pieces["skin_body"]])
    height = template[skin, 1]
    positions[[0, 1, 2, 3], 0] = 0.0

    def slab(centre: Floats, half: float, radius: float) -> Ints:
        near = np.hypot(template[skin, 0], template[skin, 2] - centre[2]) < radius
        return np.asarray(skin[(np.abs(height - centre[1]) < half) & near])

    hinge = skin[np.linalg.norm((template[skin] * [0, 1, 1]) - jaw, axis=1) < 0.022]
    supports = [
        slab(positions[0], 0.02, 0.10),
        slab(positions[1], 0.03, 0.16),
        slab(positions[2], 0.02, 0.09),
        hinge[np.abs(template[hinge, 0]) > 0.03],
        topology.pieces["eye_left"],
        topology.pieces["eye_right"],
    ]
    for side, piece in ((4, "eye_left"), (5, "eye_right")):
        ball = template[topology.pieces[piece]]
        poles = ball[[0, -1]]  # front and back of the ball
        positions[side] = poles.mean(0)
    rows = [regressor_row(template, ids, position) for ids, position in zip(supports, positions, strict=True)]
    return positions, np.stack(rows)


def jaw_share(template: Floats, opened: Floats, angle: float, pivot: Floats) -> Floats:
    """How much of the jaw's rigid rotation every vertex follows in jawOpen, 0..1. [V]"""
    turn = Rotation.from_rotvec([angle, 0, 0]).as_matrix()
    rigid = (template - pivot) @ turn.T + pivot - template
    size = np.maximum((rigid**2).sum(1), 1e-8)
    return np.asarray(np.clip(((opened - template) * rigid).sum(1) / size, 0, 1))


def skin_weights(source: Source, topology: Topology, jaw: Floats) -> Floats:
    """The source's bones merged into our joints, the jaw's share [V] as measured. [V, J]"""
    merged = np.zeros((len(source.verts), len(JOINTS)))
    for bone, weight in source.weights().items():
        if bone in NECK_BONES:
            merged[:, 2] += NECK_BONES[bone] * weight
            merged[:, 1] += (1 - NECK_BONES[bone]) * weight
        elif bone.startswith(CHEST_BONES):
            merged[:, 1] += weight
        else:
            merged[:, 2] += weight
    weights = topology.carry(merged)
    weights[:, 3] = jaw * weights[:, 2]
    weights[:, 2] -= weights[:, 3]
    for piece, joint in (
        ("teeth_upper", 2), ("teeth_lower", 3), ("tongue", 3), ("lashes_left", 2), ("lashes_right", 2),
        ("eye_left", 4), ("eye_right", 5),
    ):  # fmt: skip
        weights[topology.pieces[piece]] = np.eye(len(JOINTS))[joint]
    return np.asarray(weights / weights.sum(1, keepdims=True))


def jaw_corrective(template: Floats, opened: Floats, weights: Floats, angle: float, pivot: Floats) -> Floats:
    """Displacement before skinning that makes the jaw, turned by `angle`, land on `opened` exactly. [V, 3]"""
    turn = Rotation.from_rotvec([angle, 0, 0]).as_matrix()
    share = weights[:, 3, None, None]
    blended = (1 - share) * np.eye(3) + share * turn
    moved = opened - share[:, :, 0] * (pivot - turn @ pivot)
    return np.linalg.solve(blended, moved[:, :, None])[:, :, 0] - template
