from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from avatar.ops import reference
from avatar.ops._native import available_isas, ops, use_isa
from avatar.ops.skin import SkinConstants, skin

PARENTS = (-1, 0, 1, 2, 2)
LEAVES = ("rest", "joints", "coeffs", "rotations", "translation")


@dataclass
class Case:
    """Random arguments of the operator, with the dense constants beside the packed ones."""

    rest: Tensor
    joints: Tensor
    coeffs: Tensor
    rotations: Tensor
    translation: Tensor
    basis: Tensor
    joint_basis: Tensor
    weights: Tensor
    parents: tuple[int, ...]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, name) for name in LEAVES)

    @property
    def constants(self) -> SkinConstants:
        return SkinConstants.of(self.basis, self.joint_basis, self.weights, self.parents)

    def native(self) -> tuple[Tensor, Tensor]:
        return skin(*self.leaves, self.constants)

    def reference(self) -> tuple[Tensor, Tensor]:
        return reference.skin(*self.leaves, self.basis, self.joint_basis, self.weights, self.parents)


def case(
    verts: int = 70,
    shapes: int = 4,
    frames: int = 3,
    parents: tuple[int, ...] = PARENTS,
    dtype: torch.dtype = torch.float64,
    filled: float = 0.5,
    seed: int = 0,
) -> Case:
    """A mesh of the size of a head (0.1 m) whose basis is zero for whole runs of vertices."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    joints = len(parents)
    basis = 0.01 * normal(verts, 3, shapes + 9 * (joints - 1))
    runs = torch.rand(verts // 20 + 1, basis.shape[2], generator=rng) < filled
    weights = torch.rand(verts, joints, generator=rng, dtype=torch.float64) ** 4 + 1e-9
    weights = torch.where(weights < 0.3 * weights.amax(1, keepdim=True), 0.0, weights)
    tensors = (
        0.1 * normal(verts, 3),
        0.05 * normal(joints, 3),
        normal(frames, shapes),
        0.5 * normal(frames, joints, 3),
        normal(frames, 3),
        basis * runs.repeat_interleave(20, 0)[:verts, None, :],
        0.01 * normal(joints, 3, shapes),
        weights / weights.sum(1, keepdim=True),
    )
    made = Case(*(tensor.to(dtype) for tensor in tensors), parents)
    for leaf in made.leaves:
        leaf.requires_grad_()
    return made


def gradients(outputs: tuple[Tensor, Tensor], leaves: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(seed)
    pull = [torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.dtype) for out in outputs]
    return torch.autograd.grad(outputs, leaves, pull)


def relative(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth.double()).norm().detach() / truth.double().norm().detach().clamp_min(1e-30))


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("frames", [1, 4, 7, 8, 9, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_definition_on_every_instruction_set(isa: str, frames: int, dtype: torch.dtype) -> None:
    truth = case(frames=frames)
    single = case(frames=frames, dtype=dtype)
    with use_isa(isa):
        outputs = single.native()
        grads = gradients(outputs, single.leaves)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    wanted = truth.reference()
    for name, got, exact in zip(("verts", "transforms"), outputs, wanted, strict=True):
        assert got.dtype == dtype
        assert relative(got, exact) < tolerance, name
    for name, got, exact in zip(LEAVES, grads, gradients(wanted, truth.leaves), strict=True):
        assert relative(got, exact) < tolerance, name


@pytest.mark.parametrize(
    ("shapes", "parents"),
    [(54, (-1, 0, 1, 2, 3, 3)), (102, (-1, 0, 1, 1, 1))],
    ids=["open_head", "flame"],
)
def test_agrees_with_the_definition_in_float64_at_full_size(shapes: int, parents: tuple[int, ...]) -> None:
    truth = case(5023, shapes, 2, parents)
    single = case(5023, shapes, 2, parents, torch.float32)
    wanted, outputs = truth.reference(), single.native()
    assert (outputs[0].double() - wanted[0]).abs().max() < 2e-6  # metres; float32 at coordinates of 1 to 4 m
    for name, got, exact in zip(
        LEAVES, gradients(outputs, single.leaves), gradients(wanted, truth.leaves), strict=True
    ):
        assert relative(got, exact) < 5e-6, name


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("angle", [0.0, 1e-6, 1.0])
def test_gradient_by_finite_differences(isa: str, angle: float) -> None:
    small = case(verts=7, shapes=2, frames=2, parents=(-1, 0, 0))
    rotations = (small.rotations.detach() * angle).requires_grad_()
    small = replace(small, rotations=rotations)
    constants = small.constants
    with use_isa(isa):
        assert torch.autograd.gradcheck(lambda *leaves: skin(*leaves, constants), small.leaves)


def test_opcheck() -> None:
    made = case(verts=40)
    k = made.constants
    args = (*made.leaves, k.basis, k.joint_basis, k.weights, k.tables)
    torch.library.opcheck(torch.ops.avatar.skin.default, args)
    verts, transforms, shaped = ops.skin(*(arg.detach() for arg in args))
    backward = (*(arg.detach() for arg in args), shaped, torch.randn_like(verts), torch.randn_like(transforms))
    torch.library.opcheck(
        torch.ops.avatar.skin_backward.default, backward, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("frames", [1, 9])
def test_same_bits_for_any_number_of_threads(frames: int) -> None:
    made = case(2100, 20, frames, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs = made.native()
            results.append([*outputs, *gradients(outputs, made.leaves)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_frame_does_not_depend_on_its_batch() -> None:
    many = case(300, 6, 9, dtype=torch.float32)
    together = many.native()[0]
    for index in (0, 5, 8):
        row = slice(index, index + 1)
        pose = {name: getattr(many, name)[row] for name in ("coeffs", "rotations", "translation")}
        alone = replace(many, **pose).native()[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=5e-7)


def test_only_one_of_the_outputs_may_be_pulled() -> None:
    made = case()
    for index in (0, 1):
        native, definition = made.native()[index], made.reference()[index]
        pull = torch.ones_like(native)
        truth = torch.autograd.grad(definition, made.leaves, pull, allow_unused=True)
        for got, exact in zip(torch.autograd.grad(native, made.leaves, pull), truth, strict=True):
            torch.testing.assert_close(got, torch.zeros_like(got) if exact is None else exact, rtol=1e-11, atol=1e-12)


def test_constants_get_no_gradient() -> None:
    made = case()
    made.basis.requires_grad_()
    made.weights.requires_grad_()
    made.native()[0].sum().backward()
    assert made.basis.grad is None and made.weights.grad is None


def test_turning_the_root_turns_the_whole_mesh_rigidly() -> None:
    made = case(frames=2)
    turned = made.rotations.detach().clone()
    turned[1] = turned[0]
    turned[1, 0] = torch.tensor([0.3, -2.0, 0.7])
    pose = replace(made, rotations=turned, coeffs=made.coeffs[:1].expand(2, -1))
    verts = pose.native()[0]
    assert torch.allclose(torch.pdist(verts[0]), torch.pdist(verts[1]), atol=1e-12)
    assert not torch.allclose(verts[0] - verts[0].mean(0), verts[1] - verts[1].mean(0), atol=1e-2)


def test_a_quarter_turn_about_a_joint_where_one_expects_it() -> None:
    verts = torch.tensor([[1.0, 0, 0], [0, 2, 0]])
    joints = torch.tensor([[0.0, 0, 0], [0, 1, 0]])
    constants = SkinConstants.of(torch.zeros(2, 3, 0), torch.zeros(2, 3, 0), torch.eye(2), (-1, 0))
    rotations = torch.tensor([[[0, 0, 0], [0, 0, math.pi / 2]]])
    posed, transforms = skin(verts, joints, torch.zeros(1, 0), rotations, torch.tensor([[0.0, 0, 5]]), constants)
    torch.testing.assert_close(posed, torch.tensor([[[1.0, 0, 5], [-1, 1, 5]]]))
    moved = transforms[0, 1] @ torch.tensor([0.0, 1, 0, 1])
    torch.testing.assert_close(moved, torch.tensor([0.0, 1, 5]))  # the joint itself stays where its parent takes it


@pytest.mark.parametrize("verts", [1, 31, 32, 33, 511, 512, 513, 1025])
def test_sizes_around_blocks_and_ranges(verts: int) -> None:
    made = case(verts, 3, 2)
    torch.testing.assert_close(made.native()[0], made.reference()[0], rtol=0, atol=1e-13)
    got, exact = gradients(made.native(), made.leaves), gradients(made.reference(), made.leaves)
    for name, a, b in zip(LEAVES, got, exact, strict=True):
        assert relative(a, b) < 1e-12, name


@pytest.mark.parametrize(
    ("verts", "frames", "parents"), [(0, 2, (-1, 0)), (5, 0, (-1, 0)), (5, 1, (-1,)), (5, 2, (-1, -1))]
)
def test_empty_and_smallest(verts: int, frames: int, parents: tuple[int, ...]) -> None:
    made = case(verts, 2, frames, parents)
    outputs = made.native()
    for got, exact in zip(outputs, made.reference(), strict=True):
        torch.testing.assert_close(got, exact, rtol=0, atol=1e-13)
    for got, exact in zip(gradients(outputs, made.leaves), gradients(made.reference(), made.leaves), strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-11, atol=1e-12)


def test_no_blendshapes_and_no_correctives() -> None:
    made = case(shapes=0)
    torch.testing.assert_close(made.native()[0], made.reference()[0], rtol=0, atol=1e-13)
    plain = case(shapes=4)
    rigid = SkinConstants.of(plain.basis[:, :, :4], plain.joint_basis, plain.weights, plain.parents)
    plain.basis[:, :, 4:] = 0
    torch.testing.assert_close(skin(*plain.leaves, rigid)[0], plain.reference()[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["coeffs", "rotations", "translation"])
@pytest.mark.parametrize("isa", available_isas())
def test_a_poisoned_frame_does_not_touch_the_others(poison: float, where: str, isa: str) -> None:
    clean = case(200, 5, 6, dtype=torch.float32)
    with use_isa(isa):
        good = clean.native()[0]
        tensor = getattr(clean, where).detach().clone()
        tensor[2].view(-1)[0] = poison
        bad = replace(clean, **{where: tensor}).native()[0]
    others = [0, 1, 3, 4, 5]
    assert torch.equal(good[others], bad[others])
    assert not torch.isfinite(bad[2]).all()


def test_extreme_but_finite_input_stays_finite() -> None:
    made = case(dtype=torch.float32)
    rotations = made.rotations.detach().clone()
    rotations[0], rotations[1] = 1e-42, 1e8
    rotations.requires_grad_()
    made = replace(made, rotations=rotations)
    outputs = made.native()
    assert all(torch.isfinite(out).all() for out in outputs)
    assert all(torch.isfinite(grad).all() for grad in gradients(outputs, made.leaves))


def test_views_that_are_not_contiguous_are_accepted() -> None:
    made = case()
    strided = replace(made, rest=made.rest.T.contiguous().T, coeffs=made.coeffs[:1].expand(3, -1))
    torch.testing.assert_close(strided.native()[0], strided.reference()[0], rtol=0, atol=1e-13)
    strided.native()[0].sum().backward()  # an expanded gradient arrives


def test_columns_that_are_zero_in_a_block_are_not_stored() -> None:
    basis = torch.zeros(100, 3, 5)
    basis[40, 1, 2] = 1.0
    packed = SkinConstants.of(basis, torch.zeros(1, 3, 5), torch.ones(100, 1), (-1,))
    assert packed.basis.shape == (1, 3, 32)
    assert packed.basis[0, 1, 8] == 1.0 and packed.basis.sum() == 1.0
    assert packed.tables[:6].tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"rest": torch.zeros(70, 2, dtype=torch.float64)},
            ValueError,
            r"skin: rest must be \[V, 3\] with .*, got \[70, 2\]",
        ),
        ({"rest": torch.zeros(99, 3, dtype=torch.float64)}, RuntimeError, "skin: tables"),
        (
            {"coeffs": torch.zeros(3, 9, dtype=torch.float64)},
            ValueError,
            r"joint_basis must be \[J, 3, C\] with .*C = 9",
        ),
        ({"rotations": torch.zeros(2, 5, 3, dtype=torch.float64)}, ValueError, r"rotations must be .* B = 3"),
        ({"translation": torch.zeros(3, 3)}, ValueError, "translation is torch.float32"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    made = case()
    constants = made.constants
    with pytest.raises(error, match=message):
        skin(*replace(made, **change).leaves, constants)


def test_errors_of_packing_and_of_half_precision() -> None:
    made = case()
    with pytest.raises(ValueError, match=r"9 \(J - 1\) = 36 pose correctives, got 39"):
        SkinConstants.of(made.basis[:, :, :-1], made.joint_basis, made.weights, made.parents)
    with pytest.raises(ValueError, match="parents must name an earlier joint"):
        SkinConstants.of(made.basis, made.joint_basis, made.weights, (-1, 2, 0, 1, 1))
    with pytest.raises(RuntimeError, match=r"float32 or float64; convert the head with \.to\(torch\.float32\)"):
        skin(*(leaf.detach().half() for leaf in made.leaves), made.constants.to(torch.float16))
