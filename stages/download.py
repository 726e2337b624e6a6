"""Fetch and check the data set, and write it as the one prepared file that every later stage reads."""

import hashlib
import json
import os
from pathlib import Path

import click

from pipeline.data import Dataset, Split, save_dataset
from pipeline.datasets import load
from pipeline.datasets.transfer import Unavailable
from pipeline.errors import ParamsError
from pipeline.files import write
from pipeline.params import DataParams, load_params
from stages import run

NOTICE = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!! NOT {name}: no mirror has it, so this pipeline now runs on {fallback} instead.
!! Tried:
{reasons}
!! To get {name} later, with a network:    dvc repro --force download && dvc repro
!!   from a folder with its files:   PIPELINE_MIRROR=/folder dvc repro --force download && dvc repro
!! To stop here instead of falling back:   set data.fallback to null in params.yaml
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


def obtain(data: DataParams) -> Dataset:
    """Return ``data.name`` or, loudly, ``data.fallback`` when no mirror has it; wrong bytes are never worked around."""
    mirrors = [mirror for mirror in (os.environ.get("PIPELINE_MIRROR"), data.mirror) if mirror]
    try:
        return load(data.name, mirrors)
    except ValueError as error:
        raise ParamsError(f"data.name: {error}") from None
    except Unavailable as error:
        if not data.fallback:
            raise
        reasons = "\n".join(f"!!   {reason}" for reason in error.reasons)
        click.echo(NOTICE.format(name=data.name, fallback=data.fallback, reasons=reasons), err=True)
        return load(data.fallback)


def describe(split: Split) -> dict[str, int | str]:
    """Return the number of images and the sha256 over all images and labels."""
    return {"images": len(split), "sha256": hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()}


@click.command()
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--out", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--metrics", default="metrics/data.json", show_default=True, type=Path)
def main(params: Path, out: Path, metrics: Path) -> None:
    """Fetch, check and write the data set. PIPELINE_MIRROR, data.mirror and the published mirrors are tried in this order."""
    data = load_params(params).data
    dataset = obtain(data)
    height, width = dataset.train.image_shape
    summary = {"name": dataset.name, "requested": data.name, "height": height, "width": width}
    summary |= {"train": describe(dataset.train), "test": describe(dataset.test)}
    save_dataset(out, dataset)
    write(metrics, json.dumps(summary, indent=2) + "\n")
    click.echo(f"{out}: {dataset.name}, {len(dataset.train):,} train and {len(dataset.test):,} test images of {height} x {width}")


if __name__ == "__main__":
    run(main)
