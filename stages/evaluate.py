"""Measure a trained model on the test images, and keep what its figures and the claims ledger need."""

from pathlib import Path

import click

from pipeline import runs, tracking
from pipeline.examination import examine
from pipeline.files import write
from pipeline.history import flatten, save_json
from pipeline.laboratory import save_laboratory
from pipeline.params import load_params
from pipeline.results import save_results
from stages import run


@click.command()
@click.argument("name")
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--judge", default="models/judge.safetensors", show_default=True, type=Path)
@click.option("--weights", type=Path, help="Default: models/NAME.safetensors.")
@click.option("--metrics", type=Path, help="Default: metrics/NAME.json.")
@click.option("--results", type=Path, help="Default: results/NAME.safetensors.")
@click.option("--laboratory", type=Path, help="Default: laboratory/NAME.safetensors.")
@click.option("--images", type=Path, help="Default: laboratory/NAME_images.parquet.")
def main(name: str, params: Path, data: Path, judge: Path, **paths: Path | None) -> None:
    """Measure the model NAME: metrics for DVC and MLflow, arrays for figures and claims."""
    examined = examine(name, paths["weights"] or Path(f"models/{name}.safetensors"), load_params(params), data, judge)
    rows = paths["images"] or Path(f"laboratory/{name}_images.parquet")
    save_results(paths["results"] or Path(f"results/{name}.safetensors"), examined.results)
    save_laboratory(paths["laboratory"] or Path(f"laboratory/{name}.safetensors"), examined.laboratory)
    write(rows, examined.table)
    save_json(paths["metrics"] or Path(f"metrics/{name}.json"), examined.numbers)
    found, about = tracking.find(examined.results.weights_md5), examined.numbers
    runs.evaluated(found, about["profile"], flatten(about), about["dataset"], [rows])


if __name__ == "__main__":
    run(main)
