"""How the time of training grows with images, width, latent size, batch and threads: ``python -m benchmarks.growth``.

One of them is changed at a time, the others stay those of the VAE in params.yaml, with Adam for all of it. What is trained on
is noise in MNIST's format; what is in the images does not change how long a step takes. All points of an axis are measured
once a round, so that a machine whose speed drifts treats them alike, each round with other batches.
"""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from pipeline import runtime  # before torch is loaded: it sets how long OpenMP's threads spin

# isort: split
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from pipeline.epoch import Batches, draw_batches, learning_rate_at, run_epoch
from pipeline.figures.style import MODEL_COLORS, PENCIL, new_figure, png, styled
from pipeline.files import write
from pipeline.models.vae import VAE
from pipeline.optimizer import Optimizer
from pipeline.params import load_params
from pipeline.step import ExplicitStep

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
PIXELS = 784
SAMPLES = (60_000, 200_000, 600_000, 2_000_000, 6_000_000)
HIDDEN = ((128, 64), (256, 128), (512, 256), (1024, 512), (2048, 1024))
LATENT = (2, 8, 32, 128)
BATCH = (32, 64, 128, 256, 512, 1024, 2048)
THREADS = sorted({1, os.cpu_count() or 1})
WARM_UP, LEAST = 3, 5  # steps before the clock starts, and fewest steps under it


class Point:
    """A setting and, for each round, the seconds of drawing an epoch's batches and those of its steps per image."""

    def __init__(
        self,
        samples: int = SAMPLES[0],
        hidden: Sequence[int] = PARAMS.vae.hidden_dims,
        latent: int = PARAMS.vae.latent_dim,
        batch: int = PARAMS.train.batch_size,
        threads: int = THREADS[-1],
    ) -> None:
        self.samples, self.latent, self.batch, self.threads = samples, latent, batch, threads
        model = VAE(PIXELS, latent, hidden)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        with runtime.use("cpu", threads) as rt:
            self.step = ExplicitStep(model, Optimizer(model), batch, rt)
        self.drawing: list[float] = []
        self.image: list[float] = []

    def draw(self, epoch: int) -> tuple[Batches, list[float]]:
        """Return what the trainer prepares for an epoch: its batches, and the learning rate of each step."""
        hide = PARAMS.vae.input_dropout
        batches = draw_batches(PARAMS.seed, epoch, self.samples, self.batch, PIXELS, self.latent, hide)
        steps = len(batches.order)
        return batches, [learning_rate_at("cosine", PARAMS.train.learning_rate, step, steps) for step in range(steps)]

    def measure(self, images: Tensor, epoch: int, seconds: float) -> None:
        """Measure steps for about so many seconds, on the first of the images ``[N, D]``."""

        def take(first: int, count: int) -> float:
            part = slice(first, first + count)
            some = Batches(batches.order[part], batches.masks, batches.mask_order[part], batches.noise[part])
            begun = time.perf_counter()
            run_epoch(self.step, images[: self.samples], some, PARAMS.beta, rates[part])
            return (time.perf_counter() - begun) / some.order.numel()

        with runtime.use("cpu", self.threads):
            begun = time.perf_counter()
            batches, rates = self.draw(epoch)
            self.drawing.append(time.perf_counter() - begun)
            expected = take(0, WARM_UP) * self.batch
            self.image.append(take(WARM_UP, max(LEAST, round(seconds / expected))))
        if self.step.optimizer.bad:
            raise click.ClickException("a loss was not finite; the time of a step without an update says nothing")


@dataclass(frozen=True)
class Axis:
    """A quantity that is changed: the points by how they are called, and what time is fitted against."""

    name: str
    points: dict[str, Point]
    x: Sequence[float]
    x_label: str

    @property
    def image(self) -> np.ndarray:
        """Seconds per image ``[points, rounds]``."""
        return np.array([point.image for point in self.points.values()])

    @property
    def epoch(self) -> np.ndarray:
        """Seconds per epoch ``[points, rounds]``: drawing, and as many steps as the images fill."""
        used = [[point.samples // point.batch * point.batch] for point in self.points.values()]
        return np.array([point.drawing for point in self.points.values()]) + used * self.image


def axes(samples: Sequence[int]) -> list[Axis]:
    """Return the five axes, with these numbers of images."""
    width = {" - ".join(map(str, hidden)): Point(hidden=hidden) for hidden in HIDDEN}
    return [
        Axis("images", {f"{n:,}": Point(samples=n) for n in samples}, samples, "training images"),
        Axis("hidden layers", width, [point.parameters for point in width.values()], "parameters"),
        Axis("latent size", {str(n): Point(latent=n) for n in LATENT}, LATENT, "latent dimensions"),
        Axis("batch", {str(n): Point(batch=n) for n in BATCH}, BATCH, "images per step"),
        Axis("threads", {str(n): Point(threads=n) for n in THREADS}, THREADS, "threads"),
    ]


def stated(file: str, key: str) -> int:
    """Return the bytes that a file of /proc states, in kB, under a key."""
    lines = (line.split() for line in Path("/proc", file).read_text().splitlines())
    return next(int(line[1]) for line in lines if line[0] == f"{key}:") << 10


def fill(points: Sequence[Point]) -> tuple[Tensor, list[int]]:
    """Return images for the largest of the points, uint8 ``[N, D]``, and the bytes in memory for an epoch of each."""
    before = stated("self/status", "VmRSS")
    images = torch.empty(points[-1].samples, PIXELS, dtype=torch.uint8)
    block = torch.randint(0, 256, (SAMPLES[0], PIXELS), dtype=torch.uint8)
    held, filled = [], 0
    for point in points:
        while filled < point.samples:
            part = images[filled : point.samples][: len(block)]
            part.copy_(block[: len(part)])
            filled += len(part)
        kept = point.draw(1)
        held.append(stated("self/status", "VmRSS") - before - block.nbytes)
        del kept
    return images, held


def exponent(x: Sequence[float], y: np.ndarray) -> np.ndarray:
    """Return b of y = a x^b for each round, ``y`` being ``[points, rounds]``."""
    return np.polyfit(np.log(x), np.log(y), 1)[0]


def spread(values: np.ndarray, digits: int = 2) -> str:
    """Return the median of the rounds, and their range."""
    return f"{np.median(values):z.{digits}f} ({values.min():z.{digits}f} to {values.max():z.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of numbers in Markdown."""
    for cells in (head, ["--:"] * len(head), *rows):
        click.echo("| " + " | ".join(cells) + " |")


def report(axis: Axis, held: Sequence[int]) -> None:
    """Print the table and the law of an axis; ``held`` are the bytes in memory at each number of images."""
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


def short(number: float) -> str:
    """Return a tick label.

    >>> short(60_000), short(1_068_820), short(128)
    ('60k', '1.1M', '128')
    """
    if number < 10_000:
        return f"{number:g}"
    size, letter = (1e6, "M") if number >= 1e6 else (1e3, "k")
    return f"{float(f'{number:.2g}') / size:g}{letter}"


def panel(ax: Axes, axis: Axis) -> None:
    """Draw an axis: medians with the range of the rounds, and the power law of the report."""
    of_epoch = axis.name == "images"
    y = axis.epoch if of_epoch else 1e6 * axis.image
    x, median, power = np.asarray(axis.x, float), np.median(y, axis=1), float(np.median(exponent(axis.x, y)))
    middle = np.exp(np.mean(np.log(median) - power * np.log(x)))
    law = f"exponent {power:z.2f}".replace("-", "\N{MINUS SIGN}")
    ax.plot(x, middle * x**power, color=PENCIL, lw=1.2, ls=(0, (3, 2)), label=law, zorder=3)
    reach = np.abs(np.stack([y.min(1), y.max(1)]) - median)
    ax.errorbar(x, median, reach, color=MODEL_COLORS[1], lw=2, marker="o", ms=7, mec="white", mew=1.2, elinewidth=1.2)
    ax.set(title=axis.name.capitalize(), xscale="log", yscale="log", xlabel=axis.x_label)
    ax.set_ylabel("seconds per epoch" if of_epoch else "microseconds per image")
    if median.max() < 8 * median.min():  # what is almost flat should look so
        ax.set_ylim(min(median.min() / 2, y.min() / 1.2), max(median.max() * 2, y.max() * 1.2))
    ax.set_xticks(x, [short(value) for value in axis.x])
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    for side in (ax.xaxis, ax.yaxis):
        side.set_minor_locator(NullLocator())
    ax.legend(loc="best")
    ax.grid(axis="y")


def draw(measured: Sequence[Axis]) -> Figure:
    """Return a panel for each axis."""
    figure = new_figure(7.2)
    places = figure.subplots(2, 3).ravel()
    for ax, axis in zip(places, measured, strict=False):
        panel(ax, axis)
    for ax in places[len(measured) :]:
        ax.set_axis_off()
    return figure


@click.command()
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=0.7, show_default=True, help="Of steps, for each point in each round.")
@click.option("--out", default="benchmarks/growth.png", show_default=True, type=Path)
def main(rounds: int, seconds: float, out: Path) -> None:
    """Print a table and a law for each axis, and draw them."""
    room = 0.8 * stated("meminfo", "MemAvailable")
    samples = [n for n in SAMPLES if n * (PIXELS + 100) < room]
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
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    click.echo(f"{machine}, torch {torch.__version__}, {rounds} rounds, {time.strftime('%Y-%m-%d')}")
    for axis in measured:
        report(axis, held)
    with styled():
        figure = draw(measured)
    write(out, png(figure, PARAMS.figures.dpi))


if __name__ == "__main__":
    main()
