"""Evaluate the comparison models with the metrics that the claims need."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pathlib import Path

import click

from pipeline.claims.comparison_models import FAMILIES, comparison_models
from pipeline.params import Params
from pipeline.storage import save_metrics
from pipeline.sweeps.evaluations import run_evaluations
from stages import run, stage


@stage(__doc__, "params", "data", "classifier", out="results/comparison", metrics="metrics/comparison.json")
@click.option("--weights", default="models", show_default=True, type=Path, help="Folder of all models.")
def main(params: Params, data: Path, classifier: Path, weights: Path, out: Path, metrics: Path) -> None:
    evaluations = {}
    for model in comparison_models(params):
        file = model.folder(weights) / f"{model.model}.safetensors"
        options = {"results": out / f"{model.label}.safetensors", "families": FAMILIES}
        evaluations[model.label] = (model.name, file, model.params, data, classifier), options
    save_metrics(metrics, run_evaluations(evaluations, params))


if __name__ == "__main__":
    run(main)
