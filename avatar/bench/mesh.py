"""How long the mesh rasteriser takes, beside the naive loop in the same run.

The mesh is a closed, bumpy ellipsoid that fills 92 % of the picture's height, seen from a random side. Times are
medians through the Python operator with 16 coverage samples and all of torch's threads (wall) or one thread (its CPU
time); the naive loop draws one sample on one thread, as PyTorch3D's CPU path does.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from avatar.ops._native import ops
from avatar.ops.mesh import rasterize_mesh

Metric = dict[str, str | float]


def head_like(faces: int, seed: int) -> tuple[Tensor, Tensor]:
    """A closed ellipsoid, semi-axes .75, 1, .9, of about `faces` triangles with 2 % bumps; random turn about y.

    Returns verts [1, V, 3] and faces [F, 3].
    """
    generator = torch.Generator().manual_seed(seed)
    rings = round(math.sqrt(faces / 2))
    sectors = round(faces / (2 * (rings - 1)))
    turn = float(torch.rand(1, generator=generator)) * 2 * math.pi
    theta = torch.linspace(0, math.pi, rings + 1)[1:-1, None]
    phi = torch.arange(sectors) * (2 * math.pi / sectors)
    radius = 1 + 0.02 * torch.sin(5 * phi + turn) * torch.sin(7 * theta)
    x = 0.75 * torch.sin(theta) * torch.cos(phi) * radius
    y = torch.cos(theta).expand(-1, sectors) * radius
    z = 0.9 * torch.sin(theta) * torch.sin(phi) * radius
    c, s = math.cos(turn), math.sin(turn)
    verts = torch.stack([c * x + s * z, y, c * z - s * x], -1).reshape(-1, 3)
    verts = torch.cat([verts, torch.tensor([[0.0, 1, 0], [0, -1, 0]])])
    i, j = torch.meshgrid(torch.arange(rings - 2), torch.arange(sectors), indexing="ij")
    a, b = i * sectors + j, i * sectors + (j + 1) % sectors
    sides = [torch.stack([a, b, a + sectors], -1), torch.stack([b, b + sectors, a + sectors], -1)]
    j, k = torch.arange(sectors), (torch.arange(sectors) + 1) % sectors
    last, top = (rings - 2) * sectors, torch.full((sectors,), len(verts) - 2)
    caps = [torch.stack([top, k, j], -1), torch.stack([top + 1, last + j, last + k], -1)]
    return verts[None], torch.cat([part.reshape(-1, 3) for part in (*sides, *caps)])


def frontal_camera(size: int) -> tuple[Tensor, Tensor]:
    """viewmats and Ks of a camera 5 m away that sees the unit height fill 92 % of a square picture."""
    viewmats = torch.diag(torch.tensor([1.0, -1, -1, 1]))[None]
    viewmats[0, 2, 3] = 5.0
    focal = 0.92 * size / 2 * 5.0
    return viewmats, torch.tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]])


def median_ms(body: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of `body` by `clock` after three warm-ups, milliseconds."""
    times = []
    for index in range(rounds + 3):
        start = clock()
        body()
        if index >= 3:
            times.append(1e3 * (clock() - start))
    return sorted(times)[len(times) // 2]


def run(quick: bool) -> list[Metric]:
    """Measure, after checking that the rasteriser and the naive loop see the same faces. Returns metrics."""
    rounds = 10 if quick else 30
    seed = time.time_ns() % 2**31
    found: dict[str, tuple[float, str]] = {}

    verts, faces = head_like(10_000, seed)
    view = (verts, faces, *frontal_camera(512), 512, 512)
    ours, ours_plain, theirs = [], [], []
    for _ in range(1 if quick else 3):  # interleaved, so that both meet the same weather
        ours.append(median_ms(lambda: rasterize_mesh(*view), rounds))
        ours_plain.append(median_ms(lambda: rasterize_mesh(*view, samples=1), rounds))
        start = time.perf_counter()
        _, _, _, naive_ids = ops.rasterize_mesh_naive(*view, 0.01, False, 1)
        theirs.append(1e3 * (time.perf_counter() - start))
    differ = (rasterize_mesh(*view)[0] != naive_ids).float().mean().item()
    if differ > 1e-4:
        raise RuntimeError(f"mesh benchmark: {differ:.2%} of the pixels disagree with the naive loop (seed {seed})")
    middle = len(ours) // 2
    found["mesh.10k_512.ms"] = sorted(ours)[middle], "ms"
    found["mesh.10k_512.one_sample.ms"] = sorted(ours_plain)[middle], "ms"
    found["mesh.10k_512.x_naive"] = sorted(theirs)[middle] / sorted(ours)[middle], "x"

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found["mesh.10k_512.one_thread.ms"] = median_ms(lambda: rasterize_mesh(*view), rounds, time.thread_time), "ms"
    torch.set_num_threads(threads)

    for count in (2_000, 10_000, 50_000):
        mesh = head_like(count, seed)
        for size in (256, 512, 1024):
            key = f"mesh.{count // 1000}k_{size}.ms"
            if key not in found:
                picture = (*mesh, *frontal_camera(size), size, size)
                found[key] = median_ms(partial(rasterize_mesh, *picture), rounds), "ms"
    return [
        {"key": key, "value": value, "unit": unit, "direction": "higher" if unit == "x" else "lower"}
        for key, (value, unit) in found.items()
    ]


if __name__ == "__main__":
    import sys

    sys.stdout.write(json.dumps(run("--quick" in sys.argv), indent=1) + "\n")
