"""Where each second of `dvc repro` goes: ``python -m benchmarks.cost``.

The real `dvc repro` runs in a copy of this repository as it stands. The first `python` in its PATH is this module again: it runs
a stage as `python -m stages.NAME` does and notes what is not the stage's own work. A process's seconds of CPU are user and
system time, those of its children included.
"""

import builtins
import importlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

NOTES = "PIPELINE_COST"  # the file to which each stage adds a line
NOOPS = 3
COSTS = ("total", "start", "imports", "mlflow", "exit", "own")  # of a stage, see `stage`
HEAD = ("stage", "wall, s", "CPU, s", "imports, s", "MLflow, s", "exit, s", "own work, s", "overhead, CPU s")


def cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Meter:
    """Splits the wall and CPU seconds of a stage into imports, MLflow (its imports and all calls of it) and own work.

    A second counts once: an import within a call of MLflow is MLflow's, a call within a call is the outer one's.
    """

    def __init__(self) -> None:
        self.spent = {name: [0.0, 0.0] for name in ("own", "imports", "mlflow")}
        self._current, self._since = "own", (time.perf_counter(), cpu())
        self._import, self._watched = builtins.__import__, False
        builtins.__import__ = self._timed_import

    def switch(self, name: str) -> str:
        """Count the time from now on as this; return what it was counted as before."""
        now, before = (time.perf_counter(), cpu()), self._current
        self.spent[before] = [sum_ + end - start for sum_, start, end in zip(self.spent[before], self._since, now, strict=True)]
        self._current, self._since = name, now
        return before

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return the function, timed where it is called by the main thread and not within MLflow."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._current in (name, "mlflow") or threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            before = self.switch(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return call

    def stop(self) -> dict[str, list[float]]:
        """Return what was spent; imports are no longer timed."""
        builtins.__import__ = self._import
        self.switch("own")
        return self.spent

    def _timed_import(self, name: str, *args: Any, **kwargs: Any) -> Any:
        kind = "mlflow" if name.partition(".")[0] == "mlflow" else "imports"
        module = self.timed(self._import, kind)(name, *args, **kwargs)
        if not self._watched and self._current == "own" and "pipeline.tracking.store" in sys.modules:
            self._watched = True
            self._watch()
        return module

    def _watch(self) -> None:
        """Time all that the package asks of MLflow."""
        store, run = (sys.modules[f"pipeline.tracking.{name}"] for name in ("store", "run"))
        for name in ("connect", "start", "find"):
            setattr(store, name, self.timed(getattr(store, name), "mlflow"))
        for name, method in list(vars(run.Run).items()):
            if callable(method) and (not name.startswith("_") or name == "__exit__"):
                setattr(run.Run, name, self.timed(method, "mlflow"))


def stage(module: str, arguments: list[str]) -> None:
    """Do what ``python -m MODULE ARGUMENTS`` does, in a child, and add a line on what it cost to the file of notes.

    Each cost is (wall, CPU) in seconds. ``total`` is made of ``start`` of the interpreter; ``imports`` and ``mlflow`` as
    :class:`Meter` counts them; ``exit``, from the end of the stage to that of the process; and ``own``, the rest.
    """
    # Until here the interpreter has done nothing but compute, so its start took about as long as its CPU time.
    before = cpu()
    started = time.perf_counter() - before
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        noted: dict[str, Any] = {"start": (time.perf_counter() - started, before)}
        own = cpu()  # of the child, whose clock starts anew
        meter = Meter()
        loaded = importlib.import_module(module)
        sys.argv = [str(loaded.__file__), *arguments]
        try:
            loaded.run(loaded.main)
        finally:
            noted |= meter.stop() | {"done": (time.perf_counter() - started, before + cpu() - own)}
            os.write(writer, json.dumps(noted).encode())
    os.close(writer)
    _, status, used = os.wait4(child, 0)
    total = time.perf_counter() - started, before + used.ru_utime + used.ru_stime
    if sent := os.read(reader, 1 << 16):
        row = json.loads(sent)
        row["exit"] = [total[i] - row["done"][i] for i in (0, 1)]
        with open(os.environ[NOTES], "a") as file:
            file.write(json.dumps(row | {"name": os.environ["DVC_STAGE"], "total": total}) + "\n")
    sys.exit(os.waitstatus_to_exitcode(status))


def copy(folder: Path, epochs: int, profile: str) -> None:
    """Make a repository of the files that git would commit here, without locks, so that every stage has to run."""
    from benchmarks.tools import copy_files, working_tree

    copy_files([name for name in working_tree() if not name.endswith("dvc.lock")], folder)
    params = folder / "params.yaml"
    for key, value in {"epochs": epochs, "profile": profile}.items():
        params.write_text(re.sub(rf"(?m)^(  {key}:) .*", rf"\1 {value}", params.read_text()))
    author = ("-c", "user.name=cost", "-c", "user.email=cost@localhost")
    for command in (("init", "--quiet"), ("add", "--all"), (*author, "commit", "--quiet", "--message", "as it stands")):
        subprocess.run(("git", *command), cwd=folder, check=True)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of `dvc repro`: nothing of another repository or store, and this module as its `python`."""
    from benchmarks.tools import dvc_environment

    shim = folder / "bin" / "python"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m benchmarks.cost "$@"\n')
    shim.chmod(0o755)
    return dvc_environment(shim.parent) | {NOTES: str(folder / "notes.jsonl")}


def repro(repository: Path, variables: dict[str, str]) -> tuple[float, float]:
    """Run `dvc repro`, its output to stderr, and return its seconds, wall and CPU, those of the stages among them."""
    begun, before = time.perf_counter(), cpu()
    if subprocess.run(("dvc", "repro"), cwd=repository, env=variables, stdout=sys.stderr).returncode:
        raise click.ClickException("`dvc repro` failed")
    return time.perf_counter() - begun, cpu() - before


def cells(name: str, *seconds: float) -> list[str]:
    """Return a row of the table; what is no stage has wall and CPU alone."""
    return [name, *(f"{value:.2f}" for value in seconds), *[""] * (len(HEAD) - 1 - len(seconds))]


def shares(row: dict[str, list[float]]) -> list[float]:
    """Return the cells of what :func:`stage` noted; the interpreter's start counts among the imports."""
    overhead = sum(row[key][1] for key in ("start", "imports", "mlflow", "exit"))
    return [*row["total"], row["start"][0] + row["imports"][0], row["mlflow"][0], row["exit"][0], row["own"][0], overhead]


@click.command()
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(min=1), help="Epochs of every model.")
@click.option("--profile", default="fast", show_default=True, type=click.Choice(["fast", "full"]), help="Of `evaluate`.")
def main(epochs: int, profile: str) -> None:
    """Print the seconds of each stage of `dvc repro`, of DVC itself, and of a `dvc repro` that has nothing to do."""
    from benchmarks.tools import machine, table

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = folder / "repository"
        copy(repository, epochs, profile)
        variables = environment(folder)
        whole = repro(repository, variables)
        notes = Path(variables[NOTES])
        rows = [json.loads(text) for text in notes.read_text().splitlines()]
        idle = [repro(repository, variables) for _ in range(NOOPS)]
        if len(notes.read_text().splitlines()) > len(rows):
            raise click.ClickException("a second `dvc repro` ran a stage")
        dataset = json.loads((repository / "metrics/data.json").read_text())["name"]
    stages = {key: [sum(seconds) for seconds in zip(*(row[key] for row in rows), strict=True)] for key in COSTS}
    click.echo(f"{dataset}, epochs: {epochs}, profile: {profile}; {machine('torch', 'mlflow', 'dvc')}\n")
    table(
        HEAD,
        [
            *(cells(row["name"], *shares(row)) for row in rows),
            cells("all stages", *shares(stages)),
            cells("DVC itself", *(both - theirs for both, theirs in zip(whole, stages["total"], strict=True))),
            cells("**`dvc repro`**", *whole),
            cells(f"nothing to do, median of {NOOPS}", *(statistics.median(column) for column in zip(*idle, strict=True))),
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        stage(sys.argv[2], sys.argv[3:])
    else:
        main()
