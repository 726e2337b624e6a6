"""Values, tables and plots of another revision and of the workspace: metrics from git, all else by the command ``dvc``."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import NO_SPACE_ERRNOS, SPACE_WORDS, IntegrityError, ParamsError, PipelineError, reason
from pipeline.storage import flatten, load_json
from pipeline.tracking.dvc_lock import read_locked
from pipeline.tracking.dvc_repo import read_at
from pipeline.tracking.origin import git

_PLAIN = re.compile(r"-?[a-z0-9]+([ ._/:+=|-][a-z0-9]+)*", re.IGNORECASE | re.ASCII)  # means nothing to Markdown or GitHub
_LINKED = re.compile(r"www\.|\bGH-\d|\b[0-9a-f]{7,40}\b", re.IGNORECASE)  # but for what GitHub makes a link
_LONGEST = 200  # characters of a value
UNKNOWN = "is no revision of this repository; `git branch --all` and `git tag` list them"
# The variables by which a running dvc leads another one to its repository; others configure DVC.
_OF_A_RUN = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_", "MLFLOW_")

Sides = dict[str, tuple[Any, Any]]
"""Values by name: at the other revision, and here; None where a side has none."""


class Markdown(str):
    """Text that is Markdown already."""


class ComparisonError(PipelineError):
    """The two sides cannot be compared."""

    exit_code = 2


def is_number(value: Any) -> bool:
    """Return whether a value from a metrics file can be compared: finite, and neither text nor true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def markdown(value: Any) -> str:
    """Return a value as text of one line for Markdown: floats with six digits, None as ``-``.

    Text that a file can choose is put as code unless it is plain, so that it holds no HTML, formatting, link or mention.
    """
    if value is None or isinstance(value, float):
        return "-" if value is None else f"{value:.6g}"
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    if _PLAIN.fullmatch(text) and not _LINKED.search(text):
        return text.replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    code = re.sub(r"\\*\|", r"\\|", text)  # a backslash before a bar would end the cell
    return f"{fence} {code} {fence}" if "`" in text else f"{fence}{code}{fence}" if text else ""


def prose(text: str) -> str:
    """Return a sentence for Markdown whose words can be from a file, each as :func:`markdown` has it."""
    ends = [(word.rstrip(",.:;"), word) for word in text.split()]
    return " ".join(markdown(word) + whole[len(word) :] for word, whole in ends)[:1000]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table of values, aligned so that it also reads on a terminal; :class:`Markdown` stays as it is."""

    def text(value: Any) -> str:
        return value if isinstance(value, Markdown) else markdown(value)

    lines = [[text(value) for value in head], ["" for _ in head], *([text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines[1] = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def dvc(*arguments: str) -> str:
    """Return what a dvc command prints. Raises ComparisonError with dvc's own words where it fails, OSError without space."""
    program = shutil.which("dvc", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise ComparisonError("no dvc in PATH; run `make env` and activate .venv")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_RUN)}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        for number, name in re.findall(r"\[Errno (\d+)\](?:[^']*'([^']*)')?", " ".join(said)):
            if int(number) in NO_SPACE_ERRNOS:
                raise OSError(int(number), os.strerror(int(number)), name or f"a file of dvc {arguments[0]}")
        if any(map(SPACE_WORDS.search, said)):
            raise OSError(errno.EIO, os.strerror(errno.EIO), f"a file of dvc {arguments[0]}")
        raise ComparisonError(f"dvc {arguments[0]} {arguments[1]}: {(said or [f'exit code {done.returncode}'])[0]}")
    print(done.stderr, end="", file=sys.stderr)
    return done.stdout


def metrics(against: str) -> Sides:
    """Return every value of ``metrics/*.json`` of a revision and of the workspace, named ``vae/test/elbo``: file and key.

    The order is that of the files and keys here. A file of the revision that this version cannot read is left out, with a note.
    Raises ComparisonError when there is no such revision, and IntegrityError when dvc.lock here is damaged, or a
    metrics file is damaged or not the one of dvc.lock.
    """
    try:
        commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{against}^{{commit}}").decode().strip()
    except ParamsError:
        raise ComparisonError(f"{against!r} {UNKNOWN}") from None
    sides: Sides = {}
    for path in sorted(Path("metrics").glob("*.json")):
        read_locked(str(path))
        sides |= {f"{path.stem}/{key}": (None, value) for key, value in flatten(load_json(path)).items()}
    for name in git("ls-tree", "--name-only", "-z", commit, "./metrics/").decode().split("\0"):
        if name.endswith(".json"):
            try:
                values = flatten(json.loads(git("show", f"{commit}:./{name}")))
            except (ValueError, AttributeError, RecursionError) as error:
                print(f"note: {name} of {against} is left out ({reason(error)})", file=sys.stderr)
                continue
            there = {f"{Path(name).stem}/{key}": value for key, value in values.items()}
            sides |= {key: (value, sides.get(key, (None, None))[1]) for key, value in there.items()}
    return sides


def params(against: str) -> Sides:
    """Return the params that differ, named as in ``dvc exp run -S``: ``train.batch_size``."""
    files = json.loads(dvc("params", "diff", against, "--json"))
    return {name: (value.get("old"), value.get("new")) for values in files.values() for name, value in sorted(values.items())}


def plots(against: str, folder: str) -> dict[str, list[dict[str, Any]]]:
    """Return dvc's views of each plot and image of both sides, by name; the images are written to ``folder``."""
    return dict(sorted(json.loads(dvc("plots", "diff", against, "--json", "--out", folder)).get("data", {}).items()))


def per_image(model: str, against: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the values of each test image on both sides; None where a side's file is missing or is of other images.

    Raises IntegrityError when a file is not the one that DVC has locked, or cannot be read.
    """
    path = f"results/{model}_images.parquet"
    if not Path(path).exists():
        return None
    contents = {against: read_at(against, path), "here": read_locked(path)}
    if contents[against] is None:
        print(f"note: DVC has no {path} at {against}; nothing is paired", file=sys.stderr)
        return None
    try:
        old, new = (pd.read_parquet(io.BytesIO(content or b"")) for content in contents.values())
    except Exception as error:  # whatever pandas and pyarrow raise
        raise IntegrityError(f"{path}: not values of images, at {against} or here ({error}); `dvc repro` makes them") from None
    if "label" in old and "label" in new:
        return (old, new) if old["label"].equals(new["label"]) else None
    return (old, new) if len(old) == len(new) else None
