"""What several benchmarks share: noise images, the machine's name, tables, a copy of the working tree. No torch."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

from pipeline.data import Images

ROOT = Path(__file__).parents[1]


def noise_images(count: int) -> Images:
    """Return random images of MNIST's shape; what is in the images does not change how long a step takes."""
    return Images(np.random.default_rng(0).integers(0, 256, (count, 1, 28, 28)).astype(np.uint8))


def cpu_model() -> str:
    """Return the processor's name, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def machine(*packages: str) -> str:
    """Return a line with processor, cores, versions of packages and today's date, for the head of a table."""
    versions = [f"{package} {version(package)}" for package in packages]
    return ", ".join([cpu_model(), f"{os.cpu_count()} cores", *versions, time.strftime("%Y-%m-%d")])


def row(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table.

    >>> row(["a", "b"])
    '| a | b |'
    """
    return "| " + " | ".join(cells) + " |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table; the first column is text, the others are numbers."""
    for cells in (head, ["---", *["--:"] * (len(head) - 1)], *rows):
        click.echo(row(cells))


def working_tree() -> list[str]:
    """Return the paths of the files that git would commit here, as they stand."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if (ROOT / name).is_file()]


def copy_files(names: Sequence[str], folder: Path) -> None:
    """Copy files of this repository to the same paths below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def dvc_environment(*programs: Path) -> dict[str, str]:
    """Return the environment for a ``dvc`` in another copy of this repository.

    It has nothing of this repository's store, the folders of ``programs`` and of this Python come first in PATH, and
    PIPELINE_MIRROR is absolute.
    """
    theirs = {name for name in os.environ if name.startswith(("DVC_", "MLFLOW_"))} - {"DVC_SITE_CACHE_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # every stage would compile the package anew
    if (mirror := kept.get("PIPELINE_MIRROR", "")) and Path(mirror).is_dir():
        kept["PIPELINE_MIRROR"] = str(Path(mirror).resolve())
    return kept | {"PATH": os.pathsep.join([*map(str, programs), str(Path(sys.executable).parent), kept["PATH"]])}
