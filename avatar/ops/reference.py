"""Every operator in plain torch: the definition that the native kernels are tested against. Slow, short, any dtype."""

from __future__ import annotations

import torch
from torch import Tensor

# ---- l1_ssim

SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def ssim_map(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM of every pixel and channel (Wang et al. 2004) as 3D Gaussian splatting uses it. [C, H, W, D]

    11 x 11 Gaussian window of sigma 1.5 pixels, zero padding, values 0..1. pred, target [C, H, W, D].
    """
    offsets = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1, dtype=pred.dtype, device=pred.device)
    taps = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    taps = taps / taps.sum()
    x, y = pred.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    channels = x.shape[1]
    window = (taps[:, None] * taps[None, :]).expand(channels, 1, -1, -1)

    def blur(picture: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(picture, window, padding=SSIM_RADIUS, groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + SSIM_C1) * (2 * cov + SSIM_C2)
    similarity = likeness / ((mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2))
    return similarity.permute(0, 2, 3, 1)


def l1_ssim(pred: Tensor, target: Tensor, weight: Tensor | None = None, ssim_weight: float = 0.2) -> Tensor:
    """Sum of weight * ((1 - s) |pred - target| + s (1 - ssim)) over the number of values, s = ssim_weight. []

    pred [C, H, W, D], target likewise or uint8 0..255, weight [C, H, W].
    """
    if target.dtype == torch.uint8:
        target = target.to(pred.dtype) / 255
    loss = (1 - ssim_weight) * (pred - target).abs() + ssim_weight * (1 - ssim_map(pred, target))
    return (loss if weight is None else loss * weight[..., None]).mean()


# ---- adam


def adam_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    lrs: list[float],
    beta1s: list[float],
    beta2s: list[float],
    epss: list[float],
) -> None:
    """One Adam step in place (Kingma & Ba 2015, algorithm 1). The lists have one entry for each parameter."""
    for i, param in enumerate(params):
        steps[i] += 1
        exp_avgs[i].mul_(beta1s[i]).add_(grads[i], alpha=1 - beta1s[i])
        exp_avg_sqs[i].mul_(beta2s[i]).addcmul_(grads[i], grads[i], value=1 - beta2s[i])
        mean = exp_avgs[i] / (1 - beta1s[i] ** steps[i].item())
        square = exp_avg_sqs[i] / (1 - beta2s[i] ** steps[i].item())
        param -= lrs[i] * mean / (square.sqrt() + epss[i])


def finite(tensors: list[Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
