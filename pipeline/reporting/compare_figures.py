"""The figures of a comparison of runs, and one self-contained HTML page with them and the table."""

import html
import sys
import tempfile
from base64 import b64encode
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
from pipeline.reporting.compare import Comparison, shown, texts
from pipeline.runtime import generator
from pipeline.storage import write

MAX_PICTURED = 12  # models whose images are drawn
GRID, PLANE = 6, 15  # images along each side of the samples and of the decoded plane


def _plot(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Draw a dot for each run and a line through the means over seeds, by series."""
    for name, color in series_colors(rows["series"]).items():
        own = rows[rows["series"] == name]
        means = own.groupby("beta", as_index=False)[["recon", "kl", "elbo"]].mean()
        ax.plot(means[x], means[y], color=color, lw=1.5, label=name)
        ax.plot(own[x], own[y], color=color, **DOT)


def rate_distortion(compared: Comparison) -> Figure | None:
    """Draw distortion against rate (Fixing a Broken ELBO, 1711.00464), with lines of equal ELBO."""
    rows = compared.scored()
    if rows.empty:
        return None
    figure = new_figure(4.6, 6.4)
    ax = figure.add_subplot()
    _plot(ax, rows, "kl", "recon")
    for mean in rows.groupby(["series", "beta"], as_index=False)[["kl", "recon"]].mean().to_dict("records"):
        ax.annotate(f"β = {mean['beta']:g}", (mean["kl"], mean["recon"]), xytext=(7, 5), textcoords="offset points")
    ax.margins(0.12)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
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


def terms_by_beta(compared: Comparison) -> Figure | None:
    """Draw reconstruction, KL and ELBO against beta."""
    rows = compared.scored()
    if rows.empty:
        return None
    figure, ticks = new_figure(2.7), sorted(rows["beta"].unique())
    titles = {"recon": "Reconstruction", "kl": "KL", "elbo": "ELBO at β = 1"}
    for ax, (term, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        _plot(ax, rows, "beta", term)
        ax.set_xscale("symlog", base=2, linthresh=0.25)  # beta may be 0
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(axis="y")
        ax.set(title=title, xlabel="β in training", ylabel="nats per test image")
    figure.axes[0].legend()
    return figure


def curves(compared: Comparison) -> Figure | None:
    """Draw validation loss, reconstruction and KL over the epochs, a color for each beta, a dash pattern for each seed."""
    runs = list(zip(compared.table["name"], compared.table["seed"], compared.runs, strict=True))
    points = {term: {name: run.points(f"val/{term}") for name, _, run in runs} for term in TERMS}
    titles = {term: title for term, title in (TERMS | {"loss": "Loss at β = 1"}).items() if any(points[term].values())}
    if not titles:
        return None
    figure, seeds = new_figure(3), list(compared.table["seed"].unique())
    kinds = {name: name.replace(f" seed={seed:.0f}", "") for name, seed, _ in runs}
    colors, axes = series_colors(kinds.values()), epoch_axes(figure, list(titles.values()), "nats per validation image")
    for ax, term in zip(axes, titles, strict=True):
        for name, seed, _ in runs:
            if values := points[term][name]:
                dash = ("-", "--", ":", "-.")[seeds.index(seed) % 4]
                ax.plot(list(values), list(values.values()), color=colors[kinds[name]], ls=dash, lw=1.5, label=name)
    figure.legend(handles=axes[0].get_lines(), loc="outside lower center", ncols=min(len(axes[0].get_lines()), 6))
    return figure


def decode(trained: Trained, z: np.ndarray) -> np.ndarray:
    """Return the images ``[..., C, H, W]`` at latent points ``[..., latent_dim]``."""
    with torch.no_grad():
        return np.asarray(trained.model.decode_images(torch.from_numpy(z.astype(np.float32))))


def pictured(compared: Comparison) -> dict[str, Trained]:
    """Return the models to draw by their run's name: of each model and beta the first seed that this version can read."""
    models: dict[str, Trained] = {}
    drawn = set()
    with tempfile.TemporaryDirectory() as folder:
        for row, run in zip(compared.table.to_dict("records"), compared.runs, strict=True):
            kind = str([row["model"], row["latent_dim"], row["beta"]])
            if kind in drawn or len(models) == MAX_PICTURED:
                continue
            weights = [path for path in run.files() if path.endswith(".safetensors") and "/" not in path]
            try:
                if weights and (file := run.fetch(weights[0], Path(folder))):
                    models[row["name"]] = load_weights(file)
                    drawn.add(kind)
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
    with pd.option_context("display.max_colwidth", None):
        table = pd.DataFrame(texts(compared.table), columns=shown(compared.table)).to_html(index=False, border=0)
    image = '<figure><img alt="{}" src="data:image/png;base64,{}"></figure>'
    return Template(Path(__file__).with_name("compare.html").read_text()).substitute(
        title=f"Runs on {html.escape(compared.dataset)}",
        table=table,
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
