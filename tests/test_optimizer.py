"""Preconditioned steps even out the directions of a gradient, are of one length, and are not taken after bad numbers."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ParamsError
from pipeline.models import MODELS
from pipeline.optimizer import Optimizer, hidden_weights, inverse_root


class Matrix(nn.Module):
    """One matrix, or a stack of them."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def take(optimizer: Optimizer, gradient: Tensor, rate: float = 1.0, loss: float = 0.0) -> Tensor:
    """Return by how much a step with a gradient moves the weights."""
    before = optimizer.weights.clone()
    optimizer.gradient.copy_(gradient.flatten())
    optimizer.step(torch.tensor(loss), rate)
    optimizer.adapt()
    return (optimizer.weights - before).view_as(gradient)


def a_stack_with(eigenvalues: Tensor) -> Tensor:
    basis = torch.linalg.qr(torch.randn(3, 20, 20, dtype=torch.float64))[0]
    return ((basis * eigenvalues) @ basis.mT).float()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_an_inverse_root_is_one(scale: float) -> None:
    torch.manual_seed(0)
    matrix = scale * a_stack_with(torch.logspace(0, -1.3, 20))
    root = inverse_root(matrix)
    torch.testing.assert_close(root @ matrix @ root, torch.eye(20).expand(3, 20, 20), atol=1e-3, rtol=0)
    torch.testing.assert_close(root, root.mT, atol=1e-5 * root.abs().max().item(), rtol=0)


def test_what_is_too_small_for_a_root_is_amplified_to_a_bound() -> None:
    torch.manual_seed(0)
    eigenvalues = torch.cat([torch.ones(1), torch.logspace(-2, -20, 18), torch.zeros(1)])
    found = torch.linalg.eigvalsh(inverse_root(a_stack_with(eigenvalues)))
    assert (found > 0.95).all()
    assert (found < 60).all()
    assert found[:, -1] == pytest.approx(57.7, rel=0.01)


def test_nothing_is_no_reason_to_divide_by_zero() -> None:
    assert inverse_root(torch.zeros(4, 4)).isfinite().all()
    optimizer = Optimizer(Matrix(4, 6), preconditioned=["weight"])
    for _ in range(100):
        assert not take(optimizer, torch.zeros(4, 6)).any()


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (2, 6, 40)])
def test_directions_in_which_gradients_are_small_are_walked_as_far_as_the_others(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    small_side = -2 if shape[-2] < shape[-1] else -1
    strengths = torch.logspace(0, -1, 6).view((6, 1) if small_side == -2 else (6,))
    mixing = torch.linalg.qr(torch.randn(6, 6))[0]

    def gradient() -> Tensor:
        raw = torch.randn(shape) * strengths
        return mixing @ raw if small_side == -2 else raw @ mixing

    optimizer = Optimizer(Matrix(*shape), preconditioned=["weight"])
    moved = [take(optimizer, gradient()) for _ in range(2000)]

    def spread(moves: list[Tensor]) -> float:
        one_by_one = torch.stack([move if small_side == -2 else move.mT for move in moves])
        energy = torch.linalg.eigvalsh((one_by_one @ one_by_one.mT).mean(0))
        return (energy[..., -1] / energy[..., 0]).max().item()

    assert spread(moved[:40]) > 30
    assert spread(moved[1000:]) < 2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_every_step_has_the_length_of_adams(scale: float) -> None:
    torch.manual_seed(0)
    optimizer = Optimizer(Matrix(2, 8, 12), preconditioned=["weight"])
    for _ in range(120):
        move = take(optimizer, scale * torch.randn(2, 8, 12), rate=0.01)
        assert move.square().mean((1, 2)).sqrt() == pytest.approx(0.01 * 0.2, rel=1e-2)


def test_a_momentum_that_fades_never_makes_a_longer_step() -> None:
    torch.manual_seed(0)
    optimizer = Optimizer(Matrix(8, 12), preconditioned=["weight"])
    for number in range(1500):
        gradient = torch.randn(8, 12) if number < 10 else torch.zeros(8, 12)
        move = take(optimizer, gradient, rate=0.01)
        assert move.square().mean().sqrt() < 0.01 * 0.2 * 1.01
    assert not move.any()


def test_a_step_goes_downhill() -> None:
    torch.manual_seed(0)
    optimizer, target = Optimizer(Matrix(8, 12), preconditioned=["weight"]), torch.randn(8, 12)
    distances = []
    for number in range(400):
        distance = optimizer.weights.view(8, 12) - target
        distances.append(distance.square().mean().item())
        take(optimizer, distance * torch.logspace(0, -2, 8)[:, None], rate=0.1 * (1 - number / 400))
    assert distances[-1] < 0.01 * distances[0]


@pytest.mark.parametrize(("loss", "bad"), [(0.0, math.nan), (0.0, math.inf), (math.nan, 1.0), (math.inf, 1.0)])
@pytest.mark.parametrize("at", [7, 10, 50])
def test_nothing_that_later_steps_depend_on_takes_up_numbers_that_are_not_finite(loss: float, bad: float, at: int) -> None:
    torch.manual_seed(0)
    optimizer = Optimizer(MODELS["vae"](64, 2, [16, 8]), preconditioned=["encoder.2.weight", "decoder.2.weight"])
    for _ in range(1, at):
        take(optimizer, torch.randn_like(optimizer.weights))
    before = {name: tensor.clone() for name, tensor in optimizer.state.items()}
    gradient = torch.randn_like(optimizer.weights)
    gradient[::100] = bad
    take(optimizer, gradient, loss=loss)
    for name, tensor in optimizer.state.items():
        assert tensor.isfinite().all()
        assert torch.equal(tensor, before[name]) or (name.startswith("root") and at == 50)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_steps_are_those_of_the_equation(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    optimizer = Optimizer(Matrix(*shape), preconditioned=["weight"])
    weights, momentum = torch.zeros(6, 40, dtype=torch.float64), torch.zeros(6, 40, dtype=torch.float64)
    observed, root = [], torch.eye(6, dtype=torch.float64)
    for number in range(1, 131):
        gradient = torch.randn(shape) * torch.linspace(0.5, 2, 6).view((6, 1) if shape[0] == 6 else (6,))
        take(optimizer, gradient, rate=0.01)
        wide = (gradient if shape[0] == 6 else gradient.mT).double()
        momentum = 0.95 * momentum + 0.05 * wide
        update = root @ (0.95 * momentum + 0.05 * wide)
        weights -= 0.01 * 0.2 * math.sqrt(6 * 40) * update / update.norm()
        if number % 10 == 0:
            observed.append(wide @ wide.mT / wide.square().sum())
        if number % 50 == 0:
            values, basis = torch.linalg.eigh(torch.stack(observed).mean(0))
            root = basis @ torch.diag(values**-0.5) @ basis.mT
    found = optimizer.weights.view(shape)
    torch.testing.assert_close(found if shape[0] == 6 else found.mT, weights.float(), rtol=1e-3, atol=1e-5)


def test_the_covariance_forgets() -> None:
    torch.manual_seed(0)
    optimizer = Optimizer(Matrix(2, 3), preconditioned=["weight"])
    first, second = torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.tensor([[0, 0, 0], [0, 0, 1.0]])
    for number in range(3000):
        take(optimizer, first if number < 2000 else second)
    # A hundred observations more, each of which takes a hundredth of what was known.
    assert optimizer.state["covariance.0"].diagonal() == pytest.approx([0.99**100, 1 - 0.99**100], rel=1e-3)


@pytest.mark.parametrize("scale", [1e18, 1e25, 1e30, 1e36])
def test_huge_gradients_leave_finite_weights(scale: float) -> None:
    torch.manual_seed(0)
    optimizer = Optimizer(Matrix(8, 12), preconditioned=["weight"])
    for _ in range(60):
        move = take(optimizer, scale * torch.randn(8, 12), rate=0.01)
        assert move.square().mean().sqrt() < 0.01 * 0.2 * 1.01


@pytest.mark.parametrize(
    ("hidden_dims", "expected"),
    [([], []), ([9], []), ([9, 8, 7], ["encoder.2.weight", "encoder.4.weight", "decoder.2.weight", "decoder.4.weight"])],
)
@pytest.mark.parametrize("name", MODELS)
def test_hidden_weights_touch_neither_pixels_nor_code(name: str, hidden_dims: list[int], expected: list[str]) -> None:
    assert hidden_weights(MODELS[name](64, 2, hidden_dims)) == expected


@pytest.mark.parametrize("encoder", [nn.Linear(2, 2), nn.ModuleDict({"mu": nn.Linear(2, 2)}), None])
def test_a_model_whose_hidden_layers_are_not_in_a_row_is_told_so(encoder: nn.Module | None) -> None:
    model = Matrix(2, 2)
    if encoder:
        model.encoder = encoder
    with pytest.raises(ParamsError, match=r"shampoo is for models whose encoder is a nn\.Sequential; use none"):
        hidden_weights(model)


def test_parameters_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no parameters a, b"):
        Optimizer(Matrix(2, 2), {"b": 2.0}, ["a"])
