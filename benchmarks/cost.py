"""Where each second of `dvc repro` goes: ``python -m benchmarks.cost``.

The real `dvc repro` runs in a copy of this repository as it stands. At the front of its PATH is a `python` that is this
module again: it runs a stage as `python -m stages.NAME` does and notes what is not the stage's own work. A process's seconds
of CPU are user and system time, those of its children with them.
"""

import builtins
import importlib
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
NOTES = "PIPELINE_COST"  # the file to which each stage adds a line
NOOPS = 3
COSTS = ("total", "imports", "of mlflow", "calls", "exit", "own")  # of a stage, see `stage`


def cpu() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Meter:
    """Wall and CPU seconds inside the functions that it times; what one of them calls is not counted again."""

    def __init__(self) -> None:
        self.spent = [0.0, 0.0]
        self._inside = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, wall, used = True, time.perf_counter(), cpu()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.spent[0] += time.perf_counter() - wall
                self.spent[1] += cpu() - used

        return call


def load(module: str, mlflow: Meter) -> Any:
    """Import a stage, timing the imports of mlflow in it."""
    plain = builtins.__import__
    timed = mlflow.timed(plain)

    def choose(name: str, *args: Any, **kwargs: Any) -> Any:
        return (timed if name.split(".")[0] == "mlflow" else plain)(name, *args, **kwargs)

    builtins.__import__ = choose
    try:
        return importlib.import_module(module)
    finally:
        builtins.__import__ = plain


def watch(calls: Meter) -> None:
    """Time all that the package asks of MLflow, where the stage has imported it at all."""
    tracking = sys.modules.get("pipeline.tracking")
    if not tracking:
        return
    for name in ("connect", "start", "find"):
        setattr(tracking, name, calls.timed(getattr(tracking, name)))
    for name, method in vars(tracking.Run).items():
        if callable(method) and (not name.startswith("_") or name in {"_try", "__exit__"}):
            setattr(tracking.Run, name, calls.timed(method))


def stage(module: str, arguments: list[str]) -> None:
    """Do what ``python -m MODULE ARGUMENTS`` does, in a child, and add a line on what it cost to the file of notes.

    Each cost is (wall, CPU) in seconds. ``total`` is made of ``imports``, the interpreter's start among them and ``of mlflow``
    a share of them; ``calls`` of MLflow; ``exit``, from the end of the stage to that of the process; and ``own``, the rest.
    """
    # Until here the interpreter has done nothing but compute, so its start took about as long as its CPU time.
    before = cpu()
    started = time.perf_counter() - before

    def now() -> tuple[float, float]:
        return time.perf_counter() - started, before + cpu()

    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        imports, calls = Meter(), Meter()
        loaded = load(module, imports)
        ready = now()
        watch(calls)
        sys.argv = [str(loaded.__file__), *arguments]
        try:
            loaded.run(loaded.main)
        finally:
            noted = {"imports": ready, "of mlflow": imports.spent, "calls": calls.spent, "done": now()}
            os.write(writer, json.dumps(noted).encode())
    os.close(writer)
    _, status, used = os.wait4(child, 0)
    total = time.perf_counter() - started, before + used.ru_utime + used.ru_stime
    if sent := os.read(reader, 1 << 16):
        row = json.loads(sent)
        row["own"] = [row["done"][i] - row["imports"][i] - row["calls"][i] for i in (0, 1)]
        row["exit"] = [total[i] - row["done"][i] for i in (0, 1)]
        with open(os.environ[NOTES], "a") as file:
            file.write(json.dumps(row | {"name": os.environ["DVC_STAGE"], "total": total}) + "\n")
    sys.exit(os.waitstatus_to_exitcode(status))


def copy(folder: Path, epochs: int, profile: str) -> None:
    """Make a repository of the files that git would commit here, without dvc.lock, so that every stage has to run."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = folder / "params.yaml"
    for key, value in {"epochs": epochs, "profile": profile}.items():
        params.write_text(re.sub(rf"(?m)^(  {key}:) .*", rf"\1 {value}", params.read_text()))
    author = ("-c", "user.name=cost", "-c", "user.email=cost@localhost")
    for command in (("init", "--quiet"), ("add", "--all"), (*author, "commit", "--quiet", "--message", "as it stands")):
        subprocess.run(("git", *command), cwd=folder, check=True)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of `dvc repro`: nothing of another repository or store, and this module as its `python`."""
    shim = folder / "bin" / "python"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m benchmarks.cost "$@"\n')
    shim.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # every stage would compile the package anew
    if Path(mirror := kept.get("PIPELINE_MIRROR", "")).is_dir() and mirror:
        kept["PIPELINE_MIRROR"] = str(Path(mirror).resolve())
    path = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"PATH": path, NOTES: str(folder / "notes.jsonl")}


def repro(repository: Path, variables: dict[str, str]) -> tuple[float, float]:
    """Run `dvc repro`, its output to stderr, and return its seconds, wall and CPU, those of the stages among them."""
    begun, before = time.perf_counter(), cpu()
    if subprocess.run(("dvc", "repro"), cwd=repository, env=variables, stdout=sys.stderr).returncode:
        raise click.ClickException("`dvc repro` failed")
    return time.perf_counter() - begun, cpu() - before


def line(name: str, *cells: float | str) -> str:
    """Return a row of the table; what is no stage has wall and CPU alone."""
    texts = [cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells]
    return "| " + " | ".join([name, *texts, *[""] * (7 - len(texts))]) + " |"


def shares(row: dict[str, list[float]]) -> list[float | str]:
    """Return the cells of what :func:`stage` noted."""
    overhead = sum(row[key][1] for key in ("imports", "calls", "exit"))
    imports = f"{row['imports'][0]:.2f} ({row['of mlflow'][0]:.2f})"
    return [*row["total"], imports, row["calls"][0], row["exit"][0], row["own"][0], overhead]


@click.command()
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(min=1), help="Epochs of every model.")
@click.option("--profile", default="fast", show_default=True, type=click.Choice(["fast", "full"]), help="Of `evaluate`.")
def main(epochs: int, profile: str) -> None:
    """Print the seconds of each stage of `dvc repro`, of DVC itself, and of a `dvc repro` that has nothing to do."""
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
    click.echo(f"{dataset}, epochs: {epochs}, profile: {profile}, {time.strftime('%Y-%m-%d')}")
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "mlflow", "dvc"))
    click.echo(f"{platform.machine()}, {os.cpu_count()} cores, {versions}\n")
    head = ("wall, s", "CPU, s", "imports (mlflow's), s", "MLflow's calls, s", "exit, s", "own work, s", "overhead, CPU s")
    click.echo(line("stage", *head))
    click.echo("|---|" + "--:|" * len(head))
    for row in rows:
        click.echo(line(row["name"], *shares(row)))
    click.echo(line("all stages", *shares(stages)))
    click.echo(line("DVC itself", *(both - theirs for both, theirs in zip(whole, stages["total"], strict=True))))
    click.echo(line("**`dvc repro`**", *whole))
    click.echo(line(f"nothing to do, median of {NOOPS}", *(statistics.median(column) for column in zip(*idle, strict=True))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        stage(sys.argv[2], sys.argv[3:])
    else:
        main()
