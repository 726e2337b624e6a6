"""``latent verify``: are all files that dvc.lock names whole, here and in DVC's cache, and does MLflow hold their numbers?"""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import click
from tqdm import tqdm

from pipeline.errors import IntegrityError
from pipeline.maintenance import locks
from pipeline.maintenance.findings import Finding, show
from pipeline.maintenance.outputs import Output, Verification, outputs
from pipeline.maintenance.runs import compare
from pipeline.tracking import store
from pipeline.tracking.dvc_lock import LOCKS, Stage, locked_stages
from pipeline.tracking.dvc_repo import config


def _findings(check: Verification, locked: list[Output], stages: list[Stage], everything: bool) -> Iterator[Finding]:
    # A bar on a terminal; a log gets the lines alone.
    for out in tqdm(locked, "verify", unit="output", leave=False, disable=None):
        yield from check.check(out)
    if everything:
        yield from check.check_others()
    yield from compare(stages, check.whole)


def verify(everything: bool = False, fix: bool = False) -> int:
    """Print what is damaged, a line each, and repair it on demand; return the exit code, 3 for damage that is left.

    ``everything`` also reads the objects of DVC's cache that dvc.lock does not name. A repair deletes what is damaged, or makes
    a cached file again from the workspace; `dvc repro` then makes what is missing.

    Raises:
        IntegrityError: a lock file is missing or damaged.
        BusyError: ``fix`` while a command of DVC works on the outputs.
    """
    with chdir(store.root()):
        if fix:
            locks.refuse_while_dvc_runs()
        names = [lock for lock in LOCKS if lock == LOCKS[0] or Path(lock).exists()]  # the second pipeline need not have run
        locked, stages = [out for lock in names for out in outputs(lock)], locked_stages()
        check = Verification(config())
        levels = show(_findings(check, locked, stages, everything), fix)
    summary = f"{levels['problem']} damaged" if levels["problem"] else "nothing is damaged"
    if levels["fixed"]:
        summary = f"{levels['fixed']} repaired, {levels['problem']} damaged; now run `dvc repro`"
    click.echo(f"verify: {len(locked)} outputs, {check.files} files and {check.size / 1e6:,.0f} MB read: {summary}")
    return IntegrityError.exit_code if levels["problem"] else 0
