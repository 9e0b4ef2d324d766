"""The rasteriser against the scalar C++ reference, in the same run: forward + backward to means, quats, scales,
opacities and colours through the Python API."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avatar.bench import Metric, interleaved, one_thread
from avatar.ops._native import available_isas, isa, use_isa
from avatar.ops.raster import bin_splats, blend, blend_boxes, project

SIZES = {"15k_256": (15_000, 256), "15k_512": (15_000, 512), "50k_512": (50_000, 512)}


def head_scene(count: int, size: int, pictures: int = 1) -> tuple[list[Tensor], Tensor, Tensor]:
    """The scene `head` of the benchmark contract: Gaussians on an ellipsoid shell that fills 92 % of the picture's height.

    Returns ([means, quats, scales, opacities, colors], viewmats, Ks) with `pictures` equal frames.
    """
    g = torch.Generator().manual_seed(1)
    shrink = math.sqrt(15_000 / count)
    direction = torch.randn(count, 3, generator=g)
    shell = 1 + 0.02 * torch.randn(count, 1, generator=g)
    means = direction / direction.norm(dim=1, keepdim=True) * torch.tensor([0.75, 1.0, 0.9]) * shell
    scales = 2 * shrink * (0.010 + 0.005 * torch.rand(count, 3, generator=g))
    scales[:, 2] *= 0.25
    quats = torch.randn(count, 4, generator=g)
    opacities = torch.sigmoid(1 + 1.5 * torch.randn(count, generator=g))
    colors = torch.rand(count, 3, generator=g)
    focal = 0.5 * size / math.tan(math.radians(10))
    view = torch.eye(4)
    c, s = math.cos(0.3), math.sin(0.3)
    view[:3, :3] = torch.tensor([[c, 0, -s], [0, -1, 0], [-s, 0, -c]])
    view[2, 3] = focal * 2 / (0.92 * size)
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    gaussians = [t.expand(pictures, *t.shape).contiguous() for t in (means, quats, scales, opacities, colors)]
    return gaussians, view.expand(pictures, 4, 4).contiguous(), K.expand(pictures, 3, 3).contiguous()


class Workload:
    """Forward and backward of one scene; `reference` runs the scalar C++ boxes instead of the tiles."""

    def __init__(self, count: int, size: int, pictures: int = 1) -> None:
        gaussians, self.viewmats, self.Ks = head_scene(count, size, pictures)
        self.parameters = [t.requires_grad_() for t in gaussians]
        self.size, self.pictures = size, pictures
        self.v_image = torch.rand(pictures, 3, size, size, generator=torch.Generator().manual_seed(2))

    def forward(self, reference: bool = False) -> Tensor:
        """The pictures. [C, 3, H, W]"""
        means, quats, scales, opacities, colors = self.parameters
        splats = project(means, quats, scales, opacities, self.viewmats, self.Ks, self.size, self.size)
        if reference:
            return blend_boxes(splats, opacities, colors, self.size, self.size, sigmas=3.0)[0]
        bins = bin_splats(splats, opacities, self.size, self.size)
        return blend(splats, opacities, colors, bins, self.size, self.size)[0]

    def step(self, reference: bool = False) -> Tensor:
        """Forward and backward; gradients end in `parameters`."""
        for p in self.parameters:
            p.grad = None
        image = self.forward(reference)
        image.backward(self.v_image)
        return image.detach()

    def reference_step(self) -> Tensor:
        """Forward and backward of the scalar reference."""
        return self.step(reference=True)


def check(work: Workload) -> None:
    """The tiles draw what the boxes draw, before anything is timed. RuntimeError if not."""
    got, got_grad = work.step(), [p.grad.clone() for p in work.parameters if p.grad is not None]
    means, quats, scales, opacities, colors = (p.detach() for p in work.parameters)
    splats = project(means, quats, scales, opacities, work.viewmats, work.Ks, work.size, work.size)
    want, _ = blend_boxes(splats, opacities, colors, work.size, work.size)
    error = float((got - want).norm() / want.norm())
    if not error < 1e-4 or not all(bool(g.isfinite().all()) for g in got_grad):
        raise RuntimeError(f"raster benchmark: picture differs from the reference by {error:.1e}, more than 1e-4")


def run(quick: bool) -> list[Metric]:
    """Milliseconds per picture, and how many times faster than the scalar reference.

    `ms` and `x_scalar` use all threads; `thread_ms` and `x_scalar_thread` are processor time of one, which a busy machine
    disturbs less. `quick` lowers the rounds.
    """
    rounds = 10 if quick else 40
    metrics: list[Metric] = []

    for name, (count, size) in SIZES.items():
        work, pair = Workload(count, size), Workload(count, size, pictures=2)
        check(work)
        work.step(), pair.step()
        times = interleaved({"ours": work.step, "forward": work.forward, "pair": pair.step}, rounds=rounds)
        scalar = interleaved({"ours": work.step, "boxes": work.reference_step}, rounds=max(5, rounds // 4))
        with one_thread():
            thread = interleaved({"ours": work.step, "boxes": work.reference_step}, rounds=max(5, rounds // 8))
        key = f"raster.head_{name}"
        metrics.append(Metric(f"{key}.ms", times["ours"].median, "ms", "lower"))
        metrics.append(Metric(f"{key}.fwd_ms", times["forward"].median, "ms", "lower"))
        metrics.append(Metric(f"{key}.batch2_ms", times["pair"].median / 2, "ms", "lower"))
        metrics.append(Metric(f"{key}.x_scalar", scalar["boxes"].median / scalar["ours"].median, "x", "higher"))
        metrics.append(Metric(f"{key}.thread_ms", thread["ours"].cpu_median, "ms", "lower"))
        ratio = thread["boxes"].cpu_median / thread["ours"].cpu_median
        metrics.append(Metric(f"{key}.x_scalar_thread", ratio, "x", "higher"))
        for level in available_isas():
            if level != isa():
                with use_isa(level):
                    slow = interleaved({"ours": work.step}, rounds=5)
                metrics.append(Metric(f"{key}.{level}_ms", slow["ours"].median, "ms", "lower"))
    return metrics
