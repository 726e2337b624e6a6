"""The latent space: where test images lie in it, and maps over it."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from pipeline.evaluation.results import Results
from pipeline.figures.style import CLASS_COLORS, INK, PENCIL, Page, color_bar, distinct_colors, panels

MAX_TICKS = 30  # of a color bar


def plane(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the center ``[d]`` and the axes ``[2, d]`` of the plane on which codes ``[N, d]`` are drawn, and the axes' names.

    Two dimensions are drawn as they are, more through their first two principal components; one has an empty second axis.
    """
    codes = codes.astype(np.float64)
    dim = codes.shape[1]
    if dim <= 2:
        return np.zeros(dim), np.eye(2, dim), ["$z_1$", "$z_2$"][:dim]
    center = codes.mean(0)
    _, scale, axes = np.linalg.svd(codes - center, full_matrices=False)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]  # the sign is free: fix it
    shares = scale[:2] ** 2 / max((scale**2).sum(), 1e-300)
    return center, axes, [f"component {i} ({share:.0%} of variance)" for i, share in enumerate(shares, 1)]


class Classes(NamedTuple):
    """The classes of the test images: the number of each image's class ``[N]``, a name and a color for each class.

    ``word`` is what a class is called. It is empty, and so are the names, for images without labels, which have one color.
    """

    numbers: np.ndarray
    names: list[str]
    colors: ListedColormap
    word: str


def classes(results: Results) -> Classes:
    """Return the classes that occur; with labels 0 to 9 at most, a label keeps its number and color where others are missing."""
    if "labels" not in results:
        return Classes(np.zeros(len(results["codes"]), np.int64), [], ListedColormap(CLASS_COLORS[3:4]), "")
    known, numbers = np.unique(results["labels"], return_inverse=True)
    if known[0] >= 0 and known[-1] < len(CLASS_COLORS):
        known, numbers = np.arange(known[-1] + 1), results["labels"]
    word = "digit" if results.dataset in ("mnist", "digits") else "class"
    return Classes(numbers, [str(label) for label in known], ListedColormap(distinct_colors(len(known))), word)


def project(results: Results, points: int) -> tuple[np.ndarray, list[str]]:
    """Return the first codes on their :func:`plane` ``[N, 2]`` and the axes' names; one dimension is spread out by class."""
    codes = results["codes"][:points]
    center, axes, names = plane(codes)
    xy: np.ndarray = (codes - center) @ axes.T
    if codes.shape[1] == 1:
        found = classes(results)
        strip = np.arange(len(codes)) * 0.618034 % 1 - 0.5  # steps of the golden ratio fill a strip evenly
        xy[:, 1] = found.numbers[:points] + 0.7 * strip
        names = [*names, found.word]
    return xy, names


def class_places(xy: np.ndarray, numbers: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return where to write the name of each class that occurs ``[K, 2]``: at the median of its points ``[N, 2]``.

    The places are moved apart until no two are closer than ``distance`` of each axis.
    """
    at = np.array([np.median(xy[numbers == number], axis=0) for number in np.unique(numbers)])
    at = at / distance
    for _ in range(100):
        away = at[:, None] - at + 1e-9 * np.triu(np.ones((len(at),) * 2), 1)[..., None]
        length = np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-9)
        at = at + (away / length * np.maximum(1 - length, 0) / 2).sum(1)
    return np.asarray(at * distance)


def scatter(ax: Axes, results: Results, points: int, scale: float = 1) -> None:
    """Draw codes colored by class with the classes' names, and the prior, if any, as circles; ``scale`` sizes dots and names."""
    xy, (xlabel, ylabel) = project(results, points)
    found, dimensions = classes(results), results["codes"].shape[1]
    numbers, halo = found.numbers[:points], [withStroke(linewidth=3.5, foreground="white")]
    ax.scatter(xy[:, 0], xy[:, 1], 18 * scale**2, color=found.colors(numbers), alpha=0.85, linewidths=0)
    ax.set(title=results.title, xlabel=xlabel, ylabel=ylabel)
    if dimensions == 1:
        ticks = np.unique(numbers)[:: -(-len(found.names) // MAX_TICKS)] if found.names else numbers[:0]
        ax.set_yticks(ticks, [found.names[number] for number in ticks])
        return
    if dimensions == 2 and results.has_prior:
        ax.set_aspect("equal", "datalim")
        for radius, text in enumerate(("1σ", "2σ", "3σ of the prior"), 1):
            ax.add_patch(Circle((0, 0), radius, fill=False, ec=PENCIL, lw=0.9, ls=(0, (4, 3)), zorder=0.5))
            ax.text(radius * 0.7071, -radius * 0.7071, text, fontsize=10 * scale, va="center", path_effects=halo)
    if found.names:
        places = class_places(xy, numbers, np.maximum(0.06 * np.ptp(xy, axis=0), 1e-9))
        for number, (x, y) in zip(np.unique(numbers), places, strict=True):
            ax.text(x, y, found.names[number], fontsize=15 * scale, weight="bold", ha="center", va="center", path_effects=halo)


def class_bar(figure: Figure | SubFigure, axes: Axes | np.ndarray, results: Results) -> None:
    """Add the color bar of the classes that the scatters share, where there are labels."""
    found = classes(results)
    if number := len(found.names):
        mappable = ScalarMappable(BoundaryNorm(np.arange(-0.5, number), number), found.colors)
        bar = color_bar(figure, axes, mappable, label=found.word)
        ticks = range(0, number, -(-number // MAX_TICKS))
        bar.set_ticks(ticks, labels=[found.names[tick] for tick in ticks])
        bar.ax.minorticks_off()
        bar.ax.tick_params(length=0)


def latent(page: Page) -> Figure | None:
    """Draw the codes of test images, one panel a model, colored by class."""
    if not (shown := page.having("codes")):
        return None
    figure, axes = panels(len(shown), 0.94)
    for ax, results in zip(axes.flat, shown, strict=False):
        scatter(ax, results, page.points)
    class_bar(figure, axes, shown[-1])
    return figure


def _maps(page: Page, name: str, label: str, norm: Normalize, contour: float | None = None) -> Figure | None:
    """Draw a map over each model's latent plane and the codes on it; without a contour, relative to its 99th percentile."""
    if not (shown := page.having(name)):
        return None
    figure, axes = panels(len(shown), 0.9)
    for ax, results in zip(axes.flat, shown, strict=False):
        values, codes, (x, y) = results[name], results["map_codes"], results["map_axes"]
        if contour is None:
            values = values - np.quantile(values, 0.99)
        extent = (x[0], x[-1], y[0], y[-1])
        image = ax.imshow(values, cmap="cividis", norm=norm, extent=extent, aspect="auto", interpolation="nearest")
        if contour is not None and values.min() < contour < values.max():
            ax.contour(x, y[::-1], values, levels=[contour], colors="white", linewidths=0.9)
        ax.scatter(codes[:, 0], codes[:, 1], s=4, color=INK, alpha=0.4, linewidths=0)
        ax.set(title=results.title, xlabel="$z_1$", ylabel="$z_2$", xlim=extent[:2], ylim=extent[2:])
    color_bar(figure, axes, image, label=label)
    return figure


def holes(page: Page) -> Figure | None:
    """Draw the classifier's confidence in decoded images, with a white line where it is 0.8."""
    return _maps(page, "confidence_map", "classifier's confidence in the decoded image (line: 0.8)", Normalize(0.3, 1), 0.8)


def magnification(page: Page) -> Figure | None:
    """Draw how much the decoder stretches each place, relative to its own largest, so that codes of any scale compare."""
    return _maps(page, "volume_map", r"$\log\,\sqrt{\det J^T J}$ under its 99th percentile", Normalize(-5, 0))
