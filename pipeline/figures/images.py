"""What the decoders draw: reconstructions, samples, and walks through the latent space."""

from collections.abc import Callable
from functools import partial
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.style import WIDTH, Page, label, layout, marks, new_figure, tiles
from pipeline.results import Results

MAX_COLUMNS, MAX_DIMENSIONS = 20, 16


def grid_values(size: int, quantiles: bool) -> np.ndarray:
    """Return the latent value of each column of a manifold from the left, and of each row from below.

    They are linear over [-3, 3], or the standard normal's quantiles at the middles of ``size`` equal parts.

    >>> grid_values(3, quantiles=False)
    array([-3.,  0.,  3.])
    """
    if quantiles:
        return np.array([NormalDist().inv_cdf((i + 0.5) / size) for i in range(size)])
    return np.linspace(-3, 3, size)


# Each panel returns the height of its pictures for a width of 1, by which a page makes room for them.


def reconstructions_panel(ax: Axes, page: Page) -> float:
    """Draw test images and, below each, every model's reconstruction."""
    models = list(page.models.values())
    images = np.stack([models[0].inputs, *(results.reconstructions for results in models)])[:, :MAX_COLUMNS]
    tallness = tiles(ax, images)
    ax.set_yticks(range(len(images)), ["test image", *(label(results) for results in models)])
    ax.set(title=f"Reconstructions of {page.dataset}")
    return tallness


def samples_panel(ax: Axes, results: Results) -> float:
    """Draw the decoded draws from the prior, four by four."""
    ax.set(title=f"Samples: {results.title}")
    return tiles(ax, results.samples[:16].reshape(4, 4, *results.samples.shape[1:]))


def manifold_panel(ax: Axes, results: Results, quantiles: bool = False) -> float:
    """Draw the decoded grid with the latent values on its axes, the second one upwards."""
    images = results.manifold_quantiles if quantiles else results.manifold_range
    tallness = tiles(ax, images, gap=0)
    values = grid_values(len(images), quantiles)
    shown = [value for value in np.arange(-3, 3.5, 0.5 if quantiles else 1) if values[0] <= value <= values[-1]]
    at = np.interp(shown, values, np.arange(len(values)))
    ax.set_xticks(at, marks(shown))
    ax.set_yticks(len(values) - 1 - at, marks(shown))
    kind = "quantiles" if quantiles else "plane"
    ax.set(title=f"Decoded {kind}: {results.title}", xlabel="$z_1$", ylabel="$z_2$")
    return tallness


def interpolation_panel(ax: Axes, results: Results) -> float:
    """Draw the decoded straight lines between the codes of pairs of test images, one a row."""
    tallness, last = tiles(ax, results.interpolations), results.interpolations.shape[1] - 1
    ax.set_xticks([0, last / 2, last], marks([0, 0.5, 1]))
    ax.set(title=f"Interpolation: {results.title}", xlabel="from one test image to another")
    return tallness


def traversals_panel(ax: Axes, results: Results) -> float:
    """Draw decoded moves along single dimensions, those in which the codes vary most first."""
    used = results.codes[:, : len(results.traversals)].var(0)
    order = np.argsort(-used, kind="stable")[:MAX_DIMENSIONS]
    tallness = tiles(ax, results.traversals[order])
    ax.set_xticks(np.linspace(0, results.traversals.shape[1] - 1, 7), marks(range(-3, 4)))
    ax.set_yticks(range(len(order)), [f"$z_{{{i + 1}}}$" for i in order])
    ax.set(title=f"One dimension at a time: {results.title}", xlabel="value, others at the mean code")
    return tallness


def _panels(page: Page, draw: Callable[[Axes, Results], float], field: str, widest: float = WIDTH / 2) -> Figure | None:
    """Draw one panel for each model that has these images, side by side, at most ``widest`` inches each."""
    shown = [results for results in page.models.values() if getattr(results, field).size]
    if not shown:
        return None
    columns, lines = layout(len(shown))
    width = min(WIDTH / columns, widest)
    figure = new_figure(1, columns * width)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    tallness = max([draw(ax, results) for ax, results in zip(axes, shown, strict=False)])
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    figure.set_figheight(lines * (tallness * (width - 0.5) + 1.3))
    return figure


def reconstructions(page: Page) -> Figure:
    """Test images and, below each, what every model makes of it."""
    figure = new_figure(1)
    figure.set_figheight(reconstructions_panel(figure.add_subplot(), page) * (WIDTH - 1.2) + 0.9)
    return figure


def samples(page: Page) -> Figure | None:
    """Sixteen decoded draws from the prior, the same draws for every model."""
    return _panels(page, samples_panel, "samples", widest=4.5)


def manifold(page: Page) -> Figure | None:
    """The decoded plane over [-3, 3] in both dimensions, for models with two."""
    return _panels(page, manifold_panel, "manifold_range", widest=6.2)


def manifold_quantiles(page: Page) -> Figure | None:
    """The decoded plane at equal steps of the prior's probability, for models with two dimensions."""
    return _panels(page, partial(manifold_panel, quantiles=True), "manifold_quantiles", widest=6.2)


def interpolation(page: Page) -> Figure | None:
    """Straight lines in latent space between pairs of test images."""
    return _panels(page, interpolation_panel, "interpolations")


def traversals(page: Page) -> Figure | None:
    """One latent dimension at a time, for models with more than two."""
    return _panels(page, traversals_panel, "traversals")
