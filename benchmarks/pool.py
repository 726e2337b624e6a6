"""Ways to use two cores: ``python -m benchmarks.pool`` measures the images/s of all trainings together.

One after another with two threads each; one after another, each on two ranks as torchrun starts them; and all at once with one
thread each. All run in processes of :mod:`pipeline.sweeps.pool`. Images/s are of the steps of all trainings over the time from
the first training's start to the last one's end. So the start of a process counts where a training waited for a free core; with
few images it counts too much. ``--shards`` also measures one training with more shards, on one thread.
"""

import os
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click
import numpy as np

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


def speed(way: str, models: int, images: int, epochs: int, threads: int = 2, shards: int = 1) -> float:
    """Return images/s of that many trainings together; ``threads`` and ``shards`` are for those one after another."""
    from pipeline.sweeps.pool import run_all

    if way == WAYS[0]:
        tasks = {"models": partial(train, models, threads, shards, images, epochs)}
    elif way == WAYS[1]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        tasks = {f"rank {rank}": partial(train, models, 1, 2, images, epochs, rank=(rank, port)) for rank in range(2)}
    else:
        tasks = {f"model {index + 1}": partial(train, 1, 1, 1, images, epochs) for index in range(models)}
    begun, ended, taken = zip(*run_all(tasks, "training", 2, models * epochs).values(), strict=True)
    return float(sum(taken) / (max(ended) - min(begun)))


def law(x: Sequence[int], seconds: Sequence[float], unit: str) -> str:
    """Return the straight line nearest to the seconds, relative to them, and how far they are from it at most."""
    slope, start = np.polyfit(x, seconds, 1, w=1 / np.asarray(seconds))
    off = max(abs((start + slope * at) / second - 1) for at, second in zip(x, seconds, strict=True))
    return f"{start:.3g} s + {slope:.3g} s for each {unit} (within {100 * off:.0f}%)"


def whole_numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    """Return the numbers of an option, which stand between commas."""
    if value and not all(part.isdecimal() and int(part) for part in value.split(",")):
        raise click.BadParameter(f"{value!r}; allowed are whole numbers between commas, such as 1,2,4", context, option)
    return [int(part) for part in value.split(",") if part]


@click.command()
@click.option("--models", default="1,2", show_default=True, callback=whole_numbers, help="How many trainings.")
@click.option("--shards", default="", callback=whole_numbers, help="Numbers of shards, such as 1,2,4,8.  [default: none]")
@click.option("--images", default=25_600, show_default=True, type=click.IntRange(min=128), help="Training images.")
@click.option("--epochs", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1), help="Each way once in each.")
def main(models: list[int], shards: list[int], images: int, epochs: int, rounds: int) -> None:
    """Print images/s of each way, medians of the rounds, and the ratio to the first one within a round."""
    waiting = startup.choose_waiting(2)  # the processes inherit it
    rows, seconds = [], {way: list[float]() for way in WAYS}
    for number in models:
        table_of = [[speed(way, number, images, epochs) for way in WAYS] for _ in range(rounds)]
        for way, speeds in zip(WAYS, zip(*table_of, strict=True), strict=True):
            ratios = sorted(found / first for found, (first, *_) in zip(speeds, table_of, strict=True))
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append([str(number), way, f"{statistics.median(speeds):,.0f}", ratio])
            seconds[way].append(number * images * epochs / statistics.median(speeds))
    click.echo(f"{machine('torch')}; {images:,} images, {epochs} epochs, {rounds} rounds; two threads: {waiting}\n")
    table(("trainings", "way", "images/s", "ratio"), rows)
    if len(models) > 2:
        click.echo("\n" + "\n".join(f"{way}: {law(models, seconds[way], 'training')}" for way in WAYS))
    if shards:
        measured = [[speed(WAYS[0], 1, images, epochs, 1, number) for number in shards] for _ in range(rounds)]
        found = list(map(statistics.median, zip(*measured, strict=True)))
        click.echo()
        table(
            ("shards", "images/s, one thread"),
            [[str(number), f"{value:,.0f}"] for number, value in zip(shards, found, strict=True)],
        )
    if len(shards) > 2:
        steps = [load_params(ROOT / "params.yaml").train.batch_size / value for value in found]
        click.echo(f"\nA step of one thread: {law(shards, steps, 'shard')}")


if __name__ == "__main__":
    main()
