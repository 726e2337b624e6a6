"""The training history: the terms of the objective over the epochs."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.errors import IntegrityError
from pipeline.figures.style import DOT, INK, Page, new_figure, series_colors

TERMS = {"loss": "Loss", "recon": "Reconstruction", "kl": "KL"}
_TRAINING: dict[str, Any] = {"lw": 1.2, "ls": (0, (3, 2))}


def load_history(path: Path) -> pd.DataFrame:
    """Read a training history. Raises IntegrityError naming the file when it is missing or has no epoch."""
    try:
        history = pd.read_csv(path)
        if history.empty or history[["epoch", "val/loss"]].isna().any(axis=None):
            raise ValueError("no epochs")
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path}: no readable training history ({error}); run `dvc repro` to make it") from None
    return history


def epoch_axes(figure: Figure | SubFigure, titles: list[str], y_label: str) -> list[Axes]:
    """Return axes side by side for curves over the epochs, one for each title."""
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for ax, title in zip(axes, titles, strict=True):
        ax.grid(axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4, min_n_ticks=1))
        ax.set(title=title, xlabel="epoch", ylabel=y_label)
    return axes


def curves(figure: Figure | SubFigure, page: Page, legend_columns: int, *, with_data: bool = True) -> bool:
    """Draw each term of all models: validation solid, training dashed, a dot at the epoch with the lowest validation loss.

    The legend names the models, ``with_data`` the data set too. Returns whether there is a history to draw.
    """
    if not (terms := [term for term in TERMS if any(f"val/{term}" in history for history in page.histories.values())]):
        return False
    axes, colors = epoch_axes(figure, [TERMS[term] for term in terms], "nats per image"), series_colors(page.models)
    for ax, term in zip(axes, terms, strict=True):
        train, val, seen = f"train/{term}", f"val/{term}", []
        for name in page.models:
            history = page.histories.get(name)
            if history is not None and val in history:
                color, epoch, best = colors[name], history["epoch"], history["val/loss"].to_numpy().argmin()
                # The first training mean includes steps of the untrained model; its range would flatten all other epochs.
                seen += [history[val], history[train].iloc[1:]]
                ax.plot(epoch, history[train], color=color, alpha=0.7, **_TRAINING)
                ax.plot(
                    epoch,
                    history[val],
                    color=color,
                    lw=2,
                    label=page.models[name].title if with_data else page.models[name].label,
                )
                ax.plot(epoch.iloc[best], history[val].iloc[best], color=color, **DOT)
        low, high = pd.concat(seen).agg(["min", "max"])
        ax.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    handles = [
        *axes[0].get_legend_handles_labels()[0],
        Line2D([], [], color=INK, lw=2, label="validation"),
        Line2D([], [], color=INK, label="training", **_TRAINING),
        Line2D([], [], color=INK, label="lowest validation loss", **DOT),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns)
    return True


def history(page: Page) -> Figure | None:
    """Draw loss, reconstruction and KL over the epochs, every model in the same axes."""
    figure = new_figure(2.7)
    return figure if curves(figure, page, legend_columns=8) else None
