"""Compare training recipes at the same budget: -ELBO on validation images, paired over seeds, with 95% intervals.

Each recipe is the default of params.yaml with the change that its name says. Nothing here touches the test images; they are
for ``dvc repro``, once a recipe is chosen.
"""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import t
from torch import Tensor, nn
from tqdm import tqdm

from pipeline import runtime
from pipeline.data import holdout, load_dataset
from pipeline.epoch import resident, validate
from pipeline.experiment import build
from pipeline.models.vae import VAE
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise
from pipeline.optimizer import Optimizer
from pipeline.params import load_params
from pipeline.runtime import generator
from pipeline.trainer import fit


class DrawnVAE(VAE):
    """A VAE whose objective takes several draws of the noise, or draws the KL term too instead of integrating it."""

    draws = 1
    sampled_kl = False

    def objective(self, x: Tensor, noise: Tensor, beta: float | Tensor = 1.0, seen: Tensor | None = None) -> dict[str, Tensor]:
        """Return what :meth:`VAE.objective` returns; without a gradient, exactly that."""
        if not torch.is_grad_enabled():
            return super().objective(x, noise, beta, seen)
        mean, logvar = self.encode(x if seen is None else seen)
        more = torch.randn(self.draws - 1, *noise.shape)
        eps = torch.cat([noise[None], more])
        z = reparameterise(mean, logvar, eps)
        recon = bernoulli_nll(self.decode(z), x).mean()
        log_ratio = 0.5 * (z.square() - eps.square() - logvar)
        kl = (log_ratio.mean((0, 1)) if self.sampled_kl else gaussian_kl(mean, logvar).mean(0)).sum()
        return {"loss": recon + beta * kl, "recon": recon, "kl": kl}


class AveragingAdam(Optimizer):
    """Adam that keeps an exponential moving average of the weights."""

    decay = 0.999

    def __init__(self, model: nn.Module, scales: Mapping[str, float], preconditioned: Collection[str]) -> None:
        super().__init__(model, scales, preconditioned)
        self.average = self.weights.clone()

    def step(self, loss: Tensor, learning_rate: float | Tensor) -> None:
        """Step, and let the average follow."""
        super().step(loss, learning_rate)
        self.average.lerp_(self.weights, 1 - self.decay)


def initialise(scheme: Callable[..., Tensor], gain: float) -> Callable[[nn.Module], None]:
    """Return what draws a model's weights by another scheme, with ``gain`` before a ReLU, and zeroes its hidden biases."""

    def prepare(model: nn.Module) -> None:
        for net in (model.encoder, model.decoder):
            linear = [layer for layer in net if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
            for layer in linear:
                with torch.no_grad():
                    scheme(layer.weight).mul_(gain if layer is not linear[-1] else 1.0)
                    if layer is not linear[-1]:
                        layer.bias.zero_()

    return prepare


def plain_bias(model: nn.Module) -> None:
    """Draw the output bias as torch does for any other layer."""
    nn.init.uniform_(model.decoder[-1].bias, -0.04, 0.04)  # type: ignore[index, union-attr]


def drawing(**attributes: Any) -> Callable[[nn.Module], None]:
    """Return what makes a model's objective a :class:`DrawnVAE`'s."""

    def prepare(model: nn.Module) -> None:
        model.__class__ = DrawnVAE
        for name, value in attributes.items():
            setattr(model, name, value)

    return prepare


@dataclass(frozen=True)
class Recipe:
    """What differs from the default."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keywords of :func:`pipeline.trainer.fit`."""
    prepare: Callable[[nn.Module], None] = lambda model: None
    """What is done to the untrained model."""
    adam: dict[str, Any] = field(default_factory=dict)
    """Keywords of :class:`pipeline.optimizer.Optimizer`."""
    averages: bool = False
    """Whether an average of the weights is what counts."""


DEFAULT = "default"
RECIPES = {
    DEFAULT: Recipe(),
    "constant step size": Recipe({"schedule": "constant"}),
    "step size 1e-3": Recipe({"learning_rate": 1e-3}),
    "step size 3e-3": Recipe({"learning_rate": 3e-3}),
    "plain output bias": Recipe(prepare=plain_bias),
    "Kaiming weights": Recipe(prepare=initialise(lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"), 2**0.5)),
    "orthogonal weights": Recipe(prepare=initialise(nn.init.orthogonal_, 2**0.5)),
    "no KL warm-up": Recipe({"warmup_epochs": 0}),
    "KL warm-up over 10 epochs": Recipe({"warmup_epochs": 10}),
    "no input dropout": Recipe({"input_dropout": 0.0}),
    "input dropout 0.1": Recipe({"input_dropout": 0.1}),
    "input dropout 0.3": Recipe({"input_dropout": 0.3}),
    "decoder's first layer as slow as the others": Recipe({"latent_lr_scale": 1.0}),
    "decoder's first layer 4 times as fast": Recipe({"latent_lr_scale": 4.0}),
    "decoder's first layer 64 times as fast": Recipe({"latent_lr_scale": 64.0}),
    "no preconditioner": Recipe({"preconditioner": "none"}),
    "no preconditioner, 36 epochs": Recipe({"preconditioner": "none", "epochs": 36}),  # take nearly as long as 30 with it
    "batches of 64": Recipe({"batch_size": 64}),
    "Adam's eps 1e-5": Recipe(adam={"eps": 1e-5}),
    "Adam's first beta 0.95": Recipe(adam={"betas": (0.95, 0.999)}),
    "Adam's second beta 0.99": Recipe(adam={"betas": (0.9, 0.99)}),
    "averaged weights": Recipe(averages=True),
    "sampled KL": Recipe(prepare=drawing(sampled_kl=True)),
    "2 draws of the noise": Recipe(prepare=drawing(draws=2)),
}


def validation_loss(name: str, seed: int, data: Path) -> float:
    """Return -ELBO of the best epoch, nats per validation image."""
    recipe, params, dataset = RECIPES[name], load_params(), load_dataset(data)
    train, val = holdout(dataset.train, params.data.val_size, seed)
    options: dict[str, Any] = {"seed": seed, "patience": 0}
    options |= params.train.model_dump(include={"batch_size", "learning_rate", "schedule"})
    of_model = {"epochs", "warmup_epochs", "input_dropout", "latent_lr_scale", "preconditioner"}
    options |= params.vae.model_dump(include=of_model) | recipe.options
    made: list[Optimizer] = []

    def optimizer(model: nn.Module, scales: Mapping[str, float], preconditioned: Collection[str]) -> Optimizer:
        kind = AveragingAdam if recipe.averages else Optimizer
        made.append(kind(model, scales, preconditioned, **recipe.adam))
        return made[-1]

    with runtime.use("cpu", threads=1) as rt:
        model = build("vae", params.vae, train, seed)
        torch.manual_seed(seed)
        recipe.prepare(model)
        losses = [epoch.metrics["val/loss"] for epoch in fit(model, train, val, **options, make_optimizer=optimizer, runtime=rt)]
        if isinstance(made[0], AveragingAdam):
            made[0].weights.copy_(made[0].average)
            noise = torch.randn(len(val), params.vae.latent_dim, generator=generator(seed, "validation"))
            return validate(model, resident(val, rt.device), noise)["loss"]
    return min(losses)


@click.command()
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=2))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Trainings at once, one thread each.")
@click.option("--only", multiple=True, type=click.Choice(list(RECIPES)), help="Recipes beside the default; repeatable.")
def main(data: Path, seeds: int, workers: int, only: tuple[str, ...]) -> None:
    """Print the table of recipes in benchmarks/README.md."""
    names = [name for name in RECIPES if name == DEFAULT or not only or name in only]
    jobs = [(name, seed) for seed in range(1, seeds + 1) for name in names]
    losses: dict[str, list[float]] = {name: [] for name in names}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(validation_loss, name, seed, data) for name, seed in jobs]
        for (name, seed), job in zip(jobs, tqdm(running, "recipe", disable=None), strict=True):
            losses[name].append(job.result())
            click.echo(f"{name}, seed {seed}: {losses[name][-1]:.2f}", err=True)
    click.echo(f"| recipe | validation -ELBO, mean of {seeds} seeds | against the default | 95% interval |\n|---|---|---|---|")
    for name in names:
        difference = np.array(losses[name]) - losses[DEFAULT]
        reach = t.ppf(0.975, seeds - 1) * difference.std(ddof=1) / seeds**0.5
        click.echo(f"| {name} | {np.mean(losses[name]):.2f} | {difference.mean():+.2f} | ± {reach:.2f} |")


if __name__ == "__main__":
    main()
