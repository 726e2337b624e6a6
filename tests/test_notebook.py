"""The tutorial's vocabulary gives what its table promises, and the tutorial runs from top to bottom."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from nbclient import NotebookClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline import notebook
from pipeline.data import Dataset, Split, save_dataset
from pipeline.datasets.transfer import Unavailable
from pipeline.notebook import (
    VAE,
    AnnealedBetaVAE,
    Autoencoder,
    BetaVAE,
    load_mnist,
    plot_interpolation,
    plot_latent_grid,
    plot_reconstructions,
    plot_training_history,
    plot_vae_results,
    train_model,
    train_vae,
    vae_loss,
    visualize_latent_space,
)

TUTORIAL = Path(__file__).parents[1] / "notebooks/latent_spaces.ipynb"
SMALL = {"hidden_dims": [32]}
VAES = [VAE, BetaVAE, AnnealedBetaVAE]


@pytest.fixture(scope="module")
def loaders():
    return load_mnist(batch_size=100, name="digits")


@pytest.fixture(scope="module")
def trained(loaders):
    torch.manual_seed(0)
    models = {"ae": Autoencoder(**SMALL), "vae": VAE(**SMALL)}
    for model in models.values():
        train_model(model, *loaders[:2], num_epochs=2)
    return models


@pytest.fixture
def x(loaders):
    return next(iter(loaders[2]))[0]


def tiny(name="mnist", count=40, seed=0):
    rng = np.random.default_rng(seed)
    split = Split(rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count) % 10)
    return Dataset(name, split, split.take(slice(20)))


# Images


def test_loaders_give_images_in_0_1_and_labels(loaders):
    train, _, test = loaders
    for loader, full in zip(loaders, (True, False, True), strict=True):
        images, labels = next(iter(loader))
        assert images.shape == (100 if full else len(loader.dataset), 1, 28, 28)
        assert images.dtype == torch.float32
        assert (images.min(), images.max()) == (0, 1)
        assert labels.shape == images.shape[:1]
        assert len(loader) == -(-len(loader.dataset) // 100)
    assert not torch.equal(next(iter(train))[0], next(iter(train))[0])
    assert torch.equal(next(iter(test))[0], next(iter(test))[0])


def test_the_prepared_file_is_used_when_it_is_the_data_set_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebook, "PREPARED", tmp_path / "dataset.safetensors")
    save_dataset(notebook.PREPARED, tiny())
    monkeypatch.setattr(notebook.datasets, "load", lambda name, mirrors=(): tiny(name, 60))
    assert [len(loader.dataset) for loader in load_mnist()] == [38, 2, 20]
    assert "mnist: 38 train, 2 validation" in capsys.readouterr().out
    assert [len(loader.dataset) for loader in load_mnist(name="kmnist")] == [57, 3, 20]


def test_without_a_mirror_the_digits_stand_in_with_a_warning(tmp_path, monkeypatch):
    def load(name, mirrors=()):
        if name == "mnist":
            raise Unavailable(f"{mirrors}: no such folder")
        return tiny(name)

    monkeypatch.setattr(notebook, "PREPARED", tmp_path / "none")
    monkeypatch.setattr(notebook.datasets, "load", load)
    monkeypatch.setenv("PIPELINE_MIRROR", "/nowhere")
    with pytest.warns(UserWarning, match=r"NOT mnist.*/nowhere.*1,797 digits instead"):
        train, _, _ = load_mnist()
    assert train.dataset.name == "digits"


# Models


@pytest.mark.parametrize("shape", [(5, 784), (5, 1, 28, 28)])
@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("kind", VAES)
def test_a_vae_gives_pixels_and_its_posterior(kind, dim, shape):
    vae = kind(input_dim=784, latent_dim=dim, hidden_dims=[16])
    x_recon, mu, logvar, z = vae(torch.rand(shape))
    assert x_recon.shape == (5, 784)
    assert x_recon.min() >= 0
    assert x_recon.max() <= 1
    assert mu.shape == logvar.shape == z.shape == (5, dim)
    assert torch.equal(vae.decode(z), x_recon)


def test_an_autoencoder_gives_pixels_and_codes(x):
    model = Autoencoder(784, 3, [16])
    x_recon, code = model(x)
    assert torch.equal(model.encode(x), code)
    assert torch.equal(model.decode(code), x_recon)
    assert code.shape == (len(x), 3)
    assert ((x_recon >= 0) & (x_recon <= 1)).all()


@pytest.mark.parametrize("kind", [*VAES, Autoencoder])
def test_printing_a_model_says_what_it_is(kind):
    model = kind()
    text = str(model)
    assert isinstance(model, nn.Module)
    assert text.startswith(f"{kind.__name__}(\n  latent_dim=2, 1,")
    assert len(text.splitlines()) < 30


def test_samples_are_decoded_draws_from_the_prior():
    vae = VAE(latent_dim=3)
    torch.manual_seed(1)
    samples = vae.sample(num_samples=4, device="cpu")
    torch.manual_seed(1)
    assert torch.equal(samples, vae.decode(torch.randn(4, 3)))
    assert not samples.requires_grad


@pytest.mark.parametrize("model", [VAE(**SMALL), Autoencoder(**SMALL)], ids=["vae", "ae"])
def test_interpolation_starts_and_ends_at_the_two_images(model, x):
    path = model.interpolate(x[0], x[1], num_steps=5)
    assert path.shape == (5, 784)
    torch.testing.assert_close(path[[0, 4]], model.decode(model.core.embed(x[:2].flatten(1))))
    with pytest.raises(ValueError, match="two single images, not 2 and 1"):
        model.interpolate(x[:2], x[1])


# The loss


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_the_objective_of_the_package(x, trained, beta):
    vae = trained["vae"]
    torch.manual_seed(2)
    x_recon, mu, logvar, _ = vae(x)
    loss = vae_loss(x_recon, x, mu, logvar, beta=beta)
    torch.manual_seed(2)
    expected = vae.core.objective(x.flatten(1), torch.randn(len(x), 2), beta)
    for name, term in {"total": "loss", "reconstruction": "recon", "kl": "kl"}.items():
        torch.testing.assert_close(loss[name], expected[term], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(loss["total"], loss["reconstruction"] + beta * loss["kl"])
    assert loss["kl"] > 0


def test_the_loss_is_finite_at_saturated_pixels():
    x_recon = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = vae_loss(x_recon, torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.zeros(1, 2))
    loss["total"].backward()
    assert 20 < loss["total"] < 200
    assert x_recon.grad.isfinite().all()


# Training


@pytest.mark.parametrize(
    "model", [VAE(**SMALL), BetaVAE(beta=4.0, **SMALL), AnnealedBetaVAE(max_beta=3.0, anneal_steps=2, **SMALL)]
)
def test_the_history_of_a_vae_adds_up(model, loaders):
    history = train_vae(model=model, train_loader=loaders[0], val_loader=loaders[1], num_epochs=3, device="cpu", verbose=False)
    assert set(history) == {f"{part}_{term}" for part in ("train", "val") for term in ("loss", "recon", "kl")}
    assert {len(values) for values in history.values()} == {3}
    betas = {VAE: [1, 1, 1], BetaVAE: [4, 4, 4], AnnealedBetaVAE: [1.5, 3, 3]}[type(model)]
    for part in ("train", "val"):
        loss, recon, kl = (np.array(history[f"{part}_{term}"]) for term in ("loss", "recon", "kl"))
        np.testing.assert_allclose(loss, recon + betas * kl, rtol=1e-5)
        assert (kl >= 0).all()
    assert history["val_recon"][-1] < history["val_recon"][0] < 784 * np.log(2)
    assert not model.training


def test_beta_given_to_train_vae_replaces_the_model_s(loaders):
    model = AnnealedBetaVAE(**SMALL)
    history = train_vae(model, *loaders[:2], num_epochs=1, beta=2.0, verbose=False)
    assert history["train_loss"][0] == pytest.approx(history["train_recon"][0] + 2 * history["train_kl"][0])
    assert (model.beta, model.warmup_epochs) == (2.0, 0)


def test_the_history_of_an_autoencoder_has_losses_and_no_kl(trained):
    history = trained["ae"].history
    assert set(history) == {"train_loss", "train_recon", "val_loss", "val_recon"}
    assert history["val_loss"] == history["val_recon"]


def test_the_same_start_and_seed_give_the_same_history(loaders):
    histories = []
    for _ in range(2):
        torch.manual_seed(3)
        histories.append(train_vae(VAE(**SMALL), *loaders[:2], num_epochs=1, verbose=False))
        torch.rand(1)
    assert histories[0] == histories[1]


def test_a_line_an_epoch_is_printed_only_when_asked_for(loaders, capsys):
    train_vae(VAE(**SMALL), *loaders[:2], num_epochs=2)
    out = capsys.readouterr().out
    assert [line[:11] for line in out.splitlines()] == ["epoch   1/2", "epoch   2/2"]
    train_model(Autoencoder(**SMALL), *loaders[:2], num_epochs=1)
    assert not any(capsys.readouterr())


def test_the_options_reach_the_trainer(loaders, monkeypatch):
    calls = []
    monkeypatch.setattr(notebook, "fit", lambda *args, **options: calls.append(options) or [])
    train_vae(VAE(**SMALL), *loaders[:2], num_epochs=9, learning_rate=0.5, early_stopping_patience=4, seed=8, schedule="constant")
    train_model(Autoencoder(**SMALL), *loaders[:2], device=torch.device("cpu"))
    asked = {"epochs": 9, "batch_size": 100, "learning_rate": 0.5, "patience": 4, "seed": 8, "schedule": "constant"}
    assert asked.items() <= calls[0].items()
    assert {"epochs": 15, "schedule": "cosine"}.items() <= calls[1].items()


def test_a_loader_of_another_make_trains_the_same(loaders):
    others = [DataLoader(TensorDataset(*loader.dataset.tensors), 100) for loader in loaders[:2]]
    histories = []
    for pair in (loaders[:2], others):
        torch.manual_seed(4)
        histories.append(train_model(Autoencoder(**SMALL), *pair, num_epochs=1))
    assert histories[0] == histories[1]


def test_normalised_images_are_refused():
    loader = DataLoader(TensorDataset(torch.randn(20, 1, 28, 28), torch.zeros(20, dtype=torch.long)), 10)
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\].*leave out Normalize"):
        train_model(Autoencoder(**SMALL), loader, loader)


# Plots


@pytest.mark.parametrize("plot", [plot_vae_results, visualize_latent_space, plot_reconstructions, plot_interpolation])
@pytest.mark.parametrize("shown", ["vae", "ae", "both"])
def test_a_plot_of_models_is_a_figure_and_a_file(plot, shown, trained, loaders, tmp_path):
    path = tmp_path / "figures" / "plot.png"
    figure = plot(trained if shown == "both" else trained[shown], loaders[2], device="cpu", save_path=path)
    assert isinstance(figure, Figure)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_the_history_of_one_model_or_several_is_plotted(trained, tmp_path):
    history = trained["vae"].history
    single = plot_training_history(history, save_path=tmp_path / "plot.pdf")
    several = plot_training_history({"AE": trained["ae"].history, "VAE": history})
    for figure in (single, several):
        assert [ax.get_title(loc="left") for ax in figure.axes] == ["Loss", "Reconstruction", "KL"]
    assert {"AE", "VAE"} <= {text.get_text() for text in several.legends[0].get_texts()}
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")


def test_the_grid_shows_the_plane_with_the_second_axis_upwards(trained):
    figure = plot_latent_grid(trained["vae"], n_samples=7, latent_range=(-1, 2), device="cpu")
    ax = figure.axes[0]
    sheet = ax.images[0].get_array()
    assert sheet.shape == (7 * 28, 7 * 28)
    top_left = trained["vae"].decode(torch.tensor([[-1.0, 2.0]])).reshape(28, 28)
    np.testing.assert_allclose(sheet[:28, :28], top_left.numpy(force=True), atol=1e-6)
    ticks = {tick: label.get_text() for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert (ticks[0.0], ticks[6.0]) == ("2", "-1")


@pytest.mark.parametrize("dim", [1, 3])
def test_a_plot_of_the_plane_refuses_other_dimensions(dim, loaders):
    vae = VAE(latent_dim=dim, **SMALL)
    with pytest.raises(ValueError, match=f"visualize_latent_space draws a plane: it needs latent_dim=2, not {dim}"):
        visualize_latent_space({"vae": vae}, loaders[2])
    with pytest.raises(ValueError, match=f"plot_latent_grid draws a plane: it needs latent_dim=2, not {dim}"):
        plot_latent_grid(vae)
    figure = plot_vae_results(vae, loaders[2])
    assert [ax.has_data() for ax in figure.axes] == [ax.get_visible() for ax in figure.axes]


# The tutorial


def test_the_tutorial_is_stored_without_outputs():
    for cell in nbformat.read(TUTORIAL, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


def test_the_tutorial_runs_and_shows_each_figure_once(monkeypatch):
    for name, value in {"DATASET": "digits", "AE_EPOCHS": "2", "VAE_EPOCHS": "2", "BETA_EPOCHS": "1"}.items():
        monkeypatch.setenv(name, value)
    tutorial = nbformat.read(TUTORIAL, as_version=4)
    client = NotebookClient(tutorial, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(TUTORIAL.parent)}})
    client.execute()
    for cell in tutorial.cells:
        if cell.cell_type == "code":
            shown = sum("image/png" in output.get("data", {}) for output in cell.outputs)
            drawn = sum(cell.source.count(call) for call in ("\nplot_", "plt.subplots(", "visualize_latent_space("))
            starts = cell.source.startswith("plot_")
            assert "import" in cell.source or shown == drawn + starts, cell.source
            assert not [output for output in cell.outputs if output.get("name") == "stderr"]
