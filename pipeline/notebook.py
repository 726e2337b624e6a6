"""The tutorial notebook's vocabulary: the package's own models and training loop, with images and probabilities in and out."""

import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from pipeline import datasets, models
from pipeline.data import Dataset, Split, holdout, load_dataset
from pipeline.datasets.transfer import Unavailable
from pipeline.evaluation import Subject, pictures
from pipeline.evaluation.pictures import grid
from pipeline.figures import Page, draw
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise
from pipeline.results import Results
from pipeline.runtime import use
from pipeline.trainer import fit

PREPARED = Path(__file__).parents[1] / "data/dataset.safetensors"
History = dict[str, list[float]]


class Images(TensorDataset):
    """A split as pairs of an image ``[1, height, width]``, float32 in [0, 1], and its label; ``name`` is the data set's."""

    def __init__(self, split: Split, name: str) -> None:
        super().__init__(torch.from_numpy(split.images[:, None]).float() / 255, torch.from_numpy(split.labels))
        self.split, self.name = split, name


def _obtain(name: str) -> Dataset:
    if PREPARED.exists() and (prepared := load_dataset(PREPARED)).name == name:
        return prepared
    try:
        return datasets.load(name, [mirror for mirror in [os.environ.get("PIPELINE_MIRROR")] if mirror])
    except Unavailable as error:
        message = f"NOT {name}: no mirror has it ({error}); these are scikit-learn's 1,797 digits instead"
        warnings.warn(message, stacklevel=3)
        return datasets.load("digits")


def load_mnist(
    batch_size: int = 128, *, name: str = "mnist", val_size: float = 0.05, seed: int = 1
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Return ``(train_loader, val_loader, test_loader)`` of images ``[B, 1, 28, 28]`` in [0, 1] and labels ``[B]``.

    They are what ``dvc repro`` prepared where that is the data set asked for, else downloaded, a folder or URL in the
    environment variable ``PIPELINE_MIRROR`` first; without a network they are scikit-learn's digits, with a warning.

    Args:
        batch_size: images per batch; the training images come shuffled.
        name: ``mnist``, ``fashion_mnist``, ``kmnist`` or ``digits``.
        val_size, seed: fraction of the training images held out for validation, and the draw; as in params.yaml.
    """
    dataset = _obtain(name)
    train, val = holdout(dataset.train, val_size, seed)
    print(f"{dataset.name}: {len(train):,} train, {len(val):,} validation and {len(dataset.test):,} test images")
    parts = (train, True), (val, False), (dataset.test, False)
    first, second, third = (DataLoader(Images(split, dataset.name), batch_size, shuffle=shuffle) for split, shuffle in parts)
    return first, second, third


def _split(loader: DataLoader) -> Split:
    """Return the images behind a loader; those of another one are read through once, in 256 greys."""
    if isinstance(loader.dataset, Images):
        return loader.dataset.split
    images, labels = (torch.cat(tensors) for tensors in zip(*loader, strict=True))
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"images must be in [0, 1], not [{images.min():.3g}, {images.max():.3g}]; leave out Normalize")
    height, width = images.shape[-2:]
    return Split((images.reshape(-1, height, width) * 255).round().byte().numpy(), labels.long().numpy())


class _Network(nn.Module):
    """A pipeline model, ``core``, that takes images ``[B, ...]`` and gives pixel probabilities; it has no weights of its own."""

    name: str
    beta: float | None = None
    warmup_epochs: int = 0

    def __init__(self, core: models.Model) -> None:
        super().__init__()
        self.core = core
        self.input_dim, self.latent_dim = int(core.config["input_dim"]), core.latent_dim
        self.dataset, self.history = "nothing yet", History()

    def extra_repr(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"latent_dim={self.latent_dim}, {parameters:,} parameters"

    def flatten(self, x: Tensor) -> Tensor:
        """Return images of any shape as ``[B, input_dim]``."""
        return x.reshape(-1, self.input_dim)

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixels ``[B, input_dim]``, in [0, 1], at latent points ``[B, latent_dim]``."""
        return self.core.decode(z).sigmoid()

    @torch.no_grad()
    def interpolate(self, x1: Tensor, x2: Tensor, num_steps: int = 10) -> Tensor:
        """Return the straight line between two images' latent points, ends included, decoded: ``[num_steps, input_dim]``.

        Raises ValueError unless ``x1`` and ``x2`` are one image each.
        """
        x1, x2 = self.flatten(x1), self.flatten(x2)
        if len(x1) != 1 or len(x2) != 1:
            raise ValueError(f"interpolate takes two single images, not {len(x1)} and {len(x2)}")
        weights = torch.linspace(0, 1, num_steps, device=x1.device)[:, None]
        return self.decode(torch.lerp(self.core.embed(x1), self.core.embed(x2), weights))


class Autoencoder(_Network):
    """The pipeline's autoencoder (see :class:`pipeline.models.Autoencoder` for the arguments).

    >>> reconstruction, code = Autoencoder()(torch.rand(5, 784))
    >>> reconstruction.shape, code.shape
    (torch.Size([5, 784]), torch.Size([5, 2]))
    """

    name = "ae"

    def __init__(self, input_dim: int = 784, latent_dim: int = 2, hidden_dims: Sequence[int] = (512, 256, 128)) -> None:
        super().__init__(models.Autoencoder(input_dim, latent_dim, hidden_dims))

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes ``[B, latent_dim]`` of images ``[B, ...]`` in [0, 1]."""
        return self.core.embed(self.flatten(x))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x_recon [B, input_dim] in [0, 1], codes [B, latent_dim])``."""
        code = self.encode(x)
        return self.decode(code), code


class VAE(_Network):
    """The pipeline's variational autoencoder (see :class:`pipeline.models.VAE` for the arguments).

    >>> x_recon, mu, logvar, z = VAE(latent_dim=16)(torch.rand(5, 784))
    >>> x_recon.shape, z.shape
    (torch.Size([5, 784]), torch.Size([5, 16]))
    """

    name, beta = "vae", 1.0
    core: models.VAE

    def __init__(self, input_dim: int = 784, latent_dim: int = 2, hidden_dims: Sequence[int] = (512, 256)) -> None:
        super().__init__(models.VAE(input_dim, latent_dim, hidden_dims))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's ``(mu, logvar)``, each ``[B, latent_dim]``, for images ``[B, ...]`` in [0, 1]."""
        return self.core.encode(self.flatten(x))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``(x_recon, mu, logvar, z)``: pixels ``[B, input_dim]`` in [0, 1], and ``[B, latent_dim]`` thrice, z a draw."""
        mu, logvar = self.encode(x)
        z = reparameterise(mu, logvar, torch.randn_like(mu))
        return self.decode(z), mu, logvar, z

    @torch.no_grad()
    def sample(self, num_samples: int = 16, device: torch.device | str | None = None) -> Tensor:
        """Return decoded draws from the prior N(0, I), ``[num_samples, input_dim]``, on ``device`` (default: the model's)."""
        z = torch.randn(num_samples, self.latent_dim, device=next(self.parameters()).device)
        return self.decode(z).to(device)


class BetaVAE(VAE):
    """A :class:`VAE` that :func:`train_vae` trains with its KL term weighted by ``beta`` (openreview Sy2fzU9gl)."""

    def __init__(self, *args: Any, beta: float = 4.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta = beta


class AnnealedBetaVAE(VAE):
    """A :class:`VAE` whose KL weight :func:`train_vae` raises to ``max_beta`` over ``anneal_steps`` epochs (1511.06349)."""

    def __init__(self, *args: Any, max_beta: float = 4.0, anneal_steps: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.warmup_epochs = max_beta, anneal_steps


def vae_loss(x_recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
    r"""Return the terms of the objective, in nats per image, means over the batch: ``total = reconstruction + beta * kl``.

    Args:
        x_recon: pixel probabilities ``[B, D]``.
        x: images ``[B, ...]`` in [0, 1].
        mu, logvar: of the posterior, ``[B, d]``.
        beta: weight of the KL term.

    >>> loss = vae_loss(torch.full((1, 784), 0.5), torch.rand(1, 784), torch.ones(1, 2), torch.zeros(1, 2), beta=4.0)
    >>> {name: round(value.item(), 2) for name, value in loss.items()}  # 784 ln 2 and 2 / 2
    {'total': 547.43, 'reconstruction': 543.43, 'kl': 1.0}
    """
    logits = torch.logit(x_recon, eps=torch.finfo(x_recon.dtype).eps)
    reconstruction = bernoulli_nll(logits, x.reshape(x_recon.shape)).mean()
    kl = gaussian_kl(mu, logvar).sum(-1).mean()
    return {"total": reconstruction + beta * kl, "reconstruction": reconstruction, "kl": kl}


def train_model(
    model: _Network,
    train_loader: DataLoader,
    val_loader: DataLoader,
    num_epochs: int = 15,
    learning_rate: float = 1e-3,
    device: torch.device | str | None = None,
    early_stopping_patience: int = 7,
    verbose: bool = False,
    *,
    schedule: str = "cosine",
    seed: int = 1,
) -> History:
    """Train a model of this module by :func:`pipeline.trainer.fit` and leave it with the weights of its best epoch.

    Args:
        model: changed in place; moved to ``device``.
        train_loader, val_loader: from :func:`load_mnist`, or others with images in [0, 1], which are read through once and
            then used without what they do at random. The batch size is the first one's.
        num_epochs: passes over the training images.
        learning_rate: Adam's step size at the start.
        device: ``auto`` (None), ``cpu``, ``cuda`` or ``mps``.
        early_stopping_patience: epochs without a lower validation loss before training stops; 0: never. Here, and in the
            choice of the best epoch, the KL term counts with weight 1.
        verbose: print a line for each epoch.
        schedule: ``cosine`` brings the step size to zero over the epochs, for a lower loss than ``constant`` in equally many.
        seed: of the order of the images and the noise. The model's first weights are those it came with.

    Returns:
        ``train_loss``, ``train_recon``, ``val_loss``, ``val_recon``, for a VAE also ``train_kl``, ``val_kl``: one number an
        epoch, nats per image. Both losses weight the KL term as that epoch's training did.

    Raises:
        ParamsError: the device is not there.
        DivergedError: the loss or a gradient is not finite.
    """
    beta = 1.0 if model.beta is None else model.beta
    model.dataset, model.history = getattr(train_loader.dataset, "name", "images"), {}
    with use(str(device or "auto").removesuffix(":0"), torch.get_num_threads()) as runtime:
        epochs = fit(
            model.core,
            _split(train_loader),
            _split(val_loader),
            epochs=num_epochs,
            batch_size=train_loader.batch_size or 128,
            learning_rate=learning_rate,
            schedule=schedule,
            patience=early_stopping_patience,
            seed=seed,
            beta=beta,
            warmup_epochs=model.warmup_epochs,
            runtime=runtime,
        )
        for epoch in tqdm(epochs, total=num_epochs, unit="epoch", disable=None if verbose else True):
            row = {name.replace("/", "_"): value for name, value in epoch.metrics.items() if name.count("/") == 1}
            weight = beta * min(1.0, epoch.step / model.warmup_epochs) if model.warmup_epochs else beta
            row["val_loss"] = row["val_recon"] + weight * row.get("val_kl", 0.0)
            for name, value in row.items():
                model.history.setdefault(name, []).append(value)
            if verbose:
                terms = "".join(f"  {name} {value:.2f}" for name, value in row.items())
                tqdm.write(f"epoch {epoch.step:3}/{num_epochs}{terms}", file=sys.stdout)
    model.eval()
    return model.history


def train_vae(
    model: VAE,
    train_loader: DataLoader,
    val_loader: DataLoader,
    num_epochs: int = 30,
    learning_rate: float = 1e-3,
    beta: float | None = None,
    device: torch.device | str | None = None,
    early_stopping_patience: int = 7,
    verbose: bool = True,
    **options: Any,
) -> History:
    """Train a VAE with its KL term weighted by ``beta``, the same in all epochs; None: as the model has it, 1 for a plain VAE.

    :func:`train_model` says what the other arguments mean, what is returned and what is raised.
    """
    if beta is not None:
        model.beta, model.warmup_epochs = beta, 0
    shared = num_epochs, learning_rate, device, early_stopping_patience, verbose
    return train_model(model, train_loader, val_loader, *shared, **options)


def _draw(name: str, page: Page) -> Figure:
    figure = draw(name, page)
    if figure is None:
        raise ValueError(f"nothing to draw: the model or its history has no {name}")
    return figure


def _show(figure: Figure, save_path: str | Path | None) -> Figure:
    if save_path is not None:
        Path(save_path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(save_path)
    if (backend := plt.get_backend().lower()) != "agg":
        plt.figure(figure)  # the package draws without pyplot, which is what has windows
        plt.show()
    if "inline" in backend:
        # IPython draws the value of a cell's last line, and would draw what is shown already a second time.
        vars(figure)["_ipython_display_"] = lambda: vars(figure).pop("_ipython_display_") and None
    return figure


Models = _Network | Mapping[str, _Network]


def _named(shown: Models) -> Mapping[str, _Network]:
    return {shown.name: shown} if isinstance(shown, _Network) else shown


def _need_plane(shown: Models, function: str) -> None:
    for model in _named(shown).values():
        if model.latent_dim != 2:
            raise ValueError(f"{function} draws a plane: it needs latent_dim=2, not {model.latent_dim}; see plot_vae_results")


def _page(shown: Models, loader: DataLoader, device: torch.device | str | None) -> Page:
    split, dataset = _split(loader), getattr(loader.dataset, "name", "images")
    results = {}
    for name, model in _named(shown).items():
        subject = Subject(model.to(device).core, split, split, beta=model.beta)
        results[name] = pictures(subject, dataset=dataset, model=name)
    return Page(results, {name: _frame(model.history) for name, model in _named(shown).items() if model.history})


def _frame(history: History) -> pd.DataFrame:
    columns = {name.replace("_", "/", 1): values for name, values in history.items()}
    return pd.DataFrame({"epoch": range(1, len(history["val_loss"]) + 1), **columns})


def plot_training_history(history: History | Mapping[str, History], save_path: str | Path | None = None) -> Figure:
    """Draw loss, reconstruction and KL over the epochs, of one history or of several by name, a dot at the lowest ``val_loss``.

    Every plot shows the figure, returns it, and writes it to ``save_path`` (.png, .pdf, .svg) where one is given.
    """
    named = cast(Mapping[str, History], {"model": history} if "val_loss" in history else history)
    # All that curves need of a model's results:
    results = {name: cast(Results, SimpleNamespace(title=name, dataset="", inputs=np.empty(0))) for name in named}
    return _show(_draw("history", Page(results, {name: _frame(values) for name, values in named.items()})), save_path)


def plot_vae_results(
    vae: Models, test_loader: DataLoader, device: torch.device | str | None = None, save_path: str | Path | None = None
) -> Figure:
    """Draw codes, decoded plane, training curves, prior samples and reconstructions on one page.

    More than two latent dimensions are shown through principal components and one at a time.

    Args:
        vae: a model, or several by name, drawn side by side.
        test_loader: the images.
        device: where to compute; the model moves there. None: where it is.
        save_path: see :func:`plot_training_history`.
    """
    figure = _draw("overview", _page(vae, test_loader, device))
    for ax in figure.axes:
        ax.set_visible(ax.has_data())  # a model trained elsewhere has no curves
    return _show(figure, save_path)


def visualize_latent_space(
    model: Models, test_loader: DataLoader, device: torch.device | str | None = None, save_path: str | Path | None = None
) -> Figure:
    """Draw the codes of 1,000 test images by class, with arguments as for :func:`plot_vae_results`.

    Raises ValueError unless there are two latent dimensions.
    """
    _need_plane(model, "visualize_latent_space")
    return _show(_draw("latent", _page(model, test_loader, device)), save_path)


def plot_reconstructions(
    model: Models, test_loader: DataLoader, device: torch.device | str | None = None, save_path: str | Path | None = None
) -> Figure:
    """Draw test images and below each its reconstruction, with arguments as for :func:`plot_vae_results`."""
    return _show(_draw("reconstructions", _page(model, test_loader, device)), save_path)


def plot_interpolation(
    model: Models, test_loader: DataLoader, device: torch.device | str | None = None, save_path: str | Path | None = None
) -> Figure:
    """Draw decoded lines between the codes of test images, with arguments as for :func:`plot_vae_results`."""
    return _show(_draw("interpolation", _page(model, test_loader, device)), save_path)


@torch.no_grad()
def plot_latent_grid(
    vae: _Network,
    n_samples: int = 20,
    latent_range: tuple[float, float] = (-3, 3),
    device: torch.device | str | None = None,
    save_path: str | Path | None = None,
) -> Figure:
    """Draw what a model decodes on a grid of ``n_samples`` by ``n_samples`` points of its latent plane.

    Args:
        vae: a model for square images.
        latent_range: the first and the last value of both coordinates.
        device, save_path: see :func:`plot_vae_results`.

    Raises ValueError unless there are two latent dimensions.
    """
    _need_plane(vae, "plot_latent_grid")
    values, side = np.linspace(*latent_range, n_samples), math.isqrt(vae.input_dim)
    points = torch.from_numpy(grid(values, values)).float().to(next(vae.to(device).parameters()).device)
    images = vae.decode(points).reshape(n_samples, n_samples, side, side).numpy(force=True)
    arrays = {field.name: np.empty(0) for field in fields(Results)[3:]} | {"manifold_range": images}
    figure = _draw("manifold", Page({vae.name: Results(vae.dataset, vae.name, vae.beta, **arrays)}))
    for axis, ends in ((figure.axes[0].xaxis, latent_range), (figure.axes[0].yaxis, latent_range[::-1])):
        marks = axis.get_ticklocs()
        axis.set_ticks(marks, [f"{value:g}" for value in np.interp(marks, (0, n_samples - 1), ends).round(3) + 0.0])
    return _show(figure, save_path)
