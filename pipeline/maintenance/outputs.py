"""The outputs that dvc.lock names, in the workspace and in DVC's cache, and what is wrong with their bytes."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from shlex import quote

from pipeline.errors import IntegrityError, ParamsError
from pipeline.maintenance.findings import VERIFY_FIX, Finding, Level, remove
from pipeline.storage import map_arrays, md5, write
from pipeline.tracking.dvc_lock import LOCKS, MD5, folder_list, folder_md5, read
from pipeline.tracking.dvc_repo import Config
from pipeline.tracking.origin import git


@dataclass(frozen=True)
class Output:
    """An output of a stage, or a file in one that is a folder: its path and its md5, which ends in ``.dir`` for a folder."""

    path: str
    md5: str
    is_ours: bool = False  # whether a stage of this package makes it
    repro: str = "dvc repro"  # the command that makes it

    @property
    def cure(self) -> str:
        """What to do when it is damaged."""
        return f"{VERIFY_FIX}, then `{self.repro}`"

    def checksum_error(self) -> str | None:
        """Return what the file's own checksum finds wrong, empty where that is nothing, None for a file that has none."""
        if not (self.is_ours and self.path.endswith(".safetensors")):
            return None
        try:
            map_arrays(self.path)
        except IntegrityError as error:
            return str(error).removeprefix(f"{self.path}: ").partition(";")[0]
        return ""


def _is_below(path: str) -> bool:
    """Return whether a path stays in its folder; --fix deletes files by it."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def outputs(lock: str) -> list[Output]:
    """Return the outputs that a lock file names. Raises IntegrityError when it is damaged or names one outside the repository."""
    found, repro = [], "dvc repro" if lock == LOCKS[0] else "dvc repro -P"
    for stage in read(lock):
        for path, hexdigest in ({} if stage.is_dvc2 else stage.outs).items():
            if not _is_below(path):
                raise IntegrityError(f"{lock}: {path!r} is no output of this repository")
            found.append(Output(path, hexdigest, bool(stage.module), repro))
    return found


def _cache(content: bytes, place: Path) -> str:
    write(place, content)
    place.chmod(0o444)  # as DVC does
    return f"made {place} again from the workspace"


def _touch(paths: list[Path], damaged: list[Path]) -> str:
    remove(*damaged)
    for path in paths:
        os.utime(path)  # DVC hashes a file again if its time differs
    return "marked as changed, so that `dvc repro` makes it again"


class Verification:
    """The check of outputs.

    ``files`` and ``size`` count what was read, ``objects`` are the cached files that were, and ``whole`` has the md5 of each file
    in the workspace that dvc.lock names.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.tracked = config, set[str]()
        with suppress(ParamsError):  # DVC works without git, too
            self.tracked = set(os.fsdecode(git("ls-files", "-z")).split("\0"))
        self.files, self.size, self.objects, self.whole = 0, 0, set[Path](), dict[str, str]()

    def _state(self, path: Path, expected: str) -> str:
        """Return whether a file is ``whole``, ``changed`` or ``missing``. Raises OSError where it cannot be read."""
        if not path.is_file():
            return "missing" if not path.exists() else "changed"
        self.files += 1
        self.size += path.stat().st_size
        return "whole" if md5(path) == expected.removesuffix(".dir") else "changed"

    def _object(self, hexdigest: str) -> tuple[Path, str]:
        place = self.config.objects / hexdigest[:2] / hexdigest[2:]
        self.objects.add(place)
        return place, self._state(place, hexdigest)

    def _missing(self, out: Output, in_git: bool, cached: str) -> Finding:
        text, path = "is not here", quote(out.path)
        if in_git:
            return Finding("warning", out.path, text, f"`git checkout HEAD -- {path}` brings it")
        if cached == "whole":
            return Finding("warning", out.path, text, f"`dvc checkout {path}` brings it")
        pull = f"`dvc pull {path}` brings it, or " if self.config.remotes else ""
        return Finding("warning", out.path, f"{text}, nor in DVC's cache", f"{pull}`{out.repro}` makes it")

    def check(self, out: Output) -> Iterator[Finding]:
        """Yield what is wrong with an output in the workspace and in the cache."""
        try:
            yield from self._check_folder(out) if out.md5.endswith(".dir") else self._check_file(out)
        except OSError as error:
            yield Finding("problem", error.filename or out.path, f"cannot be read ({error.strerror})", "see `latent doctor`")

    def _check_file(self, out: Output) -> Iterator[Finding]:
        path = Path(out.path)
        place, cached = self._object(out.md5)
        here, in_git = self._state(path, out.md5), out.path in self.tracked
        damaged = [place] if cached == "changed" else []

        def problem(text: str, fix: Callable[[], str]) -> Finding:
            both = ", and so is its object in DVC's cache" if damaged else ""
            return Finding("problem", out.path, text + both, out.cure, fix)

        if here == "whole":
            if error := out.checksum_error():
                text = f"is what dvc.lock names, yet {error}"
                yield Finding("problem", out.path, text, out.cure, partial(remove, path, place))
                return
            self.whole[out.path] = out.md5
            if damaged or (cached == "missing" and not in_git):
                text = f"its object in DVC's cache is {'damaged' if damaged else 'missing'} ({place})"
                level: Level = "problem" if damaged else "warning"
                yield Finding(level, out.path, text, VERIFY_FIX, lambda: _cache(path.read_bytes(), place))
        elif here == "missing":
            if damaged:
                text = f"its object in DVC's cache is damaged ({place})"
                yield Finding("problem", out.path, text, out.cure, partial(remove, place))
            else:
                yield self._missing(out, in_git, cached)
        elif in_git:
            yield problem("differs from dvc.lock", partial(_touch, [path], damaged))
        elif out.checksum_error() == "":
            yield problem("is another file than dvc.lock names", partial(_touch, [path], damaged))
        else:
            yield problem("is damaged, or was changed", partial(remove, path, *damaged))

    def _check_folder(self, out: Output) -> Iterator[Finding]:
        folder = Path(out.path)
        place, cached = self._object(out.md5)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if cached == "whole":
            listed = {entry["relpath"]: entry["md5"] for entry in json.loads(place.read_bytes())}
            for name in sorted(set(names) - listed.keys()):
                yield Finding("warning", f"{out.path}/{name}", "dvc.lock does not name it", "`dvc repro` or delete it")
            yield from self._check_children(out, listed)
            return
        here = {name: md5(folder / name) for name in names}
        in_git = any(path.startswith(f"{out.path}/") for path in self.tracked)
        text = f"its list of files in DVC's cache is {'damaged' if cached == 'changed' else 'missing'} ({place})"
        level: Level = "problem" if cached == "changed" else "warning"
        if folder.is_dir() and folder_md5(here) == out.md5:
            if cached == "changed" or not in_git:
                content = folder_list(here)
                yield Finding(level, out.path, text, VERIFY_FIX, lambda: _cache(content, place))
            yield from self._check_children(out, here)
        elif names:
            differs = f"differs from dvc.lock; {text}"
            yield Finding("problem", out.path, differs, out.cure, lambda: _touch([folder / name for name in names], [place]))
        elif cached == "changed":
            yield Finding(level, out.path, text, out.cure, partial(remove, place))
        else:
            yield self._missing(out, in_git, cached)

    def _check_children(self, out: Output, listed: Mapping[str, str]) -> Iterator[Finding]:
        for name, hexdigest in listed.items():
            if not (_is_below(name) and MD5.fullmatch(hexdigest)):
                raise IntegrityError(f"{out.path}: its list of files in DVC's cache names {name!r}, which is outside of it")
            yield from self._check_file(replace(out, path=f"{out.path}/{name}", md5=hexdigest))

    def check_others(self) -> Iterator[Finding]:
        """Yield the damaged objects of the cache that no output checked before has, such as those of experiments."""
        for place in sorted(self.config.objects.glob("??/*")):
            hexdigest = place.parent.name + place.name
            if place not in self.objects and MD5.fullmatch(hexdigest) and self._object(hexdigest)[1] == "changed":
                text = "an object in DVC's cache, of an experiment or an older commit, is damaged"
                yield Finding("problem", str(place), text, "`latent verify --all --fix`", partial(remove, place))
