"""Download or read the data set, check it, and write the one prepared file that all later stages read.

The mirrors are PIPELINE_MIRROR and data.mirror, in this order, or, where none of them is set, the published ones. Images of
your own (data.name: folder or arrays) are read from data.path.
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
from pipeline.datasets.arrays import arrays
from pipeline.datasets.folder import folder
from pipeline.datasets.own import KINDS
from pipeline.datasets.transfer import Unavailable
from pipeline.errors import ParamsError
from pipeline.params import DataParams, Params
from pipeline.storage import chunks, save_metrics
from stages import run, stage

NOTICE = """\
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
!! NOT {name}: no published mirror answers, so this pipeline now runs on {fallback} instead.
!! Tried:
{reasons}
!! To get {name} later, with a network:    dvc repro --force download && dvc repro
!!   from a folder with its files:   PIPELINE_MIRROR=/folder dvc repro --force download && dvc repro
!! To stop here instead of falling back:   set data.fallback to null in params.yaml
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"""


def obtain(data: DataParams) -> Dataset:
    """Return the data set ``data.name``, one of your own from ``data.path``."""
    if data.name == "arrays":
        return arrays(data.path, test_size=data.test_size)
    if data.name == "folder":
        image = data.image
        return folder(
            data.path,
            (image.channels, image.size, image.size),
            fit=image.fit,
            background=image.background,
            test_size=data.test_size,
            on_error=data.on_error,
        )
    return fetched(data)


def fetched(data: DataParams) -> Dataset:
    """Return ``data.name`` or, with a notice, ``data.fallback`` when no published mirror has it.

    Raises Unavailable when a mirror that the user named lacks it, and IntegrityError for wrong bytes of any mirror.
    """
    candidates = {"PIPELINE_MIRROR": os.environ.get("PIPELINE_MIRROR"), "data.mirror": data.mirror}
    named = {name: mirror for name, mirror in candidates.items() if mirror}
    try:
        return load(data.name, list(named.values()))
    except ValueError as error:
        raise ParamsError(f"data.name: {error}") from None
    except Unavailable as error:
        if named:
            where = " and ".join(named)
            raise Unavailable(f"{error}; correct {where}, or leave it out to ask the published mirrors", error.reasons) from None
        if not data.fallback:
            raise
        reasons = "\n".join(f"!!   {reason}" for reason in error.reasons)
        click.echo(NOTICE.format(name=data.name, fallback=data.fallback, reasons=reasons), err=True)
        return load(data.fallback)


def describe(images: Images) -> dict[str, int | str]:
    """Return the number of images and the sha256 over all images and labels."""
    digest = hashlib.sha256()
    for array in (images.pixels, images.labels):
        for part in chunks(array) if array is not None else ():
            digest.update(part.data)
    return {"images": len(images), "sha256": digest.hexdigest()}


@stage(__doc__, "params", out="data/dataset.safetensors", metrics="metrics/data.json")
def main(params: Params, out: Path, metrics: Path) -> None:
    dataset = obtain(params.data)
    channels, height, width = dataset.train.shape
    requested = dataset.name if params.data.name in KINDS else params.data.name
    summary = {"name": dataset.name, "requested": requested, "channels": channels, "height": height, "width": width}
    save_dataset(out, dataset)
    save_metrics(metrics, summary | {"train": describe(dataset.train), "test": describe(dataset.test)})
    classes = f" of {len(dataset.classes)} classes" if dataset.classes else ""
    size = f"{height} x {width}" + (f" x {channels}" if channels > 1 else "")
    click.echo(f"{out}: {dataset.name}, {len(dataset.train):,} train and {len(dataset.test):,} test images of {size}{classes}")


if __name__ == "__main__":
    run(main)
