"""Compare the models and metrics of two revisions of this repository: ``python -m benchmarks.revisions OLD [NEW]``.

Each revision is run in a git worktree of its own, as far as the evaluation of both models, with this repository's DVC cache, so
that what the cache has does not run again. PIPELINE_MIRROR names the data set's mirror. The exit code is 1 when a weight or a
metric differs.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.tools import ROOT, copy_files, dvc_environment, working_tree
from pipeline.errors import one_line
from pipeline.storage import load_arrays, load_json, rounded

MODELS = ("ae", "vae")
RENAMED = {  # parts of a metric's key up to version 0.2.0
    "bounds": "log_likelihood",
    "smoothness": "interpolation",
    "samples": "sample_quality",
    "fcd": "frechet_distance",
    "confidence_0.5": "confidence_below_50",
    "confidence_0.8": "confidence_below_80",
    "confidence_0.9": "confidence_below_90",
    "judge": "classifier",
    "grey_floor": "gray_floor",
}


def metrics(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a metrics file, nested or flat, by the keys of today.

    >>> metrics({"model": "vae", "samples": {"prior": {"fcd": 18.0}}, "test/recon": 128.0})
    {'sample_quality/prior/frechet_distance': 18.0, 'test/recon': 128.0}
    """
    found: dict[str, float] = {}
    for key, value in values.items():
        path = prefix + "/".join(RENAMED.get(part, part) for part in key.split("/"))
        if isinstance(value, dict):
            found |= metrics(value, f"{path}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = rounded(float(value))
    return found


def compare_weights(folders: tuple[Path, Path], name: str) -> list[str]:
    """Return the arrays of a model that are not equal to the bit, or not in both folders."""
    old, new = (load_arrays(folder / "models" / f"{name}.safetensors")[0] for folder in folders)
    same = {
        key
        for key in old.keys() & new.keys()
        if old[key].dtype == new[key].dtype and old[key].shape == new[key].shape and old[key].tobytes() == new[key].tobytes()
    }
    click.echo(f"{name}: {len(same)} of {len(old.keys() | new.keys())} weight arrays are equal to the bit")
    return [f"{name}: weights {key}" for key in sorted((old.keys() | new.keys()) - same)]


def compare_metrics(folders: tuple[Path, Path], name: str) -> list[str]:
    """Return the metrics of a model that differ in six digits; say which ones only one folder has."""
    old, new = (metrics(load_json(folder / "metrics" / f"{name}.json")) for folder in folders)
    both = [key for key in old if key in new]
    different = [f"{name}: {key}: {old[key]:g} and {new[key]:g}" for key in both if old[key] != new[key]]
    click.echo(f"{name}: {len(both) - len(different)} of {len(both)} metrics are equal to six digits")
    for which, one, other in (("old", old, new), ("new", new, old)):
        if alone := sorted(one.keys() - other.keys()):
            click.echo(f"{name}: only the {which} one has {', '.join(alone)}")
    return different


def git(*arguments: str) -> None:
    """Run git in this repository. Raises click's error when it fails."""
    done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"git {' '.join(arguments)}: {done.stderr.strip()}")


def check_out(folder: Path, revision: str | None) -> None:
    """Make a worktree of a revision, or of the working tree as it stands, that shares this repository's DVC cache."""
    git("worktree", "add", "--quiet", "--detach", str(folder), revision or "HEAD")
    if revision is None:
        present = working_tree()
        tracked = subprocess.run(("git", "ls-files", "-z"), cwd=folder, capture_output=True, text=True, check=True).stdout
        for name in set(tracked.split("\0")) - {*present, ""}:
            (folder / name).unlink()
        copy_files(present, folder)
    cache = ROOT / ".dvc" / "cache"
    if cache.exists():
        subprocess.run(("dvc", "cache", "dir", "--local", str(cache)), cwd=folder, env=dvc_environment(), check=True)


def run(folder: Path) -> None:
    """Train and evaluate both models there, the output to stderr."""
    stages = [f"evaluate@{name}" for name in MODELS]
    if subprocess.run(("dvc", "repro", *stages), cwd=folder, env=dvc_environment(), stdout=sys.stderr).returncode:
        raise click.ClickException(f"`dvc repro` failed in {folder.name}")


def compare(folders: tuple[Path, Path]) -> None:
    """Print what differs between two folders that have been run; end with exit code 1 when something does."""
    different = [line for name in MODELS for line in compare_weights(folders, name) + compare_metrics(folders, name)]
    for line in different:
        click.echo(line)
    click.echo(f"{len(different)} differences" if different else "no difference")
    sys.exit(bool(different))


@click.command()
@click.argument("old", required=False)
@click.argument("new", required=False)
@click.option(
    "--folders", nargs=2, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Two that were run before."
)
def main(old: str | None, new: str | None, folders: tuple[Path, Path] | None) -> None:
    """Compare the revision OLD with NEW, by default the working tree as it stands."""
    if folders:
        compare(folders)
    if not old:
        raise click.UsageError("give a revision, or two folders with --folders")
    with TemporaryDirectory() as name:
        made = (Path(name) / "old", Path(name) / "new")
        try:
            for folder, revision in zip(made, (old, new), strict=True):
                check_out(folder, revision)
                run(folder)
            compare(made)
        finally:
            for folder in made:
                subprocess.run(("git", "worktree", "remove", "--force", str(folder)), cwd=ROOT, capture_output=True)


if __name__ == "__main__":
    with one_line():
        main()
