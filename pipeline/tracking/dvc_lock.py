"""DVC's lock files: the stages that made the outputs, with the md5 of every file; read as plain YAML, without dvc."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import IntegrityError, reason

OWN = ("folder", "arrays")  # the data sets that are read from data.path
LOCKS = ("dvc.lock", "claims/dvc.lock")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")  # also part of a path, so nothing else passes


def digest(content: bytes) -> str:
    """Return the md5 that dvc.lock has for these bytes."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def folder_list(files: Mapping[str, str]) -> bytes:
    """Return the list of a folder's files as DVC keeps it in its cache, from the md5 of each file by its path in the folder."""
    return json.dumps([{"md5": files[path], "relpath": path} for path in sorted(files)]).encode()


def folder_md5(files: Mapping[str, str]) -> str:
    """Return the md5 that dvc.lock has for a folder, from the md5 of each file by its path in the folder."""
    return digest(folder_list(files)) + ".dir"


def has_md5(content: bytes, md5: str, is_dvc2: bool = False) -> bool:
    """Return whether bytes have an md5 of dvc.lock; DVC 2 took that of a text with the line ends of Unix."""
    return digest(content) == md5 or (is_dvc2 and digest(content.replace(b"\r\n", b"\n")) == md5)


@dataclass(frozen=True)
class Stage:
    """A stage of a dvc.lock; ``deps`` and ``outs`` are md5 by path, with ``.dir`` for a folder.

    ``module`` is the one of ``stages/`` that the command runs, empty for another command.
    """

    name: str
    module: str
    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]
    words: tuple[str, ...] = ()  # of the command, after the module
    is_dvc2: bool = False

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> "Stage":
        """Return the stage of an entry."""
        cmd = entry.get("cmd") or ""
        commands = [cmd] if isinstance(cmd, str) else cmd
        words = next(filter(None, (str(command).partition("-m stages.")[2].split() for command in commands)), [""])
        files = {kind: [file for file in entry.get(kind, []) if file.get("md5")] for kind in ("deps", "outs")}
        deps, outs = ({file["path"]: file["md5"] for file in files[kind]} for kind in files)
        stage = cls(name, words[0], {}, deps, outs, tuple(words[1:]), any("hash" not in file for file in files["outs"]))
        params = (entry.get("params") or {}).get(stage.option("params", "params.yaml"))
        return replace(stage, params=params or {})

    def option(self, name: str, default: str) -> str:
        """Return the value of an option in the command."""
        values = [value for word, value in zip(self.words, self.words[1:], strict=False) if word == f"--{name}"]
        values += [word.partition("=")[2] for word in self.words if word.startswith(f"--{name}=")]
        return (values or [default])[-1]

    def out(self, suffix: str) -> str:
        """Return the path of the first output with this suffix, or an empty one."""
        return next((path for path in self.outs if path.endswith(suffix)), "")

    @property
    def weights(self) -> str:
        """The path of the weights, those of the model that the command names, empty if there are none.

        A replay has the same name, in a folder below that of the weights.
        """
        files = sorted((path for path in self.outs if path.endswith(".safetensors")), key=lambda path: path.count("/"))
        return next((path for path in files if PurePosixPath(path).stem in self.words), (files or [""])[0])

    @property
    def data(self) -> tuple[str, str] | None:
        """Path and md5 of the prepared data set that the command reads, None if there is none."""
        paths = [path for path in self.deps if path.endswith(".safetensors")]
        wanted = self.option("data", "data/dataset.safetensors")
        return next(((path, self.deps[path]) for path in sorted(paths, key=lambda path: path != wanted)), None)


def _is_file(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return False
    if (md5 := entry.get("md5")) is None:
        return entry.get("hash") != "md5"
    return bool(MD5.fullmatch(str(md5)))


@cache
def parse(lock: bytes) -> list[Stage]:
    """Return the stages of a dvc.lock. Raises ValueError, saying what is wrong, when it is damaged."""
    if re.search(rb"^(<<<<<<<|=======|>>>>>>>)", lock, re.MULTILINE):
        raise ValueError("a merge left its marks in it")
    try:
        content = YAML(typ="safe", pure=True).load(lock.decode())
    except (YAMLError, RecursionError) as error:
        raise ValueError(f"not valid YAML: {getattr(error, 'problem', None) or 'nested too deeply'}") from None
    if not isinstance(content, dict) or content.get("schema") != "2.0" or not isinstance(content.get("stages", {}), dict):
        raise ValueError("not a lock file with the schema 2.0" if content else "empty")
    for name, entry in content.get("stages", {}).items():
        files = [(entry.get("deps", []), entry.get("outs", [])) if isinstance(entry, dict) else (None, None)]
        is_whole = all(isinstance(part, list) and all(map(_is_file, part)) for pair in files for part in pair)
        if not is_whole or not isinstance(entry.get("cmd"), str | list) or not isinstance(entry.get("params", {}), dict):
            raise ValueError(f"the entry {name} is not that of a stage")
    return [Stage.of(str(name), entry) for name, entry in content.get("stages", {}).items()]


def damaged(path: str, error: Exception) -> IntegrityError:
    """Return the error for a lock file that :func:`parse` refuses, with the way out."""
    cure = f"`git checkout HEAD -- {path}` brings the committed one back, else delete it and run `dvc repro`"
    return IntegrityError(f"{path}: {reason(error)}; {cure}")


def check_file(path: Path) -> None:
    """Raise ValueError for what is there but no file: to read a pipe would wait."""
    if path.exists() and not path.is_file():
        raise ValueError("not a file")


def read(path: str) -> list[Stage]:
    """Return the stages of a lock file in the workspace. Raises IntegrityError when it is missing or damaged."""
    try:
        check_file(Path(path))
        return parse(Path(path).read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file; run `dvc repro`") from None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def locked_stages() -> list[Stage]:
    """Return the stages of the lock files that are in the workspace. Raises IntegrityError when one is damaged."""
    return [stage for path in LOCKS if Path(path).exists() for stage in read(path)]


def version_of(data_md5: str, stages: Iterable[Stage]) -> str:
    """Return the version of the prepared data set with this md5: that of the images of your own it was made of, else its md5.

    The images' version is the md5 that ``data.path`` has in dvc.lock, the one in the .dvc file of ``dvc add``.
    """
    for stage in stages:
        if stage.module == "download" and data_md5 in stage.outs.values() and stage.params.get("data.name") in OWN:
            return stage.deps.get(str(stage.params.get("data.path")), data_md5)  # DVC keeps a path as it is written
    return data_md5


def version_here(data_md5: str) -> str:
    """Return the :func:`version_of` a data set that the workspace's lock files name, the md5 itself where one is damaged."""
    with suppress(IntegrityError):
        return version_of(data_md5, locked_stages())
    return data_md5


def read_locked(path: str) -> bytes:
    """Return the bytes of an output in the workspace. Raises IntegrityError when they are not those of dvc.lock."""
    content = Path(path).read_bytes()
    for stage in locked_stages():
        if path in stage.outs and not has_md5(content, stage.outs[path], stage.is_dvc2):
            raise IntegrityError(f"{path}: not the file of dvc.lock; delete it and run `dvc repro`")
    return content
