"""The likelihoods of pixels against torch's distributions, sums over all levels, and integrals."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import ContinuousBernoulli, Normal

from pipeline.data import Images
from pipeline.errors import ParamsError
from pipeline.models import ModelConfig
from pipeline.models.likelihoods import (
    LEVELS,
    LIKELIHOODS,
    Likelihood,
    LinearLikelihood,
    continuous_bernoulli_nll,
    discretized_logistic_nll,
    gaussian_nll,
    likelihood_for,
)
from pipeline.models.weights import Trained, load_weights, save_weights
from pipeline.params import Params
from pipeline.training.config import TrainConfig
from pipeline.training.fused_mlp import FusedMLPStep
from pipeline.training.step import AutogradStep, train_step
from pipeline.training.trainer import fit
from tests.conftest import blobs

LOGITS = torch.tensor([-30.0, -5.0, -0.5, -1e-2, -1e-4, 0.0, 3e-3, 2e-2, 1.0, 7.0, 30.0])


def pixels(values: Tensor) -> Tensor:
    """Return one image of a single pixel for each value, ``[N, 1, 1, 1]``."""
    return values.view(-1, 1, 1, 1)


def logistic_cdf(x: Tensor, mean: Tensor, scale: float) -> Tensor:
    return torch.sigmoid((x - mean) / scale)


def test_continuous_bernoulli_equals_torch_distributions() -> None:
    logits, x = torch.randn(6, 2, 3, 3).double() * 3, torch.rand(6, 2, 3, 3).double()
    expected = -ContinuousBernoulli(logits=logits).log_prob(x).flatten(1).sum(-1)
    torch.testing.assert_close(continuous_bernoulli_nll(logits, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("logit", LOGITS.tolist())
def test_continuous_bernoulli_is_a_density_with_the_mean_that_is_shown(logit: float) -> None:
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    logits = torch.full((len(x), 1, 1, 1), logit, dtype=torch.float64)
    density = continuous_bernoulli_nll(logits, pixels(x)).neg().exp()
    assert density.mean().item() == pytest.approx(1, abs=1e-5)
    shown = LIKELIHOODS["continuous_bernoulli"]().mean(logits[:1].float()).item()
    assert shown == pytest.approx((x * density).mean().item(), abs=1e-5)


def test_gaussian_equals_torch_distributions() -> None:
    logits, x, scale = torch.randn(6, 2, 3, 3), torch.rand(6, 2, 3, 3), torch.tensor(0.2)
    expected = -Normal(torch.sigmoid(logits), scale).log_prob(x).flatten(1).sum(-1)
    torch.testing.assert_close(gaussian_nll(logits, x, scale), expected)


@pytest.mark.parametrize("scale", [0.001, 0.01, 0.3, 5.0])
def test_discretized_logistic_is_the_mass_between_the_ends_of_a_level(scale: float) -> None:
    levels = torch.arange(LEVELS).double() / (LEVELS - 1)
    for logit in (-6.0, -0.3, 0.0, 2.0, 9.0):
        logits, mean = torch.full((1, 1, 1), logit).double(), torch.sigmoid(torch.tensor(logit).double())
        mass = discretized_logistic_nll(logits, pixels(levels), torch.tensor(scale).double()).neg().exp()
        upper, lower = (logistic_cdf(levels + sign * 0.5 / 255, mean, scale) for sign in (1, -1))
        upper[-1], lower[0] = 1, 0
        torch.testing.assert_close(mass, upper - lower, rtol=1e-6, atol=1e-12)
        assert mass.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_terms_and_gradients_are_finite_at_extreme_outputs(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    logits = torch.cat([LOGITS, torch.tensor([-80.0, 80.0])])
    for x in (0.0, 0.5, 1.0):
        outputs = pixels(logits).clone().requires_grad_()
        nll = likelihood.nll(outputs, torch.full((1, 1, 1), x))
        nll.sum().backward()
        assert nll.isfinite().all()
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite() for p in likelihood.parameters())
    assert ((shown := likelihood.mean(logits)) >= 0).all()
    assert (shown <= 1).all()
    assert (shown.diff()[:-2] > 0).all(), "a larger output is a brighter pixel"


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_outputs_in_bfloat16_are_scored_in_float32(name: str) -> None:
    likelihood, logits, x = LIKELIHOODS[name](), 3 * torch.randn(4, 3, 8, 8).bfloat16(), torch.rand(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = likelihood.nll(logits, x)
    torch.testing.assert_close(found, likelihood.nll(logits.float(), x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_broadcast_over_images(name: str) -> None:
    likelihood, logits, x = LIKELIHOODS[name](), torch.randn(3, 4, 2, 3, 5), torch.rand(4, 2, 3, 5)
    nll = likelihood.nll(logits, x)
    assert nll.shape == (3, 4)
    torch.testing.assert_close(nll[1], likelihood.nll(logits[1], x))


@pytest.mark.parametrize("name", [name for name, kind in LIKELIHOODS.items() if issubclass(kind, LinearLikelihood)])
def test_linear_likelihoods_are_what_they_are_at_black_and_the_logits(name: str) -> None:
    likelihood, logits, x = LIKELIHOODS[name](), torch.randn(4, 2, 3, 5), torch.rand(4, 2, 3, 5)
    expected = (x * logits + likelihood.log_normalizer(logits)).flatten(1).sum(-1)
    torch.testing.assert_close(-likelihood.nll(logits, x), expected)


def test_bits_for_each_dimension_of_a_density_compare_with_those_of_levels() -> None:
    logits, levels, scale = torch.zeros(256, 1, 1, 1), pixels(torch.linspace(0, 1, 256)), torch.tensor(0.1)
    z = (levels - 0.5) / scale  # a smooth density, here the logistic one, is nearly constant over a level
    density = (z + 2 * torch.log1p(torch.exp(-z)) + torch.log(scale)).flatten()
    mass = discretized_logistic_nll(logits, levels, scale)
    one, other = LIKELIHOODS["gaussian"](), LIKELIHOODS["discretized_logistic"]()
    bits = [likelihood.bits_per_dim(nats[1:-1].mean().item(), 1) for likelihood, nats in ((one, density), (other, mass))]
    assert bits[0] == pytest.approx(bits[1], abs=0.01)
    assert LIKELIHOODS["bernoulli"]().bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)


def test_params_allow_the_registered_likelihoods_and_auto() -> None:
    assert get_args(Params.model_fields["likelihood"].annotation) == ("auto", *LIKELIHOODS)
    assert [likelihood_for("auto", channels) for channels in (1, 2, 3)] == ["bernoulli", *["discretized_logistic"] * 2]
    with pytest.raises(ParamsError, match=r"^likelihood: 'poisson' is not allowed; allowed is bernoulli, "):
        ModelConfig("vae", "mlp", (1, 8, 8), 2, (), "poisson").build()


@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_trains_and_its_weights_come_back(name: str, net: str, rt, tmp_path) -> None:
    config = ModelConfig("vae", net, (1, 8, 8), 2, (8,), name)
    model, config_of_training = config.build(), TrainConfig(4, batch_size=20, learning_rate=5e-3)
    images = blobs(120, seed=0)
    losses = [epoch.metrics["val/loss"] for epoch in fit(model, images, blobs(40, seed=1), config_of_training, runtime=rt)]
    assert losses[-1] < losses[0]
    save_weights(tmp_path / "w", Trained(model, config, "blobs", 1.0))
    loaded, x = load_weights(tmp_path / "w"), torch.from_numpy(images.intensities)
    assert type(loaded.model.likelihood) is LIKELIHOODS[name]
    noise = torch.zeros(len(x), 2)
    assert torch.equal(loaded.model.loss_terms(x, noise)["loss"], model.loss_terms(x, noise)["loss"])


@pytest.mark.parametrize("name", ["gaussian", "discretized_logistic"])
def test_the_scale_is_learned_from_the_noise_of_the_images(name: str) -> None:
    likelihood, x = LIKELIHOODS[name](), 0.5 + 0.2 * torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(likelihood.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        likelihood.nll(torch.zeros(1, 1, 1), x.clamp(0.01, 0.99)).mean().backward()
        optimizer.step()
    spread = {"gaussian": 1.0, "discretized_logistic": math.pi / math.sqrt(3)}[name]  # standard deviation over scale
    assert likelihood.scale.item() * spread == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_fused_step_is_taken_for_bernoulli_pixels_alone(name: str, rt) -> None:
    model = ModelConfig("vae", "mlp", (1, 8, 8), 2, (8,), name).build()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert type(train_step(model, 4, rt)) is (FusedMLPStep if name == "bernoulli" else AutogradStep)


def test_a_color_image_is_not_scored_as_black_or_white_unless_asked(params: Params) -> None:
    from pipeline.training.run import new_model

    color = Images(torch.randint(0, 256, (6, 3, 8, 8)).byte().numpy())
    kinds = {
        name: new_model("vae", params.model_copy(update={"likelihood": name}), "x", color).model.likelihood
        for name in ("auto", "bernoulli")
    }
    assert {name: type(kind).__name__ for name, kind in kinds.items()} == {
        "auto": "DiscretizedLogistic",
        "bernoulli": "Bernoulli",
    }
    assert isinstance(kinds["auto"], Likelihood)
