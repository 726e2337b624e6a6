"""DVC's files in the workspace and in the commits of experiments. Only this module imports dvc, and only ``dvc.api``."""

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import click
from dvc.api import DVCFileSystem
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import IntegrityError, ParamsError
from pipeline.storage import write
from pipeline.tracking.database import reason

LOCKS = ("dvc.lock", "claims/dvc.lock")
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")  # also part of a path below, so nothing else passes


def digest(content: bytes) -> str:
    """Return the md5 that dvc.lock has for these bytes."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def folder_md5(files: Mapping[str, str]) -> str:
    """Return the md5 that dvc.lock has for a folder, from the md5 of each file by its path in the folder."""
    return digest(json.dumps([{"md5": files[path], "relpath": path} for path in sorted(files)]).encode()) + ".dir"


def has_md5(content: bytes, md5: str, is_dvc2: bool = False) -> bool:
    """Return whether bytes have an md5 of dvc.lock; DVC 2 took that of a text with the line ends of Unix."""
    return digest(content) == md5 or (is_dvc2 and digest(content.replace(b"\r\n", b"\n")) == md5)


@dataclass(frozen=True)
class Stage:
    """A stage of a dvc.lock that runs ``stages.MODULE``; ``deps`` and ``outs`` are md5 by path, with ``.dir`` for a folder."""

    name: str
    module: str
    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]
    words: tuple[str, ...] = ()  # of the command, after the module
    is_dvc2: bool = False

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> "Stage | None":
        """Return the stage of an entry, or None for another command."""
        cmd = entry.get("cmd") or ""
        for command in [cmd] if isinstance(cmd, str) else cmd:
            if words := str(command).partition("-m stages.")[2].split():
                break
        else:
            return None
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
        """The path of the weights, those of the model that the command names, empty if there are none."""
        named = (path for path in self.outs if path.endswith(".safetensors") and PurePosixPath(path).stem in self.words)
        return next(named, self.out(".safetensors"))

    @property
    def data(self) -> tuple[str, str] | None:
        """Path and md5 of the prepared data set that the command reads, None if there is none."""
        paths = [path for path in self.deps if path.endswith(".safetensors")]
        wanted = self.option("data", "data/dataset.safetensors")
        return next(((path, self.deps[path]) for path in sorted(paths, key=lambda path: path != wanted)), None)


def _is_file(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        return False
    return entry.get("md5") is None or bool(_MD5.fullmatch(str(entry["md5"])))


@cache
def _parse(lock: bytes) -> list[Stage]:
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
    return [stage for name, entry in content.get("stages", {}).items() if (stage := Stage.of(str(name), entry))]


@cache  # once each, as one server that is down fails for many files
def _note(problem: str) -> None:
    click.echo(f"note: DVC could not read a file ({problem})", err=True)


@dataclass(frozen=True)
class Source:
    """DVC's files in a commit or, without one, the workspace; ``fallback`` is searched for outputs that differ from dvc.lock."""

    files: DVCFileSystem
    scratch: Path  # for copies of outputs
    commit: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    fallback: "Source | None" = None

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, from git or the workspace, else from DVC's cache or remote; None where there is none."""
        try:
            return bytes(self.files.cat_file(f"/{path}"))
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever git, DVC, a remote or its network raises: the file is not available
            _note(reason(error))
            return None

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages of the source's lock files; a commit that DVC cannot read is named and has none.

        Raises IntegrityError when the workspace's are missing or damaged.
        """
        found = list[Stage]()
        for path in LOCKS:
            try:
                repo = self.files.repo
                with repo.fs.open(repo.fs.join(repo.root_dir, path), "rb") as file:
                    found += _parse(file.read())
            except FileNotFoundError:
                known = self.fallback.read(path) is not None if self.fallback else False
                if not self.commit and (known or path == LOCKS[0]):
                    cure = f"`git checkout HEAD -- {path}` brings it back" if known else "`dvc repro` makes it"
                    raise IntegrityError(f"{path}: no such file; {cure}") from None
            except Exception as error:  # what _parse or DVC raises, whose own exceptions are not in its API
                if not self.commit:
                    cure = f"`git checkout HEAD -- {path}` brings the committed one back, else delete it and run `dvc repro`"
                    raise IntegrityError(f"{path}: {reason(error)}; {cure}") from None
                name = self.tags.get("dvc.exp.name", "the baseline of an experiment")
                click.echo(f"sync: {name} ({self.commit[:7]}) is left out: {path}: {reason(error)}", err=True)
                return []
        return found

    @cached_property
    def time(self) -> int:
        """The time of the commit, or of the newest lock file, in milliseconds since 1970."""
        if self.commit:
            return int(self.files.repo.scm.resolve_commit(self.commit).commit_time) * 1000
        root = Path(self.files.repo.root_dir)
        return round(max((root / lock).stat().st_mtime for lock in LOCKS if (root / lock).exists()) * 1000)

    def fetch(self, stage: Stage, path: str) -> Path | None:
        """Return a copy of an output with the md5 of dvc.lock, or None."""
        md5 = stage.outs.get(path, "")
        copy = self.scratch / md5 / PurePosixPath(path).name
        if md5 and not copy.is_file():
            content = self.read(path)
            if content is None or not has_md5(content, md5, stage.is_dvc2):
                return self.fallback.fetch(stage, path) if self.fallback else None
            write(copy, content)
        return copy if md5 else None

    def unfolded(self, stage: Stage) -> Stage:
        """Return the stage with the files of its output folders as further outputs, for folders with the md5 of dvc.lock."""
        outs = dict(stage.outs)
        for path, md5 in stage.outs.items():
            if md5.endswith(".dir"):
                files = self._files(path)
                if folder_md5(files) == md5:
                    outs |= {f"{path}/{name}": files[name] for name in files}
                elif self.fallback:
                    outs |= self.fallback.unfolded(replace(stage, outs={path: md5})).outs
        return replace(stage, outs=outs)

    def _files(self, folder: str) -> dict[str, str]:
        try:
            found = self.files.find(f"/{folder}", detail=True)
        except Exception:  # as in read
            return {}
        # DVC knows the md5 of files in its cache, not of those in git.
        known = {name: md5 for name, info in found.items() if (md5 := info.get("dvc_info", {}).get("md5"))}
        known = known or {name: digest(self.read(name[1:]) or b"") for name in found}
        return {name[len(folder) + 2 :]: md5 for name, md5 in known.items()}


def _workspace() -> DVCFileSystem:
    try:
        files = DVCFileSystem()
        is_repository = files.repo.dvc_dir or Path(files.repo.root_dir, LOCKS[0]).exists()
    except Exception as error:  # DVC's own exceptions are not in its API
        raise IntegrityError(
            f"DVC cannot read its configuration ({reason(error)}); correct it, `dvc config --list` tries it"
        ) from None
    if not is_repository:
        raise ParamsError(f"{Path.cwd()} is not in a DVC repository; run it in one")
    return files


def sources(scratch: Path) -> list[Source]:
    """Return the commits that experiments started from, the experiments, oldest first, and the workspace."""
    workspace = _workspace()
    # The configuration in a commit would resolve a relative cache.dir differently and lack remotes that were added later.
    config = {section: workspace.repo.config[section] for section in ("core", "cache", "remote")}

    def at(commit: str, **tags: str) -> Source:
        exp_tags = {f"dvc.exp.{key}": value for key, value in tags.items()}
        return Source(DVCFileSystem(rev=commit, config=config), scratch, commit, exp_tags)

    # dvc.api lists the experiments of given baselines only; git lists all.
    command = ["git", "for-each-ref", "--sort=committerdate", "--format=%(objectname) %(refname:lstrip=2)", "refs/exps/"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    baselines, experiments = dict[str, Source](), list[Source]()
    for commit, ref in map(str.split, listed.splitlines()):
        baseline, _, name = ref.replace("/", "", 1).partition("/")
        if len(baseline) == 40:  # the others are DVC's own: stash, queue, running ...
            baselines.setdefault(baseline, at(baseline))
            experiments.append(at(commit, name=name, baseline=baseline))
    return [*baselines.values(), *experiments, Source(workspace, scratch, fallback=at("HEAD"))]
