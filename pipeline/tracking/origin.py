"""Where a training comes from: user, machine, command, and the commit of its code."""

import getpass
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.errors import ParamsError

COMMIT = "mlflow.source.git.commit"
CODE = ("pipeline", "stages")  # params are logged as such, and metrics and lock files change in every run


def git(*arguments: str) -> bytes:
    """Return what a git command prints. Raises ParamsError when it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True)
    except FileNotFoundError:
        raise ParamsError("git is not installed") from None
    except OSError as error:  # also where it is not installed and a folder of PATH may not be read
        raise ParamsError(f"git cannot be run ({error.strerror})") from None
    if done.returncode:
        raise ParamsError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def commit_of(revision: str) -> str:
    """Return the commit of a git revision, or of a DVC experiment by its name. Raises ParamsError when there is none."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
    except ParamsError:
        if revision and not set(revision) & set("*?[\\"):  # which git would take as a pattern
            with suppress(ParamsError):
                found = set(git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{revision}").decode().split())
                if len(found) == 1:
                    return found.pop()
    cure = "`git branch --all`, `git tag` and `dvc exp list --all` list what there is"
    raise ParamsError(f"{revision!r} is neither a revision of this repository nor an experiment; {cure}")


def origin_tags() -> dict[str, str]:
    """Return MLflow's own tags of this process, and ``host``; what cannot be told is left out."""
    stage = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    tags = {"host": platform.node(), "mlflow.source.type": "LOCAL", "mlflow.source.name": stage or Path(sys.argv[0]).name}
    with suppress(OSError, KeyError, ImportError):  # a user without a name, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    with suppress(ParamsError):
        # In the temporary folder of an experiment HEAD is a commit of DVC that is deleted later.
        tags[COMMIT] = os.environ.get("DVC_EXP_BASELINE_REV") or git("rev-parse", "HEAD").decode().strip()
        changed = git("--no-optional-locks", "status", "--porcelain", "--", *CODE)
        tags["mlflow.source.git.dirty"] = str(bool(changed)).lower()
    return tags
