"""Train what the claims ledger needs beyond the pipeline's own two models."""

from pathlib import Path

import click

from pipeline.params import load_params
from pipeline.variants import GROUPS, variants
from stages import run


@click.command()
@click.argument("group", type=click.Choice(GROUPS))
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--out", default="models/variants", show_default=True, type=Path, help="Folder for weights and histories.")
def main(group: str, params: Path, data: Path, out: Path) -> None:
    """Train the variants of GROUP: depth-matched autoencoders, VAEs at another beta, or all models of more seeds."""
    (out / group).mkdir(parents=True, exist_ok=True)  # DVC wants its output, also where there is nothing to train
    asked_for = [variant for variant in variants(load_params(params)) if variant.group == group]
    if not asked_for:
        return
    from pipeline.experiment import train  # torch and mlflow, three seconds

    done = []
    for variant in asked_for:
        folder = variant.folder(out)
        click.echo(f"variant {folder.name}")
        done.append(train(variant.model, variant.params, data, folder, folder))
    # Only now: DVC deletes the whole output before it starts an interrupted stage again.
    for checkpoints in done:
        checkpoints.clear()


if __name__ == "__main__":
    run(main)
