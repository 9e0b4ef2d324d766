"""Draws plausible people from the source's sex, age, origin, build and feature targets, and finds their main modes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .source import Floats, Ints, Source
from .topology import Topology

MODES = 100
PEOPLE = 4000
SEED = 20240607

OPPOSITES = (
    ("decr", "incr"), ("down", "up"), ("in", "out"), ("backward", "forward"), ("concave", "convex"),
    ("compress", "uncompress"),
)  # fmt: skip
AMPLITUDES = {  # half range of each feature's triangular distribution; 1 is the artist's extreme
    "head": 0.25, "forehead": 0.35, "eyebrows": 0.5, "eyes": 0.45, "nose": 0.45, "mouth": 0.4, "ears": 0.5,
    "chin": 0.4, "cheek": 0.5, "neck": 0.3, "torso": 0.4, "arms": 0.4,
}  # fmt: skip
SUBTLE = {  # features that quickly look wrong, or that push a whole part to one side
    "trans-in": 0.15, "angle-in": 0.3, "epicanthus": 0.4, "mouth-scale-depth": 0.2, "eye-push": 0.35, "eye-height": 0.3,
    "eye-scale": 0.25, "septumangle": 0.4, "nose-compression": 0.25, "mouth-trans-down": 0.25, "head-trans": 0.1,
    "head-scale": 0.2, "eye-trans": 0.35, "lowerlip-ext": 0.25, "upperlip-ext": 0.25, "neck-trans": 0.15,
}  # fmt: skip
SHAPES = (
    "head-diamond", "head-invertedtriangular", "head-oval", "head-rectangular", "head-round", "head-square",
    "head-triangular", "chin-triangle", "ear-shape-round", "ear-shape-square", "ear-shape-triangle",
)  # fmt: skip
BUST = (
    "torso-muscle-pectoral", "torso-scale-depth", "torso-scale-horiz", "torso-vshape", "measure-shoulder-dist",
    "upperarm-shoulder-muscle",
)  # fmt: skip


@dataclass(frozen=True)
class Population:
    """A crowd of people as mixtures of targets."""

    targets: list[str]
    """Path of every target used. T entries"""
    mixtures: Floats
    """How much of each target every person has. [P, T]"""

    def mean_base(self, source: Source) -> Floats:
        """The average person on the source's vertices, made symmetric, metres. [N, 3]"""
        base = source.verts.copy()
        for path, amount in zip(self.targets, self.mixtures.mean(0), strict=True):
            base += amount * source.target(path)
        return (base + base[source.mirror] * [-1, 1, 1]) / 2


@dataclass(frozen=True)
class Identity:
    """The main modes of the crowd."""

    basis: Floats
    """Displacement of one standard deviation, metres. [V, 3, S]"""
    residual_rms: float
    """Root mean square distance that the modes leave on the face, metres."""
    residual_max: float
    """Largest distance that the modes leave on the face of any person, metres."""
    explained: float
    """Share of the weighted variance that the modes carry."""


def draw_population(source: Source, count: int = PEOPLE, seed: int = SEED) -> Population:
    """Draw `count` people. Only uniform numbers and arithmetic, so that every machine draws the same crowd."""
    rng = np.random.Generator(np.random.PCG64(seed))
    columns: dict[str, Floats] = {}

    def triangular(amplitude: float) -> Floats:
        return (rng.random(count) - rng.random(count)) * amplitude

    male, old = rng.random(count), rng.random(count) ** 2 * 0.85
    edges = np.sort(rng.random((count, 2)), axis=1)  # three uniform shares of one
    origin = {"african": edges[:, 0], "asian": edges[:, 1] - edges[:, 0], "caucasian": 1 - edges[:, 1]}
    sex = {"female": 1 - male, "male": male}
    age = {"young": 1 - old, "old": old}
    muscle, weight = triangular(0.8), triangular(0.9)
    build = {
        name: {"min": np.maximum(-value, 0), "average": 1 - np.abs(value), "max": np.maximum(value, 0)}
        for name, value in (("muscle", muscle), ("weight", weight))
    }
    for s, s_share in sex.items():
        for a, a_share in age.items():
            for o, o_share in origin.items():
                columns[f"macrodetails/{o}-{s}-{a}"] = o_share * s_share * a_share
            for m, m_share in build["muscle"].items():
                for w, w_share in build["weight"].items():
                    name = f"macrodetails/universal-{s}-{a}-{m}muscle-{w}weight"
                    columns[name] = s_share * a_share * m_share * w_share

    for folder, amplitude in AMPLITUDES.items():
        names = source.targets(folder)
        for name in names:
            stem = name.removeprefix("l-")
            if name.startswith("r-") or (folder in ("torso", "arms") and not stem.startswith(BUST)):
                continue
            sides = [f"{folder}/l-{stem}", f"{folder}/r-{stem}"] if name.startswith("l-") else [f"{folder}/{name}"]
            if stem.startswith(SHAPES):
                amount = rng.random(count) ** 4 * 0.5
                columns.update(dict.fromkeys(sides, amount))
                continue
            for low, high in OPPOSITES:
                if not stem.endswith("-" + low):
                    continue
                limit = min([amplitude] + [value for key, value in SUBTLE.items() if key in stem])
                shared = triangular(limit)
                for side in sides:
                    amount = shared + (triangular(0.15 * limit) if len(sides) == 2 else 0.0)
                    columns[side] = np.maximum(-amount, 0)
                    columns[side.removesuffix(low) + high] = np.maximum(amount, 0)
    for name in source.targets("asym"):
        if not name.startswith("asymm-"):
            columns[f"asym/{name}"] = np.maximum(triangular(0.35), 0)
    names = sorted(columns)
    return Population([f"mpfb2/targets/{name}" for name in names], np.stack([columns[name] for name in names], axis=1))


def area_weights(points: Floats, faces: Ints) -> Floats:
    """A third of the area of all triangles around each vertex, square metres. [V]"""
    corner = points[faces]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1) / 6
    return np.bincount(faces.ravel(), np.repeat(area, 3), minlength=len(points)).astype(np.float64)


def find_modes(source: Source, topology: Topology, people: Population, template: Floats) -> Identity:
    """Principal modes of the crowd on the head's vertices, each person moved so that the skull's pivot agrees."""
    pivot = source.ids("joint-head")
    directions = []
    for path in people.targets:
        delta = source.target(path)
        directions.append(topology.carry(delta - delta[pivot].mean(0)))
    spread = np.stack(directions).reshape(len(directions), -1)  # [T, 3 V]
    centred = people.mixtures - people.mixtures.mean(0)

    # The face counts fully, the rest a third: a shoulder's breadth must not take modes from the eyes and the mouth.
    front = np.clip((template[:, 2] - 0.02) / 0.03, 0, 1) * np.clip((template[:, 1] + 0.10) / 0.02, 0, 1)
    face = front > 0.5
    area = area_weights(template, topology.faces)
    weight = np.sqrt(area / area.sum() * (0.1 + 0.9 * front))
    weighted = spread * np.repeat(weight, 3)

    # The modes lie in the span of the targets: the eigenproblem is T by T, not V by V.
    moments = centred.T @ centred / len(centred)
    root_values, root_vectors = np.linalg.eigh(moments)
    root = root_vectors * np.sqrt(np.maximum(root_values, 0))  # moments = root root^T
    half = root.T @ weighted
    values, vectors = np.linalg.eigh(half @ half.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = vectors[:, :MODES]
    modes = (root @ kept).T @ spread  # [S, 3 V], one standard deviation each
    reference = np.random.Generator(np.random.PCG64(SEED)).random(modes.shape[1]) - 0.5
    modes *= np.where(modes @ reference < 0, -1, 1)[:, None]  # a sign that no symmetry leaves to rounding

    inverse = (weighted @ (half.T @ kept)) / values[:MODES]  # scores of a mixture
    left = centred[:500] @ spread - (centred[:500] @ inverse) @ ((root @ kept).T @ spread)
    distance = np.linalg.norm(left.reshape(500, -1, 3), axis=2)[:, face]
    return Identity(
        basis=modes.reshape(MODES, -1, 3).transpose(1, 2, 0),
        residual_rms=float(np.sqrt((distance**2).mean())),
        residual_max=float(distance.max()),
        explained=float(values[:MODES].sum() / values.sum()),
    )
