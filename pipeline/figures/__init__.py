"""The figures by file name; a new one is a function of a Page in a file beside this one and a line here.

A figure draws every model it is given, side by side, and returns None where it has nothing to show.
Neither torch nor MLflow is needed: drawing again takes seconds.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from pipeline.figures.history import history
from pipeline.figures.images import interpolation, manifold, manifold_quantiles, reconstructions, samples, traversals
from pipeline.figures.latent import latent
from pipeline.figures.overview import overview
from pipeline.figures.style import Page, png, styled

FIGURES: dict[str, Callable[[Page], Figure | None]] = {
    "overview": overview,
    "history": history,
    "latent": latent,
    "reconstructions": reconstructions,
    "samples": samples,
    "manifold": manifold,
    "manifold_quantiles": manifold_quantiles,
    "interpolation": interpolation,
    "traversals": traversals,
}

__all__ = ["FIGURES", "Page", "draw", "png"]


def draw(name: str, page: Page) -> Figure | None:
    """Draw one figure by its name; None where the models have nothing it shows.

    Raises ValueError listing the names for one that is not registered.
    """
    if name not in FIGURES:
        raise ValueError(f"unknown figure {name!r}; allowed are {', '.join(FIGURES)}")
    with styled():
        return FIGURES[name](page)
