"""The training step: so far its optimiser, the fused Adam against torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from avatar.bench import Metric, interleaved, one_thread
from avatar.ops.adam import adam_

PARAMETERS = {"15k": 15_000 * 14, "50k": 50_000 * 14}  # a Gaussian of degree 0 has 3 + 4 + 3 + 1 + 3 numbers
LR = 1e-3


def run(quick: bool) -> list[Metric]:
    """One Adam step over all parameters of 15k and 50k Gaussians, against torch's; one thread."""
    metrics = []
    for name, count in PARAMETERS.items():
        ours, theirs, grad = torch.randn(count), torch.empty(count), torch.randn(count)
        theirs.copy_(ours)
        _check(ours.clone(), grad)
        state = torch.zeros(2, count)
        peer = torch.nn.Parameter(theirs)
        peer.grad = grad.clone()
        optimizer = torch.optim.Adam([peer], lr=LR, eps=1e-15, foreach=True)

        def fused(param: Tensor = ours, grad: Tensor = grad, state: Tensor = state) -> None:
            adam_(param, grad, state[0], state[1], lr=LR, step=10)

        with one_thread():
            times = interleaved({"fused": fused, "torch": optimizer.step}, rounds=15 if quick else 60, warmup=5)
        metrics += [
            Metric(f"train.adam_{name}.ms", times["fused"].median, "ms", "lower"),
            Metric(f"train.adam_{name}.x_torch", times["torch"].cpu_median / times["fused"].cpu_median, "x", "higher"),
        ]
    return metrics


def _check(param: Tensor, grad: Tensor) -> None:
    """A fast wrong answer is no result: one step must agree with torch in float64."""
    reference = torch.nn.Parameter(param.double())
    reference.grad = grad.double()
    torch.optim.Adam([reference], lr=LR, eps=1e-15).step()
    adam_(param, grad, torch.zeros_like(param), torch.zeros_like(param), lr=LR, step=1)
    worst = (param - reference.detach()).abs().max().item()
    if not worst < 1e-5:
        raise RuntimeError(f"train.adam: the fused step differs from torch's by {worst:.2g}, more than 1e-5")
