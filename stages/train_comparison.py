"""Train a GROUP of comparison models: `comparison`, depth-matched autoencoders and VAEs at claims.comparison_beta, or `seeds`,
models that depend on beta: the main ones of more seeds, and VAEs at beta 1 where beta is claims.comparison_beta."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pathlib import Path

import click

from pipeline.claims.comparison_models import GROUPS, comparison_models
from pipeline.params import Params
from pipeline.storage import write
from pipeline.sweeps.trainings import Training, run_trainings
from stages import run, stage


@stage(__doc__, "params", "data")
@click.argument("group", type=click.Choice(GROUPS))
@click.option("--out", default="models", show_default=True, type=Path, help="Folder of all models.")
def main(group: str, params: Params, data: Path, out: Path) -> None:
    from pipeline.tracking.pages import role

    models = [model for model in comparison_models(params) if model.group == group]
    # DVC requires the output, and warns of an empty one, even with nothing to train.
    write(out / group / "models.txt", "".join(f"{model.label}\n" for model in models))
    trainings = {
        model.label: Training(model.model, model.params, data, model.folder(out), role=role(group, model.name))
        for model in models
    }
    for checkpoints in run_trainings(trainings, params):
        checkpoints.clear()  # not earlier: DVC deletes the whole output before it restarts an interrupted stage


if __name__ == "__main__":
    run(main)
