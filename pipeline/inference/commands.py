"""The commands of ``latent`` that use a trained model. They import heavy modules when they run, so that --help is fast."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipeline.errors import ParamsError
from pipeline.options import PATH, ImageOrIndex, ModelName, PathFromHere

if TYPE_CHECKING:
    from pipeline.inference.given import GivenImages
    from pipeline.models.weights import Trained

THREADS = 2  # another number gives other last bits
ROW = 8  # images in a row of a picture of pairs
Command = TypeVar("Command", bound=Callable[..., Any])


def choice(name: str, *allowed: str, help: str) -> Callable[[Command], Command]:  # noqa: A002 (click's word)
    """Return an option with these values, of which the first is the default."""
    return click.option(name, default=allowed[0], show_default=True, type=click.Choice(allowed), help=help)


def with_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a model, and pass the model, in its runtime, as the first argument."""

    @click.option(
        "--model",
        default="vae",
        show_default=True,
        type=ModelName(),
        metavar="MODEL",
        help="A file of weights, the name of one in models/ (ae, vae), or an address in MLflow's store (models:/NAME@champion).",
    )
    @click.option("--rev", help="Take the file of weights as it was in this git revision or DVC experiment.")
    @choice("--device", "cpu", "cuda", "mps", "auto", help="Where to compute; another device gives other last bits.")
    @wraps(command)
    def run(model: str, rev: str | None, device: str, **options: Any) -> None:
        from pipeline import runtime
        from pipeline.inference.models import find_model

        values = [model, *(value for name, value in options.items() if name != "out")]
        read = {Path(str(one)).resolve() for value in values for one in (value if isinstance(value, tuple) else (value,)) if one}
        if (out := options.get("out")) and out.exists() and out.resolve() in read:
            raise ParamsError(f"--out: {out} is read by this command; choose another name")
        with runtime.use(device, THREADS) as rt:
            trained = find_model(model, rev)
            trained.model.to(rt.device)
            command(trained, **options)

    return run


IMAGES = click.argument("images", nargs=-1, required=True, type=PATH)
FIT = choice("--fit", "crop", "pad", help="How an image file gets the proportions of the model: without its edges, or with bars.")
BACKGROUND = choice("--background", "white", "black", help="The color of bars, and of what is transparent in an image file.")
ON_ERROR = choice("--on-error", "stop", "skip", help="What to do about image files that cannot be read: skip leaves them out.")
PART = choice("--part", "test", "train", help="The part of the prepared data set.")
DATA = click.option(
    "--data", default="data/dataset.safetensors", show_default=True, type=PATH, help="The prepared data set with these images."
)
PICTURE = click.option(
    "--out", required=True, type=PathFromHere(".png", ".npz", ""), help="A picture (.png), an array (.npz) or a new folder."
)


def _image(image: int | Path, trained: "Trained", data: Path, part: str, **fit: str) -> "GivenImages":
    """Return the image in a file, or the one with this index in the prepared data set."""
    from pipeline.inference.given import read_images

    found = read_images([data if isinstance(image, int) else image], trained.config.image_shape, part, **fit)
    if isinstance(image, int):
        if image >= len(found):
            raise ParamsError(f"{image}: {data} has {len(found):,} {part} images; allowed is 0 to {len(found) - 1}")
        return found.take(slice(image, image + 1))
    if len(found) != 1:
        raise ParamsError(f"{image}: {len(found):,} images; allowed is a file of one image, or an index in --data")
    return found


@click.command()
@IMAGES
@click.option(
    "--out",
    required=True,
    type=PathFromHere(".parquet", ".csv", ".npz", ".safetensors"),
    help="A table (.parquet, .csv) or arrays (.npz, .safetensors).",
)
@with_model
@FIT
@BACKGROUND
@PART
@ON_ERROR
def encode(trained: "Trained", images: tuple[Path, ...], out: Path, part: str, **how: str) -> None:
    """Write the codes of images.

    IMAGES are image files and folders of them, which are resized, or one file with arrays of the model's size: .npy, .npz or
    .safetensors (images and perhaps labels), IDX, or the prepared data set.

    A row has z1, z2, ... and, of a VAE, std1, std2, ...: mean and standard deviation of the posterior. It has the file or the
    index of the image, too, and its label where that is known; in a folder the label is the name of the sub-folder.

    \b
    Examples:
      latent encode photos/ --out codes.parquet
      latent encode data/dataset.safetensors --part train --out codes.npz
    """
    from pipeline.inference import given, tables, verbs

    found = given.read_images(images, trained.config.image_shape, part, **how)
    tables.save_codes(out, *verbs.encode(trained, found), found.columns)
    click.echo(f"encode: codes of {len(found):,} images, {trained.config.latent_dim} dimensions, in {out}")


@click.command(context_settings={"ignore_unknown_options": True})  # a code may begin with a minus
@click.argument("codes", nargs=-1, required=True)
@PICTURE
@with_model
@click.pass_context
def decode(context: click.Context, trained: "Trained", codes: tuple[str, ...], out: Path) -> None:
    """Write the images at latent points.

    CODES are a file of `latent encode`, or points, each as numbers between commas.

    \b
    Examples:
      latent decode 0.5,-1 -2,0.3 --out images.png
      latent decode codes.parquet --out decoded/
    """
    from pipeline.inference import pictures, tables, verbs

    is_file = len(codes) == 1 and codes[0].endswith(tables.SUFFIXES)
    points = tables.load_codes(Path(context.find_root().obj or "", codes[0])) if is_file else tables.parse_codes(codes)
    pictures.save_images(out, verbs.decode(trained, points), arrays={"z": points})
    click.echo(f"decode: {len(points):,} images in {out}")


@click.command()
@click.option("-n", "--number", default=64, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Seed of the latent points.")
@PICTURE
@with_model
def sample(trained: "Trained", number: int, seed: int, out: Path) -> None:
    """Write images decoded at random points.

    The points are samples from the prior, N(0, I).

    \b
    Example:
      latent sample -n 64 --seed 1 --out samples.png
    """
    from pipeline.inference import pictures, verbs

    if not trained.model.is_probabilistic:
        click.echo("note: an autoencoder has no prior, and its codes can be far from N(0, I)", err=True)
    points = verbs.sample(trained, number, seed)
    pictures.save_images(out, verbs.decode(trained, points), arrays={"z": points})
    click.echo(f"sample: {number:,} images in {out}")


@click.command()
@IMAGES
@click.option(
    "-n", "--number", default=32, show_default=True, type=click.IntRange(1), help="How many of the images, evenly spread."
)
@PICTURE
@with_model
@FIT
@BACKGROUND
@PART
@ON_ERROR
def reconstruct(trained: "Trained", images: tuple[Path, ...], number: int, out: Path, part: str, **how: str) -> None:
    """Write images above their reconstructions.

    IMAGES are those of `latent encode`. A .npz file has the arrays images and reconstructions.

    \b
    Example:
      latent reconstruct data/dataset.safetensors --out pairs.png
    """
    from pipeline.inference import given, pictures, verbs

    found = given.read_images(images, trained.config.image_shape, part, **how)
    step = max(1, len(found) // number)  # evenly spread, as files and classes often follow each other
    found = found.take(slice(0, number * step, step))
    originals, decoded = found.intensities, verbs.decode(trained, verbs.encode(trained, found).mean)
    columns = min(len(found), ROW)
    shown = originals if out.suffix == ".npz" else pictures.in_pairs(originals, decoded, columns)
    pictures.save_images(out, shown, columns, {"reconstructions": decoded})
    error = ((originals - decoded) ** 2).mean()
    click.echo(f"reconstruct: {len(found):,} images in {out}, mean squared error {error:.4f} per pixel")


@click.command()
@click.argument("a", type=ImageOrIndex())
@click.argument("b", type=ImageOrIndex())
@click.option("--steps", default=10, show_default=True, type=click.IntRange(2), help="How many points, the two codes included.")
@PICTURE
@with_model
@FIT
@BACKGROUND
@DATA
@PART
def interpolate(trained: "Trained", a: int | Path, b: int | Path, steps: int, out: Path, **place: Any) -> None:
    """Write the images between two images.

    They are decoded at equal steps on the line from the code of A to the code of B. A and B are image files, or indices of images
    in --data. In a picture they stand at both ends, as they are. A .npz file has the decoded images alone, and their points z.

    \b
    Examples:
      latent interpolate 3 8 --steps 10 --out line.png
      latent interpolate cat.png dog.png --out line.png
    """
    import numpy as np

    from pipeline.inference import pictures, verbs

    start, end = (_image(one, trained, **place) for one in (a, b))
    points = verbs.line(verbs.encode(trained, start).mean[0], verbs.encode(trained, end).mean[0], steps)
    decoded = verbs.decode(trained, points)
    shown = decoded if out.suffix == ".npz" else np.concatenate([start.intensities, decoded, end.intensities])
    pictures.save_images(out, shown, len(shown), {"z": points})
    click.echo(f"interpolate: {steps} images in {out}")


@click.command()
@click.argument("image", type=ImageOrIndex())
@click.option("-k", "--number", default=10, show_default=True, type=click.IntRange(1), help="How many images.")
@click.option("--out", type=PathFromHere(".png"), help="A picture (.png) of the image and those nearest to it.")
@with_model
@FIT
@BACKGROUND
@DATA
@PART
def nearest(trained: "Trained", image: int | Path, number: int, out: Path | None, data: Path, part: str, **fit: str) -> None:
    """List the images with the nearest codes.

    The distance is that of the codes (of a VAE, the posterior means). IMAGE is an image file, or the index of an image in --data,
    which is then left out of the list.

    \b
    Example:
      latent nearest 7 -k 10 --out nearest.png
    """
    import numpy as np
    import pandas as pd

    from pipeline.inference import given, pictures, verbs

    others = given.read_images([data], trained.config.image_shape, part, **fit)
    asked = _image(image, trained, data, part, **fit)
    codes, code = verbs.encode(trained, others).mean, verbs.encode(trained, asked).mean[0]
    indices, distances = verbs.nearest(codes, code, number, image if isinstance(image, int) else None)
    table = pd.DataFrame(others.columns).iloc[indices].assign(distance=distances.round(4))
    click.echo(table.to_string(index=False))
    if out:
        found = np.concatenate([asked.intensities, *(others.take(slice(i, i + 1)).intensities for i in indices)])
        pictures.save_images(out, found, min(len(found), 11))
        click.echo(f"nearest: the image and the {len(indices)} nearest in {out}")


@click.command()
@click.option("--onnx", "folder", required=True, type=PathFromHere(""), help="The folder of encoder.onnx and decoder.onnx.")
@with_model
def export(trained: "Trained", folder: Path) -> None:
    """Write the model as ONNX files.

    ONNX Runtime and other programs run them without this project. encoder.onnx takes images [N, C, H, W] in [0, 1], for any N,
    and gives mean and, of a VAE, std [N, d]. decoder.onnx takes z [N, d] and gives images. `make onnx` installs what this needs.

    \b
    Example:
      latent export --onnx exported/
    """
    from pipeline.inference.onnx import export_onnx

    for path in export_onnx(trained, folder):
        click.echo(f"export: {path}, {path.stat().st_size / 1e6:.1f} MB")


COMMANDS = (encode, decode, sample, reconstruct, interpolate, nearest, export)
