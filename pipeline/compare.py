"""``python -m pipeline.compare``: a table and figures across runs, read from MLflow, as png, csv and one self-contained html."""

import base64
import html
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline import tracking
from pipeline.command import one_line
from pipeline.errors import ParamsError, PipelineError
from pipeline.figures.images import grid_values
from pipeline.figures.style import CLASS_COLORS, INK, MODEL_COLORS, PENCIL, WIDTH, layout, marks, new_figure, png, styled, tiles
from pipeline.files import write
from pipeline.runtime import generator
from pipeline.tracking import Record, Run
from pipeline.weights import Trained, load_weights

# Of the table and the csv: the column, and where a run holds it.
PARAMS = {"model": "model.name", "beta": "beta", "latent_dim": "model.latent_dim", "seed": "seed"}
METRICS = {"recon": "test/recon", "kl": "test/kl", "elbo": "test/elbo"}
TAGS = {"dataset": "dataset", "experiment": "dvc.exp.name"}
COLUMNS = ["name", "model", "dataset", "beta", "latent_dim", "seed", "recon", "kl", "elbo", "experiment", "status", "run_id"]
CURVES = {"loss": "Loss at β = 1", "recon": "Reconstruction", "kl": "KL"}
MAX_PICTURED = 12
GRID, PLANE = 6, 15  # images along each side of the samples and of the decoded plane


@dataclass(frozen=True)
class Comparison:
    """The runs that are compared, of one data set: a row of ``table`` each, ``runs`` to read from in the same order."""

    table: pd.DataFrame
    runs: list[Run] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        """The data set of all the runs."""
        return str(self.table["dataset"].iloc[0])

    def scored(self) -> pd.DataFrame:
        """Return the rows with a beta and a test ELBO, and a column ``series``: models that differ in beta and seed alone."""
        rows = self.table.dropna(subset=["beta", *METRICS])
        return rows.assign(series=rows["model"] + " d=" + rows["latent_dim"].astype("Int64").astype(str))


def select(found: Sequence[tuple[Record, Run]], dataset: str | None, model: str | None, tags: dict[str, str]) -> Comparison:
    """Return the runs that pass the filters, the newest where several have the same weights.

    Raises ParamsError when none does, or when they are of several data sets and ``dataset`` does not choose.
    """
    rows, runs, seen = [], [], set()
    for record, run in found:
        wanted = tags | ({"dataset": dataset} if dataset else {})
        weights = record.tags.get(tracking.MODEL_MD5, record.id)
        if "model.name" not in record.params or weights in seen or not wanted.items() <= record.tags.items():
            continue
        if model in (None, record.params["model.name"]):
            seen.add(weights)
            values: dict[str, Any] = {"name": record.name, "status": record.status, "run_id": record.id}
            values |= {column: record.params.get(key) for column, key in PARAMS.items()}
            values |= {column: record.tags.get(key) for column, key in TAGS.items()}
            rows.append(values | {column: record.metrics.get(key) for column, key in METRICS.items()})
            runs.append(run)
    if not rows:
        raise ParamsError("no run passes these filters; `python -m pipeline.sync` rebuilds runs that were lost")
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = ["beta", "latent_dim", "seed", *METRICS]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    table["dataset"] = table["dataset"].fillna("unknown")
    same = table["name"].duplicated(keep=False)
    table.loc[same, "name"] += " " + table["run_id"].str[:4]  # runs that differ in what their name does not say
    names = sorted(table["dataset"].unique())
    if len(names) > 1:
        raise ParamsError(f"these runs are of several data sets ({', '.join(names)}); choose one with --dataset")
    table = table.sort_values(["model", "latent_dim", "beta", "seed"], kind="stable")
    return Comparison(table.reset_index(drop=True), [runs[index] for index in table.index])


def texts(table: pd.DataFrame) -> Iterator[list[str]]:
    """Yield the rows of the table as people read them."""
    for row in table[COLUMNS[:-2]].to_dict("records"):
        yield [
            "" if pd.isna(v) else f"{v:.2f}" if k in METRICS else f"{v:g}" if isinstance(v, float) else str(v)
            for k, v in row.items()
        ]


def render(compared: Comparison) -> Table:
    """Return the table for a terminal."""
    shown = Table(title=f"Runs on {compared.dataset}, nats per test image", box=SIMPLE_HEAD)
    for column in COLUMNS[:-2]:
        is_text = column in ("name", "model", "dataset", "experiment")
        shown.add_column(column, justify="left" if is_text else "right", no_wrap=column != "experiment")
    for row in texts(compared.table):
        shown.add_row(*row)
    return shown


def _colors(series: Iterable[str]) -> dict[str, str]:
    names = list(dict.fromkeys(series))
    colors = MODEL_COLORS if len(names) <= len(MODEL_COLORS) else [to_hex(color) for color in CLASS_COLORS(range(10))]
    return {name: colors[index % len(colors)] for index, name in enumerate(names)}


def rate_distortion(compared: Comparison) -> Figure | None:
    """Distortion against rate (1711.00464), with lines of equal ELBO; a line joins the seeds' means, by beta."""
    rows = compared.scored()
    if rows.empty:
        return None
    figure = new_figure(6.5, 9)
    ax = figure.add_subplot()
    for name, color in _colors(rows["series"]).items():
        own = rows[rows["series"] == name]
        means = own.groupby("beta")[["kl", "recon"]].mean()
        ax.plot(means["kl"], means["recon"], color=color, lw=1.5, label=name)
        ax.plot(own["kl"], own["recon"], "o", color=color, ms=7, mec="white", mew=1.2)
        for beta, kl, recon in means.itertuples():
            ax.annotate(f"β = {beta:g}", (kl, recon), xytext=(7, 5), textcoords="offset points")
    ax.margins(0.12)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for total in MaxNLocator(8).tick_values(left + low, right + high):
        ax.plot([left, right], [total - left, total - right], color=PENCIL, lw=0.8, ls=":", zorder=0)
        for x, y in ((left, total - left), (total - high, high)):  # where the line enters: at the left or at the top
            if left <= x < right and low < y <= high:
                ax.annotate(
                    f"ELBO {marks([-total])[0]}", (x, y), xytext=(3, -11), textcoords="offset points", color=PENCIL, fontsize=9
                )
    ax.set(
        xlim=(left, right),
        ylim=(low, high),
        xlabel="rate: KL, nats per image",
        ylabel="distortion: reconstruction, nats per image",
    )
    ax.set(title=f"Rate and distortion on test images of {compared.dataset}")
    ax.legend()
    return figure


def terms_by_beta(compared: Comparison) -> Figure | None:
    """Reconstruction, KL and ELBO against beta: a dot a run, a line through the seeds' means."""
    rows = compared.scored()
    if rows.empty:
        return None
    figure = new_figure(4.8)
    for ax, (term, title) in zip(
        figure.subplots(1, 3), {"recon": "Reconstruction", "kl": "KL", "elbo": "ELBO at β = 1"}.items(), strict=True
    ):
        for name, color in _colors(rows["series"]).items():
            own = rows[rows["series"] == name]
            means = own.groupby("beta")[term].mean()
            ax.plot(means.index, means, color=color, lw=1.5, label=name)
            ax.plot(own["beta"], own[term], "o", color=color, ms=7, mec="white", mew=1.2)
        ax.set_xscale("symlog", base=2, linthresh=0.25)  # beta may be 0
        ticks = sorted(rows["beta"].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(axis="y")
        ax.set(title=title, xlabel="β in training", ylabel="nats per test image")
    figure.axes[0].legend()
    return figure


def curves(compared: Comparison) -> Figure | None:
    """Validation loss, reconstruction and KL over the epochs, all runs in the same axes: a colour a beta, a dash a seed."""
    runs = list(zip(compared.table["name"], compared.table["seed"], compared.runs, strict=True))
    points = {term: {name: run.points(f"val/{term}") for name, _, run in runs} for term in CURVES}
    shown = [term for term in CURVES if any(points[term].values())]
    if not shown:
        return None
    figure = new_figure(5.2)
    kinds = {name: name.replace(f" seed={seed}", "") for name, seed, _ in runs}
    colors, seeds = _colors(kinds.values()), list(compared.table["seed"].unique())
    for ax, term in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for name, seed, _ in runs:
            if values := points[term][name]:
                dash = ("-", "--", ":", "-.")[seeds.index(seed) % 4]
                ax.plot(list(values), list(values.values()), color=colors[kinds[name]], ls=dash, lw=1.5, label=name)
        ax.grid(axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        ax.set(title=CURVES[term], xlabel="epoch", ylabel="nats per validation image")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    return figure


@torch.no_grad()
def decode(trained: Trained, z: np.ndarray) -> np.ndarray:
    """Return the images ``[..., height, width]`` at latent points ``[..., d]``."""
    flat = torch.from_numpy(np.ascontiguousarray(z, np.float32)).reshape(-1, z.shape[-1])
    return torch.sigmoid(trained.model.decode(flat)).numpy().reshape(*z.shape[:-1], *trained.image_shape)


def pictured(compared: Comparison) -> dict[str, Trained]:
    """Return the models to draw by their run's name: of each model and beta the first seed, from the weights in MLflow."""
    chosen = compared.table.drop_duplicates(["model", "latent_dim", "beta"])
    models: dict[str, Trained] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, name in chosen["name"].items():
            run = compared.runs[int(str(index))]
            weights = [path for path in run.files() if path.endswith(".safetensors") and "/" not in path]
            file = run.fetch(weights[0], Path(folder)) if weights else None
            if file and len(models) < MAX_PICTURED:
                models[str(name)] = load_weights(file)
    return models


def _grids(models: dict[str, Trained], points: dict[str, np.ndarray], title: str, gap: int) -> Figure | None:
    if not points:
        return None
    columns, lines = layout(len(points))
    figure = new_figure(1)
    axes: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).ravel())
    tallness = [tiles(ax, decode(models[name], z), gap) for ax, (name, z) in zip(axes, points.items(), strict=False)]
    for ax, name in zip(axes, points, strict=False):
        ax.set(title=name)
    for ax in axes[len(points) :]:
        ax.set_axis_off()
    figure.suptitle(title, color=INK)
    figure.set_figheight(lines * (max(tallness) * (WIDTH / columns - 0.3) + 0.5) + 0.5)
    return figure


def samples(models: dict[str, Trained]) -> Figure | None:
    """Decoded draws from the prior, the same draws for all models of a latent dimension."""
    dims = {name: trained.model.latent_dim for name, trained in models.items()}
    points = {
        name: torch.randn(GRID, GRID, dim, generator=generator("compare", dim)).numpy()
        for name, dim in dims.items()
        if models[name].beta is not None  # an autoencoder has no prior
    }
    return _grids(models, points, "Draws from the prior", gap=2)


def manifolds(models: dict[str, Trained]) -> Figure | None:
    """The decoded plane over [-3, 3] in both dimensions, for models with two."""
    values = grid_values(PLANE, quantiles=False)
    plane = np.stack(np.meshgrid(values, values[::-1]), axis=-1)
    return _grids(
        models, {name: plane for name, t in models.items() if t.model.latent_dim == 2}, "Decoded planes, −3 to 3", gap=0
    )


def draw(compared: Comparison) -> dict[str, Figure]:
    """Return the figures by name, without those that have nothing to show."""
    with styled():
        models = pictured(compared)
        figures = {
            "rate_distortion": rate_distortion(compared),
            "terms_by_beta": terms_by_beta(compared),
            "curves": curves(compared),
            "samples": samples(models),
            "manifolds": manifolds(models),
        }
    return {name: figure for name, figure in figures.items() if figure}


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #24292f; max-width: 1200px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }} .wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3em .8em; text-align: right; border-bottom: 1px solid #d0d7de; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
</style></head><body>
<h1>{title}</h1>
<p>Nats per test image; the ELBO is at β = 1, whatever β trained.</p>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>
{figures}
</body></html>
"""


def page(compared: Comparison, pictures: dict[str, bytes]) -> str:
    """Return the comparison as one html file that needs no other."""

    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)

    images = [
        f'<figure><img alt="{name.replace("_", " ")}" src="data:image/png;base64,{base64.b64encode(content).decode()}"></figure>'
        for name, content in pictures.items()
    ]
    return PAGE.format(
        title=f"Runs on {html.escape(compared.dataset)}",
        head=cells(COLUMNS[:-2], "th"),
        body="\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in texts(compared.table)),
        figures="\n".join(images),
    )


def _tags(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    if bad := [value for value in values if "=" not in value]:
        raise click.BadParameter(f"{bad[0]!r}; allowed is key=value, as in dvc.exp.name=four")
    return dict(value.split("=", 1) for value in values)


@click.command()
@click.option("--experiment", help="MLflow's experiment.  [default: MLFLOW_EXPERIMENT_NAME or latent-spaces]")
@click.option("--dataset", help="Runs on this data set alone.")
@click.option("--model", help="Runs of this model alone.")
@click.option("--tag", "tags", multiple=True, callback=_tags, help="Runs with this tag alone, key=value; repeatable.")
@click.option("--out", default="compare", show_default=True, type=Path, help="Folder for png, csv and html.")
@click.option("--dpi", default=110, show_default=True, type=click.IntRange(50, 600))
@one_line()
def main(experiment: str | None, dataset: str | None, model: str | None, tags: dict[str, str], out: Path, dpi: int) -> None:
    """Compare runs: a table here, and figures in --out."""
    compared = select(tracking.records(experiment), dataset, model, tags)
    Console(width=None if sys.stdout.isatty() else 120).print(render(compared))
    pictures = {name: png(figure, dpi) for name, figure in draw(compared).items()}
    write(out / "runs.csv", compared.table.to_csv(index=False, lineterminator="\n"))
    for name, content in pictures.items():
        write(out / f"{name}.png", content)
    write(out / "compare.html", page(compared, pictures))
    if not all(run.alive for run in compared.runs):
        raise PipelineError("the MLflow store did not answer in the middle; what is drawn is not all there is")
    click.echo(f"compare: {out / 'compare.html'} with {', '.join(pictures)}")


if __name__ == "__main__":
    main()
