"""How the time of training grows with images, width, latent size, batch and threads: ``python -m benchmarks.growth``.

One of them is changed at a time; the others stay those of the VAE in params.yaml, with Adam for all layers. Training is on noise
in MNIST's format. All points of an axis are measured once a round, so that a machine whose speed drifts treats them alike, each
round with other batches.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.tools import ROOT, machine, table
from pipeline import startup
from pipeline.params import load_params
from pipeline.storage import write

if TYPE_CHECKING:
    from benchmarks.growth_figure import Axis

SAMPLES = (60_000, 200_000, 600_000, 2_000_000, 6_000_000)
HIDDEN = ((128, 64), (256, 128), (512, 256), (1024, 512), (2048, 1024))
LATENT = (2, 8, 32, 128)
BATCH = (32, 64, 128, 256, 512, 1024, 2048)
THREADS = sorted({1, os.cpu_count() or 1})
BYTES = 784 + 100  # an image in memory, with its share of an epoch's batches


def axes(samples: Sequence[int]) -> list["Axis"]:
    """Return the five axes, with these numbers of images."""
    from benchmarks.growth_figure import Axis
    from benchmarks.growth_steps import Point

    params = load_params(ROOT / "params.yaml")
    default: dict[str, Any] = {"samples": samples[0], "hidden": params.vae.hidden_dims, "latent": params.vae.latent_dim}
    default |= {"batch": params.train.batch_size, "threads": THREADS[-1]}

    def points(key: str, values: Sequence[object], label: str = "{:,}") -> "dict[str, Point]":
        return {label.format(value): Point(**default | {key: value}) for value in values}

    width = {" - ".join(map(str, hidden)): Point(**default | {"hidden": hidden}) for hidden in HIDDEN}
    return [
        Axis("images", points("samples", samples), samples, "training images"),
        Axis("hidden layers", width, [point.parameters for point in width.values()], "parameters"),
        Axis("latent size", points("latent", LATENT), LATENT, "latent dimensions"),
        Axis("batch", points("batch", BATCH, "{}"), BATCH, "images per step"),
        Axis("threads", points("threads", THREADS), THREADS, "threads"),
    ]


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Return the median of the rounds, and their range."""
    return f"{np.median(values):z.{digits}f} ({values.min():z.{digits}f} to {values.max():z.{digits}f})"


def report(axis: "Axis", held: Sequence[int]) -> None:
    """Print the table and the power law of an axis; ``held`` are the bytes in memory at each number of images."""
    from benchmarks.growth_figure import exponent

    head = [axis.name, "microseconds an image", "images/s"]
    rows = [[name, spread(1e6 * row, 1), f"{1 / np.median(row):,.0f}"] for name, row in zip(axis.points, axis.image, strict=True)]
    law = f"Seconds per image ~ ({axis.x_label})^{spread(exponent(axis.x, axis.image))}."
    if axis.name == "images":
        head += ["drawing an epoch's batches, s", "an epoch, s", "memory, MiB"]
        for row, point, epoch, size in zip(rows, axis.points.values(), axis.epoch, held, strict=True):
            row += [f"{np.median(point.drawing):.3f}", f"{np.median(epoch):.1f}", f"{size / 2**20:,.0f}"]
        law += f" Seconds per epoch ~ (training images)^{spread(exponent(axis.x, axis.epoch), 3)}."
        if len(held) > 1:
            law += f" Memory: {np.polyfit(axis.x, held, 1)[0]:,.0f} bytes an image."
    elif axis.name == "hidden layers":
        head.insert(1, "parameters")
        for row, number in zip(rows, axis.x, strict=True):
            row.insert(1, f"{number:,}")
    elif axis.name == "batch":
        y = np.median(axis.image, axis=1) * axis.x
        image, step = np.polyfit(axis.x, y, 1, w=1 / y)
        law += f" A step takes {1e6 * step:,.0f} microseconds and {1e6 * image:.1f} more for each image."
    click.echo()
    table(head, rows)
    click.echo(f"\n{law}")


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=0.7, show_default=True, help="Of steps, for each point in each round.")
@click.option("--out", default="benchmarks/growth.png", show_default=True, type=Path)
def main(rounds: int, seconds: float, out: Path) -> None:
    """Print a table and a power law for each axis, and draw them."""
    waiting = startup.choose_waiting(THREADS[-1])
    import torch

    from benchmarks.growth_figure import draw
    from benchmarks.growth_steps import fill, stated
    from pipeline.figures import png

    room = 0.8 * stated("meminfo", "MemAvailable")
    samples = [n for n in SAMPLES if n * BYTES < room]
    for n in SAMPLES[len(samples) :]:
        click.echo(f"no memory for {n:,} images", err=True)
    torch.manual_seed(0)
    measured = axes(samples)
    images, held = fill(list(measured[0].points.values()))
    for axis in measured:
        for index in range(rounds):
            for point in axis.points.values():
                point.measure(images, index + 1, seconds)
        click.echo(f"measured: {axis.name}", err=True)
    click.echo(f"{machine('torch')}, {rounds} rounds; threads: {waiting}")
    for axis in measured:
        report(axis, held)
    write(out, png(draw(measured), load_params(ROOT / "params.yaml").figures.dpi))


if __name__ == "__main__":
    main()
