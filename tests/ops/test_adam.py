"""Fused Adam against torch.optim.Adam and the plain-torch definition."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from compare import relative_norm
from torch import Tensor

from avatar.ops import reference
from avatar.ops._native import available_isas, ops, use_isa
from avatar.ops.adam import FusedAdam, adam_, finite

SHAPES = [(), (1,), (0, 3), (7, 3), (1000, 3), (700, 16, 3), (70_003,)]


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


def leaves(dtype: torch.dtype = torch.float32, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def set_grads(params: list[Tensor], seed: int) -> None:
    """The same gradients for the same seed, of sizes from tiny to large."""
    generator = torch.Generator().manual_seed(seed)
    for i, param in enumerate(params):
        noise = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = (noise * 10.0 ** (i - 4)).to(param.dtype)


def lists(dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> tuple[list, ...]:  # type: ignore[type-arg]
    params = leaves(dtype, shapes)
    set_grads(params, 1)
    n = len(params)
    return (
        [param.detach().clone() for param in params],
        [param.grad for param in params],
        [torch.full_like(param, 1e-3).detach() for param in params],
        [torch.full_like(param, 1e-5).detach() for param in params],
        [torch.tensor(float(i)) for i in range(n)],
        [10.0 ** -(i % 4) for i in range(n)],
        [0.9, 0.8] * n,
        [0.999] * n,
        [1e-15, 1e-8] * n,
    )


def call(arguments: tuple[list, ...]) -> None:  # type: ignore[type-arg]
    n = len(arguments[0])
    tensors, (lrs, beta1s, beta2s, epss) = arguments[:5], (values[:n] for values in arguments[5:])
    adam_(*tensors, lrs=lrs, beta1s=beta1s, beta2s=beta2s, epss=epss)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_one_step_is_the_definition(dtype: torch.dtype, tolerance: float, isa: str) -> None:
    got, want = lists(dtype), lists(dtype)
    call(got)
    reference.adam_(*want)
    for one, other in zip(got[:5], want[:5], strict=True):
        for value, wanted in zip(one, other, strict=True):
            assert value.shape == wanted.shape
            assert relative_norm(value, wanted) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
def test_many_steps_follow_torch(dtype: torch.dtype, tolerance: float, isa: str) -> None:
    ours, theirs = leaves(dtype), leaves(dtype)
    groups = [{"lr": 1e-2, "betas": (0.9, 0.999)}, {"lr": 3e-4, "betas": (0.5, 0.99), "eps": 1e-8}]

    def grouped(params: list[Tensor]) -> list[dict[str, object]]:
        return [{"params": params[:3], **groups[0]}, {"params": params[3:], **groups[1]}]

    mine, torchs = FusedAdam(grouped(ours), eps=1e-15), torch.optim.Adam(grouped(theirs), eps=1e-15)
    for step in range(8):
        set_grads(ours, step)
        set_grads(theirs, step)
        mine.step()
        torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        assert relative_norm(one, other) <= tolerance
        for name in ("exp_avg", "exp_avg_sq"):
            assert relative_norm(mine.state[one][name], torchs.state[other][name]) <= tolerance, name
        assert mine.state[one]["step"] == torchs.state[other]["step"] == 8


def test_first_step_has_the_length_of_the_learning_rate() -> None:
    param = torch.zeros(5, requires_grad=True)
    param.grad = torch.tensor([1e-12, -1e-6, 1.0, -1e6, 0.0])
    FusedAdam([param], lr=0.25).step()
    assert torch.allclose(param.detach(), torch.tensor([-0.25, 0.25, -0.25, 0.25, 0.0]), atol=1e-3)


def test_it_finds_the_bottom_of_a_valley() -> None:
    point = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = FusedAdam([point], lr=0.02)

    def rosenbrock() -> float:
        optimizer.zero_grad()
        x, y = point
        loss = (1 - x) ** 2 + 100 * (y - x * x) ** 2
        loss.backward()
        return loss.item()

    for _ in range(4000):
        value = optimizer.step(rosenbrock)
    assert value is not None and value < 1e-4
    assert torch.allclose(point.detach(), torch.ones(2, dtype=torch.float64), atol=0.03)


def test_threads_do_not_change_a_bit(isa: str) -> None:
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        params = leaves()
        optimizer = FusedAdam(params)
        for step in range(3):
            set_grads(params, step)
            optimizer.step()
        results.append(params)
    for params in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(params, results[0], strict=True))


def test_tensors_do_not_notice_their_neighbours() -> None:
    together, alone = leaves(), leaves()
    set_grads(together, 0)
    set_grads(alone, 0)
    FusedAdam(together).step()
    for param in alone:
        FusedAdam([param]).step()
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_parameters_without_gradient_wait() -> None:
    moving, waiting = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = FusedAdam([moving, waiting])
    optimizer.step()
    for _ in range(4):
        moving.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(waiting.detach(), torch.ones(3)) and waiting not in optimizer.state
    assert optimizer.state[moving]["step"] == 4
    waiting.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.state[waiting]["step"] == 1 and optimizer.state[moving]["step"] == 5


def test_gradients_of_any_strides() -> None:
    square = torch.rand(40, 30)
    for grad in (square.t(), torch.ones(()).expand(30, 40), torch.rand(30, 80)[:, ::2]):
        one, other = torch.zeros(30, 40, requires_grad=True), torch.zeros(30, 40, requires_grad=True)
        one.grad, other.grad = grad, grad.contiguous()
        FusedAdam([one]).step()
        FusedAdam([other]).step()
        assert torch.equal(one, other) and one.any()


def test_the_learning_rate_of_a_group_may_change_between_steps() -> None:
    param = torch.zeros(2, requires_grad=True)
    optimizer = FusedAdam([param], lr=1.0)
    param.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    before = param.detach().clone()
    optimizer.step()
    assert torch.equal(param.detach(), before)


@pytest.mark.parametrize("direction", ["from torch", "to torch", "to itself"])
def test_state_travels_both_ways(direction: str) -> None:
    first, second = leaves(torch.float64), leaves(torch.float64)
    source: torch.optim.Optimizer = (torch.optim.Adam if direction == "from torch" else FusedAdam)(first, lr=1e-2)
    target: torch.optim.Optimizer = (torch.optim.Adam if direction == "to torch" else FusedAdam)(second, lr=1.0)
    for step in range(3):
        set_grads(first, step)
        source.step()
    target.load_state_dict(deepcopy(source.state_dict()))  # torch shares the tensors otherwise
    with torch.no_grad():
        for one, other in zip(first, second, strict=True):
            other.copy_(one)
    set_grads(first, 9)
    set_grads(second, 9)
    source.param_groups[0]["eps"] = target.param_groups[0]["eps"] = 1e-10
    source.step()
    target.step()
    for one, other in zip(first, second, strict=True):
        assert relative_norm(other, one) <= 1e-13
        assert target.state[other]["step"] == 4


def test_state_of_unimplemented_variants_is_refused() -> None:
    param = torch.zeros(1, requires_grad=True)
    for name, value in (("weight_decay", 0.1), ("amsgrad", True), ("maximize", True)):
        state = torch.optim.Adam([param], **{name: value}).state_dict()
        with pytest.raises(ValueError, match=f"FusedAdam: {name} is not implemented"):
            FusedAdam([param]).load_state_dict(state)


@pytest.mark.parametrize(
    "settings", [{"lr": -1.0}, {"eps": -1e-8}, {"betas": (1.0, 0.9)}, {"betas": (0.9, float("nan"))}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="FusedAdam: lr and eps must not be negative"):
        FusedAdam([{"params": [torch.zeros(1, requires_grad=True)], **settings}])


def test_bad_gradients_spoil_their_own_value_only(isa: str) -> None:
    param = torch.zeros(40, requires_grad=True)
    param.grad = torch.ones(40)
    param.grad[3], param.grad[17], param.grad[30] = float("nan"), float("inf"), 1e-42
    FusedAdam([param]).step()
    bad = torch.isnan(param.detach()).nonzero().flatten().tolist()
    assert bad == [3, 17]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_finite_finds_a_single_bad_value_anywhere(dtype: torch.dtype, poison: float) -> None:
    tensors = [tensor.detach() for tensor in leaves(dtype)]
    tensors += [
        torch.tensor([torch.finfo(dtype).max, -torch.finfo(dtype).max, torch.finfo(dtype).tiny / 8, -0.0], dtype=dtype)
    ]
    assert finite(tensors) and reference.finite(tensors)
    for tensor in tensors:
        for at in {0, tensor.numel() // 2, tensor.numel() - 1} if tensor.numel() else ():
            kept = tensor.view(-1)[at].clone()
            tensor.view(-1)[at] = poison
            assert not finite(tensors) and not reference.finite(tensors)
            tensor.view(-1)[at] = kept
    assert finite(tensors)


def test_finite_of_nothing_and_of_strided_tensors() -> None:
    assert finite([])
    assert finite([torch.zeros(0)])
    grid = torch.zeros(4, 4)
    grid[1, 1] = float("nan")
    assert finite([grid[::2], grid.t()[2:]])
    assert not finite([grid.t()])


def test_operator_keeps_torchs_contract() -> None:
    for dtype in (torch.float32, torch.float64):
        arguments = lists(dtype, [(3,), (2, 2)])
        n = len(arguments[0])
        checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
        torch.library.opcheck(ops.adam_.default, tuple(values[:n] for values in arguments), test_utils=checks)
        torch.library.opcheck(ops.finite.default, (arguments[0],), test_utils=["test_schema"])


def test_autograd_notices_the_update() -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    loss = (param * param).sum()
    FusedAdam([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_wrong_tensors_are_named_and_nothing_changes() -> None:
    def broken(position: int, index: int, value: object) -> tuple[list, ...]:  # type: ignore[type-arg]
        arguments = lists(torch.float32, [(3,), (4, 2)])
        arguments[position][index] = value
        return arguments

    cases = [
        (broken(1, 1, torch.ones(4, 3)), r"tensor 1: grad must be .* shape \[4, 2\] and dtype, got \[4, 3\]"),
        (broken(1, 0, torch.ones(3, dtype=torch.float64)), "tensor 0: grad"),
        (broken(2, 1, torch.ones(2, 4).t()), r"tensor 1: exp_avg must be .*\(not contiguous\)"),
        (broken(3, 1, torch.ones(1)), "tensor 1: exp_avg_sq"),
        (broken(4, 1, torch.ones(2)), "tensor 1: step must be a float32 scalar"),
        (broken(0, 1, torch.ones(4, 2, dtype=torch.int32)), "tensor 1: params must be float32 or float64"),
    ]
    for arguments, message in cases:
        before = arguments[0][0].clone(), arguments[4][0].clone()
        with pytest.raises(RuntimeError, match=message):
            call(arguments)
        assert torch.equal(arguments[0][0], before[0]) and torch.equal(arguments[4][0], before[1])
    with pytest.raises(RuntimeError, match="one entry for each of the 2 params"):
        short = lists(torch.float32, [(3,), (4, 2)])
        adam_(*short[:4], short[4][:1], lrs=[1, 1], beta1s=[0, 0], beta2s=[0, 0], epss=[0, 0])
