"""Evaluate the model NAME on the test images: metrics, arrays for figures and claims, and a table of the images."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pathlib import Path
from typing import Any

import click

from pipeline import startup
from pipeline.params import Params
from stages import run, stage


@stage(__doc__, "params", "data", "classifier")
@click.argument("name")
@click.option("--weights", type=Path, help="Default: models/NAME.safetensors.")
@click.option("--metrics", type=Path, help="Default: metrics/NAME.json.")
@click.option("--results", type=Path, help="Default: results/NAME.safetensors.")
@click.option("--table", type=Path, help="One row for each test image. Default: results/NAME_images.parquet.")
def main(name: str, params: Params, data: Path, classifier: Path, **given: Path | None) -> None:
    startup.choose_waiting(params.train.threads)
    from pipeline.evaluation.run import evaluate_and_log

    files = {"weights": f"models/{name}.safetensors", "metrics": f"metrics/{name}.json"}
    files |= {"results": f"results/{name}.safetensors", "table": f"results/{name}_images.parquet"}
    chosen: dict[str, Any] = {key: given[key] or Path(default) for key, default in files.items()}
    evaluate_and_log(name, params=params, data=data, classifier=classifier, **chosen)


if __name__ == "__main__":
    run(main)
