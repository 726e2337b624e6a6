"""Train a GROUP of comparison models: `comparison`, depth-matched autoencoders and VAEs with another beta, or `seeds`, the main
models of more seeds."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pathlib import Path

import click

from pipeline.claims.comparison_models import GROUPS, comparison_models
from pipeline.params import Params
from pipeline.sweeps.trainings import Training, run_trainings
from stages import run, stage


@stage(__doc__, "params", "data")
@click.argument("group", type=click.Choice(GROUPS))
@click.option("--out", default="models", show_default=True, type=Path, help="Folder of all models.")
def main(group: str, params: Params, data: Path, out: Path) -> None:
    from pipeline.tracking.pages import role

    (out / group).mkdir(parents=True, exist_ok=True)  # DVC requires the output even with nothing to train
    models = [model for model in comparison_models(params) if model.group == group]
    trainings = {
        model.label: Training(model.model, model.params, data, model.folder(out), role=role(group, model.name))
        for model in models
    }
    for checkpoints in run_trainings(trainings, params):
        checkpoints.clear()  # not earlier: DVC deletes the whole output before it restarts an interrupted stage


if __name__ == "__main__":
    run(main)
