"""Measure -ELBO and IWAE-500 on the test images, of gray and of binarised pixels, over seeds, and how long the training took.

``python -m benchmarks.bounds --net "conv, d = 50"`` trains the VAE of params.yaml with another net.
"""

import statistics
import time
from functools import partial
from pathlib import Path

import click

from benchmarks.recipe import NETS, params_of
from benchmarks.tools import machine, table
from pipeline import runtime
from pipeline.data import holdout, load_dataset
from pipeline.errors import one_line
from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.likelihood import likelihood, log_likelihood
from pipeline.stats import t_interval
from pipeline.training.config import TrainConfig
from pipeline.training.run import new_model, show_progress
from pipeline.training.trainer import fit


def bounds(net: str, epochs: int, seed: int, data: Path) -> dict[str, float]:
    """Return the numbers of one training, in nats per test image, and its seconds."""
    dataset, params = load_dataset(data), params_of(net, seed, epochs=epochs)
    train, val = holdout(dataset.train, params.data.val_size, seed)
    with runtime.use("auto", params.train.threads) as rt:
        model, config = new_model("vae", params, dataset.name, train).model, TrainConfig.from_params(params, params.vae)
        start = time.perf_counter()
        for _ in show_progress(fit(model, train, val, config, runtime=rt), f"{net}, seed {seed}", epochs, 0):
            pass
        found = {"seconds": time.perf_counter() - start}
        context = EvalContext(model, dataset.train, dataset.test, seed=seed, beta=params.beta)
        test, log_p = likelihood(context).numbers, log_likelihood(context).numbers
    found |= {"-ELBO": -test["elbo"], "IWAE-500": -log_p["iwae_500"], "floor": test.get("gray_floor", 0.0)}
    binarised = log_p.get("binarised", {})
    return found | {
        f"binarised {key}": -binarised[name] for key, name in (("-ELBO", "elbo"), ("IWAE-500", "iwae_500")) if binarised
    }


@click.command()
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--net", "nets", multiple=True, default=["mlp, d = 2"], type=click.Choice(list(NETS)), help="Repeatable.")
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=1))
def main(data: Path, nets: tuple[str, ...], epochs: int, seeds: int) -> None:
    """Print a table with a row for each net: means over the seeds, with 95% intervals from two seeds on."""
    click.echo(f"{load_dataset(data).name}, {epochs} epochs, {seeds} seeds; {machine('torch')}\n")
    rows = []
    for net in nets:
        runs = list(map(partial(bounds, net, epochs, data=data), range(1, seeds + 1)))
        cells = {key: [run[key] for run in runs] for key in runs[0]}
        shown = [f"{statistics.median(cells.pop('seconds')):.0f}"]
        for values in cells.values():
            mean, half_width = t_interval(values) if seeds > 1 else (values[0], 0.0)
            shown.append(f"{mean:.2f}" + f" ± {half_width:.2f}" * (half_width > 0))
        rows.append([net, *shown])
        head = "net", "seconds", *cells
    table(head, rows)


if __name__ == "__main__":
    with one_line():
        main()
