"""Train what the claims ledger needs beyond the pipeline's own two models."""

from pathlib import Path

import click

from pipeline.experiment import train
from pipeline.params import load_params
from pipeline.variants import variants
from stages import run


@click.command()
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--out", default="models/variants", show_default=True, type=Path, help="Folder for weights and histories.")
def main(params: Path, data: Path, out: Path) -> None:
    """Train a depth-matched autoencoder, a VAE at another beta, and all models of more seeds."""
    for variant in variants(load_params(params)):
        folder = variant.folder(out)
        click.echo(f"variant {folder.name}")
        train(variant.model, variant.params, data, folder, folder)


if __name__ == "__main__":
    run(main)
