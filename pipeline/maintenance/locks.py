"""Locks and the processes behind them: of DVC, of trainings, of MLflow's store, of git."""

import fcntl
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from pipeline.errors import BusyError
from pipeline.maintenance.findings import Finding, remove
from pipeline.tracking import store

_RWLOCK = Path(".dvc/tmp/rwlock")


def _command(pid: int) -> list[str]:
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def _is_dvc(pid: int) -> bool:
    return any("dvc" in part for part in _command(pid))


def name_of(pid: int) -> str:
    """Return number and command of a process, as far as the system tells.

    >>> name_of(0)
    'process 0'
    """
    command = " ".join(os.path.basename(part) for part in _command(pid)[:4])
    return f"process {pid}" + (f" ({command})" if command else "")


def is_held(path: Path) -> bool:
    """Return whether another process has an flock on a file."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _users() -> dict[int, str] | None:
    """Return the living processes that DVC's own lock file names, with what they do; None where DVC did not write the file."""
    try:
        held = json.loads(_RWLOCK.read_bytes())
        infos = [(kind, path, info) for kind in ("write", "read") for path, info in held.get(kind, {}).items()]
        users = [(f"{kind} {path}", user) for kind, path, info in infos for user in (info if isinstance(info, list) else [info])]
        return {pid: what for what, user in users if store.process(pid := int(user["pid"]))}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def refuse_while_dvc_runs() -> None:
    """Raise BusyError when a command of DVC works on the outputs of a stage."""
    if running := [pid for pid in _users() or {} if _is_dvc(pid)]:
        raise BusyError(f"{name_of(running[0])} works on the outputs of a stage; wait for it, then run again")


def _rwlock() -> Iterator[Finding]:
    wrong = partial(Finding, "problem", "locks", cure=f"`rm {_RWLOCK}`", fix=partial(remove, _RWLOCK))
    guard, users = _RWLOCK.with_name("rwlock.lock"), _users()
    if users is None and not (guard.exists() and is_held(guard)):  # else DVC is writing it
        yield wrong(f"{_RWLOCK} is not what DVC writes, and every command of DVC will refuse it")
    for pid, what in (users or {}).items():
        if _is_dvc(pid):
            yield Finding("warning", "locks", f"{name_of(pid)} uses ({what})", f"wait for it, or stop it: `kill {pid}`")
        else:
            yield wrong(f"{_RWLOCK} names {name_of(pid)} as DVC, which it is not")


def check() -> Iterator[Finding]:
    """Name the process that holds a lock, and the locks that nobody can release."""
    yield from _rwlock()
    ours = Path(".pipeline")
    for path in [Path(".dvc/tmp/lock"), *ours.glob("*.lock"), *ours.glob("checkpoints/*/*/lock")]:
        if path.is_file() and is_held(path):
            pid = path.read_text().strip()
            holder = name_of(int(pid)) if pid.isdigit() else "a process"
            stop = f", or stop it: `kill {pid}`" if pid.isdigit() else f": `fuser {path}` names it"
            yield Finding("warning", "locks", f"{path} is held by {holder}", f"wait for it{stop}")
    if (path := Path(".git/index.lock")).exists():
        yield Finding("warning", "locks", f"{path} is there: a git command runs or was killed", f"if none runs: `rm {path}`")
