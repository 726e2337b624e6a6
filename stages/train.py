"""Train one model: prepared data -> weights, history and an MLflow run."""

from pathlib import Path

import click

from pipeline.experiment import train
from pipeline.models import MODELS
from pipeline.params import load_params
from stages import run


@click.command()
@click.argument("name", type=click.Choice(list(MODELS)))
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--out", default="models", show_default=True, type=Path, help="Folder for the weights.")
@click.option("--metrics", default="metrics", show_default=True, type=Path, help="Folder for history and summary.")
def main(name: str, params: Path, data: Path, out: Path, metrics: Path) -> None:
    """Train the model NAME."""
    train(name, load_params(params), data, out, metrics).clear()


if __name__ == "__main__":
    run(main)
