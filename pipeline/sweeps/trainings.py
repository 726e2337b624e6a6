"""Several trainings at once: processes of few threads train more images a second than one process of many."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.params import Params
from pipeline.startup import choose_waiting
from pipeline.sweeps.pool import Report, run_all, workers

if TYPE_CHECKING:  # only the processes of the pool import torch
    from pipeline.training.checkpoint import Checkpoints
    from pipeline.training.trainer import Epoch


class Training(NamedTuple):
    """One training; the fields are those of :func:`pipeline.training.run.train`."""

    name: str
    params: Params
    data: Path
    out: Path
    stem: str = ""
    role: str = "main"


def reporting(report: Report, epochs: "Iterator[Epoch]", name: str, total: int, done: int) -> "Iterator[Epoch]":
    """Yield the epochs of a training and report each."""
    for epoch in epochs:
        report(f"epoch {epoch.number}/{total}, val/loss {epoch.metrics['val/loss']:.2f} nats")
        yield epoch


def _train(training: Training, report: Report) -> "Checkpoints":
    from pipeline.training.run import train

    name, params, data, out, stem, role = training
    return train(name, params, data, out, out, stem, role, partial(reporting, report))


def run_trainings(trainings: Mapping[str, Training], params: Params) -> "list[Checkpoints]":
    """Train models at once, by label; the outputs are those of single trainings with as many threads.

    ``pool.threads`` and ``train.device`` limit the number of processes.
    Returns the checkpoints, to be cleared once nothing can delete the outputs or ask for them again.
    Raises what :func:`pipeline.training.run.train` raises.
    """
    choose_waiting(params.pool.threads)  # the processes inherit it
    tasks = {label: partial(_train, training) for label, training in trainings.items()}
    units = sum(getattr(training.params, training.name).epochs for training in trainings.values())
    return list(run_all(tasks, "training", workers(params.pool.threads, params.train.device), units).values())
