"""Figures: Results in, a matplotlib Figure out, or None where there is nothing to show; a new figure is a line in FIGURES.

May import evaluation.results and what that may: neither torch nor MLflow, so drawing again takes seconds."""

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from pipeline.figures import history, images, latent, overview
from pipeline.figures.style import WIDTH, Page, png, styled

FIGURES: dict[str, Callable[[Page], Figure | None]] = {
    "overview": overview.overview,
    "history": history.history,
    "latent": latent.latent,
    "reconstructions": images.reconstructions,
    "samples": partial(images.by_model, images.samples_panel, "prior_samples", 3),
    "manifold": images.manifold,
    "interpolation": partial(images.by_model, images.interpolation_panel, "interpolation_ends", WIDTH / 2),
    "traversals": partial(images.by_model, images.traversals_panel, "traversals", WIDTH / 2),
    "holes": latent.holes,
    "magnification": latent.magnification,
    "samplers": images.samplers,
    "hardest_images": images.hardest_images,
}

# What some figures need; without it there is nothing to show.
NEEDS = {
    "manifold": "2 latent dimensions",
    "traversals": "more than 2 latent dimensions",
    "holes": "2 latent dimensions and the classifier",
    "magnification": "2 latent dimensions",
    "samplers": "the classifier",
}

__all__ = ["FIGURES", "NEEDS", "Page", "draw", "png"]


def draw(name: str, page: Page) -> Figure | None:
    """Draw a figure by its name; None where the models have nothing to show in it. Raises ValueError for an unknown name."""
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}; allowed are {', '.join(FIGURES)}")
    with styled():
        return FIGURES[name](page)
