"""The gate: did a metric get worse than at another revision, by more than gate.yaml allows?"""

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import click
import numpy as np
import pandas as pd
from pydantic import Field

from pipeline.command import one_line
from pipeline.errors import PipelineError
from pipeline.params import Section, load_yaml

SURE = 2.0  # standard errors beyond the tolerance before a metric counts as worse
WRITTEN = 1e-5  # relative; metrics files hold six significant digits

Sides = dict[str, tuple[Any, Any]]
"""Values by name: at the other revision, and here."""


class ComparisonError(PipelineError):
    """The two sides cannot be compared."""

    exit_code = 2


class Rule(Section):
    """How much worse a metric may get."""

    better: Literal["higher", "lower"]
    """The direction of an improvement."""
    tolerance: Annotated[float, Field(ge=0)]
    """The largest loss that passes, in the metric's unit."""
    optional: bool = False
    """Whether a side may be without this metric; it is then passed over."""


class Gate(Section):
    """The content of gate.yaml."""

    same: list[str]
    """Values without whose equality the two sides do not compare, such as the data's checksum."""
    metrics: Annotated[dict[str, Rule], Field(min_length=1)]
    """Rules by metric, ``vae.test.elbo``."""


class Verdict(NamedTuple):
    """What the gate says of one metric."""

    metric: str
    old: float
    new: float
    loss: float
    """By how much it got worse; negative: better."""
    allowed: float
    """The tolerance and two standard errors of the loss."""
    interval: str
    """Where the standard error comes from: ``paired``, ``unpaired``, or ``none``."""

    @property
    def worse(self) -> bool:
        """Whether the loss is over what is allowed, not counting the rounding of decimals: 0.1 + 0.2 is not over 0.3."""
        return not (self.loss <= self.allowed or math.isclose(self.loss, self.allowed, abs_tol=1e-9 * abs(self.old)))


def is_number(value: Any) -> bool:
    """Return whether a value from a metrics file can be compared: finite, and neither text nor true or false.

    >>> [is_number(value) for value in (-138.9, 2, None, True, "full", math.nan)]
    [True, True, False, False, False, False]
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def dvc(*arguments: str) -> str:
    """Return what a dvc command prints. Raises ComparisonError with dvc's own words where it fails."""
    program = shutil.which("dvc", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise ComparisonError("no dvc in PATH; run `make env` and activate .venv")
    # Variables of a dvc that runs this one would lead it to another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise ComparisonError(f"dvc {arguments[0]} {arguments[1]}: {(said or [f'exit code {done.returncode}'])[0]}")
    click.echo(done.stderr, err=True, nl=False)
    return done.stdout


def metrics(against: str) -> Sides:
    """Return every metric of a revision and of the workspace, named by file and keys; None where a side has none.

    Raises ComparisonError when there is no such revision, or two metrics files have the same name.
    """
    # dvc would compare the workspace with itself, and all would be well.
    if against in {"", "workspace"} or against.startswith("-"):
        raise ComparisonError(f"{against!r} is not a revision to compare with")
    files = json.loads(dvc("metrics", "diff", against, "--all", "--json"))
    if len({Path(file).stem for file in files}) < len(files):
        raise ComparisonError(f"two metrics files have the same name: {', '.join(sorted(files))}")
    return {
        f"{Path(file).stem}.{name}": (value.get("old"), value.get("new"))
        for file, values in sorted(files.items())
        for name, value in sorted(values.items())
    }


def per_image(model: str, against: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the values of each test image on both sides, or None where a side's are not at hand or of other images."""
    path = Path("laboratory", f"{model}_images.parquet")
    if not path.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            dvc("get", ".", path.as_posix(), "--rev", against, "--out", f"{folder}/old.parquet")
        except ComparisonError:
            return None
        old, new = pd.read_parquet(f"{folder}/old.parquet"), pd.read_parquet(path)
    return (old, new) if old["label"].equals(new["label"]) else None


def standard_error(name: str, sides: Sides, tables: tuple[pd.DataFrame, pd.DataFrame] | None) -> tuple[float, str]:
    """Return the standard error of a metric's difference between the sides, and where it comes from.

    Differences image by image where both sides have a column that averages to the metric, else the standard errors that
    stand beside it, ``<metric>_se``, else 0.
    """
    column = name.split(".")[-1]
    if tables and all(
        column in side and math.isclose(side[column].mean(), value, rel_tol=WRITTEN)
        for side, value in zip(tables, sides[name], strict=True)
    ):
        difference = tables[1][column].to_numpy(np.float64) - tables[0][column].to_numpy(np.float64)
        return float(difference.std(ddof=1) / np.sqrt(len(difference))), "paired"
    errors = sides.get(f"{name}_se", (None, None))
    return (math.hypot(*errors), "unpaired") if all(map(is_number, errors)) else (0.0, "none")


def judge(gate: Gate, sides: Sides, against: str) -> list[Verdict]:
    """Return a verdict for each metric of the gate that both sides have.

    Raises ComparisonError when the sides measured different things, or a metric that is not optional is missing.
    """
    for name in gate.same:
        old, new = sides.get(name, (None, None))
        if old is None or old != new:
            raise ComparisonError(f"{name} must be the same on both sides: {old} at {against}, {new} here; nothing is compared")
    tables = {model: per_image(model, against) for model in sorted({name.split(".")[0] for name in gate.metrics})}
    verdicts, missing = [], []
    for name, rule in gate.metrics.items():
        old, new = sides.get(name, (None, None))
        if is_number(old) and is_number(new):
            loss = old - new if rule.better == "higher" else new - old
            error, interval = standard_error(name, sides, tables[name.split(".")[0]])
            verdicts.append(Verdict(name, old, new, loss, rule.tolerance + SURE * error, interval))
        elif not (rule.optional and None in (old, new)):
            missing.append(f"{name} is {old} at {against}, {new} here")
    if missing:
        raise ComparisonError(f"{'; '.join(missing)}: a metric of the gate must be a number, or absent and optional")
    return verdicts


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table, aligned so that it also reads on a terminal.

    >>> print(table(["metric", "here"], [["vae.test.elbo", -138.9], ["vae.test.note", None]]))
    | metric        | here   |
    | ------------- | ------ |
    | vae.test.elbo | -138.9 |
    | vae.test.note | -      |
    """

    def text(value: Any) -> str:
        shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        return " ".join(shown.replace("|", "\\|").split())

    lines = [list(head), ["" for _ in head], *([text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def summary(verdicts: Sequence[Verdict], against: str) -> str:
    """Return the verdicts as a Markdown table and a sentence."""
    rows = [
        (v.metric, v.old, v.new, v.loss, v.allowed, v.interval, "**worse**" if v.worse else "better" if v.loss < 0 else "ok")
        for v in verdicts
    ]
    worse = [verdict.metric for verdict in verdicts if verdict.worse]
    sentence = f"Worse than allowed: {', '.join(worse)}." if worse else "No metric got worse than allowed."
    return f"{table(('metric', against, 'here', 'loss', 'allowed', 'interval', 'verdict'), rows)}\n\n{sentence}"


@click.command()
@click.option("--against", default="origin/main", show_default=True, help="The revision to compare with.")
@click.option("--rules", default="gate.yaml", show_default=True, type=Path)
@one_line()
def main(against: str, rules: Path) -> None:
    """Exit with 1 when a metric got worse than RULES allow, with 2 when the two sides cannot be compared."""
    verdicts = judge(load_yaml(rules, Gate), metrics(against), against)
    click.echo(summary(verdicts, against))
    sys.exit(any(verdict.worse for verdict in verdicts))


if __name__ == "__main__":
    main()
