"""The tutorial's plots: figures of the package, which are shown, returned and, with a ``save_path`` (.png, .pdf, .svg), saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.plot_data import grid, plot_data
from pipeline.evaluation.results import Results
from pipeline.figures import Page, draw
from pipeline.figures.style import marks
from pipeline.notebook.data import Loader, images_of
from pipeline.notebook.models import Device, History, Network

Models = Network | Mapping[str, Network]
File = str | Path | None


def _show(figure: Figure | None, save_path: File) -> Figure:
    assert figure is not None
    if save_path is not None:
        Path(save_path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(save_path)
    if (backend := plt.get_backend().lower()) != "agg":
        plt.figure(figure)  # the package draws without pyplot, which alone has windows
        plt.show()
    if "inline" in backend:
        # IPython displays the value of a cell's last line, which would show this figure a second time.
        vars(figure)["_ipython_display_"] = lambda: vars(figure).pop("_ipython_display_") and None
    return figure


def _named(models: Models, plane_for: str = "") -> Mapping[str, Network]:
    named = {models.name: models} if isinstance(models, Network) else models
    for model in named.values():
        if plane_for and model.latent_dim != 2:
            raise ValueError(f"{plane_for} draws a plane: it needs latent_dim=2, not {model.latent_dim}; see plot_vae_results")
    return named


def _page(models: Mapping[str, Network], loader: Loader, device: Device) -> Page:
    # Each loader is read once: one that shuffles would give each model other images.
    loaded = {shape: images_of(loader, shape) for shape in {model.image_shape for model in models.values()}}
    results = {}
    for name, model in models.items():
        images = loaded[model.image_shape]
        arrays = plot_data(EvalContext(model.to(device).core, images, images, beta=model.beta)).arrays
        results[name] = Results(getattr(loader.dataset, "name", "images"), name, model.beta, 1, [], "", arrays)
    return Page(results, {name: _frame(model.history) for name, model in models.items() if model.history})


def _frame(history: History) -> pd.DataFrame:
    columns = {name.replace("_", "/", 1): values for name, values in history.items()}
    return pd.DataFrame({"epoch": range(1, len(history["val_loss"]) + 1), **columns})


def plot_training_history(history: History | Mapping[str, History], save_path: File = None) -> Figure:
    """Draw loss, reconstruction and KL over the epochs, for one history or several by name; a dot marks the lowest loss."""
    named = cast(Mapping[str, History], {"model": history} if "val_loss" in history else history)
    results = {name: Results("", name, None, 1, [], "", {}) for name in named}
    return _show(draw("history", Page(results, {name: _frame(values) for name, values in named.items()})), save_path)


def plot_vae_results(vae: Models, test_loader: Loader, device: Device = None, save_path: File = None) -> Figure:
    """Draw codes, decoded plane, training curves, prior samples and reconstructions of a model, or of several by name.

    More than two latent dimensions are drawn through principal components and one at a time. The models move to ``device``.
    """
    figure = draw("overview", _page(_named(vae), test_loader, device))
    for ax in figure.axes if figure else ():
        ax.set_visible(ax.has_data())  # a model trained elsewhere has no curves
    return _show(figure, save_path)


def visualize_latent_space(model: Models, test_loader: Loader, device: Device = None, save_path: File = None) -> Figure:
    """Draw the codes of 1,000 test images by class. Raises ValueError unless there are two latent dimensions."""
    return _show(draw("latent", _page(_named(model, "visualize_latent_space"), test_loader, device)), save_path)


def plot_reconstructions(model: Models, test_loader: Loader, device: Device = None, save_path: File = None) -> Figure:
    """Draw test images above their reconstructions."""
    return _show(draw("reconstructions", _page(_named(model), test_loader, device)), save_path)


def plot_interpolation(model: Models, test_loader: Loader, device: Device = None, save_path: File = None) -> Figure:
    """Draw decoded straight lines between the codes of test images."""
    return _show(draw("interpolation", _page(_named(model), test_loader, device)), save_path)


@torch.no_grad()
def plot_latent_grid(
    vae: Network, n_samples: int = 20, latent_range: tuple[float, float] = (-3, 3), device: Device = None, save_path: File = None
) -> Figure:
    """Draw the images decoded on a grid of ``n_samples`` by ``n_samples`` latent points, both coordinates over ``latent_range``.

    Raises ValueError unless there are two latent dimensions.
    """
    named = _named(vae, "plot_latent_grid")
    values = np.linspace(*latent_range, n_samples)
    points = torch.from_numpy(grid(values, values)).float().to(next(vae.to(device).parameters()).device)
    arrays = {"manifold": vae.core.decode_images(points).numpy(force=True)}
    figure = draw("manifold", Page({name: Results(vae.dataset, name, vae.beta, 1, [], "", arrays) for name in named}))
    assert figure is not None
    for axis, ends in ((figure.axes[0].xaxis, latent_range), (figure.axes[0].yaxis, latent_range[::-1])):
        ticks = axis.get_ticklocs()
        axis.set_ticks(ticks, marks(np.interp(ticks, (0, n_samples - 1), ends).round(3) + 0.0))
    return _show(figure, save_path)
