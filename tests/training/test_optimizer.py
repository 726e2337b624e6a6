"""Adam equals torch's, Shampoo whitens gradients at a constant update length, and no step follows one that is not finite."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import MODELS, ModelConfig
from pipeline.training.optimizer import Optimizer, inverse_root


def shampoo(*shape: int) -> Optimizer:
    """Return an optimizer of one matrix that starts at zero."""
    return Optimizer([{"params": [nn.Parameter(torch.zeros(shape))], "kind": "shampoo"}])


def vae(hidden_optimizer: str = "shampoo") -> Optimizer:
    """Return an optimizer of a small VAE."""
    torch.manual_seed(0)
    return Optimizer(ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8)).build().param_groups(hidden_optimizer))


def take(optimizer: Optimizer, gradient: Tensor, rate: float = 1.0, loss: float = 0.0) -> Tensor:
    """Return by how much a step with a gradient moves the weights."""
    before = optimizer.weights.clone()
    optimizer.gradient.copy_(gradient.flatten())
    optimizer.set_learning_rate(rate)
    optimizer.step(loss=torch.tensor(loss))
    return (optimizer.weights - before).view_as(gradient)


def matrices_with(eigenvalues: Tensor) -> Tensor:
    basis = torch.linalg.qr(torch.randn(3, 20, 20, dtype=torch.float64))[0]
    return ((basis * eigenvalues) @ basis.mT).float()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_inverse_root_times_matrix_times_inverse_root_is_the_identity(scale: float) -> None:
    torch.manual_seed(0)
    matrix = scale * matrices_with(torch.logspace(0, -1.3, 20))
    root = inverse_root(matrix)
    torch.testing.assert_close(root @ matrix @ root, torch.eye(20).expand(3, 20, 20), atol=1e-3, rtol=0)
    torch.testing.assert_close(root, root.mT, atol=1e-5 * root.abs().max().item(), rtol=0)


def test_inverse_root_bounds_the_amplification_of_tiny_eigenvalues() -> None:
    torch.manual_seed(0)
    eigenvalues = torch.cat([torch.ones(1), torch.logspace(-2, -20, 18), torch.zeros(1)])
    found = torch.linalg.eigvalsh(inverse_root(matrices_with(eigenvalues)))
    assert (found > 0.95).all()
    assert (found < 60).all()
    assert found[:, -1] == pytest.approx(57.7, rel=0.01)


def test_zero_gradient_leaves_weights_finite_and_unchanged() -> None:
    assert inverse_root(torch.zeros(4, 4)).isfinite().all()
    optimizer = shampoo(4, 6)
    for _ in range(100):
        assert not take(optimizer, torch.zeros(4, 6)).any()


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_shampoo_whitens_gradient_directions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    small_side = -2 if shape[-2] < shape[-1] else -1
    strengths = torch.logspace(0, -1, 6).view((6, 1) if small_side == -2 else (6,))
    mixing = torch.linalg.qr(torch.randn(6, 6))[0]

    def gradient() -> Tensor:
        raw = torch.randn(shape) * strengths
        return mixing @ raw if small_side == -2 else raw @ mixing

    optimizer = shampoo(*shape)
    moved = [take(optimizer, gradient()) for _ in range(2000)]

    def spread(moves: list[Tensor]) -> float:
        one_by_one = torch.stack([move if small_side == -2 else move.mT for move in moves])
        energy = torch.linalg.eigvalsh((one_by_one @ one_by_one.mT).mean(0))
        return (energy[..., -1] / energy[..., 0]).max().item()

    assert spread(moved[:40]) > 30
    assert spread(moved[1000:]) < 2


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_shampoo_updates_have_constant_length(scale: float) -> None:
    torch.manual_seed(0)
    optimizer = shampoo(8, 12)
    for _ in range(120):
        move = take(optimizer, scale * torch.randn(8, 12), rate=0.01)
        assert move.square().mean().sqrt() == pytest.approx(0.01 * 0.2, rel=1e-2)


def test_fading_momentum_never_makes_a_longer_update() -> None:
    torch.manual_seed(0)
    optimizer = shampoo(8, 12)
    for number in range(1500):
        gradient = torch.randn(8, 12) if number < 10 else torch.zeros(8, 12)
        move = take(optimizer, gradient, rate=0.01)
        assert move.square().mean().sqrt() < 0.01 * 0.2 * 1.01
    assert not move.any()


def test_shampoo_minimizes_a_quadratic() -> None:
    torch.manual_seed(0)
    optimizer, target = shampoo(8, 12), torch.randn(8, 12)
    distances = []
    for number in range(400):
        distance = optimizer.weights.view(8, 12) - target
        distances.append(distance.square().mean().item())
        take(optimizer, distance * torch.logspace(0, -2, 8)[:, None], rate=0.1 * (1 - number / 400))
    assert distances[-1] < 0.01 * distances[0]


@pytest.mark.parametrize(("loss", "not_finite"), [(0.0, math.nan), (0.0, math.inf), (math.nan, 1.0), (math.inf, 1.0)])
@pytest.mark.parametrize("at", [7, 10, 50])
def test_state_stays_finite_and_unchanged_after_a_gradient_that_is_not_finite(loss: float, not_finite: float, at: int) -> None:
    torch.manual_seed(0)
    optimizer = vae()
    for _ in range(1, at):
        take(optimizer, torch.randn_like(optimizer.weights))
    before = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()} | {"weights": optimizer.weights.clone()}
    gradient = torch.randn_like(optimizer.weights)
    gradient[::100] = not_finite
    take(optimizer, gradient, loss=loss)
    for name, tensor in (optimizer.state_dict() | {"weights": optimizer.weights}).items():
        assert tensor.isfinite().all()
        assert torch.equal(tensor, before[name]) or name == "step" or (name.startswith("root") and at == 50)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_shampoo_updates_equal_the_documented_equation(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    optimizer = shampoo(*shape)
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


def test_covariance_is_an_exponential_moving_average() -> None:
    torch.manual_seed(0)
    optimizer = shampoo(2, 3)
    first, second = torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.tensor([[0, 0, 0], [0, 0, 1.0]])
    for number in range(3000):
        take(optimizer, first if number < 2000 else second)
    # A hundred observations more, each of which takes a hundredth of what was known.
    assert optimizer.state_dict()["covariance.0"].diagonal() == pytest.approx([0.99**100, 1 - 0.99**100], rel=1e-3)


@pytest.mark.parametrize("scale", [1e18, 1e25, 1e30, 1e36])
def test_huge_gradients_leave_weights_finite(scale: float) -> None:
    torch.manual_seed(0)
    optimizer = shampoo(8, 12)
    for _ in range(60):
        move = take(optimizer, scale * torch.randn(8, 12), rate=0.01)
        assert move.square().mean().sqrt() < 0.01 * 0.2 * 1.01


@pytest.mark.parametrize("hidden_optimizer", ["adam", "shampoo"])
def test_loading_the_state_continues_with_the_same_bits(hidden_optimizer: str) -> None:
    whole, first = vae(hidden_optimizer), vae(hidden_optimizer)
    gradients = torch.randn(120, len(whole.weights), generator=torch.Generator().manual_seed(1))
    for gradient in gradients:
        take(whole, gradient, rate=0.01)
    for gradient in gradients[:55]:
        take(first, gradient, rate=0.01)
    second = vae(hidden_optimizer)
    second.weights.copy_(first.weights)
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for gradient in gradients[55:]:
        take(second, gradient, rate=0.01)
    assert torch.equal(second.weights, whole.weights)


def test_step_takes_a_closure_like_any_torch_optimizer() -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = Optimizer([{"params": [weight]}], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 9.0
    assert weight.item() == pytest.approx(2.9)
    assert optimizer.num_steps == 1


@pytest.mark.parametrize("name", MODELS)
def test_adam_equals_torchs_own(name: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(name, "mlp", (1, 8, 8), 2, (16, 8))
    ours, theirs = config.build(), config.build()
    theirs.load_state_dict(ours.state_dict())
    optimizers = Optimizer(ours.param_groups(), lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01, fused=True)
    for step in range(5):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(step))
            model.loss_terms(x, torch.zeros(10, model.noise_dim))["loss"].backward()
            optimizer.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other)
