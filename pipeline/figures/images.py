"""Decoded images: reconstructions, samples, and lines and grids through the latent space."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.results import Results
from pipeline.figures.style import WIDTH, Page, image_panels, is_ink, marks, new_figure, tiles

MAX_COLUMNS, MAX_DIMENSIONS = 20, 16
SAMPLER_NAMES = {"prior": "N(0, I)", "gaussian": "Gaussian fit", "gmm10": "mixture of 10", "kde": "kernel density"}
HARDEST = {"worst": "largest error", "misclassified": "taken for another class"}


def grid_values(size: int, quantiles: bool) -> np.ndarray:
    """Return latent values, linear over [-3, 3], or the standard normal's quantiles at the middles of ``size`` equal parts."""
    if quantiles:
        return np.array([NormalDist().inv_cdf((i + 0.5) / size) for i in range(size)])
    return np.linspace(-3, 3, size)


# Each panel returns the height of its images for a width of 1, which decides the height of the figure.


def reconstructions_panel(ax: Axes, page: Page) -> float:
    """Draw test images and, below each, the reconstruction of every model."""
    shown = page.having("reconstructions")
    images = np.stack([shown[0]["inputs"], *(results["reconstructions"] for results in shown)])[:, :MAX_COLUMNS]
    tallness = tiles(ax, images, ink=is_ink(shown[0]["inputs"]))
    ax.set_yticks(range(len(images)), ["test image", *(results.label for results in shown)])
    ax.set(title=f"Reconstructions of {shown[0].data}")
    return tallness


def samples_panel(ax: Axes, results: Results) -> float:
    """Draw sixteen decoded samples from the prior, the same latent points for every model."""
    ax.set(title=f"Samples: {results.title}")
    images = results["prior_samples"]
    return tiles(ax, images[:16].reshape(4, 4, *images.shape[1:]), ink=is_ink(results["inputs"]))


def manifold_panel(ax: Axes, results: Results, quantiles: bool = False) -> float:
    """Draw the decoded plane, over [-3, 3] or at equal steps of the prior's probability; the second axis goes upwards."""
    images = results["manifold_quantiles" if quantiles else "manifold"]
    ink, values = is_ink(results.arrays.get("inputs", images)), grid_values(len(images), quantiles)
    tallness = tiles(ax, images, gap=1, ink=ink)
    shown = [value for value in np.arange(-3, 3.5, 0.5 if quantiles else 1) if values[0] <= value <= values[-1]]
    at = np.interp(shown, values, np.arange(len(values)))
    ax.set_xticks(at, marks(shown))
    upward = slice(None, None, 1 if tallness > 0.6 else 2)
    ax.set_yticks(len(values) - 1 - at[upward], marks(shown[upward]))
    ax.set(title=results.title, xlabel="$z_1$", ylabel="$z_2$")
    return tallness


def interpolation_panel(ax: Axes, results: Results) -> float:
    """Draw pairs of test images, one a row, and between them the decoded straight line from one code to the other."""
    starts, ends = results["interpolation_ends"][:, :1], results["interpolation_ends"][:, 1:]
    images = np.concatenate([starts, results["interpolations"], ends], axis=1)
    tallness, last = tiles(ax, images, ink=is_ink(results["inputs"])), images.shape[1] - 1
    ax.set_xticks([0, last / 2, last], ["real", "decoded, in equal steps from code to code", "real"])
    ax.set(title=f"Interpolation: {results.title}")
    return tallness


def traversals_panel(ax: Axes, results: Results) -> float:
    """Draw decoded moves along single dimensions, those in which the codes vary most first."""
    images = results["traversals"]
    order = np.argsort(-results["codes"][:, : len(images)].var(0), kind="stable")[:MAX_DIMENSIONS]
    tallness = tiles(ax, images[order], ink=is_ink(results["inputs"]))
    ax.set_xticks(np.linspace(0, images.shape[1] - 1, 7), marks(range(-3, 4)))
    ax.set_yticks(range(len(order)), [f"$z_{{{i + 1}}}$" for i in order])
    ax.set(title=f"One dimension at a time: {results.title}", xlabel="value, others at the mean code")
    return tallness


def manifold(page: Page) -> Figure | None:
    """Draw each model's decoded plane in even steps and, where it was decoded, in steps of equal probability under the prior."""
    names = {"manifold": "even steps", "manifold_quantiles": "steps of equal probability under N(0, I)"}
    if not (shown := [(results, name) for name in names for results in page.having(name)]):
        return None

    def panel(ax: Axes, one: tuple[Results, str]) -> float:
        results, name = one
        tallness = manifold_panel(ax, results, quantiles=name == "manifold_quantiles")
        ax.set_xlabel(f"$z_1$, {names[name]}")
        return tallness

    figure = image_panels(shown, panel)
    figure.suptitle("What each point of the latent plane decodes to")
    return figure


def by_model(draw: Callable[[Axes, Results], float], name: str, widest: float, page: Page) -> Figure | None:
    """Draw one panel for each model that has the array ``name``, at most ``widest`` inches wide."""
    shown = page.having(name)
    return image_panels(shown, draw, widest) if shown else None


def reconstructions(page: Page) -> Figure | None:
    """Draw test images and, below each, the reconstruction of every model."""
    if not page.having("reconstructions"):
        return None
    figure = new_figure(1)
    figure.set_figheight(reconstructions_panel(figure.add_subplot(), page) * (WIDTH - 0.9) + 0.6)
    return figure


def samplers(page: Page) -> Figure | None:
    """Draw decoded samples of every sampler, one row a model, with the Fréchet distance in the classifier's features."""
    if not (shown := page.having("sample_images")):
        return None
    columns, figure, tallness = len(shown[0].samplers), new_figure(1), 1.0
    for row, results in zip(figure.subplots(len(shown), columns, squeeze=False), shown, strict=True):
        sets = zip(row, results.samplers, results["sample_images"], results["frechet_distances"], strict=True)
        for ax, sampler, images, distance in sets:
            across = min(len(images), 5)  # there are as many as test images
            down = min(len(images) // across, 4)
            tallness = tiles(ax, images[: down * across].reshape(down, across, *images.shape[1:]), ink=is_ink(results["inputs"]))
            ax.set_title(f"{SAMPLER_NAMES.get(sampler, sampler)}: {distance:.1f}")
        row[0].set_ylabel(results.title if tallness > 0.5 else results.label)
    figure.set_figheight(len(shown) * (WIDTH / columns * tallness + 0.4) + 0.3)
    real = f" (real images: {shown[0]['frechet_distance_real'][0]:.2f})" if "frechet_distance_real" in shown[0] else ""
    figure.suptitle(f"Samples, and their Fréchet distance from real images: lower is closer{real}")
    return figure


def hardest_images(page: Page) -> Figure | None:
    """Draw the test images with the largest errors, and those that the classifier most surely takes for another class."""
    rows = [(results, kind) for results in page.models.values() for kind in HARDEST if results.arrays.get(kind, np.empty(0)).size]
    if not rows:
        return None
    figure, tallness = new_figure(1), 1.0
    for ax, (results, kind) in zip(figure.subplots(len(rows), 1, squeeze=False).ravel(), rows, strict=True):
        tallness = tiles(ax, results[kind], ink=is_ink(results["inputs"]))
        ax.set_yticks([0, 1], ["test image", "reconstruction"])
        ax.set_title(f"{results.title}: {HARDEST[kind]}")
    figure.set_figheight(len(rows) * (WIDTH * tallness + 0.3))
    return figure
