"""The figure of `benchmarks.growth`, and the axes it draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.figures.style import MODEL_COLORS, PENCIL, new_figure, styled

if TYPE_CHECKING:
    from benchmarks.growth_steps import Point


@dataclass(frozen=True)
class Axis:
    """A quantity that is changed: its points by name, and the numbers ``x`` that time is fitted against."""

    name: str
    points: dict[str, "Point"]
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


def exponent(x: Sequence[float], y: np.ndarray) -> np.ndarray:
    """Return b of y = a x^b for each round, ``y`` being ``[points, rounds]``."""
    slopes: np.ndarray = np.polyfit(np.log(x), np.log(y), 1)[0]
    return slopes


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
    with styled():
        figure = new_figure(4.2)
        places = figure.subplots(2, 3).ravel()
        for ax, axis in zip(places, measured, strict=False):
            panel(ax, axis)
        for ax in places[len(measured) :]:
            ax.set_axis_off()
    return figure
