"""Compare training recipes at the same budget: -ELBO on validation images, paired over seeds, with 95% intervals.

The test images are not touched: a recipe is chosen by validation, and measured on test images by ``dvc repro`` afterwards.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.stats import t

from pipeline import runtime
from pipeline.data import holdout, load_dataset
from pipeline.experiment import build
from pipeline.params import load_params
from pipeline.trainer import fit

BASE = "cosine 1e-3"
RECIPES: dict[str, dict[str, Any]] = {
    "constant 1e-3": {"schedule": "constant", "learning_rate": 1e-3},
    BASE: {"learning_rate": 1e-3},
    "cosine 2e-3": {"learning_rate": 2e-3},
    "cosine 3e-3": {"learning_rate": 3e-3},
    "cosine 5e-3": {"learning_rate": 5e-3},
    "cosine 2e-3, warm-up 5": {"learning_rate": 2e-3, "warmup_epochs": 5},
    "cosine 2e-3, batch 64": {"learning_rate": 2e-3, "batch_size": 64},
    "cosine 2e-3, batch 256": {"learning_rate": 2e-3, "batch_size": 256},
}


def validation_loss(model: str, recipe: str, seed: int, data: Path) -> float:
    """Return -ELBO (an autoencoder: the reconstruction term) of the best epoch, nats per validation image."""
    params, dataset = load_params(), load_dataset(data)
    section, options = getattr(params, model), params.train
    train, val = holdout(dataset.train, params.data.val_size, seed)
    settings: dict[str, Any] = {"epochs": section.epochs, "batch_size": options.batch_size, "patience": 0, "seed": seed}
    with runtime.use("auto", threads=1) as rt:
        epochs = fit(build(model, section, train, seed), train, val, **settings | RECIPES[recipe], runtime=rt)
        return min(epoch.metrics["val/loss"] for epoch in epochs)


@click.command()
@click.option("--model", default="vae", show_default=True, type=click.Choice(["vae", "ae"]))
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=2))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Trainings at once, one thread each.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(RECIPES)), help="Recipes beside the base; repeatable. Default: all."
)
def main(model: str, data: Path, seeds: int, workers: int, only: tuple[str, ...]) -> None:
    """Print the table of recipes in benchmarks/README.md."""
    names = [name for name in RECIPES if name == BASE or not only or name in only]
    jobs = [(name, seed) for seed in range(1, seeds + 1) for name in names]
    losses: dict[str, list[float]] = {name: [] for name in names}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(validation_loss, model, name, seed, data) for name, seed in jobs]
        for (name, seed), job in zip(jobs, running, strict=True):
            losses[name].append(job.result())
            click.echo(f"{name}, seed {seed}: {losses[name][-1]:.2f}", err=True)
    click.echo(f"| recipe | validation loss, mean of {seeds} seeds | against {BASE} | 95% interval |\n|---|---|---|---|")
    for name in names:
        difference = np.array(losses[name]) - losses[BASE]
        reach = t.ppf(0.975, seeds - 1) * difference.std(ddof=1) / seeds**0.5
        click.echo(f"| {name} | {np.mean(losses[name]):.2f} | {difference.mean():+.2f} | ± {reach:.2f} |")


if __name__ == "__main__":
    main()
