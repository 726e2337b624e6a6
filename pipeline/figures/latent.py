"""Where test images lie in the latent space."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from pipeline.figures.style import CLASS_COLORS, CLASS_NORM, PENCIL, WIDTH, Page, layout, new_figure
from pipeline.results import Results

_HALO = [withStroke(linewidth=3.5, foreground="white")]


def project(results: Results, points: int) -> tuple[np.ndarray, tuple[str, str]]:
    """Return the first ``points`` codes as they are drawn ``[N, 2]``, and what the two axes are.

    One dimension is spread out by class, two are drawn as they are, more through their first two principal components.
    """
    codes, labels = results.codes[:points].astype(np.float64), results.labels[:points]
    if codes.shape[1] == 1:
        spread = np.arange(len(codes)) * 0.618034 % 1 - 0.5  # steps of the golden ratio fill a strip evenly
        return np.column_stack([codes[:, 0], labels + 0.7 * spread]), ("$z_1$", class_name(results))
    if codes.shape[1] == 2:
        return codes, ("$z_1$", "$z_2$")
    centred = codes - codes.mean(0)
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]  # the sign is free: fix it
    shares = scale[:2] ** 2 / max((scale**2).sum(), 1e-300)
    first, second = (f"component {i} ({share:.0%} of variance)" for i, share in enumerate(shares, 1))
    return centred @ axes.T, (first, second)


def class_name(results: Results) -> str:
    """Return what the classes of a data set are called."""
    return "digit" if results.dataset in ("mnist", "digits") else "class"


def spread_out(at: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Move places ``[K, 2]`` apart until no two are closer than ``distance`` of each axis.

    >>> spread_out(np.array([[0.0, 0.0], [0.0, 1.0]]), np.array([2.0, 2.0])).round(3)
    array([[ 0. , -0.5],
           [ 0. ,  1.5]])
    """
    at = at / distance
    for _ in range(100):
        away = at[:, None] - at + 1e-9 * np.triu(np.ones((len(at),) * 2), 1)[..., None]
        length = np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-9)
        at = at + (away / length * np.maximum(1 - length, 0) / 2).sum(1)
    return at * distance


def scatter(ax: Axes, results: Results, points: int, scale: float = 1) -> None:
    """Draw codes coloured by class, each class's number at its median, and the prior, where there is one, as circles.

    ``scale`` is the size of dots and numbers.
    """
    xy, (xlabel, ylabel) = project(results, points)
    labels, dimensions = results.labels[: len(xy)], results.codes.shape[1]
    ax.scatter(xy[:, 0], xy[:, 1], 18 * scale**2, labels, cmap=CLASS_COLORS, norm=CLASS_NORM, alpha=0.85, linewidths=0)
    ax.set(title=results.title, xlabel=xlabel, ylabel=ylabel)
    if dimensions == 1:
        ax.set_yticks(np.unique(labels))
        return
    if dimensions == 2 and results.beta is not None:
        ax.set_aspect("equal", "datalim")
        for radius in (1, 2, 3):
            ax.add_patch(Circle((0, 0), radius, fill=False, ec=PENCIL, lw=0.9, ls=(0, (4, 3)), zorder=0.5))
            mark = ax.text(radius * 0.7071, -radius * 0.7071, f"{radius}σ", fontsize=10 * scale, va="center", path_effects=_HALO)
        mark.set_text("3σ of the prior")
    medians = np.array([np.median(xy[labels == digit], axis=0) for digit in np.unique(labels)])
    places = spread_out(medians, np.maximum(0.06 * np.ptp(xy, axis=0), 1e-9))
    for digit, (x, y) in zip(np.unique(labels), places, strict=True):
        ax.text(x, y, str(digit), fontsize=15 * scale, weight="bold", ha="center", va="center", path_effects=_HALO)


def color_bar(figure: Figure | SubFigure, axes: Axes | Sequence[Axes], label: str) -> None:
    """Add the one colour bar that the scatters share."""
    classes = ScalarMappable(CLASS_NORM, CLASS_COLORS)
    bar = figure.colorbar(classes, ax=axes, ticks=range(10), label=label, fraction=0.03, pad=0.015, aspect=32)
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)


def latent(page: Page) -> Figure:
    """The codes of test images, one panel a model, coloured by class with one colour bar."""
    columns, lines = layout(len(page.models))
    width = min(WIDTH / columns, 8)
    figure = new_figure(lines * width * 0.94, columns * width)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, results in zip(axes, page.models.values(), strict=False):
        scatter(ax, results, page.points)
    for ax in axes[len(page.models) :]:
        ax.set_axis_off()
    color_bar(figure, list(axes), class_name(results))
    return figure
