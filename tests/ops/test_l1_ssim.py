"""The fused photometric loss against its plain-torch definition."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from compare import assert_grad_close, relative_norm
from torch import Tensor

from avatar.ops import reference
from avatar.ops._native import available_isas, ops, use_isa
from avatar.ops.l1_ssim import l1_ssim, psnr, ssim

SIZES = [(1, 1), (1, 40), (40, 1), (3, 5), (11, 11), (16, 16), (17, 31), (86, 16), (87, 33), (97, 64), (181, 70)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # many tiny calls; the one test of threads sets its own
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_isa(request.param):
        yield request.param


def pictures(c: int, h: int, w: int, d: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """pred and target as channels-last views of planar memory, as the renderer makes them, and a weight with zeros."""
    generator = torch.Generator().manual_seed(1000 * h + w)
    y, x = torch.meshgrid(torch.linspace(0, 9, h), torch.linspace(0, 7, w), indexing="ij")
    smooth = 0.5 + 0.4 * torch.sin(x + torch.arange(c * d).reshape(c, d, 1, 1)) * torch.cos(y)
    target = (smooth + 0.1 * torch.randn(c, d, h, w, generator=generator)).clamp(0, 1)
    pred = (target + 0.15 * torch.randn(c, d, h, w, generator=generator)).clamp(0, 1)
    weight = torch.rand(c, h, w, generator=generator) * (torch.rand(c, h, w, generator=generator) > 0.3)
    return pred.to(dtype).permute(0, 2, 3, 1), target.to(dtype).permute(0, 2, 3, 1), weight.to(dtype)


def value_and_grad(loss, pred: Tensor, *args, **kwargs) -> tuple[float, Tensor]:  # type: ignore[no-untyped-def]
    leaf = pred.detach().requires_grad_()
    value = loss(leaf, *args, **kwargs)
    value.backward()
    assert leaf.grad is not None
    return value.item(), leaf.grad


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("weighted", [False, True])
def test_double_precision_is_the_definition(size: tuple[int, int], weighted: bool) -> None:
    pred, target, weight = pictures(2, *size)
    want, want_grad = value_and_grad(reference.l1_ssim, pred, target, weight if weighted else None)
    got, got_grad = value_and_grad(l1_ssim, pred, target, weight if weighted else None)
    assert got == pytest.approx(want, rel=1e-12, abs=1e-15)
    assert_grad_close(got_grad, want_grad, rel=1e-11, cos=1 - 1e-12)


@lru_cache
def wanted(c: int, h: int, w: int, d: int = 3) -> tuple[float, Tensor]:
    pred, target, weight = pictures(c, h, w, d)
    return value_and_grad(reference.l1_ssim, pred, target, weight, ssim_weight=0.4)


@pytest.mark.parametrize("shape", [*((2, h, w, 3) for h, w in SIZES), (1, 550, 402, 1)], ids=str)
def test_every_instruction_set_agrees_with_the_definition(shape: tuple[int, int, int, int], isa: str) -> None:
    want, want_grad = wanted(*shape)
    pred, target, weight = (value.float() for value in pictures(*shape))
    got, got_grad = value_and_grad(l1_ssim, pred, target, weight, ssim_weight=0.4)
    assert got == pytest.approx(want, rel=1e-6, abs=1e-9)
    assert_grad_close(got_grad, want_grad, rel=1e-5, cos=1 - 1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
def test_gradient_is_the_derivative(weighted: bool, ssim_weight: float) -> None:
    pred, target, weight = pictures(1, 4, 7)
    pred = torch.where((pred - target).abs() < 1e-3, target + 0.01, pred)  # stay off the kink of the absolute value
    weight = weight if weighted else None
    assert torch.autograd.gradcheck(lambda p: l1_ssim(p, target, weight, ssim_weight), pred.requires_grad_())


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operator_keeps_torchs_contract(needs_grad: bool, dtype: torch.dtype) -> None:
    pred, target, weight = pictures(2, 9, 6, dtype=dtype)
    planes = pred.permute(0, 3, 1, 2).contiguous().requires_grad_(needs_grad)
    other = target.permute(0, 3, 1, 2).contiguous()
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(ops.l1_ssim.default, (planes, other, weight, 0.2, needs_grad), test_utils=checks)
    torch.library.opcheck(ops.l1_ssim.default, (planes, other, None, 0.2, needs_grad), test_utils=checks)


@pytest.mark.parametrize("weighted", [False, True])
def test_threads_do_not_change_a_bit(weighted: bool, isa: str) -> None:
    pred, target, weight = pictures(3, 201, 83, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(value_and_grad(l1_ssim, pred, target, weight if weighted else None))
    for value, grad in results[1:]:
        assert value == results[0][0] and torch.equal(grad, results[0][1])


def test_loss_is_the_same_with_and_without_a_gradient(isa: str) -> None:
    pred, target, weight = pictures(2, 100, 45, dtype=torch.float32)
    with_gradient, _ = value_and_grad(l1_ssim, pred, target, weight)
    assert l1_ssim(pred, target, weight).item() == with_gradient


def test_layout_in_memory_does_not_matter(isa: str) -> None:
    pred, target, weight = pictures(2, 20, 37, dtype=torch.float32)
    want, want_grad = value_and_grad(l1_ssim, pred, target, weight)
    wide = torch.zeros(2, 5, 20, 37)  # RGB among further channels
    wide[:, 1:4] = pred.permute(0, 3, 1, 2)
    turned = weight.transpose(1, 2).contiguous().transpose(1, 2)
    layouts = {
        "interleaved": (pred.contiguous(), target.contiguous(), weight),
        "slice": (wide[:, 1:4].permute(0, 2, 3, 1), target, weight),
        "mixed": (pred, target.contiguous(), turned),
        "flipped twice": (pred.flip(2).contiguous().flip(2), target, weight),
        "crop": (torch.nn.functional.pad(pred, (0, 0, 3, 4, 5, 6))[:, 5:25, 3:40], target, weight),
    }
    for name, arguments in layouts.items():
        got, got_grad = value_and_grad(l1_ssim, *arguments)
        assert got == want and torch.equal(got_grad, want_grad), name


def test_gradient_of_planar_memory_is_planar() -> None:
    planar = torch.rand(2, 3, 12, 10, requires_grad=True)
    seen: list[Tensor] = []
    planar.register_hook(seen.append)
    l1_ssim(planar.permute(0, 2, 3, 1), torch.rand(2, 12, 10, 3)).backward()
    assert seen[0].is_contiguous()


@pytest.mark.parametrize("planar", [False, True])
def test_bytes_count_as_fractions_of_255(planar: bool, isa: str) -> None:
    pred, target, weight = pictures(2, 40, 35, dtype=torch.float32)
    quantised = (target * 255).round().to(torch.uint8)
    stored = quantised if planar else quantised.contiguous()
    want, want_grad = value_and_grad(l1_ssim, pred, quantised / 255, weight)
    got, got_grad = value_and_grad(l1_ssim, pred, stored, weight)
    assert got == pytest.approx(want, rel=1e-6)
    assert relative_norm(got_grad, want_grad) < 1e-6
    assert torch.allclose(ssim(pred, stored), ssim(pred, quantised / 255), atol=1e-6)
    assert torch.allclose(psnr(pred, stored), psnr(pred, quantised / 255), atol=1e-4)


def test_equal_pictures_cost_nothing_and_pull_nowhere(isa: str) -> None:
    _, target, _ = pictures(2, 50, 40, dtype=torch.float32)
    value, grad = value_and_grad(l1_ssim, target, target)
    assert value == 0 and not grad.any()
    assert torch.equal(ssim(target, target), torch.ones(2))
    assert torch.equal(psnr(target, target), torch.full((2,), float("inf")))


def test_a_change_reaches_ten_pixels_and_no_further(isa: str) -> None:
    _, target, _ = pictures(1, 60, 60, dtype=torch.float32)
    pred = target.clone()
    pred[0, 30, 33] += 0.2
    grad = value_and_grad(l1_ssim, pred, target)[1].abs().sum(dim=3)[0]
    grad[20:41, 23:44] = 0
    assert not grad.any()


def test_each_picture_of_a_batch_stands_alone() -> None:
    pred, target, weight = pictures(3, 30, 20, dtype=torch.float32)
    together, grad = value_and_grad(l1_ssim, pred, target, weight)
    alone = [value_and_grad(l1_ssim, pred[i : i + 1], target[i : i + 1], weight[i : i + 1]) for i in range(3)]
    assert together == pytest.approx(sum(value for value, _ in alone) / 3, rel=1e-6)
    assert relative_norm(grad, torch.cat([one for _, one in alone]) / 3) < 1e-6
    assert torch.equal(ssim(pred, target), torch.cat([ssim(pred[i : i + 1], target[i : i + 1]) for i in range(3)]))


def test_unit_weight_is_no_weight_and_zero_weight_no_loss() -> None:
    pred, target, _ = pictures(2, 30, 25, dtype=torch.float32)
    plain = value_and_grad(l1_ssim, pred, target)
    ones = value_and_grad(l1_ssim, pred, target, torch.ones(2, 30, 25))
    nothing = value_and_grad(l1_ssim, pred, target, torch.zeros(2, 30, 25))
    assert plain[0] == ones[0] and torch.equal(plain[1], ones[1])
    assert nothing[0] == 0 and not nothing[1].any()


def test_gradient_scales_with_what_comes_after_and_can_be_asked_twice() -> None:
    pred, target, _ = pictures(1, 15, 15, dtype=torch.float32)
    leaf = pred.detach().requires_grad_()
    loss = l1_ssim(leaf, target)
    (once,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (again,) = torch.autograd.grad(-3 * loss, leaf)
    assert torch.equal(again, -3 * once)


def test_second_derivative_is_refused() -> None:
    pred, target, _ = pictures(1, 8, 8)
    leaf = pred.detach().requires_grad_()
    (grad,) = torch.autograd.grad(l1_ssim(leaf, target), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="l1_ssim"):
        grad.square().sum().backward()


def test_target_and_weight_are_constants() -> None:
    pred, target, weight = pictures(1, 8, 8)
    target, weight = target.detach().requires_grad_(), weight.requires_grad_()
    assert not l1_ssim(pred, target, weight).requires_grad
    l1_ssim(pred.requires_grad_(), target, weight).backward()
    assert target.grad is None and weight.grad is None


def test_ssim_of_the_definition_and_of_noise() -> None:
    pred, target, _ = pictures(2, 64, 48)
    want = reference.ssim_map(pred, target).mean(dim=(1, 2, 3))
    assert torch.allclose(ssim(pred, target), want, atol=1e-12)
    noise = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(noise, 1 - noise).item() < -0.5
    assert not ssim(pred.requires_grad_(), target).requires_grad


def test_psnr_in_decibels_of_the_weighted_pixels() -> None:
    target = torch.full((2, 10, 10, 3), 0.5)
    pred = target.clone()
    pred[0] += 0.1
    pred[1, :5] += 0.01
    assert psnr(pred, target)[0].item() == pytest.approx(20, abs=1e-3)
    mask = torch.zeros(2, 10, 10)
    mask[:, :5] = 1
    assert psnr(pred, target, mask)[1].item() == pytest.approx(40, abs=1e-3)
    assert psnr(pred, target)[1].item() == pytest.approx(40 + 3.0103, abs=1e-3)
    assert torch.isnan(psnr(pred, target, torch.zeros(2, 10, 10))).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_bad_values_show_in_the_loss_and_stay_near_in_the_gradient(poison: float, isa: str) -> None:
    pred, target, _ = pictures(2, 60, 60, dtype=torch.float32)
    pred[0, 5, 6, 1] = poison
    value, grad = value_and_grad(l1_ssim, pred, target)
    assert not value < 1
    bad = ~torch.isfinite(grad)
    assert not bad[1].any() and not bad[0, ..., 0].any()
    bad[0, :16, :17, 1] = False
    assert not bad.any()


def test_denormals_and_huge_contrast_stay_finite(isa: str) -> None:
    tiny = torch.full((1, 20, 20, 3), 1e-40)
    value, grad = value_and_grad(l1_ssim, tiny, torch.zeros_like(tiny))
    assert value == pytest.approx(0, abs=1e-6) and torch.isfinite(grad).all()
    pred, target, _ = pictures(1, 30, 30, dtype=torch.float32)
    value, grad = value_and_grad(l1_ssim, 100 * pred, target)
    assert value > 10 and torch.isfinite(grad).all()


def test_wrong_arguments_are_named() -> None:
    pred, target, weight = pictures(2, 8, 6, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"l1_ssim: target must be \[C, H, W, D\] with .* got \[2, 8, 5, 3\]"):
        l1_ssim(pred, target[:, :, :5])
    with pytest.raises(ValueError, match=r"l1_ssim: weight must be \[C, H, W\]"):
        l1_ssim(pred, target, weight[..., None])
    with pytest.raises(ValueError, match=r"target is torch\.float64"):
        l1_ssim(pred, target.double())
    with pytest.raises(TypeError, match="pred must be float32 or float64"):
        l1_ssim(pred.half(), target.half())
    with pytest.raises(TypeError, match="pred must be a floating tensor"):
        l1_ssim((pred * 255).byte(), (pred * 255).byte())
    with pytest.raises(ValueError, match=r"at least one pixel, got \[2, 0, 6, 3\]"):
        l1_ssim(pred[:, :0], target[:, :0])
    with pytest.raises(ValueError, match=r"ssim_weight must lie in 0\.\.1, got 2"):
        l1_ssim(pred, target, ssim_weight=2)
    with pytest.raises(ValueError, match="psnr: target"):
        psnr(pred, target[:1])


def test_the_operator_itself_refuses_what_does_not_fit() -> None:
    planes = torch.rand(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match=r"l1_ssim: target must be .* got \[1, 3, 8, 7\]"):
        ops.l1_ssim(planes, planes[..., :7], None, 0.2, False)
    with pytest.raises(RuntimeError, match=r"l1_ssim: pred must be .* got \[3, 8, 8\]"):
        ops.l1_ssim(planes[0], planes[0], None, 0.2, False)
    with pytest.raises(RuntimeError, match=r"l1_ssim: weight must be"):
        ops.l1_ssim(planes, planes, torch.rand(1, 8, 9), 0.2, False)
    leaf = planes.requires_grad_()
    with pytest.raises(RuntimeError, match="needs_grad=True"):
        ops.l1_ssim(leaf, torch.rand(1, 3, 8, 8), None, 0.2, False)[0].backward()
