"""The figure of the claims: what was estimated of each, against its threshold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.figures.style import INK, PENCIL, new_figure, styled

VERDICT_COLORS = {"holds": "#0072b2", "fails": "#d55e00", "inconclusive": PENCIL}


def claims_figure(entries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the estimate and interval of each claim in metrics/claims.json against its threshold, colored by verdict."""
    with styled():
        figure = new_figure(0.62 * len(entries) + 1.2)
        ax = figure.subplots()
        for row, (name, entry) in enumerate(entries.items()):
            color, text, source = VERDICT_COLORS[entry["verdict"]], entry["verdict"], f"{entry['metric']}; {entry['sampler']}"
            ax.text(-1.15, row - 0.02, f"{entry['claim']} ({name})", ha="right", va="bottom", fontsize=10.5, color=INK)
            ax.text(-1.15, row + 0.04, source, ha="right", va="top", fontsize=9, color=PENCIL)
            if "low" in entry:
                # Claims have different units: the end of the interval that is further from the threshold is drawn at 1.
                offsets = np.array([entry["low"], entry["estimate"], entry["high"]]) - entry["threshold"]
                low, middle, high = offsets / max(np.abs(offsets).max(), 1e-300)
                ax.plot([low, high], [row, row], color=color, lw=5, alpha=0.5)
                ax.plot(middle, row, "o", color=color, ms=8)
                text += f"   {entry['estimate']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"
            elif "note" in entry:
                text += f"   {entry['note']}"
            ax.text(1.15, row, text, va="center", fontsize=10.5, color=color, weight="bold")
        ax.axvline(0, color=INK, lw=0.9)
        ax.set(xlim=(-1.1, 1.1), ylim=(len(entries) - 0.5, -0.5), yticks=[])
        ax.set_xticks([-1, 0, 1], ["against the claim", "threshold", "for it"])
        ax.spines["left"].set_visible(False)
        figure.suptitle("Claims: estimates with 95% intervals, each row on its own scale", weight="bold")
    return figure
