"""What the laboratory found, as pictures: holes, magnification, samples by sampler, odd digits, and the ledger of claims."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.figures.style import INK, PENCIL, WIDTH, layout, new_figure, styled, tiles
from pipeline.frechet import frechet
from pipeline.laboratory import Laboratory

UNSURE = 0.8
SAMPLER_NAMES = {"prior": "N(0, I)", "gaussian": "Gaussian fit", "gmm10": "mixture of 10", "kde": "kernel density"}
VERDICT_COLORS = {"holds": "#0072b2", "fails": "#d55e00", "inconclusive": PENCIL}


def _maps(laboratories: Sequence[Laboratory], name: str, label: str, norm: Normalize, contour: float | None) -> Figure | None:
    """Draw one map a model over its latent plane, with the test images' codes on it.

    Without a contour the values have no common zero, and are drawn under their own 99th percentile.
    """
    shown = [laboratory for laboratory in laboratories if name in laboratory.arrays]
    if not shown:
        return None
    columns, lines = layout(len(shown))
    width = min(WIDTH / columns, 8)
    figure = new_figure(lines * width * 0.9, columns * width)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    picture = None
    for ax, laboratory in zip(axes, shown, strict=False):
        values, (x, y) = laboratory.arrays[name], laboratory.arrays["map_axes"]
        if contour is None:
            values = values - np.quantile(values, 0.99)
        extent = (x[0], x[-1], y[0], y[-1])
        picture = ax.imshow(values, cmap="cividis", norm=norm, extent=extent, aspect="auto", interpolation="nearest")
        if contour is not None and values.min() < contour < values.max():
            ax.contour(x, y[::-1], values, levels=[contour], colors="white", linewidths=0.9)
        codes = laboratory.arrays["map_codes"]
        ax.scatter(codes[:, 0], codes[:, 1], s=4, color=INK, alpha=0.4, linewidths=0)
        ax.set(title=laboratory.title, xlabel="$z_1$", ylabel="$z_2$", xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    assert picture is not None
    figure.colorbar(picture, ax=list(axes), label=label, fraction=0.03, pad=0.015, aspect=32).outline.set_visible(False)
    return figure


def holes(laboratories: Sequence[Laboratory]) -> Figure | None:
    """How sure the judge is of what lies where, codes as dots; inside the white lines its confidence is under 0.8."""
    label = f"judge's confidence in the decoded image (line: {UNSURE})"
    return _maps(laboratories, "confidence_map", label, Normalize(0.3, 1), UNSURE)


def magnification(laboratories: Sequence[Laboratory]) -> Figure | None:
    """How much the decoder stretches each place, against its own largest, so that models with codes of any scale compare."""
    return _maps(laboratories, "volume_map", r"$\log\,\sqrt{\det J^T J}$ under its 99th percentile", Normalize(-5, 0), None)


def samplers(laboratories: Sequence[Laboratory]) -> Figure | None:
    """What every model decodes from every sampler, one row a model, with the Fréchet distance in the judge's features."""
    shown = [laboratory for laboratory in laboratories if "sample_images" in laboratory.arrays]
    if not shown:
        return None
    columns = len(shown[0].samplers)
    figure = new_figure(len(shown) * (WIDTH / columns * 0.8 + 0.6))
    axes = figure.subplots(len(shown), columns, squeeze=False)
    for row, laboratory in zip(axes, shown, strict=True):
        arrays = laboratory.arrays
        for ax, sampler, images, features in zip(
            row, laboratory.samplers, arrays["sample_images"], arrays["sample_features"], strict=True
        ):
            tiles(ax, images[:20].reshape(4, 5, *images.shape[1:]))
            distance = frechet(features, arrays["real_features"])
            ax.set_title(f"{SAMPLER_NAMES.get(sampler, sampler)}, FCD {distance:.1f}", fontsize=12)
        row[0].set_ylabel(laboratory.title)
    return figure


def digits(laboratories: Sequence[Laboratory]) -> Figure | None:
    """The test images each model reconstructs worst, and those the judge most surely takes for another class."""
    kinds = {"worst": "largest error", "surprising": "taken for another class"}
    rows = [(laboratory, kind) for laboratory in laboratories for kind in kinds if laboratory.arrays.get(kind, np.empty(0)).size]
    if not rows:
        return None
    figure = new_figure(len(rows) * (WIDTH / 5 + 0.5))
    for ax, (laboratory, kind) in zip(figure.subplots(len(rows), 1, squeeze=False).ravel(), rows, strict=True):
        tiles(ax, laboratory.arrays[kind])
        ax.set_yticks([0, 1], ["test image", "reconstruction"])
        ax.set_title(f"{laboratory.title}: {kinds[kind]}")
    return figure


LABORATORY: dict[str, Callable[[Sequence[Laboratory]], Figure | None]] = {
    "holes": holes,
    "magnification": magnification,
    "samplers": samplers,
    "digits": digits,
}


def claims(entries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The ledger: each claim's interval against its threshold, in units of its own reach, coloured by verdict."""
    figure = new_figure(0.62 * len(entries) + 1.2)
    ax = figure.subplots()
    for row, (name, entry) in enumerate(entries.items()):
        color = VERDICT_COLORS[entry["verdict"]]
        where = f"{entry['metric']}; {entry['sampler']}"
        ax.text(-1.15, row - 0.02, f"{entry['claim']} ({name})", ha="right", va="bottom", fontsize=10.5, color=INK)
        ax.text(-1.15, row + 0.04, where, ha="right", va="top", fontsize=9, color=PENCIL)
        said = entry["verdict"]
        if "low" in entry:
            away = np.array([entry["low"], entry["estimate"], entry["high"]]) - entry["threshold"]
            low, middle, high = away / max(np.abs(away).max(), 1e-300)
            ax.plot([low, high], [row, row], color=color, lw=5, alpha=0.5)
            ax.plot(middle, row, "o", color=color, ms=8)
            said += f"   {entry['estimate']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"
        elif "note" in entry:
            said += f"   {entry['note']}"
        ax.text(1.15, row, said, va="center", fontsize=10.5, color=color, weight="bold")
    ax.axvline(0, color=INK, lw=0.9)
    ax.set(xlim=(-1.1, 1.1), ylim=(len(entries) - 0.5, -0.5), yticks=[], xticks=[-1, 0, 1])
    ax.set_xticklabels(["against the claim", "threshold", "for it"])
    ax.spines["left"].set_visible(False)
    figure.suptitle("Claims: estimates with 95% intervals, each row in units of its own reach", weight="bold")
    return figure


def draw_laboratory(laboratories: Sequence[Laboratory], entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """Return the laboratory's figures by name, without those that have nothing to show."""
    with styled():
        figures = {name: drawing(laboratories) for name, drawing in LABORATORY.items()} | {"claims": claims(entries)}
    return {name: figure for name, figure in figures.items() if figure}
