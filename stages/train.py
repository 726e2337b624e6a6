"""Train the model NAME, write its weights, history and summary, and log an MLflow run; see docs/gpu.md for torchrun."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

import os
from pathlib import Path

import click

from pipeline import startup
from pipeline.params import Params
from stages import run, stage


@stage(__doc__, "params", "data")
@click.argument("name", type=click.Choice(["ae", "vae"]))
@click.option("--out", default="models", show_default=True, type=Path, help="Folder for the weights.")
@click.option("--metrics", default="metrics", show_default=True, type=Path, help="Folder for history and summary.")
def main(name: str, params: Params, data: Path, out: Path, metrics: Path) -> None:
    startup.choose_waiting(params.train.threads)
    from pipeline.training.run import assist, train

    if os.environ.get("RANK", "0") != "0" and os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun numbers its processes
        assist(name, params, data)
    else:
        train(name, params, data, out, metrics, replay=out / "replay" / f"{name}.safetensors").clear()


if __name__ == "__main__":
    run(main)
