"""Importance-weighted bounds and exact integration, against each other and against known likelihoods."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.likelihood import NUM_WEIGHTS, aggregate_kl, binarise, exact, importance, likelihood, log_likelihood
from pipeline.models.likelihoods import LIKELIHOODS, LinearLikelihood
from tests.evaluation.conftest import SMALL, new_model


def with_likelihood(context, name):
    """Return the context with a model of the same weights and another likelihood."""
    model = new_model("vae", hidden_dims=(32,))
    model.load_state_dict(context.model.state_dict())
    model.likelihood = LIKELIHOODS[name]()
    return replace(context, model=model)


def test_importance_bounds_rise_to_the_exact_value(contexts):
    context = contexts["vae"]
    x = context.pixels(context.test)[:60]
    weighted, ess = importance(context, x, "test")
    log_p, half = exact(context, x, 256)
    elbo = -(context.terms["recon"] + context.terms["kl"])[:60]
    means = [weighted[k].mean() for k in NUM_WEIGHTS]
    assert means == sorted(means)
    assert np.abs(log_p - half).max() < 1e-3
    assert ((ess >= 1) & (ess <= 500)).all()
    shortfall = log_p - weighted[500]
    assert shortfall.mean() > -3 * shortfall.std() / len(x) ** 0.5
    assert shortfall.mean() < 0.1
    assert elbo.mean() < weighted[500].mean()
    # With one weight the bound is the ELBO itself.
    difference = weighted[1] - elbo
    assert abs(difference.mean()) < 4 * difference.std() / len(x) ** 0.5


def test_likelihood_of_a_decoder_that_ignores_the_code(train, test):
    model = new_model("vae", hidden_dims=(4,))
    torch.nn.init.zeros_(model.decoder[-1].weight)
    context = EvalContext(model, train, test)
    x = (context.pixels(test) > 0.5).float()
    bias = model.decoder[-1].bias
    expected = (x.flatten(1) * bias - torch.nn.functional.softplus(bias)).sum(1).detach().numpy()
    assert exact(context, x, 96)[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", [name for name, kind in LIKELIHOODS.items() if issubclass(kind, LinearLikelihood)])
def test_blocks_of_the_grid_add_up_to_the_sum_over_all_of_it(contexts, name):
    context, size = with_likelihood(contexts["vae"], name), 40  # more than one chunk of points
    x = context.pixels(context.test)[:20]
    extent = max(4.5, 1.1 * float(np.abs(context.codes).max()))
    axis = torch.linspace(-extent, extent, size, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    inner = torch.ones(size, dtype=torch.float64)
    inner[[0, -1]] = 0.5
    with torch.no_grad():
        logits = context.model.decode(points.float()).double()
    log_mass = -0.5 * points.square().sum(1) - np.log(2 * np.pi) + 2 * (axis[1] - axis[0]).log()
    log_mass += (inner[:, None] * inner).log().flatten()
    joint = log_mass - torch.stack([context.model.likelihood.nll(logits, image.double()) for image in x])
    half = joint.view(-1, size, size)[:, ::2, ::2].flatten(1)
    for found, expected in zip(exact(context, x, size), (joint.logsumexp(1), half.logsumexp(1) + np.log(4)), strict=True):
        assert found == pytest.approx(expected.numpy(), abs=1e-4)


def test_exact_integration_needs_two_dimensions(train):
    with pytest.raises(ValueError, match="2 latent dimensions"):
        exact(EvalContext(new_model("vae", latent_dim=3), train, train), torch.rand(2, 1, 8, 8), 8)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_is_measured_and_what_is_left_out_is_named(contexts, name):
    context = with_likelihood(contexts["vae"], name)
    model = context.model
    test, bounds = likelihood(context).numbers, log_likelihood(context).numbers
    nats = model.likelihood.nll(model.decode(torch.from_numpy(context.codes)), context.pixels(context.test))
    assert test["recon_at_mean"] == pytest.approx(nats.mean().item(), rel=1e-5)
    assert test["bits_per_dim"] == pytest.approx(model.likelihood.bits_per_dim(-test["elbo"], 64))
    assert test["elbo"] < bounds["iwae_10"] < bounds["iwae_500"]
    assert ("gray_floor" in test) == ("recon_excess" in test) == ("binarised" in bounds) == (name == "bernoulli")
    assert ("log_p" in bounds) == isinstance(model.likelihood, LinearLikelihood)
    assert bounds.get("note", "no log_p and gap: exact").startswith("no log_p and gap: exact")
    assert ("note" in bounds) != ("log_p" in bounds)
    if "log_p" in bounds:
        assert bounds["iwae_500"] < bounds["log_p"] + 4 * (bounds["iwae_gain_se"] + bounds["gap_se"])


def test_numbers_that_need_a_plane_are_named_where_they_are_left_out(train):
    numbers = log_likelihood(EvalContext(new_model("vae", latent_dim=3), train, train, budget=SMALL)).numbers
    assert numbers["note"] == (
        "no log_p and gap: exact integration needs 2 latent dimensions, not 3; "
        "no aggregate_kl and mutual_information: the integral over the latent space needs 2 dimensions, not 3"
    )
    assert not {"log_p", "gap", "aggregate_kl", "mutual_information"} & numbers.keys()


def test_aggregate_kl_of_the_prior_is_zero_and_of_a_shift_is_known():
    codes, spread = np.zeros((3, 2)), np.ones((3, 2))
    assert aggregate_kl(codes, spread) == pytest.approx(0, abs=1e-6)
    assert aggregate_kl(codes + 2, spread) == pytest.approx(4, abs=1e-4)
    with pytest.raises(ValueError, match="mass"):
        aggregate_kl(np.array([[0.0, 0.0], [9.0, 9.0]]), np.array([[1e-5, 1e-5], [1e-5, 1e-5]]))


def test_parts_of_the_kl_are_positive_and_add_up(contexts):
    numbers, kl = log_likelihood(contexts["vae"]).numbers, likelihood(contexts["vae"]).numbers["kl"]
    assert numbers["mutual_information"] + numbers["aggregate_kl"] == pytest.approx(kl)
    assert 0 < numbers["mutual_information"] <= np.log(len(contexts["vae"].test))
    assert numbers["aggregate_kl"] > 0
    assert numbers["gap"] > 0


def test_bounds_on_few_images_agree_with_those_on_all(contexts):
    every = log_likelihood(contexts["vae"]).numbers
    few = log_likelihood(replace(contexts["vae"], budget=replace(SMALL, importance_images=40, exact_images=50))).numbers
    elbo = likelihood(contexts["vae"]).numbers["elbo"]
    for numbers in (every, few):
        assert elbo < numbers["iwae_10"] < numbers["iwae_100"] < numbers["iwae_500"]
        assert numbers["iwae_500"] < numbers["log_p"] + 4 * (numbers["iwae_gain_se"] + numbers["gap_se"])
    assert few["log_p"] == pytest.approx(every["log_p"], abs=4 * few["gap_se"])


def test_autoencoder_has_no_such_section(contexts):
    assert log_likelihood(contexts["ae"]).numbers == {}


def test_binarised_images_are_always_the_same(test):
    white = binarise(test)
    assert white.shape == test.pixels.shape
    assert np.array_equal(white, binarise(test))
    assert white.mean() == pytest.approx(test.intensities.mean(), abs=0.01)
