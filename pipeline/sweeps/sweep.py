"""Run the trials of a grid on a backend, go on where a sweep was stopped, and name the winner."""

import hashlib
import shlex
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.stats import t_interval
from pipeline.storage import save_csv
from pipeline.sweeps import ray, slurm
from pipeline.sweeps.grid import Axes, text, trials, value_of
from pipeline.sweeps.pool import Resources, Task, outcomes, workers
from pipeline.sweeps.trial import LOSS, Trial, result_of, run
from pipeline.tracking import store

Backend = Callable[[Mapping[str, Task], Resources], Generator[tuple[str, Any], None, None]]
"""Runs tasks by label and yields label and result, or PipelineError, as they end."""


def _local(tasks: Mapping[str, Task], resources: Resources) -> Generator[tuple[str, Any], None, None]:
    at_once = workers(resources.cpus, "auto" if resources.gpus else "cpu")
    units = sum(task.args[0].epochs for task in tasks.values())  # type: ignore[attr-defined]  # a partial
    return outcomes(tasks, resources.name, at_once, units, leave=False)


BACKENDS: dict[str, Backend] = {"local": _local, "ray": ray.outcomes, "slurm": slurm.outcomes}


@dataclass
class Configuration:
    """The trials that differ in their seed alone."""

    values: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    metric: str = "val/loss"

    @property
    def is_complete(self) -> bool:
        """Whether no trial has failed."""
        return len(self.losses) == len(self.trials)

    def row(self) -> dict[str, Any]:
        """Return values, mean loss in nats, half the width of its 95% interval, and numbers of seeds, for a table."""
        mean, half = t_interval(self.losses) if len(self.losses) > 1 else (*self.losses, "") if self.losses else ("", "")
        counts = {"trials": len(self.trials), "failed": len(self.trials) - len(self.losses)}
        return {key: text(value) for key, value in self.values.items()} | {self.metric: mean, "interval": half} | counts


def configurations(found: Mapping[str, Trial], results: Mapping[str, Any], metric: str = "val/loss") -> list[Configuration]:
    """Return the configurations of a grid, by their mean loss, or another metric, with those that have a failed trial last."""
    groups: dict[str, Configuration] = {}
    for name, trial in found.items():
        values = {key: value for key, value in trial.values.items() if key != "seed"}
        group = groups.setdefault(str(values), Configuration(values, metric=metric))
        group.trials.append(trial)
        group.losses += [results[name][f"best/{metric}"]] if name in results else []
    return sorted(groups.values(), key=lambda group: (not group.is_complete, sum(group.losses) / max(1, len(group.losses))))


def command(trial: Trial, params: Params) -> str:
    """Return the command that trains the model of a trial under DVC, with the same bytes; ``params`` are those of params.yaml."""
    values = dict(trial.values)
    own = {key: value_of(trial.params, key) for key in ("train.threads", "train.device")}
    values |= {key: value for key, value in own.items() if value != value_of(params, key)}
    return " ".join(["dvc exp run", *(f"-S {shlex.quote(f'{key}={text(value)}')}" for key, value in values.items())])


def table(groups: list[Configuration]) -> Table:
    """Return the table for a terminal."""
    rows = [group.row() for group in groups]
    shown = [key for key in rows[0] if any(row[key] not in ("", 0) for row in rows)]
    metric = groups[0].metric
    drawn, titles = Table(box=SIMPLE_HEAD), {metric: f"{metric}, nats", "interval": "95% interval"}
    for key in shown:
        drawn.add_column(titles.get(key, key), justify="right", no_wrap=True)
    for row in rows:
        cells = {"interval": f"± {row['interval']:.3f}" if row["interval"] != "" else ""}
        cells |= {metric: f"{row[metric]:.3f}" if row[metric] != "" else ""}
        drawn.add_row(*(cells.get(key, str(row[key])) for key in shown))
    return drawn


def train_all(
    found: Mapping[str, Trial], backend: str, resources: Resources
) -> tuple[dict[str, dict[str, Any]], dict[str, PipelineError]]:
    """Train the trials that have not ended yet, and say how each ends; return the results and the errors by name."""
    results = {name: result for name, trial in found.items() if (result := result_of(trial))}
    if results:
        click.echo(f"{resources.name}: {len(results)} of {len(found)} trials have ended already")
    errors: dict[str, PipelineError] = {}
    left = {name: partial(run, trial) for name, trial in found.items() if name not in results}
    with closing(BACKENDS[backend](left, resources)) as ended:
        for name, result in ended if left else ():
            if isinstance(result, PipelineError):
                errors[name] = result
                click.echo(f"failed: {result}", err=True)
            else:
                results[name] = result
                click.echo(f"{name}: best val/loss {result[LOSS]:.2f} nats; {len(results)} of {len(found)} trials have ended")
    return results, errors


class Sweep(NamedTuple):
    """What a sweep found: configurations with the best first, the command of the winner, and the errors of trials by name."""

    configurations: list[Configuration]
    command: str | None
    errors: dict[str, PipelineError]


def sweep(params: Params, model: str, axes: Axes, backend: str, cpus: int, gpus: int, address: str | None, out: Path) -> Sweep:
    """Train a model for each combination of the values in ``axes``, and write ``out/sweep.csv``.

    Each trial is one MLflow run below that of the sweep. Trials that have ended are not run again, and those that were stopped
    continue from their checkpoints. The winner is the configuration with the lowest mean validation loss over its seeds; one with
    a failed trial does not win. The command is that of its first seed.

    Raises ParamsError for values that are not allowed together; the errors of trials are returned.
    """
    found = trials(params, model, axes, out, cpus, gpus)  # before the run of the sweep: it checks all
    grid = " ".join(f"{key}={','.join(map(text, values))}" for key, values in axes.items())
    identity = hashlib.sha256(f"{model} {grid} {out.resolve()}".encode()).hexdigest()[:32]
    with store.start(f"sweep {grid}", {"role": "grid", store.FINGERPRINT: identity}) as parent:
        parent.log_params({"grid": grid})
        found = {name: trial.below(parent.id) for name, trial in found.items()}
        results, errors = train_all(found, backend, Resources(cpus, gpus, address, store.root() / out))
        groups = configurations(found, results)
        rows = [group.row() for group in groups]
        save_csv(out / "sweep.csv", rows)
        parent.log_file(out / "sweep.csv")
        if not groups[0].is_complete:
            return Sweep(groups, None, errors)
        parent.log_metrics({"best_val_loss": rows[0]["val/loss"]})
        return Sweep(groups, command(groups[0].trials[0], params), errors)
