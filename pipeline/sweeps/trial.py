"""One trial: a model trained in a folder of its own, whichever process or machine runs it, and its result as JSON."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import IntegrityError, PrunedError
from pipeline.params import Params
from pipeline.startup import choose_waiting
from pipeline.storage import load_json, md5, rounded, write
from pipeline.sweeps.pool import Report
from pipeline.sweeps.trainings import reporting
from pipeline.tracking.store import PARENT

if TYPE_CHECKING:  # only the processes that train import torch
    from pipeline.training.trainer import Epoch

CODE = ("data.py", "models", "runtime.py", "storage.py", "training")
"""The files and folders of pipeline/ that decide the bytes of a training."""
DATA, CLASSIFIER = Path("data/dataset.safetensors"), Path("models/classifier.safetensors")
LOSS = "best/val/loss"  # nats per image, with beta = 1 for all trials


@dataclass(frozen=True)
class Trial:
    """A training with all that its process needs; ``values`` are those of the grid, ``folder`` and ``root`` are absolute.

    The ``fingerprint`` stands for all that decides its result.
    """

    model: str
    values: Mapping[str, Any]
    params: Params
    folder: Path
    root: Path
    fingerprint: str
    environment: Mapping[str, str]

    @property
    def epochs(self) -> int:
        """The most epochs that it trains."""
        return int(getattr(self.params, self.model).epochs)

    @property
    def warmup(self) -> int:
        """The epochs in which its KL weight rises."""
        return int(getattr(getattr(self.params, self.model), "warmup_epochs", 0))

    def below(self, run_id: str | None) -> "Trial":
        """Return this trial with its MLflow run below another one, if there is one."""
        return replace(self, environment={**self.environment, PARENT: run_id}) if run_id else self


def fingerprint(model: str, params: Params, data_md5: str, code_md5: str) -> str:
    """Return a hash of all that decides the weights of a training."""
    used = params.model_dump(include={"seed", "beta", "likelihood", "train", model}) | {"val_size": params.data.val_size}
    decides = [model, used, data_md5, code_md5, version("torch")]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def code_md5() -> str:
    """Return a hash of :data:`CODE`."""
    room = Path(__file__).parents[1]
    files = [file for name in CODE for file in ([room / name] if name.endswith(".py") else sorted((room / name).rglob("*.py")))]
    digest = hashlib.md5(usedforsecurity=False)
    for file in files:
        digest.update(f"{file.relative_to(room)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def result_of(trial: Trial) -> dict[str, Any] | None:
    """Return the result of a trial that has ended, None where a file is missing or of other params, data or code."""
    with suppress(IntegrityError, OSError, KeyError):
        result = load_json(trial.folder / "result.json")
        if result["fingerprint"] == trial.fingerprint and result["md5"] == md5(trial.folder / f"{trial.model}.safetensors"):
            return result
    return None


def curve_of(trial: Trial, metric: str) -> list[float]:
    """Return a metric of a trial's history after each epoch."""
    with open(trial.folder / f"{trial.model}_history.csv", newline="") as file:
        return [float(row[metric]) for row in csv.DictReader(file)]


def first_above(curve: Sequence[float], limits: Sequence[float], warmup: int) -> int | None:
    """Return the first epoch after the warm-up at which the lowest value so far is above the limit of that epoch, None for none.

    >>> first_above([9.0, 5.0, 4.0], [8.0, 5.0, 3.0], warmup=1)
    3
    """
    pairs = enumerate(zip(accumulate(curve, min), limits, strict=False), 1)
    return next((epoch for epoch, (lowest, limit) in pairs if epoch > warmup and lowest > limit), None)


def pruning(epochs: "Iterator[Epoch]", trial: Trial, metric: str, limits: Sequence[float], done: int) -> "Iterator[Epoch]":
    """Pass epochs on, after ``done`` ones of which the history is written. Raises PrunedError after one above its limit.

    What decides is the curve as it is written, so that a trial that was killed is pruned at the same epoch.
    """
    curve = curve_of(trial, metric) if done else []
    while True:
        if epoch := first_above(curve, limits, trial.warmup):
            lowest, limit = min(curve[:epoch]), limits[epoch - 1]
            click.echo(f"pruned after epoch {epoch}: the lowest {metric} is {lowest:.2f}, the median of the others {limit:.2f}")
            raise PrunedError(epoch)
        if not (found := next(epochs, None)):
            return
        curve.append(rounded(found.metrics[metric]))
        yield found


def run(trial: Trial, report: Report, metric: str = "val/loss", limits: Sequence[float] = ()) -> dict[str, Any]:
    """Train, evaluate on the test images and write ``result.json``: the values, the loss :data:`LOSS` and the md5 of the weights.

    It continues from the checkpoint of a trial that was stopped, in the same MLflow run. What it says goes into ``log.txt``.
    The process is then to be ended: its folder and environment are the trial's. Raises what
    :func:`pipeline.training.run.train` raises, and PrunedError when the ``metric`` is above the limit of an epoch.
    """
    os.chdir(trial.root)
    os.environ.update(trial.environment)
    choose_waiting(trial.params.train.threads)
    from pipeline.evaluation.run import evaluate_and_log  # before the training: a checkpoint names the files that are imported
    from pipeline.training.run import train

    model, params, folder = trial.model, trial.params, trial.folder
    folder.mkdir(parents=True, exist_ok=True)

    def progress(epochs: "Iterator[Epoch]", name: str, total: int, done: int) -> "Iterator[Epoch]":
        return reporting(report, pruning(epochs, trial, metric, limits, done), name, total, done)

    with open(folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        checkpoints = train(model, params, DATA, folder, folder, role="sweep", progress=progress)
        weights = folder / f"{model}.safetensors"
        evaluate_and_log(model, weights, params, DATA, CLASSIFIER, families=["test"])
    trained = load_json(folder / f"{model}_train.json")
    result = {"params": dict(trial.values)} | {key: trained[key] for key in (LOSS, "best/epoch", "epochs")}
    result |= {"md5": md5(weights), "fingerprint": trial.fingerprint}
    write(folder / "result.json", json.dumps(result, indent=2) + "\n")
    checkpoints.clear()  # not earlier: a trial that is killed while it evaluates must not train again
    return result


def run_or_prune(trial: Trial, report: Report, metric: str, limits: Sequence[float]) -> None:
    """Run a trial; what it found, also when it was pruned, is in its files."""
    with suppress(PrunedError):
        run(trial, report, metric, limits)
