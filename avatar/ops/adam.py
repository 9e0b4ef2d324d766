"""Fused Adam: one operator call and one pass over memory for all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from avatar.ops._native import ops


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lrs: Sequence[float],
    beta1s: Sequence[float],
    beta2s: Sequence[float],
    epss: Sequence[float],
) -> None:
    """One Adam step in place for n parameters (Kingma & Ba 2015, algorithm 1); eps stands outside the square root.

    Every list has n entries. params, grads, exp_avgs and exp_avg_sqs are contiguous float32 or float64 tensors, of one
    shape and dtype for each parameter. steps are float32 scalars with the steps done before; they count up by one.
    A gradient that is not finite makes its parameter and averages not finite: ask `finite` first.
    RuntimeError names the first tensor that does not fit, before anything has changed.
    """
    ops.adam_(params, grads, exp_avgs, exp_avg_sqs, steps, lrs, beta1s, beta2s, epss)
    torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs, *steps])


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value of any tensor is NaN or infinite. float32 or float64, any shapes; True for an empty list."""
    whole = [tensor.detach().contiguous() for tensor in tensors]
    return bool(ops.finite(whole)) if whole else True


@torch.library.register_fake("avatar::adam_")  # type: ignore[untyped-decorator]
def _fake(*args: Any) -> None:
    return None


class FusedAdam(Optimizer):
    """Adam whose step is a single native call. State and `state_dict` have torch.optim.Adam's layout, both ways.

    params are tensors or groups, each group with its own lr, betas, eps if it wants; they must be contiguous float32 or
    float64. Parameters without a gradient are skipped and their step does not count. Gradients that are not finite
    propagate into parameters and averages, as in torch: ask `finite` before stepping.

    lr     step size
    betas  decay of the averages of the gradient and of its square
    eps    added to the root of the second average; 1e-15 as in Gaussian splatting, whose gradients are tiny
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
    ) -> None:
        # torch.optim.Adam reads the last three when it loads our state; they are never anything else here.
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, see torch.optim.Optimizer. ValueError for settings that make no sense."""
        super().add_param_group(param_group)
        self._check(self.param_groups[-1])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of torch.optim.Adam; ValueError if that used what is not implemented."""
        for group in state_dict["param_groups"]:
            self._check(group)
        super().load_state_dict(state_dict)

    @staticmethod
    def _check(group: dict[str, Any]) -> None:
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        if not (lr >= 0 and eps >= 0 and 0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(
                "FusedAdam: lr and eps must not be negative and betas must lie in [0, 1), "
                f"got lr {lr}, eps {eps}, betas {beta1}, {beta2}"
            )
        for name in ("weight_decay", "amsgrad", "maximize"):
            if group.get(name):
                raise ValueError(f"FusedAdam: {name} is not implemented, got {group[name]}; use torch.optim.Adam")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. closure re-evaluates the loss, whose value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params: list[Tensor] = []
        grads: list[Tensor] = []
        exp_avgs: list[Tensor] = []
        exp_avg_sqs: list[Tensor] = []
        steps: list[Tensor] = []
        lrs: list[float] = []
        beta1s: list[float] = []
        beta2s: list[float] = []
        epss: list[float] = []
        for group in self.param_groups:
            lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
            for param in group["params"]:
                grad = param.grad
                if grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(param)
                    state["exp_avg_sq"] = torch.zeros_like(param)
                params.append(param)
                grads.append(grad if grad.is_contiguous() else grad.contiguous())
                exp_avgs.append(state["exp_avg"])
                exp_avg_sqs.append(state["exp_avg_sq"])
                steps.append(state["step"])
                lrs.append(lr)
                beta1s.append(beta1)
                beta2s.append(beta2)
                epss.append(eps)
        if params:
            adam_(params, grads, exp_avgs, exp_avg_sqs, steps, lrs=lrs, beta1s=beta1s, beta2s=beta2s, epss=epss)
        return loss
