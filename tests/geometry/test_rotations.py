from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from avatar.geometry import rotations as rot

ANGLES = [0.0, 1e-12, 1e-5, 0.05, 0.0999, 0.1001, 0.1999, 0.2001, 1.0, 3.0, math.pi - 1e-3, math.pi]


def axes(count: int = 6, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    random = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng, dtype=torch.float64), dim=-1)
    return torch.cat([torch.eye(3, dtype=torch.float64), random])


def scipy_quats(axis_angle: Tensor) -> Tensor:
    return torch.from_numpy(Rotation.from_rotvec(axis_angle.numpy()).as_quat(scalar_first=True, canonical=True))


@pytest.mark.parametrize("angle", [*ANGLES, 5.0, 40.0])
def test_axis_angle_agrees_with_scipy_at_every_angle(angle: float) -> None:
    w = axes() * angle
    truth = torch.from_numpy(Rotation.from_rotvec(w.numpy()).as_matrix())
    torch.testing.assert_close(rot.axis_angle_to_matrix(w), truth, rtol=0, atol=1e-14)
    quats = rot.axis_angle_to_quat(w)
    torch.testing.assert_close(rot.quat_to_matrix(quats), truth, rtol=0, atol=1e-14)
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(len(w), dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("angle", ANGLES[:-1])
def test_every_form_returns_to_where_it_came_from(angle: float) -> None:
    w = axes() * angle
    matrices = rot.axis_angle_to_matrix(w)
    torch.testing.assert_close(rot.quat_to_axis_angle(rot.axis_angle_to_quat(w)), w, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(rot.matrix_to_axis_angle(matrices), w, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(rot.matrix_to_quat(matrices), scipy_quats(w), rtol=0, atol=1e-14)
    six = rot.matrix_to_rotation_6d(matrices)
    torch.testing.assert_close(rot.rotation_6d_to_matrix(six), matrices, rtol=0, atol=1e-14)


def test_a_half_turn_keeps_its_axis_and_angle() -> None:
    w = axes() * math.pi
    back = rot.matrix_to_axis_angle(rot.axis_angle_to_matrix(w))
    torch.testing.assert_close(back.norm(dim=-1), torch.full((len(w),), math.pi, dtype=torch.float64))
    torch.testing.assert_close((back * w).sum(-1).abs(), torch.full((len(w),), math.pi**2, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angle_zero_is_exact_and_has_the_gradient_of_the_generators(dtype: torch.dtype) -> None:
    w = torch.zeros(3, dtype=dtype, requires_grad=True)
    matrix = rot.axis_angle_to_matrix(w)
    assert torch.equal(matrix, torch.eye(3, dtype=dtype))
    generators = torch.stack(
        [torch.autograd.grad(matrix[i, j], w, retain_graph=True)[0] for i, j in ((2, 1), (0, 2), (1, 0))]
    )
    assert torch.equal(generators, torch.eye(3, dtype=dtype))  # d R / d w = [w]x

    identity = torch.eye(3, dtype=dtype, requires_grad=True)
    back = rot.matrix_to_axis_angle(identity)
    assert torch.equal(back, torch.zeros(3, dtype=dtype))
    (grad,) = torch.autograd.grad(back[0], identity)
    torch.testing.assert_close(grad, torch.tensor([[0, 0, 0], [0, 0, -0.5], [0, 0.5, 0]], dtype=dtype))


@pytest.mark.parametrize("angle", ANGLES[:-2])
def test_gradients_to_first_and_second_order(angle: float) -> None:
    w = (axes(1)[2:] * angle).requires_grad_()
    assert gradcheck(rot.axis_angle_to_matrix, (w,))
    assert gradcheck(rot.axis_angle_to_quat, (w,))
    assert gradgradcheck(rot.axis_angle_to_matrix, (w,))
    quats = (1.7 * rot.axis_angle_to_quat(w.detach())).requires_grad_()
    assert gradcheck(rot.quat_to_axis_angle, (quats,))
    assert gradcheck(rot.quat_to_matrix, (quats,))


@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0, 3.1])
def test_gradients_through_matrices_and_6d(angle: float) -> None:
    w = (axes(2) * angle).requires_grad_()

    def there_and_back(w: Tensor) -> Tensor:
        return rot.matrix_to_axis_angle(
            rot.rotation_6d_to_matrix(rot.matrix_to_rotation_6d(rot.axis_angle_to_matrix(w)))
        )

    assert gradcheck(there_and_back, (w,))


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_quaternion_product_is_the_product_of_matrices(values: list[float]) -> None:
    first, second = torch.tensor(values, dtype=torch.float64).view(2, 3)
    p, q = rot.axis_angle_to_quat(first), rot.axis_angle_to_quat(second)
    together = rot.axis_angle_to_matrix(first) @ rot.axis_angle_to_matrix(second)
    torch.testing.assert_close(rot.quat_to_matrix(rot.quat_multiply(p, q)), together, rtol=0, atol=1e-13)
    undone = rot.quat_multiply(p, rot.quat_conjugate(p))
    torch.testing.assert_close(undone, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-14)


def test_6d_takes_any_two_directions_that_are_not_parallel() -> None:
    rng = torch.Generator().manual_seed(1)
    matrices = rot.rotation_6d_to_matrix(torch.randn(50, 6, generator=rng, dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(matrices @ matrices.transpose(1, 2), eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(50, dtype=torch.float64))


def test_leading_dimensions_and_dtype_are_kept() -> None:
    w = torch.randn(2, 0, 4, 3)
    assert rot.axis_angle_to_matrix(w).shape == (2, 0, 4, 3, 3)
    assert rot.matrix_to_axis_angle(rot.axis_angle_to_matrix(w)).shape == w.shape
    assert rot.axis_angle_to_quat(torch.randn(3)).dtype == torch.float32
    denormal = torch.tensor([1e-42, 0, 0])
    assert torch.isfinite(rot.axis_angle_to_matrix(denormal)).all()
    assert torch.isfinite(rot.quat_to_axis_angle(rot.axis_angle_to_quat(denormal))).all()
