"""The photometric loss and the optimiser step beside torch's, in the same run.

Loss: forward + backward of one RGB picture in planar memory through the Python API; the peer is the usual conv2d SSIM
plus L1 under autograd. Adam: one step over the ten parameter tensors of 15k Gaussians, 1.1 million floats.
Times are wall clock, medians of interleaved rounds, with all of torch's threads unless the key says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import torch
from torch import Tensor

from avatar.ops import reference
from avatar.ops._native import available_isas, isa, use_isa
from avatar.ops.adam import FusedAdam
from avatar.ops.l1_ssim import l1_ssim

ADAM_WIDTHS = (3, 4, 3, 1, 3, 45, 1, 2, 6, 8)  # floats of one Gaussian in each of ten tensors


def medians(bodies: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each body over rounds that visit all of them, after three rounds of warming up.

    Each visit calls twice and times the second call, so that nobody pays for the caches that its peer has emptied.
    """
    times: dict[str, list[float]] = {name: [] for name in bodies}
    for index in range(rounds + 3):
        for name, body in bodies.items():
            body()
            start = time.perf_counter()
            body()
            if index >= 3:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def noisy_pair(size: int) -> tuple[Tensor, Tensor]:
    """A random smooth picture [1, 3, size, size] and a noisy copy that wants a gradient; another pair each time."""
    coarse = torch.rand(1, 3, 9, 9)
    target = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return target, (target + 0.1 * torch.randn_like(target)).clamp(0, 1).requires_grad_()


def loss_step(loss: Callable[[Tensor, Tensor], Tensor], pred: Tensor, target: Tensor) -> Tensor:
    """Forward and backward; returns the loss and leaves the gradient in pred. pred, target [1, 3, H, W]"""
    pred.grad = None
    value = loss(pred.permute(0, 2, 3, 1), target.permute(0, 2, 3, 1))
    value.backward()
    return value.detach()


def check_loss(pred: Tensor, target: Tensor) -> None:
    """Value and gradient are the reference's, before anything is timed. RuntimeError if not."""
    exact = pred.detach().double().requires_grad_()
    want, got = loss_step(reference.l1_ssim, exact, target.double()), loss_step(l1_ssim, pred, target)
    assert pred.grad is not None and exact.grad is not None
    error = float((pred.grad - exact.grad).norm() / exact.grad.norm())
    if not (error < 1e-4 and abs(float(got - want)) < 1e-6):
        raise RuntimeError(f"loss benchmark: gradient off by {error:.1e} of its norm, value by {float(got - want):.1e}")


def gaussian_parameters(count: int) -> list[Tensor]:
    """Ten parameter tensors [count, 1 .. 45] with gradients."""
    params = [torch.randn(count, width, requires_grad=True) for width in ADAM_WIDTHS]
    for param in params:
        param.grad = torch.randn_like(param)
    return params


def run(quick: bool) -> list[dict[str, object]]:
    """Milliseconds, and how many times faster than torch; `quick` lowers the rounds and leaves out the largest size."""
    rounds = 10 if quick else 40
    metrics: list[dict[str, object]] = []

    def add(key: str, value: float, unit: str = "ms") -> None:
        metrics.append({"key": key, "value": value, "unit": unit, "direction": "higher" if unit == "x" else "lower"})

    for size in (256, 512) if quick else (256, 512, 1024):
        key = f"loss.l1_ssim_{size}"
        target, pred = noisy_pair(size)
        if size == 256:
            check_loss(pred, target)  # float64 convolutions take seconds at the larger sizes
        ours = partial(loss_step, l1_ssim, pred, target)
        theirs = partial(loss_step, reference.l1_ssim, pred.detach().clone().requires_grad_(), target)
        stored = (255 * target.permute(0, 2, 3, 1)).byte().contiguous().permute(0, 3, 1, 2)
        times = medians({"ours": ours, "bytes": partial(loss_step, l1_ssim, pred, stored)}, rounds)
        pair = medians({"ours": ours, "theirs": theirs}, max(5, rounds * 256 // (2 * size)))
        add(f"{key}.ms", times["ours"])
        add(f"{key}.uint8_ms", times["bytes"])
        add(f"{key}.x_torch", pair["theirs"] / pair["ours"], "x")
        for level in available_isas():
            if level != isa():
                with use_isa(level):
                    add(f"{key}.{level}_ms", medians({"ours": ours}, rounds)["ours"])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        add(f"{key}.one_thread_ms", medians({"ours": ours}, rounds)["ours"])
        torch.set_num_threads(threads)

    for name, count in (("15k", 15_000), ("overhead", 1)):
        steps = {
            "ours": FusedAdam(gaussian_parameters(count)).step,
            "theirs": torch.optim.Adam(gaussian_parameters(count)).step,
            "fused": torch.optim.Adam(gaussian_parameters(count), fused=True).step,
        }
        times = medians(steps, 2 * rounds)
        add(f"loss.adam_{name}.ms", times["ours"])
        add(f"loss.adam_{name}.x_torch", times["theirs"] / times["ours"], "x")
        add(f"loss.adam_{name}.x_torch_fused", times["fused"] / times["ours"], "x")
    return metrics
