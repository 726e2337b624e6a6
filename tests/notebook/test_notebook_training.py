"""Training of the tutorial's models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pipeline.models.weights import load_weights
from pipeline.notebook import VAE, AnnealedBetaVAE, Autoencoder, BetaVAE, data, load_mnist, models, train_model, train_vae
from pipeline.params import Params
from pipeline.training.run import train

SMALL = {"hidden_dims": [32]}


@pytest.fixture(scope="module")
def loaders():
    return load_mnist(batch_size=100, name="digits")[:2]


@pytest.mark.parametrize(
    ("model", "betas"),
    [
        (VAE(**SMALL), [1, 1, 1]),
        (BetaVAE(beta=4.0, **SMALL), [4, 4, 4]),
        (AnnealedBetaVAE(max_beta=3.0, anneal_steps=2, **SMALL), [1.5, 3, 3]),
        (AnnealedBetaVAE(max_beta=3.0, anneal_steps=10, **SMALL), [1, 2, 3]),  # fewer epochs than anneal_steps
    ],
    ids=["vae", "beta", "annealed", "annealed_over_all_epochs"],
)
def test_both_losses_weight_the_kl_term_as_training_does(model, betas, loaders):
    history = train_vae(model=model, train_loader=loaders[0], val_loader=loaders[1], num_epochs=3, device="cpu", verbose=False)
    assert set(history) == {f"{part}_{term}" for part in ("train", "val") for term in ("loss", "recon", "kl")}
    assert {len(values) for values in history.values()} == {3}
    for part in ("train", "val"):
        loss, recon, kl = (np.array(history[f"{part}_{term}"]) for term in ("loss", "recon", "kl"))
        np.testing.assert_allclose(loss, recon + betas * kl, rtol=1e-5)
        assert (kl >= 0).all()
    assert history["val_recon"][-1] < history["val_recon"][0] < 784 * np.log(2)
    assert not model.training


def test_beta_given_to_train_vae_replaces_the_model_s_schedule(loaders):
    model = AnnealedBetaVAE(**SMALL)
    history = train_vae(model, *loaders, num_epochs=1, beta=2.0, verbose=False)
    assert history["train_loss"][0] == pytest.approx(history["train_recon"][0] + 2 * history["train_kl"][0])
    assert (model.beta, model.warmup_epochs) == (2.0, 0)


def test_history_of_an_autoencoder_has_no_kl(loaders):
    history = train_model(Autoencoder(**SMALL), *loaders, num_epochs=1)
    assert set(history) == {"train_loss", "train_recon", "val_loss", "val_recon"}
    assert history["val_loss"] == history["val_recon"]


def test_same_initial_weights_and_seed_give_the_same_history(loaders):
    histories = []
    for _ in range(2):
        torch.manual_seed(3)
        histories.append(train_vae(VAE(**SMALL), *loaders, num_epochs=1, verbose=False))
        torch.rand(1)
    assert histories[0] == histories[1]


def test_epochs_are_printed_only_when_verbose(loaders, capsys):
    train_vae(VAE(**SMALL), *loaders, num_epochs=2)
    out = capsys.readouterr().out
    assert [line[:11] for line in out.splitlines()] == ["epoch   1/2", "epoch   2/2"]
    train_model(Autoencoder(**SMALL), *loaders, num_epochs=1)
    assert not any(capsys.readouterr())


def test_arguments_reach_the_trainer(loaders, monkeypatch):
    configs = []
    monkeypatch.setattr(models, "fit", lambda model, train, val, config, *, runtime: configs.append(vars(config)) or [])
    options = {"seed": 8, "schedule": "constant"}
    train_vae(AnnealedBetaVAE(**SMALL), *loaders, num_epochs=9, learning_rate=0.5, early_stopping_patience=4, **options)
    train_model(Autoencoder(**SMALL), *loaders, device=torch.device("cpu"))
    shared = {"batch_size": 100, "beta": 4.0, "warmup_epochs": 10}
    assert (options | shared | {"epochs": 9, "learning_rate": 0.5, "patience": 4}).items() <= configs[0].items()
    defaults = {"epochs": 15, "learning_rate": 1e-3, "schedule": "cosine", "patience": 7, "seed": 1}
    assert (defaults | {"beta": 1.0, "warmup_epochs": 0}).items() <= configs[1].items()


@pytest.mark.parametrize(("input_dim", "shape"), [(784, (1, 28, 28)), (784, (784,)), (60, (1, 6, 10)), (192, (3, 8, 8))])
def test_a_model_is_trained_on_images_of_any_shape_with_as_many_pixels(input_dim, shape):
    loader = DataLoader(TensorDataset(torch.rand(20, *shape), torch.zeros(20, dtype=torch.long)), 10)
    history = train_vae(VAE(input_dim, **SMALL), loader, loader, num_epochs=1, verbose=False)
    assert np.isfinite(history["val_loss"]).all()


def test_a_plain_loader_of_the_same_images_gives_the_same_history(loaders):
    others = [DataLoader(TensorDataset(*loader.dataset.tensors), 100) for loader in loaders]
    histories = []
    for pair in (loaders, others):
        torch.manual_seed(4)
        histories.append(train_model(Autoencoder(**SMALL), *pair, num_epochs=1))
    assert histories[0] == histories[1]


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize("kind", [Autoencoder, VAE])
def test_the_recipe_of_params_trains_the_model_of_the_pipeline_to_the_bit(
    kind: type[models.Network], params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(kind.name, params, data_file, workspace, workspace)
    expected = load_weights(workspace / f"{kind.name}.safetensors").model.state_dict()
    monkeypatch.setattr(data, "PREPARED", data_file)
    loaders = load_mnist(name="blobs", val_size=params.data.val_size, seed=params.seed)[:2]
    torch.manual_seed(params.seed)
    model = kind(64, 2, params.ae.hidden_dims)
    train_model(model, *loaders, num_epochs=1, params=params)
    assert len(model.history["val_loss"]) == params.ae.epochs
    for name, weights in model.core.state_dict().items():
        assert torch.equal(weights, expected[name]), name


def test_a_beta_vae_keeps_its_weight_under_the_recipe_of_params(params: Params, loaders) -> None:
    history = train_vae(BetaVAE(beta=4.0, **SMALL), *loaders, params=params, verbose=False)
    assert history["train_loss"][-1] == pytest.approx(history["train_recon"][-1] + 4 * history["train_kl"][-1])
