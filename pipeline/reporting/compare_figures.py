"""The figures of a comparison of runs, and one self-contained HTML page with them and the table."""

import html
import sys
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.errors import IntegrityError
from pipeline.figures.history import TERMS, epoch_axes
from pipeline.figures.style import DOT, INK, PENCIL, image_panels, is_ink, marks, new_figure, png, series_colors, styled, tiles
from pipeline.models.weights import Trained, load_weights
from pipeline.reporting.compare import METRICS, Comparison, shown, texts
from pipeline.runtime import generator
from pipeline.storage import write
from pipeline.tracking.store import histories

MAX_DRAWN = 12  # settings, or series, that are drawn in a color of their own
MAX_DOTS = 60  # runs above which a dot is small
_LEGEND = 110  # letters in a line of a legend below a figure
GRID, PLANE = 6, 15  # images along each side of the samples and of the decoded plane


def _colors(names: pd.Series, best: Sequence[str]) -> dict[str, str]:
    """Return a color for each name in its order, of at most :data:`MAX_DRAWN`; the others are the last of ``best`` and gray."""
    drawn = set(list(dict.fromkeys(best))[:MAX_DRAWN])
    others = [name for name in dict.fromkeys(names) if name not in drawn]
    return dict.fromkeys(others, PENCIL) | series_colors(name for name in names if name in drawn)


def _plot(ax: Axes, compared: Comparison, x: str, y: str) -> None:
    """Draw a dot for each run and a line through the means over seeds, by series; against beta also the range of the seeds."""
    rows = compared.scored()
    series = dict(zip(rows["setting"], rows["series"], strict=True))
    colors = _colors(rows["series"], [series[setting] for setting in compared.best if setting in series])
    dot = DOT if len(rows) <= MAX_DOTS else DOT | {"ms": 2.5, "mew": 0, "alpha": 0.4}
    others = list(colors.values()).count(PENCIL)
    for number, (name, color) in enumerate(colors.items()):
        own, is_gray = rows[rows["series"] == name], color == PENCIL
        by_beta = own.groupby("beta", as_index=False)[list(METRICS)]
        means, label = by_beta.mean(), (f"{others} other series" if is_gray and not number else None if is_gray else name)
        ax.plot(means[x], means[y], color=color, lw=0.7 if is_gray else 1.5, label=label)
        if x == "beta":
            ax.fill_between(means[x], by_beta.min()[y], by_beta.max()[y], color=color, alpha=0.2, lw=0)
        if not is_gray:
            ax.plot(own[x], own[y], color=color, **dot)


def rate_distortion(compared: Comparison) -> Figure | None:
    """Draw distortion against rate (Fixing a Broken ELBO, 1711.00464), with lines of equal ELBO."""
    rows = compared.scored()
    if rows.empty:
        return None
    figure = new_figure(4.6, 6.4)
    ax = figure.add_subplot()
    _plot(ax, compared, "kl", "recon")
    ax.margins(0.12)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    _name_betas(ax, rows)
    for total in MaxNLocator(8).tick_values(left + low, right + high):
        ax.plot([left, right], [total - left, total - right], color=PENCIL, lw=0.8, ls=":", zorder=0)
        for x, y in ((left, total - left), (total - high, high)):  # where the line enters: at the left or at the top
            if left <= x < right and low < y <= high:
                text = f"ELBO {marks([-total])[0]}"
                ax.annotate(text, (x, y), xytext=(3, -11), textcoords="offset points", color=PENCIL, fontsize=7)
    ax.set(xlim=(left, right), ylim=(low, high), title=f"Rate and distortion on test images of {compared.dataset}")
    ax.set(xlabel="rate: KL, nats per image", ylabel="distortion: reconstruction, nats per image")
    ax.legend()
    return figure


def _name_betas(ax: Axes, rows: pd.DataFrame) -> None:
    """Write its beta at each mean over seeds that has room."""
    written: list[np.ndarray] = []
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for mean in rows.groupby(["series", "beta"], as_index=False)[["kl", "recon"]].mean().to_dict("records"):
        place = np.array([(mean["kl"] - left) / (right - left), (mean["recon"] - low) / (high - low)])
        if all(np.any(np.abs(place - other) > (0.12, 0.04)) for other in written):  # the size of a text
            ax.annotate(f"β = {mean['beta']:g}", (mean["kl"], mean["recon"]), xytext=(7, 5), textcoords="offset points")
            written.append(place)


def terms_by_beta(compared: Comparison) -> Figure | None:
    """Draw reconstruction, KL and ELBO against beta."""
    rows = compared.scored()
    if rows.empty:
        return None
    figure, ticks = new_figure(2.7), sorted(rows["beta"].unique())
    titles = {"recon": "Reconstruction", "kl": "KL", "elbo": "ELBO at β = 1"}
    for ax, (term, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        _plot(ax, compared, "beta", term)
        ax.set_xscale("symlog", base=2, linthresh=0.25)  # beta may be 0
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(axis="y")
        ax.set(title=title, xlabel="β in training", ylabel="nats per test image")
    _legend(figure)
    return figure


def _legend(figure: Figure, title: str | None = None) -> None:
    lines = figure.axes[0].get_legend_handles_labels()[0]
    widest = max((len(str(line.get_label())) for line in lines), default=1)
    columns = max(1, min(len(lines), _LEGEND // (widest + 6)))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, title=title)


def curves(compared: Comparison) -> Figure | None:
    """Draw validation loss, reconstruction and KL over the epochs: for each of the best settings the mean over its runs.

    A band is their range. The histories of the other settings are not read.
    """
    drawn = compared.table[compared.table["setting"].isin(compared.best[:MAX_DRAWN])]
    runs = [compared.runs[index] for index in drawn.index]
    points = {term: pd.DataFrame(histories(runs, f"val/{term}")).set_index(drawn["setting"]) for term in TERMS}
    titles = {term: title for term, title in (TERMS | {"loss": "Loss at β = 1"}).items() if not points[term].empty}
    if not titles:
        return None
    figure, colors = new_figure(3), series_colors(drawn["setting"])
    axes, several = epoch_axes(figure, list(titles.values()), "nats per validation image"), False
    for ax, term in zip(axes, titles, strict=True):
        for name, color in colors.items():
            own = points[term].loc[[name]].dropna(how="all")
            if own.empty:
                continue
            # Where most of the runs have ended, those left would make the mean jump.
            epochs = own.T.sort_index().dropna(thresh=(len(own) + 1) // 2)
            several |= len(own) > 1
            label = f"{name}, {len(own)} runs" if len(own) > 1 else name
            ax.plot(epochs.index, epochs.mean(axis=1), color=color, lw=1.5, label=label)
            if len(own) > 1:
                ax.fill_between(epochs.index, epochs.min(axis=1), epochs.max(axis=1), color=color, alpha=0.25, lw=0)
    best = f"the best {len(colors)} of {len(compared.best)} settings by {compared.metric}" * (len(colors) < len(compared.best))
    _legend(figure, "; ".join(filter(None, [best, "line: mean over seeds, band: their range" * several])) or None)
    return figure


def decode(trained: Trained, z: np.ndarray) -> np.ndarray:
    """Return the images ``[..., C, H, W]`` at latent points ``[..., latent_dim]``."""
    with torch.no_grad():
        return np.asarray(trained.model.decode_images(torch.from_numpy(z.astype(np.float32))))


def pictured(compared: Comparison) -> dict[str, Trained]:
    """Return the models to draw by their run's name: of each of the best settings the first seed that this version can read."""
    models: dict[str, Trained] = {}
    left = set(compared.best[:MAX_DRAWN])
    with tempfile.TemporaryDirectory() as folder:
        for row, run in zip(compared.table.to_dict("records"), compared.runs, strict=True):
            if row["setting"] not in left:
                continue
            weights = [path for path in run.files() if path.endswith(".safetensors") and "/" not in path]
            try:
                if weights and (file := run.fetch(weights[0], Path(folder))):
                    models[row["name"]] = load_weights(file)
                    left.remove(row["setting"])
            except IntegrityError:
                print(f"note: {row['name']}: weights of another version; its pictures are left out", file=sys.stderr)
    return models


def _grids(models: dict[str, Trained], points: dict[str, np.ndarray], title: str, gap: int) -> Figure | None:
    def draw(ax: Axes, name: str) -> float:
        ax.set(title=name)
        images = decode(models[name], points[name])
        return tiles(ax, images, gap, ink=is_ink(images))

    if not points:
        return None
    figure = image_panels(list(points), draw)
    figure.suptitle(title, color=INK)
    return figure


def samples(models: dict[str, Trained]) -> Figure | None:
    """Draw decoded samples of the prior, the same latent points for all models of a latent dimension."""
    dims = {name: trained.model.latent_dim for name, trained in models.items() if trained.model.is_probabilistic}
    points = {name: torch.randn(GRID, GRID, dim, generator=generator("compare", dim)).numpy() for name, dim in dims.items()}
    return _grids(models, points, "Samples from the prior", gap=2)


def manifolds(models: dict[str, Trained]) -> Figure | None:
    """Draw the decoded plane over [-3, 3] in both dimensions, for models with two."""
    values = np.linspace(-3, 3, PLANE)
    plane = np.stack(np.meshgrid(values, values[::-1]), axis=-1)
    points = {name: plane for name, trained in models.items() if trained.model.latent_dim == 2}
    return _grids(models, points, "Decoded planes, −3 to 3", gap=0)


def page(compared: Comparison, pictures: dict[str, bytes]) -> str:
    """Return the comparison as one HTML file that needs no other."""
    rows, number = compared.listed(), len(compared.table)
    cut = f"The table has {len(rows)} of {number:,} runs, those of the best settings by {compared.metric}; runs.csv has all."
    with pd.option_context("display.max_colwidth", None):
        table = pd.DataFrame(texts(rows), columns=shown(rows)).to_html(index=False, border=0)
    image = '<figure><img alt="{}" src="data:image/png;base64,{}"></figure>'
    return Template(Path(__file__).with_name("compare.html").read_text()).substitute(
        title=f"Runs on {html.escape(compared.dataset)}",
        table=table,
        cut=f"<p>{html.escape(cut)}</p>" if len(rows) < number else "",
        figures="\n".join(image.format(name.replace("_", " "), b64encode(data).decode()) for name, data in pictures.items()),
    )


def write_comparison(compared: Comparison, out: Path, dpi: int) -> list[str]:
    """Write runs.csv, a PNG for each figure that has something to show, and compare.html; return the figures' names."""
    with styled():
        models = pictured(compared)
        figures = {draw.__name__: draw(compared) for draw in (rate_distortion, terms_by_beta, curves)}
        figures |= {draw.__name__: draw(models) for draw in (samples, manifolds)}
    pictures = {name: png(figure, dpi) for name, figure in figures.items() if figure}
    write(out / "runs.csv", compared.table.to_csv(index=False, lineterminator="\n"))
    for name, content in pictures.items():
        write(out / f"{name}.png", content)
    write(out / "compare.html", page(compared, pictures))
    return list(pictures)
