"""Reconstruction, KL and ELBO, on models whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data import Dataset
from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.likelihood import gray_floor, likelihood, spread_over
from pipeline.models import LatentModel
from tests.conftest import MNIST
from tests.evaluation.conftest import new_model


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    if not MNIST.is_dir():
        pytest.skip(f"the MNIST files are not at {MNIST}")
    from pipeline.datasets import load

    return load("mnist", [str(MNIST)])


def constant(model: LatentModel, logits: torch.Tensor) -> LatentModel:
    """Let a model decode everything to the same logits."""
    output = model.decoder[-1]
    torch.nn.init.zeros_(output.weight)
    output.bias.data.copy_(logits)
    return model


def test_constant_decoders_on_mnist(mnist):
    assert gray_floor(mnist.test) == pytest.approx(45.53, abs=0.006)
    assert gray_floor(mnist.train) == pytest.approx(45.76, abs=0.006)
    mean = torch.from_numpy(mnist.train.mean_image()).flatten()
    for logits, expected in ((torch.logit(mean.clamp(1e-7, 1 - 1e-7)), 205.80), (torch.zeros(784), 543.43)):
        context = EvalContext(constant(new_model("ae", size=28), logits), mnist.train, mnist.test)
        assert likelihood(context).numbers["recon"] == pytest.approx(expected, abs=0.006)


def test_elbo_is_minus_recon_minus_kl(contexts):
    numbers = likelihood(replace(contexts["vae"], beta=3.0)).numbers
    assert numbers["elbo"] == pytest.approx(-numbers["recon"] - numbers["kl"])
    assert numbers["objective"] == pytest.approx(numbers["recon"] + 3 * numbers["kl"])
    assert sum(numbers["kl_per_dim"].values()) == pytest.approx(numbers["kl"])
    assert numbers["recon_at_mean"] < numbers["recon"]
    assert numbers["bits_per_dim"] == pytest.approx(-numbers["elbo"] / (64 * np.log(2)))


def test_autoencoder_has_no_kl(contexts):
    numbers = likelihood(contexts["ae"]).numbers
    assert not {"kl", "elbo", "objective", "active_units"} & set(numbers)
    assert numbers["recon"] == numbers["recon_at_mean"]


def test_noise_is_repeatable_and_leaves_the_mean_alone(contexts):
    first, again, more = (replace(contexts["vae"], num_samples=count).terms for count in (4, 4, 8))
    assert np.array_equal(first["recon"], again["recon"])
    assert not np.array_equal(first["recon"], more["recon"])
    assert np.array_equal(first["recon_at_mean"], more["recon_at_mean"])


def test_images_are_chosen_evenly_and_none_twice() -> None:
    assert spread_over(10, 3).tolist() == [0, 4, 9]
    assert spread_over(2, 3).tolist() == [0, 1]


def test_a_unit_is_active_when_its_mean_varies_by_more_than_a_hundredth(train, test):
    model = new_model("vae", latent_dim=3)
    context = EvalContext(model, train, test, beta=1.0)
    wanted = torch.tensor([0.008, 0.012, 0.05])
    factors = (wanted / torch.from_numpy(context.codes.var(0))).sqrt()
    with torch.no_grad():
        model.encoder[-1].weight[:3] *= factors[:, None]
    assert likelihood(EvalContext(model, train, test, beta=1.0)).numbers["active_units"] == 2
