"""Joints for heads that were published without them: where they are, how they follow identity, what they carry."""

from __future__ import annotations

import numpy as np

from avatar.head.source_file import Array


def regress_point(template: Array, point: Array, support: Array) -> Array:
    """A joint regressor row for a point: weights on `support` that sum to one and give the point on the template.

    Of all such weights the nearest to equal ones, so that the joint moves with the mean of its support when identity
    changes. template [V, 3], point [3], support [N] vertex ids -> [V].
    """
    return nearest_regressor(template, point, support, np.full(len(support), 1 / len(support)))


def nearest_regressor(template: Array, point: Array, support: Array, weights: Array) -> Array:
    """The row nearest to `weights` [N] on `support` [N] that sums to one and gives `point` [3] on the template. [V]"""
    centre = template[support].mean(axis=0, dtype=np.float64)
    system = np.vstack([(template[support] - centre).T.astype(np.float64), np.ones(len(support))])
    wanted = np.append(point - centre, 1.0)
    exact = weights + np.linalg.pinv(system) @ (wanted - system @ weights)
    row = np.zeros(len(template), dtype=np.float32)
    row[support] = exact
    return row


def nearest_vertices(template: Array, point: Array, candidates: Array, count: int) -> Array:
    """The `count` candidates nearest to a point, ascending. candidates [N] vertex ids."""
    distance = np.linalg.norm(template[candidates] - point, axis=1)
    return np.sort(candidates[np.argsort(distance, kind="stable")[:count]])


def sphere_centre(points: Array) -> Array:
    """Centre of the sphere through points, least squares. points [N, 3] -> [3]"""
    middle = points.mean(axis=0, dtype=np.float64)
    local = points.astype(np.float64) - middle
    system = np.column_stack([2 * local, np.ones(len(local))])
    solution = np.linalg.lstsq(system, (local**2).sum(axis=1), rcond=None)[0]
    return np.asarray(middle + solution[:3])


def rigid_motion(before: Array, after: Array) -> tuple[Array, Array]:
    """Rotation R [3, 3] and shift t [3] with after = R before + t, least squares (Kabsch 1976). before, after [N, 3]"""
    a, b = before.mean(axis=0, dtype=np.float64), after.mean(axis=0, dtype=np.float64)
    u, _, vt = np.linalg.svd((before - a).T @ (after - b))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (vt.T * flip) @ u.T
    return rotation, b - rotation @ a


def hinge(rotation: Array, shift: Array) -> Array:
    """The point at x = 0 on the axis of a turn about, nearly, the x axis. rotation [3, 3], shift [3] -> [3]"""
    # rows y and z of (I - R) c = t with c_x = 0
    solution = np.linalg.lstsq((np.eye(3) - rotation)[1:, 1:], shift[1:], rcond=None)[0]
    return np.array([0.0, *solution])


def following(displacements: Array, motion: Array) -> Array:
    """How far each vertex takes part in a rigid motion, 0..1, by projection. Both [V, 3] m -> [V]"""
    size = (motion * motion).sum(axis=1)
    share = (displacements * motion).sum(axis=1) / np.maximum(size, 1e-12)
    return np.where(size > 1e-10, share, 0.0).clip(0.0, 1.0)
