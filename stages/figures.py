"""Draw every figure of the given models, and write the points of their latent scatters for DVC's own plots."""

import sys
from pathlib import Path

import click
import pandas as pd
from tqdm import tqdm

from pipeline import runs, tracking
from pipeline.errors import IntegrityError
from pipeline.figures import FIGURES, Page, draw, png
from pipeline.figures.latent import project
from pipeline.files import write
from pipeline.params import load_params
from pipeline.results import Results, load_results
from stages import run


def results_files(paths: tuple[Path, ...]) -> list[Path]:
    """Return the files, and those in the folders in the order of their names; a model is named by its file."""
    files = [file for path in paths for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    if len({file.stem for file in files}) < len(files):
        raise click.UsageError("two files of results have the same name; a figure needs a name for each model")
    return files


def load_history(path: Path) -> pd.DataFrame:
    """Read a training history. Raises IntegrityError naming the file when it is missing or has no epoch."""
    try:
        history = pd.read_csv(path)
        if history.empty or history[["epoch", "val/loss"]].isna().any(axis=None):
            raise ValueError("no epochs")
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{path}: no readable training history ({error}); run `dvc repro` to make it") from None
    return history


def latent_csv(results: Results, points: int) -> str:
    """Return the points of a latent scatter as CSV: z1, z2 and label, six significant digits."""
    xy, _ = project(results, points)
    table = pd.DataFrame({"z1": xy[:, 0], "z2": xy[:, 1], "label": results.labels[: len(xy)]})
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


@click.command()
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option(
    "--results", default=["results"], show_default=True, type=Path, multiple=True, help="A folder or a file; repeatable."
)
@click.option(
    "--metrics", default="metrics", show_default=True, type=Path, help="Folder of the histories and of the CSVs written."
)
@click.option("--out", default="metrics/figures", show_default=True, type=Path)
@click.option("--only", type=click.Choice(list(FIGURES)), multiple=True, help="Draw these and leave the others; repeatable.")
def main(params: Path, results: tuple[Path, ...], metrics: Path, out: Path, only: tuple[str, ...]) -> None:
    """Draw the figures of all models, side by side; each model is named by its file of results."""
    settings = load_params(params).figures
    models = {file.stem: load_results(file) for file in results_files(results)}
    histories = {name: load_history(metrics / f"{name}_history.csv") for name in models}
    page = Page(models, histories, settings.scatter_points)
    for name in (progress := tqdm(only or FIGURES, unit="figure", disable=not sys.stderr.isatty(), leave=False)):
        progress.set_description(name)
        path, figure = out / f"{name}.png", draw(name, page)
        if figure is None:
            path.unlink(missing_ok=True)  # one of an earlier run would tell of other models
        else:
            write(path, png(figure, settings.dpi))
        if progress.disable:
            click.echo(f"figures: {path if figure else f'no {name} for these models'}")
    for name, result in models.items():
        write(metrics / f"{name}_latent.csv", latent_csv(result, settings.scatter_points))
    for name, result in models.items():
        runs.drawn(tracking.find(result.weights_md5), "figures", [*sorted(out.glob("*.png")), metrics / f"{name}_latent.csv"])


if __name__ == "__main__":
    run(main)
