"""Fused Adam: one pass over memory per tensor instead of torch's six."""

from __future__ import annotations

from torch import Tensor

from avatar.ops._native import ops


def adam_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-15,
) -> None:
    """One Adam step in place (Kingma & Ba 2015, algorithm 1). All tensors share one shape; step counts from 1."""
    ops.adam_(param, grad.contiguous(), exp_avg, exp_avg_sq, lr, beta1, beta2, eps, step)
