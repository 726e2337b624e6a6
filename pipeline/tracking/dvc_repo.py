"""DVC's files in the workspace and in the commits of experiments. Only this module imports dvc, and only ``dvc.api``."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from dvc.api import DVCFileSystem
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import PipelineError
from pipeline.storage import write

LOCKS = ("dvc.lock", "claims/dvc.lock")


def digest(content: bytes) -> str:
    """Return the md5 that dvc.lock has for these bytes."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def folder_list(files: Mapping[str, str]) -> bytes:
    """Return the list of a folder's files as DVC keeps it in its cache, from the md5 of each file by its path in the folder."""
    return json.dumps([{"md5": files[path], "relpath": path} for path in sorted(files)]).encode()


def folder_md5(files: Mapping[str, str]) -> str:
    """Return the md5 that dvc.lock has for a folder, from the md5 of each file by its path in the folder."""
    return digest(folder_list(files)) + ".dir"


@dataclass(frozen=True)
class Stage:
    """A stage of a dvc.lock that runs ``stages.MODULE``; ``deps`` and ``outs`` are md5 by path, with ``.dir`` for a folder."""

    name: str
    module: str
    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> "Stage | None":
        """Return the stage of an entry, or None for another command."""
        command = entry.get("cmd")
        words = command.partition("-m stages.")[2].split() if isinstance(command, str) else []
        deps, outs = ({i["path"]: i["md5"] for i in entry.get(kind, []) if "md5" in i} for kind in ("deps", "outs"))
        return cls(name, words[0], entry.get("params", {}).get("params.yaml", {}), deps, outs) if words else None

    def out(self, suffix: str) -> str:
        """Return the path of the first output with this suffix, or an empty one."""
        return next((path for path in self.outs if path.endswith(suffix)), "")

    @property
    def weights(self) -> str:
        """The path of the weights, empty if there are none."""
        return self.out(".safetensors")


@lru_cache
def _parse(lock: bytes) -> list[Stage]:
    try:
        entries = YAML(typ="safe", pure=True).load(lock)["stages"]
        return [stage for name, entry in entries.items() if (stage := Stage.of(name, entry))]
    except (YAMLError, TypeError, KeyError, AttributeError):  # no lock file, or not one of DVC
        return []


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
        except Exception:  # whatever git, DVC, a remote or its network raises: the file is not available
            return None

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages of the source's lock files."""
        return [stage for path in LOCKS for stage in _parse(self.read(path) or b"")]

    @cached_property
    def time(self) -> int:
        """The time of the commit, or of the newest lock file, in milliseconds since 1970."""
        if self.commit:
            return int(self.files.repo.scm.resolve_commit(self.commit).commit_time) * 1000
        return round(max(Path(lock).stat().st_mtime for lock in LOCKS if Path(lock).exists()) * 1000)

    def fetch(self, stage: Stage, path: str) -> Path | None:
        """Return a copy of an output with the md5 of dvc.lock, or None."""
        md5 = stage.outs.get(path, "")
        copy = self.scratch / md5 / PurePosixPath(path).name
        if md5 and not copy.is_file():
            content = self.read(path)
            if content is None or digest(content) != md5:
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


@dataclass(frozen=True)
class Settings:
    """What DVC's configuration says, of the repository, of the user and of the machine together."""

    objects: Path  # the folder of the cached files, by md5: ab/cdef...
    site_cache: str | None  # core.site_cache_dir, the folder of DVC's databases of all repositories
    remotes: Mapping[str, Mapping[str, Any]]

    def object(self, md5: str) -> Path:
        """Return the place of the cached file with this md5, which ends in ``.dir`` for a folder's list of files."""
        return self.objects / md5[:2] / md5[2:]


def settings() -> Settings:
    """Return DVC's settings. Raises PipelineError where DVC cannot open the repository."""
    try:
        repo = DVCFileSystem().repo
        cache, databases, remotes = Path(repo.cache.local.path), repo.config["core"].get("site_cache_dir"), repo.config["remote"]
        repo.close()
    except Exception as error:  # DVC's own exceptions are not in its API
        raise PipelineError(f"DVC cannot open this repository ({' '.join(str(error).split())})") from None
    # DVC takes the repository from which one was cloned for a remote, if it is on this machine.
    return Settings(cache, databases, {name: remotes[name] for name in remotes if name != "auto-generated-upstream"})


def sources(scratch: Path) -> list[Source]:
    """Return the commits that experiments started from, the experiments, oldest first, and the workspace."""
    try:
        workspace = DVCFileSystem()
    except Exception as error:  # DVC's own exceptions are not in its API
        raise PipelineError(f"{Path.cwd()} is not in a DVC repository ({error}); run from its root") from None
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
