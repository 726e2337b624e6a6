"""Plots of the tutorial."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, TensorDataset

from pipeline.notebook import (
    VAE,
    Autoencoder,
    load_mnist,
    plot_interpolation,
    plot_latent_grid,
    plot_reconstructions,
    plot_training_history,
    plot_vae_results,
    train_model,
    visualize_latent_space,
)

SMALL = {"hidden_dims": [32]}
PLOTS = [plot_vae_results, visualize_latent_space, plot_reconstructions, plot_interpolation]


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


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("shown", ["vae", "ae", "both"])
def test_plot_of_models_is_returned_and_written(plot, shown, trained, loaders, tmp_path):
    path = tmp_path / "figures" / "plot.png"
    figure = plot(trained if shown == "both" else trained[shown], loaders[2], device="cpu", save_path=path)
    assert isinstance(figure, Figure)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("plot", PLOTS)
def test_models_are_shown_the_same_images_of_a_shuffled_loader(plot, trained, loaders):
    loader = DataLoader(TensorDataset(*loaders[2].dataset.tensors), 100, shuffle=True)
    assert isinstance(plot(trained, loader), Figure)


def test_classes_of_any_number_and_label_are_named(trained, loaders):
    images, labels = loaders[2].dataset.tensors
    loader = DataLoader(TensorDataset(images, 65 + torch.arange(len(labels)) % 26), 100)
    *_, bar = visualize_latent_space(trained["vae"], loader).axes
    assert [label.get_text() for label in bar.get_yticklabels()] == [str(label) for label in range(65, 91)]
    assert bar.get_ylim() == (-0.5, 25.5)


def test_history_of_one_model_or_several_is_plotted(trained, tmp_path):
    history = trained["vae"].history
    single = plot_training_history(history, save_path=tmp_path / "plot.pdf")
    several = plot_training_history({"AE": trained["ae"].history, "VAE": history})
    for figure in (single, several):
        assert [ax.get_title(loc="left") for ax in figure.axes] == ["Loss", "Reconstruction", "KL"]
    assert {"AE", "VAE"} <= {text.get_text() for text in several.legends[0].get_texts()}
    assert (tmp_path / "plot.pdf").read_bytes().startswith(b"%PDF")


def test_grid_shows_the_latent_plane_with_the_second_axis_upwards(trained):
    figure = plot_latent_grid(trained["vae"], n_samples=7, latent_range=(-1, 2), device="cpu")
    ax = figure.axes[0]
    sheet = ax.images[0].get_array()
    frame = (sheet.shape[0] // 7 - 28) // 2
    assert sheet.shape == (7 * (28 + 2 * frame), 7 * (28 + 2 * frame))
    top_left = trained["vae"].decode(torch.tensor([[-1.0, 2.0]])).reshape(28, 28)
    np.testing.assert_allclose(sheet[frame : frame + 28, frame : frame + 28], top_left.numpy(force=True), atol=1e-6)
    ticks = {tick: label.get_text() for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert (ticks[0.0], ticks[6.0]) == ("2", "\N{MINUS SIGN}1")


@pytest.mark.parametrize("dim", [1, 3])
def test_plots_of_the_latent_plane_refuse_other_dimensions(dim, loaders):
    vae = VAE(latent_dim=dim, **SMALL)
    with pytest.raises(ValueError, match=f"visualize_latent_space draws a plane: it needs latent_dim=2, not {dim}"):
        visualize_latent_space({"vae": vae}, loaders[2])
    with pytest.raises(ValueError, match=f"plot_latent_grid draws a plane: it needs latent_dim=2, not {dim}"):
        plot_latent_grid(vae)
    figure = plot_vae_results(vae, loaders[2])
    assert [ax.has_data() for ax in figure.axes] == [ax.get_visible() for ax in figure.axes]
