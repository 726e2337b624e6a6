"""The figure of the claims: what was estimated of each, against its threshold."""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures.style import INK, PENCIL, WIDTH, marks, styled

VERDICT_COLORS = {"holds": "#0072b2", "fails": "#c04a00", "inconclusive": "#57606a"}
# Marker and words for an autoencoder, by its name in the ledger's keys after the slash; the first has none.
AUTOENCODERS = {"": ("o", "AE (or VAEs at two betas)"), "ae_depth_matched": ("D", "AE with the VAE's hidden layers")}
MIDDLE, REACH = 2.65, 1.0  # inches: from the left to the threshold, and from there to the end of the longest interval


def _test(ax: Axes, y: float, entries: Mapping[str, Mapping[str, Any]]) -> float:
    """Draw one test's entries, by the autoencoder's name, below ``y`` inches; return where it ends."""
    first = next(iter(entries.values()))
    ax.text(0.2, y, f"{first['metric']}; {first['sampler']}")
    rows = y + 0.18 * np.arange(1, len(entries) + 1)
    ax.text(MIDDLE - REACH - 0.1, rows.mean(), first["below"], ha="right", va="center", fontsize=8)
    ax.text(MIDDLE + REACH + 0.1, rows.mean(), first["above"], va="center", fontsize=8)
    ax.plot([MIDDLE, MIDDLE], [rows[0] - 0.1, rows[-1] + 0.1], color=PENCIL, lw=0.9)
    measured = {
        name: np.array([entry[key] for key in ("low", "estimate", "high")]) for name, entry in entries.items() if "low" in entry
    }
    # Tests have different units: the end of an interval that is furthest from the threshold is drawn at full reach.
    largest = max((np.abs(values - first["threshold"]).max() for values in measured.values()), default=1) or 1
    for row, (name, entry) in zip(rows, entries.items(), strict=True):
        text: dict[str, Any] = {"color": VERDICT_COLORS[entry["verdict"]], "va": "center", "fontsize": 8}
        if name in measured:
            low, at, high = MIDDLE + REACH * (measured[name] - first["threshold"]) / largest
            ax.plot([low, high], [row, row], color=text["color"], lw=3, alpha=0.45)
            ax.plot(at, row, AUTOENCODERS.get(name, "s")[0], color=text["color"], ms=5)
            ax.text(5.85, row, marks([float(f"{entry['estimate']:.3g}")])[0], ha="right", **text)
            ax.text(5.95, row, entry["says"], **text)
        else:
            ax.text(5.3, row, "\n".join(wrap(f"{entry['says']}: {entry['note']}", 42)), **text)
    return float(rows[-1])


def claims_figure(entries: Mapping[str, Mapping[str, Any]], remarks: Iterable[str] = ()) -> Figure:
    """Draw the entries of metrics/claims.json by claim: a row for each test, with a marker for each autoencoder.

    ``remarks`` are sentences that stand above.
    """
    with styled():
        figure = Figure(figsize=(WIDTH, 1))
        ax, y = figure.add_axes((0, 0, 1, 1)), 0.2
        ax.text(0.1, y, "The tutorial's claims, tested: estimates with 95% intervals, each test on its own scale", weight="bold")
        # A command stays on one line: its spaces are made those that do not break.
        unbroken = (
            re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\N{NO-BREAK SPACE}"), remark) for remark in remarks
        )
        for line in (line for remark in unbroken for line in wrap(remark, 118, break_on_hyphens=False)):
            y += 0.2
            ax.text(0.1, y, line, fontsize=8.5)
        y += 0.25
        names = dict.fromkeys(key.partition("/")[2] for key in entries)
        for x, name in zip((0.2, 2.4, 5.0), names, strict=False):
            marker, words = AUTOENCODERS.get(name, ("s", name.replace("_", " ")))
            ax.plot(x, y - 0.04, marker, color=INK, ms=5)
            ax.text(x + 0.1, y, words, fontsize=8.5)
        for claim, keys in groupby(entries, lambda key: entries[key]["claim"]):
            y += 0.42
            ax.text(0.1, y, claim, fontsize=10, weight="bold")
            for _, same in groupby(keys, lambda key: key.partition("/")[0]):
                y = _test(ax, y + 0.27, {key.partition("/")[2]: entries[key] for key in same})
        figure.set_figheight(y + 0.2)
        ax.set(xlim=(0, WIDTH), ylim=(y + 0.2, 0))
        ax.set_axis_off()
    return figure
