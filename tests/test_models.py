"""Models and objective, over every registered model."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from pipeline.models import MODELS
from pipeline.models.layers import start_at_mean
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise

SHAPES = [(784, 2, [512, 256]), (64, 1, []), (30, 7, [16])]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("input_dim", "latent_dim", "hidden_dims"), SHAPES)
def test_shapes(name: str, input_dim: int, latent_dim: int, hidden_dims: list[int]) -> None:
    model = MODELS[name](input_dim, latent_dim, hidden_dims)
    x = torch.rand(5, input_dim)
    z = model.embed(x)
    assert z.shape == (5, latent_dim)
    assert model.decode(z).shape == x.shape
    terms = model.objective(x, torch.randn(5, model.noise_dim), 1.0)
    assert all(term.shape == () or term.shape == (latent_dim,) for term in terms.values())
    assert {"loss", "recon"} <= terms.keys()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    model = MODELS[name](20, 3, [8, 6])
    model.objective(torch.rand(16, 20), torch.randn(16, model.noise_dim), 1.0)["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


def test_parameter_counts_of_the_tutorial_nets() -> None:
    counts = {name: sum(p.numel() for p in model().parameters()) for name, model in MODELS.items()}
    assert counts["vae"] == 1_068_820
    assert counts["ae"] == 2 * (784 * 512 + 512 * 256 + 256 * 128 + 128 * 2) + 2 * (512 + 256 + 128) + 2 + 784


def test_bernoulli_nll_is_the_one_of_torch_distributions() -> None:
    logits, x = torch.randn(4, 9), torch.bernoulli(torch.rand(4, 9))
    expected = -Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(bernoulli_nll(logits, x), expected)
    assert bernoulli_nll(torch.zeros(1, 784), torch.rand(1, 784)).item() == pytest.approx(784 * math.log(2), rel=1e-6)


def test_bernoulli_nll_broadcasts_samples_over_images() -> None:
    logits, x = torch.randn(3, 4, 9), torch.rand(4, 9)
    assert bernoulli_nll(logits, x).shape == (3, 4)
    torch.testing.assert_close(bernoulli_nll(logits, x)[1], bernoulli_nll(logits[1], x))


def test_gaussian_kl_is_the_one_of_torch_distributions() -> None:
    mean, logvar = torch.randn(4, 3), torch.randn(4, 3)
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * logvar)), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, logvar), expected)


def test_reparameterised_draws_have_the_moments_of_the_posterior() -> None:
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    z = reparameterise(torch.tensor([[2.0]]), torch.tensor([[math.log(9.0)]]), noise)
    assert z.mean().item() == pytest.approx(2, abs=0.03)
    assert z.std().item() == pytest.approx(3, abs=0.03)


def test_beta_weights_the_kl_term_of_the_loss_and_nothing_else() -> None:
    vae, x, noise = MODELS["vae"](20, 3, [8]), torch.rand(5, 20), torch.randn(5, 3)
    one, four = vae.objective(x, noise, 1.0), vae.objective(x, noise, 4.0)
    assert torch.equal(one["recon"], four["recon"])
    torch.testing.assert_close(four["loss"] - one["loss"], 3 * one["kl"])
    torch.testing.assert_close(one["kl_per_dim"].sum(), one["kl"])


def test_a_decoder_that_starts_at_the_mean_predicts_it() -> None:
    decoder = nn.Sequential(nn.Linear(2, 4))
    nn.init.zeros_(decoder[0].weight)
    mean = torch.tensor([0.0, 0.25, 0.5, 1.0])
    start_at_mean(decoder, mean, 1000)
    torch.testing.assert_close(torch.sigmoid(decoder(torch.zeros(1, 2)))[0], mean, atol=6e-4, rtol=0)
    assert decoder[0].bias.isfinite().all()
