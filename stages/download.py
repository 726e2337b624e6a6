"""Download and check the data set, and write the one prepared file that all later stages read.

The mirrors are PIPELINE_MIRROR, data.mirror and the published ones, in this order.
"""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

import hashlib
import os
from pathlib import Path

import click

from pipeline.data import Dataset, Images, save_dataset
from pipeline.datasets import load
from pipeline.datasets.transfer import Unavailable
from pipeline.errors import ParamsError
from pipeline.params import DataParams, Params
from pipeline.storage import save_metrics
from stages import run, stage

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
    """Return ``data.name`` or, with a notice, ``data.fallback`` when no mirror has it. Wrong bytes are always an error."""
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


def describe(images: Images) -> dict[str, int | str]:
    """Return the number of images and the sha256 over all images and labels."""
    labels = b"" if images.labels is None else images.labels.tobytes()
    return {"images": len(images), "sha256": hashlib.sha256(images.pixels.tobytes() + labels).hexdigest()}


@stage(__doc__, "params", out="data/dataset.safetensors", metrics="metrics/data.json")
def main(params: Params, out: Path, metrics: Path) -> None:
    dataset = obtain(params.data)
    channels, height, width = dataset.train.shape
    summary = {"name": dataset.name, "requested": params.data.name, "channels": channels, "height": height, "width": width}
    save_dataset(out, dataset)
    save_metrics(metrics, summary | {"train": describe(dataset.train), "test": describe(dataset.test)})
    click.echo(f"{out}: {dataset.name}, {len(dataset.train):,} train and {len(dataset.test):,} test images of {height} x {width}")


if __name__ == "__main__":
    run(main)
