"""How tests compare gradients and pictures: by norms and shares, which one flipped threshold cannot upset.

relative_norm  size of the error over the size of what is wanted: the tolerance proper
cosine         direction: 1 for parallel, sensitive to a missing term that is small everywhere
signed_bias    mean error over mean size: a systematic pull that norms hide among rounding errors
outlier_share  share of values that are off, for kernels whose thresholds may fall either way
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _flat(values: Tensor | Sequence[Tensor]) -> Tensor:
    tensors = [values] if isinstance(values, Tensor) else list(values)
    return torch.cat([tensor.detach().to("cpu", torch.float64).reshape(-1) for tensor in tensors])


def relative_norm(got: Tensor | Sequence[Tensor], want: Tensor | Sequence[Tensor]) -> float:
    """Norm of got - want over the norm of want; 0 where both vanish, infinite where only want does."""
    got, want = _flat(got), _flat(want)
    error, size = float((got - want).norm()), float(want.norm())
    if size == 0:
        return 0.0 if error == 0 else float("inf")
    return error / size


def cosine(got: Tensor | Sequence[Tensor], want: Tensor | Sequence[Tensor]) -> float:
    """Cosine of the angle between the two as vectors; 1 where both vanish, 0 where only one does."""
    got, want = _flat(got), _flat(want)
    sizes = got.norm() * want.norm()
    if sizes == 0:
        return float(got.norm() == want.norm())
    return float(got @ want / sizes)


def signed_bias(got: Tensor | Sequence[Tensor], want: Tensor | Sequence[Tensor]) -> float:
    """Mean of got - want over the mean magnitude of want: positive where got is too large on the whole."""
    got, want = _flat(got), _flat(want)
    error, size = float((got - want).mean()), float(want.abs().mean())
    if size == 0:
        return 0.0 if error == 0 else float("inf") * error
    return error / size


def outlier_share(got: Tensor | Sequence[Tensor], want: Tensor | Sequence[Tensor], tolerance: float) -> float:
    """Share of the values that are further from want than tolerance times want's root mean square, or not finite."""
    got, want = _flat(got), _flat(want)
    limit = tolerance * want.square().mean().sqrt()
    return 1.0 - float(((got - want).abs() <= limit).double().mean())


def assert_grad_close(
    got: Tensor | Sequence[Tensor], want: Tensor | Sequence[Tensor], rel: float = 1e-4, cos: float = 0.9999
) -> None:
    """Fail unless shapes agree, all values are finite, the relative norm is at most rel and the cosine at least cos.

    A sequence is judged tensor by tensor, so that a large gradient cannot hide an error in a small one.
    """
    gots = [got] if isinstance(got, Tensor) else list(got)
    wants = [want] if isinstance(want, Tensor) else list(want)
    assert len(gots) == len(wants), f"{len(gots)} tensors where {len(wants)} are wanted"
    for i, (one, other) in enumerate(zip(gots, wants, strict=True)):
        assert one.shape == other.shape, f"tensor {i}: shape {list(one.shape)} where {list(other.shape)} is wanted"
        assert bool(torch.isfinite(one).all()), f"tensor {i}: {int((~torch.isfinite(one)).sum())} values not finite"
        error, angle = relative_norm(one, other), cosine(one, other)
        assert error <= rel and angle >= cos, (
            f"tensor {i}: relative norm {error:.3g} (at most {rel:g}), cosine {angle:.8f} (at least {cos:g}), "
            f"bias {signed_bias(one, other):+.3g}, outliers beyond 10x {outlier_share(one, other, 10 * rel):.3%}"
        )
