"""Draw the figures of the models, named by their files of results, and write the points of their latent scatter plots for DVC."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

import sys
from pathlib import Path

import click

from pipeline.params import Params
from stages import results_files, run, stage


@stage(__doc__, "params", out="metrics/figures")
@click.option("--results", default=["results"], show_default=True, type=Path, multiple=True, help="Folder or file; repeatable.")
@click.option("--metrics", default="metrics", show_default=True, type=Path, help="Folder of the histories and the CSVs written.")
@click.option("--only", multiple=True, help="Draw only the figure of this name; repeatable.")
def main(params: Params, results: tuple[Path, ...], metrics: Path, out: Path, only: tuple[str, ...]) -> None:
    from tqdm import tqdm

    from pipeline.evaluation.results import load_results
    from pipeline.figures import FIGURES, NEEDS, Page, draw, png
    from pipeline.figures.history import load_history
    from pipeline.figures.latent import project
    from pipeline.storage import save_csv, write
    from pipeline.tracking import events, store

    if unknown := ", ".join(name for name in only if name not in FIGURES):
        raise click.BadParameter(f"{unknown}; allowed are {', '.join(FIGURES)}", param_hint="--only")
    files = results_files(results)
    models = {file.stem: load_results(file) for file in files}
    if len(models) < len(files):
        raise click.UsageError("two files of results have the same name; a figure needs a name for each model")
    histories = {name: load_history(metrics / f"{name}_history.csv") for name in models}
    page = Page(models, histories, params.figures.scatter_points)
    for name in (progress := tqdm(only or FIGURES, unit="figure", disable=not sys.stderr.isatty(), leave=False)):
        progress.set_description(name)
        path, figure = out / f"{name}.png", draw(name, page)
        if figure is None:
            path.unlink(missing_ok=True)  # of other models, drawn by an earlier run
        else:
            write(path, png(figure, params.figures.dpi))
        if progress.disable:
            needs = f" (needs {NEEDS[name]})" if name in NEEDS else ""
            click.echo(f"figures: {path if figure else f'no {name} for these models{needs}'}")
    for name, result in models.items():
        xy, _ = project(result, params.figures.scatter_points)
        columns = {"z1": xy[:, 0], "z2": xy[:, 1]} | ({"label": result["labels"][: len(xy)]} if "labels" in result else {})
        points = zip(*(values.tolist() for values in columns.values()), strict=True)
        save_csv(latent := metrics / f"{name}_latent.csv", [dict(zip(columns, point, strict=True)) for point in points])
        events.log_figures(store.find(result.weights_md5), "figures", [*sorted(out.glob("*.png")), latent])


if __name__ == "__main__":
    run(main)
