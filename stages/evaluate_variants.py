"""Measure the variants, as far as the claims ledger needs it."""

from pathlib import Path

import click

from pipeline import runs, tracking
from pipeline.examination import examine
from pipeline.history import flatten, save_json
from pipeline.laboratory import save_laboratory
from pipeline.params import load_params
from pipeline.variants import variants
from stages import run

SECTIONS = ("test", "smoothness", "holes", "samples")


@click.command()
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--judge", default="models/judge.safetensors", show_default=True, type=Path)
@click.option("--weights", default="models/variants", show_default=True, type=Path, help="Folder of the variants' weights.")
@click.option("--out", default="laboratory/variants", show_default=True, type=Path)
@click.option("--metrics", default="metrics/variants.json", show_default=True, type=Path)
def main(params: Path, data: Path, judge: Path, weights: Path, out: Path, metrics: Path) -> None:
    """Measure every variant: its metrics, and a laboratory for the claims."""
    numbers = {}
    for variant in variants(load_params(params)):
        folder = variant.folder(weights)
        examined = examine(variant.name, folder / f"{variant.model}.safetensors", variant.params, data, judge, SECTIONS)
        numbers[folder.name] = examined.numbers
        save_laboratory(out / f"{folder.name}.safetensors", examined.laboratory)
        found, about = tracking.find(examined.laboratory.weights_md5), examined.numbers
        runs.evaluated(found, about["profile"], flatten(about), about["dataset"], [])
    save_json(metrics, numbers)


if __name__ == "__main__":
    run(main)
