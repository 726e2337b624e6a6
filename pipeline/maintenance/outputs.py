"""The outputs that dvc.lock names, in the workspace and in DVC's cache, and what is wrong with their bytes."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import IntegrityError, PipelineError
from pipeline.maintenance.findings import Finding, Level
from pipeline.storage import md5, write
from pipeline.tracking.dvc_lock import LOCKS, Stage, folder_list, folder_md5
from pipeline.tracking.dvc_repo import Settings


def _loader(module: str) -> Callable[[Path], object] | None:
    """Return what reads the arrays that a module of stages/ writes."""
    if module == "download":
        from pipeline.data import load_dataset

        return load_dataset
    if module in ("train", "train_comparison"):
        from pipeline.models.weights import load_weights  # imports torch

        return load_weights
    if module == "train_classifier":
        from pipeline.classifier import load_classifier

        return load_classifier
    if module in ("evaluate", "evaluate_comparison"):
        from pipeline.evaluation.results import load_results

        return load_results
    return None


@dataclass(frozen=True)
class Output:
    """An output of a stage, or a file in one that is a folder: its path and its md5, which ends in ``.dir`` for a folder."""

    path: str
    md5: str
    module: str = ""  # which module of stages/ makes it
    repro: str = "dvc repro"  # the command that makes it

    @property
    def cure(self) -> str:
        """What to do when it is damaged."""
        return f"`latent verify --fix`, then `{self.repro}`"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.md5.endswith(".dir")

    def is_loaded(self) -> bool:
        """Read the file as the package does; return whether it can, which is so for arrays alone.

        Raises IntegrityError where the content is not what the package writes.
        """
        load = _loader(self.module) if self.path.endswith(".safetensors") else None
        if load:
            load(Path(self.path))
        return load is not None

    def is_whole(self) -> bool:
        """Return whether the file's own checksum says that it is whole; False for a kind of file that has none."""
        try:
            return self.is_loaded()
        except PipelineError:
            return False


def _is_safe(path: str, hexdigest: str) -> bool:
    """Return whether a path stays below the root and the md5 is one; --fix deletes files by them."""
    pure = PurePosixPath(path)
    return not (pure.is_absolute() or ".." in pure.parts) and bool(re.fullmatch(r"[0-9a-f]{32}(\.dir)?", hexdigest))


def read_lock(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the stages of a lock file in the workspace. Raises IntegrityError, with the way out, where it holds none."""
    restore = f"restore it with `git checkout HEAD -- {path}` (in a merge: your side) or delete it, then run `dvc repro`"
    try:
        content = Path(path).read_bytes()
        if b"\n<<<<<<< " in b"\n" + content:
            raise IntegrityError(f"{path}: has the conflict markers of a merge; {restore}")
        stages = YAML(typ="safe", pure=True).load(content)["stages"]
        outs = [out for entry in stages.values() for out in entry.get("outs", [])]
        if not all(isinstance(out["path"], str) and isinstance(out.get("md5", ""), str) for out in outs):
            raise TypeError("a path or an md5 that is no text")
        return dict(stages)
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file; run `dvc repro`") from None
    except (OSError, YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path}: not a lock file of DVC ({' '.join(str(error).split())[:120]}); {restore}") from None


def outputs(lock: str, stages: Mapping[str, Mapping[str, Any]]) -> list[Output]:
    """Return the outputs of the stages of a lock file. Raises IntegrityError where one leads out of the repository."""
    found, repro = [], "dvc repro" if lock == LOCKS[0] else "dvc repro -P"
    for name, entry in stages.items():
        stage = Stage.of(name, entry)
        for out in entry.get("outs", []):
            if out.get("hash") == "md5":
                if not _is_safe(out["path"], out.get("md5", "")):
                    raise IntegrityError(f"{lock}: {out['path']!r} with md5 {out.get('md5')} is no output of this repository")
                found.append(Output(out["path"], out["md5"], stage.module if stage else "", repro))
    return found


def tracked_by_git() -> set[str]:
    """Return the paths that git tracks, none where there is no git."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return set(listed.stdout.split("\0"))


def _remove(*paths: Path) -> str:
    gone = [path for path in paths if path.is_symlink() or path.exists()]
    for path in gone:
        path.unlink()
    return f"removed {' and '.join(map(str, gone))}"


def _cache(content: bytes, place: Path) -> str:
    write(place, content)
    place.chmod(0o444)  # as DVC does
    return f"made {place} again from the workspace"


def _touch(paths: list[Path], damaged: list[Path]) -> str:
    _remove(*damaged)
    for path in paths:
        os.utime(path)  # DVC hashes a file again if its time differs
    return "marked as changed, so that `dvc repro` makes it again"


class Verification:
    """The check of outputs.

    ``files`` and ``size`` count what was read, ``objects`` are the cached files that were, and ``whole`` has the md5 of each file
    in the workspace that dvc.lock names.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.tracked = settings, tracked_by_git()
        self.files, self.size, self.objects, self.whole = 0, 0, set[Path](), dict[str, str]()

    def _state(self, path: Path, expected: str) -> str:
        """Return whether a file is ``whole``, ``changed`` or ``missing``. Raises OSError where it cannot be read."""
        if not path.is_file():
            return "missing" if not path.exists() else "changed"
        self.files += 1
        self.size += path.stat().st_size
        return "whole" if md5(path) == expected.removesuffix(".dir") else "changed"

    def _object(self, hexdigest: str) -> tuple[Path, str]:
        place = self.settings.object(hexdigest)
        self.objects.add(place)
        return place, self._state(place, hexdigest)

    def _missing(self, out: Output, in_git: bool, cached: str) -> Finding:
        text, path = "is not here", quote(out.path)
        if in_git:
            return Finding("warning", out.path, text, f"`git checkout HEAD -- {path}` brings it")
        if cached == "whole":
            return Finding("warning", out.path, text, f"`dvc checkout {path}` brings it")
        pull = f"`dvc pull {path}` brings it, or " if self.settings.remotes else ""
        return Finding("warning", out.path, f"{text}, nor in DVC's cache", f"{pull}`{out.repro}` makes it")

    def check(self, out: Output) -> Iterator[Finding]:
        """Yield what is wrong with an output in the workspace and in the cache."""
        try:
            yield from self._check_folder(out) if out.is_folder else self._check_file(out)
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
            try:
                out.is_loaded()
            except PipelineError as error:
                text = f"is what dvc.lock names, yet {str(error).removeprefix(f'{out.path}: ').partition(';')[0]}"
                yield Finding("problem", out.path, text, out.cure, partial(_remove, path, place))
                return
            self.whole[out.path] = out.md5
            if damaged or (cached == "missing" and not in_git):
                text = f"its object in DVC's cache is {'damaged' if damaged else 'missing'} ({place})"
                level: Level = "problem" if damaged else "warning"
                yield Finding(level, out.path, text, "`latent verify --fix`", lambda: _cache(path.read_bytes(), place))
        elif here == "missing":
            if damaged:
                text = f"its object in DVC's cache is damaged ({place})"
                yield Finding("problem", out.path, text, out.cure, partial(_remove, place))
            else:
                yield self._missing(out, in_git, cached)
        elif in_git:
            yield problem("differs from dvc.lock", partial(_touch, [path], damaged))
        elif out.is_whole():
            yield problem("is another file than dvc.lock names", partial(_touch, [path], damaged))
        else:
            yield problem("is damaged, or was changed", partial(_remove, path, *damaged))

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
                yield Finding(level, out.path, text, "`latent verify --fix`", lambda: _cache(content, place))
            yield from self._check_children(out, here)
        elif names:
            differs = f"differs from dvc.lock; {text}"
            yield Finding("problem", out.path, differs, out.cure, lambda: _touch([folder / name for name in names], [place]))
        elif cached == "changed":
            yield Finding(level, out.path, text, out.cure, partial(_remove, place))
        else:
            yield self._missing(out, in_git, cached)

    def _check_children(self, out: Output, listed: Mapping[str, str]) -> Iterator[Finding]:
        for name, hexdigest in listed.items():
            if not _is_safe(name, hexdigest):
                raise IntegrityError(f"{out.path}: its list of files in DVC's cache names {name!r}, which is outside of it")
            yield from self._check_file(replace(out, path=f"{out.path}/{name}", md5=hexdigest))

    def check_others(self) -> Iterator[Finding]:
        """Yield the damaged objects of the cache that no output checked before has, such as those of experiments."""
        for place in sorted(self.settings.objects.glob("??/*")):
            hexdigest = place.parent.name + place.name
            if place not in self.objects and _is_safe("", hexdigest) and self._object(hexdigest)[1] == "changed":
                text = "an object in DVC's cache, of an experiment or an older commit, is damaged"
                yield Finding("problem", str(place), text, "`latent verify --all --fix`", partial(_remove, place))
