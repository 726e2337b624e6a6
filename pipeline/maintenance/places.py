"""The folders that a run writes to: may it, is there room, who else may, and what killed processes have left in them."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shlex import quote

from pipeline.errors import PipelineError
from pipeline.maintenance.findings import DOCTOR_FIX, Finding, Level, remove
from pipeline.maintenance.locks import is_held
from pipeline.storage import is_leftover
from pipeline.tracking.dvc_repo import Config, config

NEEDED_GB = 1.0  # both pipelines on MNIST leave 0.3 GB in outputs, DVC's cache, MLflow's artifacts and checkpoints
_OF_DVC = (".dvc/tmp/site_cache", ".dvc/tmp")
_WRITTEN = (".", "data", "models", "results", "metrics", "explorer", ".pipeline", "mlartifacts", *_OF_DVC)
_CHECKPOINTS = Path(".pipeline/checkpoints")
_OLD_DAYS = 7


def _config() -> Config | None:
    try:
        return config()
    except (PipelineError, OSError):  # another check tells
        return None


def _places() -> list[Path]:
    """Return the folders that are written to, DVC's cache and the temporary folder included, as far as they exist."""
    found = _config()
    places = [*map(Path, _WRITTEN), Path(tempfile.gettempdir()), found.objects if found else Path(".dvc/cache")]
    return list(dict.fromkeys(next(there for there in (path, *path.parents) if os.path.lexists(there)) for path in places))


def _chmod(path: Path, mode: int) -> str:
    path.chmod(stat.S_IMODE(mode))
    return f"its mode is now {mode & 0o777:03o}"


def access() -> Iterator[Finding]:
    """Try to write to each folder."""
    refused = set[tuple[int, int | None]]()  # disk and error
    for place in _places():
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"x")
                file.flush()
        except OSError as error:
            shown = quote(str(place))
            if not place.is_dir():
                what = "a file" if place.is_file() else "a link to nothing"
                yield Finding("problem", "access", f"{place} must be a folder, and is {what}", f"`mv {shown} {shown}.old`")
                continue
            about = place.stat()
            is_known = (about.st_dev, error.errno) in refused
            refused.add((about.st_dev, error.errno))
            if isinstance(error, PermissionError) and about.st_uid != os.geteuid():
                cure = f'`sudo chown -R "$USER" {shown}`'
                yield Finding("problem", "access", f"{place} belongs to user {about.st_uid}", cure)
            elif isinstance(error, PermissionError) and not about.st_mode & stat.S_IWUSR:
                fix = partial(_chmod, place, about.st_mode | stat.S_IRWXU)
                yield Finding("problem", "access", f"{place} cannot be written", f"`chmod u+rwx {shown}`", fix)
            elif not is_known:  # full, read-only and so on, for all of a disk
                yield Finding("problem", "access", f"{place.absolute()}: {error.strerror}", f"`df -h {shown}` shows its disk")


def space() -> Iterator[Finding]:
    """Compare the room on each disk with what a run needs."""
    seen = set[int]()
    for place in filter(Path.exists, _places()):
        if (disk := place.stat().st_dev) in seen:
            continue
        seen.add(disk)
        free, files = shutil.disk_usage(place).free / 1e9, os.statvfs(place)
        text = f"{free:.1f} GB left for {place.absolute()}"
        if free < NEEDED_GB:
            cure = "make room; `dvc gc -w` deletes from DVC's cache what this workspace does not need"
            level: Level = "problem" if free < NEEDED_GB / 10 else "warning"
            yield Finding(level, "space", f"{text}, a run needs {NEEDED_GB:.0f}", cure)
        elif files.f_files and files.f_favail < 1000:
            yield Finding("problem", "space", f"{text}, yet only {files.f_favail} files", "delete some; `df -i .` shows it")
        else:
            yield Finding("ok", "space", text)


def leftovers() -> Iterator[Finding]:
    """Look for temporary files of killed processes and for checkpoints of trainings that were given up."""
    hidden = [*Path().glob(".*.tmp")] + [path for name in _WRITTEN if name != "." for path in Path(name).rglob(".*.tmp")]
    if temporary := list(filter(is_leftover, hidden)):
        size = sum(path.stat().st_size for path in temporary) / 1e6
        text = f"{len(temporary)} temporary files of killed processes, {size:.1f} MB, the first {temporary[0]}"
        yield Finding("warning", "leftovers", text, DOCTOR_FIX, partial(remove, *temporary))
    idle = [lock.parent for lock in _CHECKPOINTS.glob("*/*/lock") if not is_held(lock)]
    files = [path for folder in idle for path in folder.iterdir() if path.is_file()]
    size, now = sum(path.stat().st_size for path in files) / 1e9, time.time()
    if old := [folder for folder in idle if now - folder.stat().st_mtime > _OLD_DAYS * 86400]:
        text = f"checkpoints of {len(old)} trainings that stopped over {_OLD_DAYS} days ago; {len(idle)} take {size:.2f} GB"
        yield Finding("warning", "leftovers", text, "`make clean`, while none runs")
    elif idle:
        text = f"checkpoints of {len(idle)} trainings that stopped take {size:.2f} GB; `dvc repro` continues them"
        yield Finding("ok", "leftovers", text)


def _is_open(path: Path) -> bool:
    """Return whether every user of the machine may replace files in a folder or write a file."""
    mode = path.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _is_reachable(path: Path) -> bool:
    """Return whether others may pass through the folders above."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.absolute().parents)


def _site_cache() -> Path:
    """Return the folder of a plain ``dvc``'s databases; ``make`` and ``latent`` set one of their own."""
    given, own = os.environ.get("DVC_SITE_CACHE_DIR"), Path(".dvc/tmp/site_cache").absolute()
    found = _config()
    default = "/var/tmp/dvc"  # noqa: S108 (DVC's own)
    return Path(given if given and Path(given) != own else (found and found.site_cache) or default).expanduser()


def permissions() -> Iterator[Finding]:
    """Look for files that other users may change; DVC's databases hold pickles, so who writes them runs code as you."""
    own = [Path(name) for name in (*_WRITTEN, ".dvc", ".git", "mlflow.db")]
    for path in (path for path in own if path.exists() and _is_open(path)):
        fix = partial(_chmod, path, path.stat().st_mode & ~stat.S_IWOTH)
        yield Finding("warning", "permissions", f"every user of this machine may change {path}", f"`chmod o-w {path}`", fix)
    if (databases := _site_cache()).exists() and _is_open(databases) and _is_reachable(databases):
        text = f"`dvc` keeps databases in {databases}, which every user of this machine may replace, and unpickles them"
        private = "~/.cache/dvc_site"
        command = f"mkdir -p -m 700 {private} && dvc config --global core.site_cache_dir {private}"
        yield Finding("warning", "permissions", text, f"`{command}`")
