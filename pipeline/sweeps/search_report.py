"""What a search found: the best trials as a table, what made the difference, and all trials as a file and a figure."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.figures.style import DOT, INK, MODEL_COLORS, PENCIL, new_figure, png, styled
from pipeline.storage import save_csv, write
from pipeline.sweeps.grid import text
from pipeline.sweeps.study import COMPLETE, Ended, Study

SHOWN = 10  # of the best trials in a table
DPI = 110


def _row(trial: Ended, metric: str) -> dict[str, Any]:
    given = {key: text(value) for key, value in trial.params.items()}
    value = "" if trial.value is None else trial.value
    return {"trial": trial.number, **given, metric: value, "state": trial.state, "epochs": len(trial.curve), "md5": trial.md5}


def table(study: Study) -> Table:
    """Return the table of the best trials for a terminal."""
    drawn, metric = Table(box=SIMPLE_HEAD), study.settings.metric
    for title in ("trial", *study.settings.space, f"{metric}, nats", "best epoch"):
        drawn.add_column(title, justify="right", no_wrap=True)  # a number that is cut would be another one
    for trial in study.best()[:SHOWN]:
        drawn.add_row(str(trial.number), *map(text, trial.params.values()), f"{trial.value:.3f}", str(trial.epoch))
    return drawn


def summary(study: Study) -> list[str]:
    """Return lines that say how many trials there are, of which state, and how much each key matters."""
    states = [trial.state for trial in study.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    repeated = sum(trial.folder != trial.number for trial in study.trials)
    lines = [f"{len(states)} trials: {counted}" + (f"; {repeated} of them repeat another one" if repeated else "")]
    if importances := study.importances():
        shares = ", ".join(f"{key} {share:.0%}" for key, share in importances.items())
        lines.append(f"importance, the share of the variance of {study.settings.metric}: {shares}")
    return lines


def _history(ax: Axes, study: Study) -> None:
    """Draw the metric of each trial, and the best one so far."""
    complete, metric = study.of(COMPLETE), study.settings.metric
    numbers, values = [trial.number for trial in complete], [trial.value or 0.0 for trial in complete]
    others = [trial for trial in study.trials if trial.state != COMPLETE]
    ax.plot(numbers, values, color=MODEL_COLORS[1], label="complete", **DOT)
    best = [min(values[: index + 1]) for index in range(len(values))]
    ax.step([*numbers, study.trials[-1].number], [*best, best[-1]], where="post", color=INK, lw=1.5, label="the best so far")
    low, high = min(values), max(values)
    margin = 0.08 * (high - low or 1)
    if others:  # at the upper edge: their values are of early epochs
        edge = [high + margin] * len(others)
        ax.plot([trial.number for trial in others], edge, "x", color=PENCIL, ms=5, label="pruned or failed (at the edge)")
    ax.set(title="Trials", xlabel="trial", ylabel=f"{metric}, nats per image", ylim=(low - margin, high + 2 * margin))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y")


def _importances(ax: Axes, importances: dict[str, float]) -> None:
    """Draw how much each key matters, the most at the top."""
    keys, shares = [*importances][::-1], [*importances.values()][::-1]
    bars = ax.barh(keys, shares, color=MODEL_COLORS[2])
    ax.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3)
    ax.set(title="Importance", xlabel="share of the variance", xlim=(0, 1.15 * max(shares)))


def figure(study: Study) -> Figure:
    """Return the figure of a search with complete trials: its history, and the importance of each key where it is known."""
    importances = study.importances()
    drawn = new_figure(3.2)
    axes = drawn.subplots(1, 2, squeeze=False, width_ratios=(3, 2))[0] if importances else [drawn.subplots()]
    _history(axes[0], study)
    if importances:
        _importances(axes[1], importances)
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower left", ncols=3)
    return drawn


def write_report(study: Study) -> list[Path]:
    """Write ``search.csv`` and ``search.png`` next to the file of the study, and return their paths."""
    paths = [study.path.with_name(f"search.{kind}") for kind in ("csv", "png")]
    save_csv(paths[0], [_row(trial, study.settings.metric) for trial in study.trials])
    with styled():
        drawn = figure(study)
    write(paths[1], png(drawn, DPI))
    return paths
