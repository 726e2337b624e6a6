"""One trial: a model trained in a folder of its own, whichever process or machine runs it, and its result as JSON."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.params import Params
from pipeline.startup import choose_waiting
from pipeline.storage import load_json, md5, write
from pipeline.sweeps.pool import Report
from pipeline.sweeps.trainings import reporting

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


def run(trial: Trial, report: Report) -> dict[str, Any]:
    """Train, evaluate on the test images and write ``result.json``: the values, the loss :data:`LOSS` and the md5 of the weights.

    It continues from the checkpoint of a trial that was stopped, in the same MLflow run. What it says goes into ``log.txt``.
    The process is then to be ended: its folder and environment are the trial's. Raises what
    :func:`pipeline.training.run.train` raises.
    """
    os.chdir(trial.root)
    os.environ.update(trial.environment)
    choose_waiting(trial.params.train.threads)
    from pipeline.evaluation.run import evaluate_and_log  # before the training: a checkpoint names the files that are imported
    from pipeline.training.run import train

    model, params, folder = trial.model, trial.params, trial.folder
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        checkpoints = train(model, params, DATA, folder, folder, role="sweep", progress=partial(reporting, report))
        weights = folder / f"{model}.safetensors"
        evaluate_and_log(model, weights, params, DATA, CLASSIFIER, families=["test"])
    trained = load_json(folder / f"{model}_train.json")
    result = {"params": dict(trial.values)} | {key: trained[key] for key in (LOSS, "best/epoch", "epochs")}
    result |= {"md5": md5(weights), "fingerprint": trial.fingerprint}
    write(folder / "result.json", json.dumps(result, indent=2) + "\n")
    checkpoints.clear()  # not earlier: a trial that is killed while it evaluates must not train again
    return result
