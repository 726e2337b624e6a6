"""Several trainings at once, one thread each, against one after another, two threads each: ``python -m benchmarks.pool``.

Both run in processes of :mod:`pipeline.sweeps.pool`. Images/s are of the steps of all trainings over the time from the first
training's start to the last one's end. So the start of a process counts where a training waited for a free core; with few images
it counts too much.
"""

import statistics
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from benchmarks.tools import ROOT, machine, noise_images, table
from pipeline import startup
from pipeline.params import load_params

if TYPE_CHECKING:
    from pipeline.sweeps.pool import Report

Span = tuple[float, float, int]
"""When trainings began and ended, and the number of images they took steps with."""


def train(models: int, threads: int, images: int, epochs: int, report: "Report") -> Span:
    """Train that many models one after another."""
    from pipeline import runtime
    from pipeline.training.config import TrainConfig
    from pipeline.training.run import new_model
    from pipeline.training.trainer import fit

    params, data = load_params(ROOT / "params.yaml"), noise_images(images)
    config = replace(TrainConfig.from_params(params, params.vae), epochs=epochs, patience=0)
    taken, begun = 0, time.time()  # unlike perf_counter, the same clock in all processes
    with runtime.use("cpu", threads) as rt:
        for _ in range(models):
            model = new_model("vae", params, "noise", data).model
            for epoch in fit(model, data, data.take(slice(100)), config, runtime=rt):
                taken += epoch.samples
                report(f"epoch {epoch.number}")
    return begun, time.time(), taken


def speed(models: int, images: int, epochs: int, at_once: bool) -> float:
    """Return images/s of that many trainings together."""
    from pipeline.sweeps.pool import run_all, workers

    if at_once:
        tasks = {f"model {index + 1}": partial(train, 1, 1, images, epochs) for index in range(models)}
    else:
        tasks = {"models": partial(train, models, 2, images, epochs)}
    spans = list(run_all(tasks, "training", workers(1, "cpu") if at_once else 1, models * epochs).values())
    return float(sum(taken for *_, taken in spans) / (max(end for _, end, _ in spans) - min(begun for begun, *_ in spans)))


@click.command()
@click.option("--models", default="1,2,4", show_default=True, help="How many trainings.")
@click.option("--images", default=25_600, show_default=True, type=click.IntRange(min=128), help="Training images.")
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Both ways in each.")
def main(models: str, images: int, epochs: int, rounds: int) -> None:
    """Print images/s of both ways, medians of the rounds, and their ratio within a round."""
    waiting = startup.choose_waiting(2)  # the processes inherit it
    rows = []
    for number in map(int, models.split(",")):
        speeds = [[speed(number, images, epochs, at_once) for at_once in (False, True)] for _ in range(rounds)]
        one_by_one, at_once = (statistics.median(column) for column in zip(*speeds, strict=True))
        ratios = sorted(together / alone for alone, together in speeds)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rows.append([str(number), f"{one_by_one:,.0f}", f"{at_once:,.0f}", ratio])
    click.echo(f"{machine('torch')}; {images:,} images, {epochs} epochs, {rounds} rounds; two threads: {waiting}\n")
    table(("trainings", "one after another, images/s", "at once, images/s", "ratio"), rows)


if __name__ == "__main__":
    main()
