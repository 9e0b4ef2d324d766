"""Fused photometric loss: L1 + SSIM with their gradient in one walk over the pictures, and the picture metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avatar.checks import check_float, check_shapes
from avatar.ops._native import ops


def l1_ssim(pred: Tensor, target: Tensor, weight: Tensor | None = None, ssim_weight: float = 0.2) -> Tensor:
    """Weighted L1 + SSIM loss, the photometric loss of 3D Gaussian splatting (Kerbl et al. 2023, eq. 7). []

    sum over pixels and channels of weight * ((1 - s) |pred - target| + s (1 - ssim)) / (C H W D), with s = ssim_weight.
    SSIM (Wang et al. 2004) has an 11 x 11 Gaussian window of sigma 1.5 pixels, zero padding, C1 = 0.01^2, C2 = 0.03^2.

    pred         [C, H, W, D] float32 or float64, values 0..1; D is 3 for RGB
    target       [C, H, W, D] of pred's dtype, 0..1, or uint8, 0..255
    weight       [C, H, W] of pred's dtype, or None for ones; it weighs both terms of its pixel, but a pixel of weight
                 zero still lies in the windows of its neighbours
    ssim_weight  s, 0..1

    Pictures of any strides are read where they are, so a channels-last view of planar memory costs no copy, and the
    gradient has planar memory too. Only pred receives a gradient, once: a second derivative is an error. Where pred
    equals target inside a whole window the gradient is exactly zero. NaN and infinities propagate, also from pixels of
    weight zero. Raises ValueError or TypeError for other shapes, types and for pictures without pixels.
    """
    planes, target_planes = _planes("l1_ssim", pred, target, weight)
    if not 0 <= ssim_weight <= 1:
        raise ValueError(f"l1_ssim: ssim_weight must lie in 0..1, got {ssim_weight}")
    needs_grad = torch.is_grad_enabled() and pred.requires_grad
    fixed_weight = None if weight is None else weight.detach()
    loss: Tensor = ops.l1_ssim(planes, target_planes.detach(), fixed_weight, ssim_weight, needs_grad)[0]
    return loss


@torch.no_grad()
def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """Mean SSIM of every picture, as in `l1_ssim`; 1 for equal pictures. No gradient. [C]

    pred [C, H, W, D], values 0..1; target likewise, or uint8 0..255.
    """
    planes, target_planes = _planes("ssim", pred, target, None)
    terms: Tensor = ops.l1_ssim(planes, target_planes, None, 1.0, False)[1]
    return 1 - terms[:, 1]


@torch.no_grad()
def psnr(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of every picture, decibels; infinite for equal pictures. No gradient. [C]

    The squared error is averaged with `weight`, so a mask [C, H, W] gives the PSNR of the foreground alone and an empty
    mask NaN. pred [C, H, W, D], values 0..1; target likewise, or uint8 0..255.
    """
    _planes("psnr", pred, target, weight)
    if target.dtype == torch.uint8:
        target = target.to(pred.dtype) / 255
    error = (pred - target).square().mean(dim=3)
    if weight is None:
        return -10 * error.mean(dim=(1, 2)).log10()
    return -10 * ((error * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))).log10()


def _planes(owner: str, pred: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """pred and target as [C, D, H, W] views, after checking everything."""
    check_shapes(owner, pred=(pred, "C H W D"), target=(target, "C H W D"), weight=(weight, "C H W"))
    check_float(owner, pred=pred, target=None if target.dtype == torch.uint8 else target, weight=weight)
    if pred.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{owner}: pred must be float32 or float64, got {pred.dtype}")
    if pred.numel() == 0:
        raise ValueError(f"{owner}: pred must hold at least one pixel, got {list(pred.shape)}")
    return pred.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)


@torch.library.register_fake("avatar::l1_ssim")  # type: ignore[untyped-decorator]
def _fake(
    pred: Tensor, target: Tensor, weight: Tensor | None, ssim_weight: float, needs_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    v_pred = pred.new_empty(pred.shape if needs_grad else (0,))
    return pred.new_empty(()), pred.new_empty((pred.shape[0], 2)), v_pred


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.needs_grad = inputs[4]
    ctx.save_for_backward(output[2])


def _backward(ctx: Any, v_loss: Tensor | None, v_terms: Tensor | None, v_v_pred: Tensor | None) -> tuple[Any, ...]:
    if v_terms is not None or v_v_pred is not None:
        raise NotImplementedError("l1_ssim: only the loss has a gradient, and no second one")
    if v_loss is None:
        return None, None, None, None, None
    if not ctx.needs_grad:
        raise RuntimeError("l1_ssim: run forward with needs_grad=True before asking for a gradient")
    (v_pred,) = ctx.saved_tensors
    return v_pred * v_loss, None, None, None, None


torch.library.register_autograd("avatar::l1_ssim", _backward, setup_context=_setup_context)
