"""Carrying Gaussians along with a posed head: frames per vertex and binding, forward and backward, on one thread."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.bench import Metric, interleaved, one_thread
from avatar.geometry.frames import build_topology
from avatar.head import load
from avatar.model.seeding import seed
from avatar.ops import reference
from avatar.ops.bind import bind, vertex_frames

COUNTS = {"5k": 5_000, "15k": 15_000, "50k": 50_000}


def run(quick: bool) -> list[Metric]:
    """Milliseconds a frame at three sizes on open_head, and how many times faster than plain torch."""
    head = load("open_head")
    topology = build_topology(head.template, head.faces)
    generator = torch.Generator().manual_seed(0)
    posed = (head.template + 1e-3 * torch.randn(head.template.shape, generator=generator))[None].requires_grad_()
    metrics = []
    with one_thread():
        for name, count in COUNTS.items():
            face_ids, bary = seed(head.template, head.faces, count, generator=generator)
            own = [
                bary,
                torch.zeros(count),
                torch.zeros(count, 3),
                torch.randn(count, 4, generator=generator),
                torch.full((count, 3), -6.0),
            ]
            leaves = [posed, *(t.requires_grad_() for t in own)]

            def ours(face_ids: Tensor = face_ids, own: list[Tensor] = own, leaves: list[Tensor] = leaves) -> None:
                out = bind(posed, *vertex_frames(posed, topology), topology, face_ids, *own)
                torch.autograd.grad([t.sum() for t in out], leaves)

            def torch_way(face_ids: Tensor = face_ids, own: list[Tensor] = own, leaves: list[Tensor] = leaves) -> None:
                frames = reference.vertex_frames(posed, topology)
                out = reference.bind(posed, *frames, topology, face_ids, *own)
                torch.autograd.grad([t.sum() for t in out], leaves)

            times = interleaved({"ours": ours, "torch": torch_way}, rounds=6 if quick else 30)
            metrics.append(Metric(f"bind.{name}.ms", times["ours"].cpu_median, "ms", "lower"))
            ratio = times["torch"].cpu_median / times["ours"].cpu_median
            metrics.append(Metric(f"bind.{name}.x_torch", ratio, "x", "higher"))
    return metrics
