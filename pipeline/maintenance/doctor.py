"""``latent doctor``: checks of everything around a run, each on its own, so that one works when the others cannot."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import click

from pipeline.errors import describe
from pipeline.maintenance import environment, locks, mlflow_store, places
from pipeline.maintenance.findings import Finding, show
from pipeline.tracking import store

CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "repository": environment.repository,
    "versions": environment.versions,
    "line ends": environment.line_ends,
    "params": environment.params,
    "access": places.access,
    "space": places.space,
    "permissions": places.permissions,
    "locks": locks.check,
    "leftovers": places.leftovers,
    "dvc": environment.dvc,
    "mlflow": mlflow_store.check,
}


def _findings(name: str) -> Iterator[Finding]:
    """Yield what a check finds, and its error as a finding."""
    found = None
    try:
        for found in CHECKS[name]():
            yield found
        if not found:
            yield Finding("ok", name, "nothing is wrong")
    except Exception as error:  # a check must not stop the others, whatever is broken
        known = describe(error)
        yield Finding("problem", name, known[0] if known else f"could not be checked ({type(error).__name__}: {error})")


def doctor(fix: bool = False) -> int:
    """Print what the checks find, a line each, and repair on demand what loses nothing; return 1 where a problem is left."""
    with chdir(store.root() if store.root().is_dir() else Path()):
        levels = show((finding for name in CHECKS for finding in _findings(name)), fix)
    repaired = f", {levels['fixed']} repaired" if fix else ""
    click.echo(f"doctor: {levels['problem']} problems, {levels['warning']} warnings{repaired}")
    return int(levels["problem"] > 0)
