"""The latent space: where test images lie in it, and maps over it."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from scipy.spatial import cKDTree

from pipeline.evaluation.results import Results
from pipeline.figures.style import (
    CLASS_COLORS,
    DOT,
    INK,
    PENCIL,
    Page,
    color_bar,
    cut,
    distinct_colors,
    is_ink,
    marks,
    panels,
    tiles,
)

MAX_TICKS = 26  # of a color bar


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

    ``word`` is what a class is called: "digit" or "class"; ``named`` whether the classes have names of their own. Without labels
    the word is empty, there are no names, and all images have one color.
    """

    numbers: np.ndarray
    names: list[str]
    colors: ListedColormap
    word: str
    named: bool


def classes(results: Results) -> Classes:
    """Return the classes that occur; with labels 0 to 9 at most, a label keeps its color where others are missing."""
    if "labels" not in results:
        return Classes(np.zeros(len(results["codes"]), np.int64), [], ListedColormap(CLASS_COLORS[:1]), "", False)
    known, numbers = np.unique(results["labels"], return_inverse=True)
    if known[0] >= 0 and known[-1] < len(CLASS_COLORS):
        known, numbers = np.arange(known[-1] + 1), results["labels"]
    word = "digit" if results.dataset in ("mnist", "digits") else "class"
    names = [results.classes[label] if results.classes else str(label) for label in known]
    return Classes(numbers, names, ListedColormap(distinct_colors(len(known))), word, bool(results.classes))


def project(results: Results, points: int) -> tuple[np.ndarray, list[str]]:
    """Return the first codes on their :func:`plane` ``[N, 2]`` and the axes' names; one dimension is spread out by class."""
    codes = results["codes"][:points]
    center, axes, names = plane(codes)
    xy: np.ndarray = (codes - center) @ axes.T
    if codes.shape[1] == 1:
        found = classes(results)
        strip = np.arange(len(codes)) * 0.618034 % 1 - 0.5  # steps of the golden ratio fill a strip evenly
        xy[:, 1] = found.numbers[:points] + 0.7 * strip
        names = [*names, "" if found.named else found.word]
    return xy, names


def class_places(xy: np.ndarray, numbers: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where to write the name of each class that occurs ``[K, 2]``, and the point of the class that it names ``[K, 2]``.

    The two are equal where the name stands on a point with many of its own class and fewer of others around it. Else the name
    stands at the nearest free place and needs a line to its point; NaN where there is none. No two names are closer than
    ``distance`` of each axis.
    """
    points = xy / distance
    everything, low, high = cKDTree(points), points.min(0), points.max(0)
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    own, best = [], []
    for number in np.unique(numbers):
        members = points[numbers == number]
        trees = cKDTree(members), everything
        mine, near = (tree.query_ball_point(members, 1.0, return_length=True) for tree in trees)
        mine_under, all_under = (tree.query_ball_point(members, 0.5, return_length=True) for tree in trees)  # the name itself
        core = np.flatnonzero(mine >= mine.max() / 2)  # without stray points
        core = core[np.argsort((near - 2 * mine)[core], kind="stable")]
        best.append(members[core[0]])
        own.append(members[core[(2 * mine_under > all_under)[core]]])
    anchors, places = np.array(best), np.full((len(best), 2), np.nan)

    def free(candidates: np.ndarray) -> np.ndarray:
        isolated = (at for at in candidates if not (np.linalg.norm(places - at, axis=1) < 1).any())
        return next(isolated, np.full(2, np.nan))

    for k in sorted(range(len(own)), key=lambda k: len(own[k])):  # a class with few places of its own chooses first
        places[k] = free(own[k])
    beside = np.isnan(places[:, 0])
    anchors[~beside] = places[~beside]
    for k in np.flatnonzero(beside).tolist():
        around = np.concatenate([anchors[k] + radius * ring for radius in np.arange(1, 12, 0.5)])
        inside = around[((low <= around) & (around <= high)).all(1)]
        places[k] = free(inside[everything.query(inside)[0] > 0.5])
    return places * distance, anchors * distance


def _stretch(ax: Axes, xy: np.ndarray) -> bool:
    """Make both axes logarithmic outside a linear middle, if most of the points ``[N, 2]`` lie in a small part of their frame."""
    radius = np.linalg.norm(xy, axis=1)
    middle, largest = np.median(radius), np.abs(xy).max()
    if not 0 < 10 * middle < largest:
        return False
    edge = float(f"{middle:.1g}")
    outside = [10.0**power for power in range(-9, 10) if 2 * edge < 10.0**power <= largest]
    outside = outside[:: -(-len(outside) // 2) or 1]
    ticks = [*(-tick for tick in reversed(outside)), -edge, 0, edge, *outside]
    ax.set_xscale("symlog", linthresh=edge)
    ax.set_yscale("symlog", linthresh=edge)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(ticks, marks(ticks))
        axis.set_label_text(f"{axis.get_label_text()}, logarithmic beyond ±{edge:g}")
    ax.minorticks_off()
    return True


def scatter(ax: Axes, results: Results, points: int, scale: float = 1) -> None:
    """Draw codes colored by class with the classes' names, and the prior, if any, as circles; ``scale`` sizes dots and names."""
    xy, (xlabel, ylabel) = project(results, points)
    found, dimensions = classes(results), results["codes"].shape[1]
    numbers, halo = found.numbers[:points], [withStroke(linewidth=2.5, foreground="white")]
    ax.scatter(xy[:, 0], xy[:, 1], 9 * scale**2, color=found.colors(numbers), alpha=0.85, linewidths=0)
    ax.set(title=results.title, xlabel=xlabel, ylabel=ylabel)
    if dimensions == 1:
        ticks = np.unique(numbers)[:: -(-len(found.names) // MAX_TICKS)] if found.names else numbers[:0]
        ax.set_yticks(ticks, [cut(found.names[number]) for number in ticks])
        return
    extent = np.ptp(xy, axis=0)
    if dimensions == 2 and results.has_prior:
        extent[:] = max(extent.max(), 6)  # the circles are in view
        ax.set_aspect("equal", "datalim")
        for radius, text in enumerate(("1σ", "2σ", "3σ of the prior"), 1):
            ax.add_patch(Circle((0, 0), radius, fill=False, ec=PENCIL, lw=0.7, ls=(0, (4, 3)), zorder=0.5))
            ax.text(0, -radius, text, fontsize=8 * scale, ha="center", va="center", path_effects=halo)
    elif _stretch(ax, xy):
        xy = ax.transScale.transform(xy)
        extent = np.ptp(xy, axis=0)
    if found.names:
        longest = max(len(cut(name)) for name in found.names)
        distance = 0.06 * extent * (max(longest / (2 * scale**2), 1), 1)  # the room of a name
        ax.margins(x=max(0.013 * longest, 0.05))
        both = class_places(xy, numbers, np.maximum(distance, 1e-9))
        places, anchors = (ax.transScale.inverted().transform(points) for points in both)
        for number, place, anchor in zip(np.unique(numbers), places, anchors, strict=True):
            line, is_beside = None, (place != anchor).any()
            if is_beside and len(found.names) > MAX_TICKS:
                continue  # so many lines would hide the codes
            if is_beside:
                line = {"arrowstyle": "-", "color": INK, "lw": 0.7, "shrinkB": 0}
                ax.plot(*anchor, color=found.colors(number), **DOT | {"ms": 5 * scale})
            if not np.isnan(place).any():
                options: dict[str, Any] = {"weight": "bold", "ha": "center", "va": "center", "path_effects": halo}
                ax.annotate(cut(found.names[number]), anchor, place, fontsize=10 * scale, arrowprops=line, **options)


def class_bar(figure: Figure | SubFigure, axes: Axes | np.ndarray, results: Results, most: int = MAX_TICKS) -> None:
    """Add the color bar of the classes that the scatters share, where there are labels; it names at most ``most``."""
    found = classes(results)
    if number := len(found.names):
        mappable = ScalarMappable(BoundaryNorm(np.arange(-0.5, number), number), found.colors)
        bar = color_bar(figure, axes, mappable, label="" if found.named else found.word)
        ticks = range(0, number, -(-number // most))
        bar.set_ticks(ticks, labels=[cut(found.names[tick]) for tick in ticks])
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


def _maps(page: Page, name: str, title: str, label: str, colors: str, norm: Normalize) -> Figure | None:
    """Draw a map over each model's latent plane and the codes on it."""
    if not (shown := page.having(name)):
        return None
    figure, axes = panels(len(shown), 0.9)
    for ax, results in zip(axes.flat, shown, strict=False):
        values, codes, (x, y) = results[name], results["map_codes"], results["map_axes"]
        if name == "volume_map":  # relative to the model's own, so that codes of any scale compare
            values = values - np.quantile(values, 0.99)
        extent = (x[0], x[-1], y[0], y[-1])
        image = ax.imshow(values, cmap=colors, norm=norm, extent=extent, aspect="auto", interpolation="nearest")
        ax.scatter(codes[:, 0], codes[:, 1], s=2, color=INK, alpha=0.4, linewidths=0)
        ax.set(title=results.title, xlabel="$z_1$", ylabel="$z_2$", xlim=extent[:2], ylim=extent[2:])
    color_bar(figure, axes, image, label=label)
    figure.suptitle(title)
    return figure


def holes(page: Page) -> Figure | None:
    """Draw the classifier's confidence in decoded images, with the image where it is lowest."""
    title, label = "Where a classifier cannot read the decoded image", "classifier's confidence in the decoded image"
    figure = _maps(page, "confidence_map", title, label, "Blues_r", Normalize(0.3, 1))
    for ax, results in zip(figure.axes if figure else [], page.having("confidence_map"), strict=False):
        if "hole_code" in results:
            code, axes = results["hole_code"], results["map_axes"]
            column, row = np.abs(axes - code[:, None]).argmin(1)
            at = np.array([column, row]) / axes.shape[1]
            corners = np.array([[0.18, 0.15], [0.18, 0.8], [0.82, 0.15], [0.82, 0.8]])
            x, y = min(corners, key=lambda corner: abs(np.linalg.norm(corner - at) - 0.3))  # near, and not on the hole itself
            ax.annotate("", tuple(code), (x, y), textcoords="axes fraction", arrowprops={"arrowstyle": "-", "color": INK})
            inset = ax.inset_axes((x - 0.1, y - 0.1, 0.2, 0.2))
            tiles(inset, results["hole_image"][None, None], ink=is_ink(results["inputs"]))
            inset.spines[:].set_visible(True)
            inset.set_title(f"confidence {results['confidence_map'][-1 - row, column]:.2f}", fontsize=8, pad=3, loc="center")
    return figure


def magnification(page: Page) -> Figure | None:
    """Draw how much the decoder stretches each place, relative to its own largest, so that codes of any scale compare."""
    label = r"$\log\,\sqrt{\det J^T J}$ under its 99th percentile"
    return _maps(page, "volume_map", "How fast the picture changes when you move", label, "cividis", Normalize(-5, 0))
