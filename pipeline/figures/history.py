"""How the terms of the objective fell over the epochs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.figures.style import INK, MODEL_COLORS, Page, new_figure

TERMS = {"loss": "Loss", "recon": "Reconstruction", "kl": "KL"}


def best_epoch(history: pd.DataFrame) -> int:
    """Return the row of the epoch with the lowest validation loss."""
    return int(history["val/loss"].to_numpy().argmin())


def terms(page: Page) -> list[str]:
    """Return the terms that at least one model's history has."""
    return [term for term in TERMS if any(f"val/{term}" in history for history in page.histories.values())]


def curves(ax: Axes, page: Page, term: str) -> None:
    """Draw one term of every model that has it: validation solid, training dashed, a dot at the best epoch."""
    seen: list[pd.Series] = []
    for color, name in zip(MODEL_COLORS * len(page.models), page.models, strict=False):
        history = page.histories.get(name)
        if history is None or f"val/{term}" not in history:
            continue
        epoch, best = history["epoch"], best_epoch(history)
        # The first epoch's training mean counts steps of a model that knew nothing, and would flatten all the rest.
        seen += [history[f"val/{term}"], history[f"train/{term}"].iloc[1:]]
        ax.plot(epoch, history[f"train/{term}"], color=color, lw=1.2, ls=(0, (3, 2)), alpha=0.7)
        ax.plot(epoch, history[f"val/{term}"], color=color, lw=2, label=page.models[name].title)
        ax.plot(epoch.iloc[best], history[f"val/{term}"].iloc[best], "o", color=color, ms=7, mec="white", mew=1.2)
    low, high = pd.concat(seen).agg(["min", "max"])
    ax.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    ax.grid(axis="y")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    ax.set(title=TERMS[term], xlabel="epoch", ylabel="nats per image")


def key(ax: Axes) -> list[Line2D]:
    """Return the legend's handles: the models of these axes by colour, then what the kinds of line mean."""
    models = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    return [
        *models,
        Line2D([], [], color=INK, lw=2, label="validation"),
        Line2D([], [], color=INK, lw=1.2, ls=(0, (3, 2)), label="training"),
        Line2D([], [], color=INK, ls="", marker="o", ms=7, mec="white", mew=1.2, label="best epoch"),
    ]


def history(page: Page) -> Figure | None:
    """Loss, reconstruction and KL over the epochs, every model in the same axes."""
    if not (shown := terms(page)):
        return None
    figure = new_figure(4.8)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, term in zip(axes, shown, strict=True):
        curves(ax, page, term)
    figure.legend(handles=key(axes[0]), loc="outside lower center", ncols=8)
    return figure
