"""The yardsticks themselves: each notices the fault it is there for."""

from __future__ import annotations

import pytest
import torch
from compare import assert_grad_close, cosine, outlier_share, relative_norm, signed_bias


@pytest.fixture
def want() -> torch.Tensor:
    return torch.randn(10_000, generator=torch.Generator().manual_seed(0))


def test_equal_values_have_no_error(want: torch.Tensor) -> None:
    assert relative_norm(want, want) == 0
    assert cosine(want, want) == pytest.approx(1)
    assert signed_bias(want, want) == 0
    assert outlier_share(want, want, 1e-6) == 0
    assert_grad_close(want, want)


def test_scale_shows_in_the_norm_and_sign_in_the_cosine(want: torch.Tensor) -> None:
    assert relative_norm(1.01 * want, want) == pytest.approx(0.01, rel=1e-4)
    assert cosine(1.01 * want, want) == pytest.approx(1)
    assert cosine(-want, want) == pytest.approx(-1)


def test_bias_keeps_its_sign(want: torch.Tensor) -> None:
    assert signed_bias(want - 0.1, want) == pytest.approx(-0.1 / want.abs().mean().item(), rel=1e-5)
    assert signed_bias(want + 0.1, want) > 0


def test_outliers_are_counted_not_weighed(want: torch.Tensor) -> None:
    got = want.clone()
    got[:100] += 1e6
    got[100] = float("nan")
    assert outlier_share(got, want, 1e-3) == pytest.approx(101 / 10_000)


def test_nothing_against_nothing_is_equal() -> None:
    zero = torch.zeros(3)
    assert relative_norm(zero, zero) == 0 and cosine(zero, zero) == 1 and signed_bias(zero, zero) == 0
    assert relative_norm(torch.ones(3), zero) == float("inf") and cosine(torch.ones(3), zero) == 0


def test_a_small_tensor_cannot_hide_beside_a_large_one(want: torch.Tensor) -> None:
    large, small = 1e6 * want, want[:3]
    with pytest.raises(AssertionError, match=r"tensor 1: relative norm 0\.1"):
        assert_grad_close([large, 1.1 * small], [large, small])


def test_shapes_counts_and_finiteness_are_part_of_close(want: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_grad_close(want[:4].reshape(2, 2), want[:4])
    with pytest.raises(AssertionError, match="1 tensors where 2"):
        assert_grad_close([want], [want, want])
    with pytest.raises(AssertionError, match="1 values not finite"):
        assert_grad_close(torch.tensor([1.0, float("nan")]), torch.ones(2))
