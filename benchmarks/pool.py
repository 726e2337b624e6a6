"""Ways to use two cores: ``python -m benchmarks.pool`` measures the images/s of all trainings together.

One after another with two threads each; one after another, each on two ranks as torchrun starts them; and all at once with one
thread each. All run in processes of :mod:`pipeline.sweeps.pool`. Images/s are of the steps of all trainings over the time from
the first training's start to the last one's end. So the start of a process counts where a training waited for a free core; with
few images it counts too much.
"""

import os
import socket
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

WAYS = "one after another, two threads", "one after another, two ranks", "at once"

Span = tuple[float, float, float]
"""When trainings began and ended, and the number of images they took steps with."""


def train(
    models: int, threads: int, shards: int, images: int, epochs: int, report: "Report", rank: tuple[int, int] | None = None
) -> Span:
    """Train that many models one after another; ``rank`` is that of this process among two, and their port."""
    from pipeline import runtime
    from pipeline.training.config import TrainConfig
    from pipeline.training.run import new_model
    from pipeline.training.trainer import fit

    params, data = load_params(ROOT / "params.yaml"), noise_images(images)
    config = replace(TrainConfig.from_params(params, params.vae), epochs=epochs, patience=0, shards=shards)
    if rank:
        os.environ |= dict(zip(("RANK", "MASTER_PORT"), map(str, rank), strict=True), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    taken, begun = 0.0, time.time()  # unlike perf_counter, the same clock in all processes
    with runtime.use("cpu", threads) as rt, runtime.ranks(rt.device, shards) as ranks:
        for _ in range(models):
            model = new_model("vae", params, "noise", data).model
            for epoch in fit(model, data, data.take(slice(100)), config, runtime=rt, ranks=ranks):
                taken += epoch.samples / ranks.size
                report(f"epoch {epoch.number}")
    return begun, time.time(), taken


def speed(way: str, models: int, images: int, epochs: int) -> float:
    """Return images/s of that many trainings together."""
    from pipeline.sweeps.pool import run_all

    if way == WAYS[0]:
        tasks = {"models": partial(train, models, 2, 1, images, epochs)}
    elif way == WAYS[1]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        tasks = {f"rank {rank}": partial(train, models, 1, 2, images, epochs, rank=(rank, port)) for rank in range(2)}
    else:
        tasks = {f"model {index + 1}": partial(train, 1, 1, 1, images, epochs) for index in range(models)}
    begun, ended, taken = zip(*run_all(tasks, "training", 2, models * epochs).values(), strict=True)
    return float(sum(taken) / (max(ended) - min(begun)))


@click.command()
@click.option("--models", default="1,2", show_default=True, help="How many trainings.")
@click.option("--images", default=25_600, show_default=True, type=click.IntRange(min=128), help="Training images.")
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Each way once in each.")
def main(models: str, images: int, epochs: int, rounds: int) -> None:
    """Print images/s of each way, medians of the rounds, and the ratio to the first one within a round."""
    waiting = startup.choose_waiting(2)  # the processes inherit it
    rows = []
    for number in map(int, models.split(",")):
        table_of = [[speed(way, number, images, epochs) for way in WAYS] for _ in range(rounds)]
        for way, speeds in zip(WAYS, zip(*table_of, strict=True), strict=True):
            ratios = sorted(found / first for found, (first, *_) in zip(speeds, table_of, strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append([str(number), way, f"{statistics.median(speeds):,.0f}", ratio])
    click.echo(f"{machine('torch')}; {images:,} images, {epochs} epochs, {rounds} rounds; two threads: {waiting}\n")
    table(("trainings", "way", "images/s", "ratio"), rows)


if __name__ == "__main__":
    main()
