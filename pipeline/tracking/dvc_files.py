"""The trainings in DVC's files, their params, metrics and histories; what cannot be read is left out and named."""

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import click

from pipeline.errors import IntegrityError, reason
from pipeline.storage import flatten, load_arrays, load_json
from pipeline.tracking.dvc_lock import Stage
from pipeline.tracking.dvc_repo import Source

# What reading a file of another version, or one that a user wrote, can raise.
UNREADABLE = (IntegrityError, ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError)
_LIMIT = 2**31  # of a whole number that MLflow is given


def reason_of_copy(error: Exception, copy: Path | None) -> str:
    """Return the reason of an error without the name of a temporary copy and without advice, which is not for a copy."""
    return reason(error).removeprefix(f"{copy}: ").partition("; ")[0]


def comparison_model(group: Stage, weights: str, file: Path) -> Stage:
    """Return a stage for one model of a ``train_comparison``, with seed, model and beta of its folder and its weights' header."""
    _, header = load_arrays(file)
    name, folder = file.stem, PurePosixPath(weights).parent
    params = {key: value for key, value in group.params.items() if key.split(".")[0] in ("data", "train")}
    params |= {"seed": int(folder.name.rpartition("_")[2])} | ({} if header["beta"] is None else {"beta": header["beta"]})
    params[name] = {key: header["config"].get(key, value) for key, value in group.params[name].items()}
    if "pool.threads" in group.params:
        params["train"] = {**params["train"], "threads": group.params["pool.threads"]}
    outs = {out: md5 for out, md5 in group.outs.items() if folder.is_relative_to(out) or PurePosixPath(out).parent == folder}
    return replace(group, params=params, outs=outs)


def trained(source: Source) -> Iterator[Stage]:
    """Yield a stage for each model that was trained in a source."""
    for stage in source.stages:
        if stage.module == "train":
            yield stage
        elif stage.module == "train_comparison":
            group = source.unfolded(stage)
            for weights in (path for path in group.outs if path.endswith(".safetensors")):
                file = None
                try:
                    if file := source.fetch(group, weights):
                        yield comparison_model(group, weights, file)
                    else:
                        click.echo(f"sync: {weights} is neither here nor in DVC's cache; `dvc pull` brings it", err=True)
                except UNREADABLE as error:
                    click.echo(f"sync: {weights} is left out, not of this version ({reason_of_copy(error, file)})", err=True)


def read_metrics(source: Source, stage: Stage) -> dict[str, Any]:
    """Return a stage's metrics file, flat, or nothing where there is none that this version reads."""
    path = stage.out("_train.json") or stage.out(".json")
    file = source.fetch(stage, path)
    try:
        return flatten(load_json(file)) if file else {}
    except UNREADABLE as error:
        click.echo(f"sync: {path} is left out ({reason_of_copy(error, file)})", err=True)
        return {}


def read_download(source: Source, stage: Stage) -> dict[str, Any]:
    """Return the metrics of a download that names its data set and the shape of the images, else nothing."""
    found = read_metrics(source, stage)
    sizes = [found.get(key, 0) for key in ("train/images", "height", "width")] + [found.get("channels", 1)]
    is_shape = all(type(size) is int and size > 0 for size in sizes) and math.prod(sizes) < 2**50
    return found if isinstance(found.get("name"), str) and is_shape else {}


def read_history(file: Path) -> list[dict[str, float]]:
    """Return the rows of a history, a row an epoch. Raises IntegrityError for another table."""
    try:
        rows = list(csv.DictReader(file.read_text().splitlines()))
        epochs = [{key: float(value) for key, value in row.items()} for row in rows]
        if not all(1 <= row["epoch"] < _LIMIT for row in epochs):
            raise ValueError("a number of an epoch is not allowed")
    except (csv.Error, *UNREADABLE) as error:
        raise IntegrityError(f"not the history of a training ({reason(error)})") from None
    return epochs


def settings(stage: Stage) -> dict[str, Any]:
    """Return the params of a training, flat, as the training logged them."""
    name = PurePosixPath(stage.weights).stem
    values: dict[str, Any] = {"model.name": name}
    for key, value in stage.params.items():
        section = "model" if key == name else key
        values |= {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
    return values


def check(stage: Stage) -> None:
    """Raise IntegrityError, saying what is wrong, for a stage that lacks the data or the params of a training."""
    if not stage.weights or not stage.data:
        raise IntegrityError("it has no weights or no data set with an md5")
    values = settings(stage)
    for key in ("seed", "model.latent_dim", "model.hidden_dims", "beta"):
        value = values.get(key)
        wanted = isinstance(value, list) if key == "model.hidden_dims" else type(value) is int and abs(value) < _LIMIT
        if not wanted and (key != "beta" or not (value is None or isinstance(value, float))):
            raise IntegrityError(f"its params have {key} = {value!r:.80}")
