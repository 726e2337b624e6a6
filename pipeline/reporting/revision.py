"""Values, tables and plots of another revision and of the workspace, as the command ``dvc`` reads them."""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import PipelineError

SITE_CACHE = "DVC_SITE_CACHE_DIR"
Sides = dict[str, tuple[Any, Any]]
"""Values by name: at the other revision, and here; None where a side has none."""


class ComparisonError(PipelineError):
    """The two sides cannot be compared."""

    exit_code = 2


def is_number(value: Any) -> bool:
    """Return whether a value from a metrics file can be compared: finite, and neither text nor true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table, aligned so that it also reads on a terminal: floats with six digits, None as ``-``."""

    def text(value: Any) -> str:
        shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        return " ".join(shown.replace("|", "\\|").split())

    lines = [list(head), ["" for _ in head], *([text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def dvc(*arguments: str) -> str:
    """Return what a dvc command prints. Raises ComparisonError with dvc's own words where it fails."""
    program = shutil.which("dvc", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise ComparisonError("no dvc in PATH; run `make env` and activate .venv")
    # The variables of a dvc that runs this one would lead it to another repository.
    environment = {
        name: value for name, value in os.environ.items() if name == SITE_CACHE or not name.startswith(("DVC_", "MLFLOW_"))
    }
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise ComparisonError(f"dvc {arguments[0]} {arguments[1]}: {(said or [f'exit code {done.returncode}'])[0]}")
    print(done.stderr, end="", file=sys.stderr)
    return done.stdout


def metrics(against: str) -> Sides:
    """Return every metric of a revision and of the workspace, named ``vae/test/elbo``: the file's stem and the metric's key.

    Raises ComparisonError when there is no such revision, or two metrics files have the same stem.
    """
    # dvc would compare the workspace with itself and find no difference.
    if against in {"", "workspace"} or against.startswith("-"):
        raise ComparisonError(f"{against!r} is not a revision to compare with")
    files = json.loads(dvc("metrics", "diff", against, "--all", "--json"))
    if len({Path(file).stem for file in files}) < len(files):
        raise ComparisonError(f"two metrics files have the same name: {', '.join(sorted(files))}")
    sides: Sides = {}
    for file, values in files.items():
        for key, value in values.items():
            name = f"{Path(file).stem}/{key.replace('.', '/')}"  # dvc joins the keys of nested metrics by dots
            old, new = sides.get(name, (None, None))  # dvc has two keys for it where one side is nested and the other flat
            sides[name] = (old if value.get("old") is None else value["old"], new if value.get("new") is None else value["new"])
    return dict(sorted(sides.items()))


def params(against: str) -> Sides:
    """Return the params that differ, named as in ``dvc exp run -S``: ``train.batch_size``."""
    files = json.loads(dvc("params", "diff", against, "--json"))
    return {name: (value.get("old"), value.get("new")) for values in files.values() for name, value in sorted(values.items())}


def plots(against: str, folder: str) -> dict[str, list[dict[str, Any]]]:
    """Return dvc's views of each plot and image of both sides, by name; the images are written to ``folder``."""
    return dict(sorted(json.loads(dvc("plots", "diff", against, "--json", "--out", folder)).get("data", {}).items()))


def per_image(model: str, against: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the values of each test image on both sides; None where a side's file is missing or is of other images."""
    path = Path("results", f"{model}_images.parquet")
    if not path.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            dvc("get", ".", path.as_posix(), "--rev", against, "--out", f"{folder}/old.parquet")
        except ComparisonError:
            return None
        old, new = pd.read_parquet(f"{folder}/old.parquet"), pd.read_parquet(path)
    if "label" in old and "label" in new:
        return (old, new) if old["label"].equals(new["label"]) else None
    return (old, new) if len(old) == len(new) else None
