"""Locks and the processes behind them: of DVC, of trainings, of MLflow's store, of git."""

import fcntl
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import BusyError
from pipeline.maintenance.findings import Finding, remove
from pipeline.tracking import store

_RWLOCK = Path(".dvc/tmp/rwlock")


def name_of(pid: int) -> str:
    """Return number and command of a process, as far as the system tells.

    >>> name_of(0)
    'process 0'
    """
    try:
        command = " ".join(os.path.basename(part) for part in psutil.Process(pid).cmdline()[:4])
    except psutil.Error:
        command = ""
    return f"process {pid}" + (f" ({command})" if command else "")


def is_held(path: Path) -> bool:
    """Return whether another process has an flock on a file."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _read_rwlock() -> dict[str, Any]:
    """Return the paths that DVC's commands read and write, each with the command's process; {} where there are none."""
    try:
        held = json.loads(_RWLOCK.read_bytes())
        return {
            f"{kind} {path}": infos if isinstance(infos, list) else [infos]
            for kind in ("write", "read")
            for path, infos in held.get(kind, {}).items()
        }
    except FileNotFoundError:
        return {}


def _users() -> dict[int, str]:
    """Return the living processes that use the outputs of a stage through DVC, with what they do."""
    found = {}
    for what, infos in _read_rwlock().items():
        for info in infos:
            if store.process(int(info["pid"])):
                found[int(info["pid"])] = what
    return found


def _is_dvc(pid: int) -> bool:
    try:
        return any("dvc" in part for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def refuse_while_dvc_runs() -> None:
    """Raise BusyError when a command of DVC works on the outputs of a stage."""
    try:
        running = [pid for pid in _users() if _is_dvc(pid)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no JSON of DVC; `latent doctor` tells
        return
    if running:
        raise BusyError(f"{name_of(running[0])} works on the outputs of a stage; wait for it, then run again")


def _rwlock() -> Iterator[Finding]:
    broken = f"{_RWLOCK} is not what DVC writes, and every command of DVC will refuse it"
    try:
        users = _users()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        guard = _RWLOCK.with_name("rwlock.lock")
        if not (guard.exists() and is_held(guard)):  # else DVC is writing it
            yield Finding("problem", "locks", broken, f"`rm {_RWLOCK}`", partial(remove, _RWLOCK))
        return
    for pid, what in users.items():
        if _is_dvc(pid):
            yield Finding("warning", "locks", f"{name_of(pid)} uses ({what})", f"wait for it, or stop it: `kill {pid}`")
        else:
            text = f"{_RWLOCK} names {name_of(pid)} as DVC, which it is not"
            yield Finding("problem", "locks", text, f"`rm {_RWLOCK}`", partial(remove, _RWLOCK))


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
