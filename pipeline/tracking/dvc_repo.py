"""DVC's files in the workspace and in the commits of experiments. Only this module imports dvc, and only ``dvc.api``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Any

import click
from dvc.api import DVCFileSystem

from pipeline.errors import NO_SPACE, IntegrityError, ParamsError, PipelineError, SpaceError, describe, reason
from pipeline.storage import write
from pipeline.tracking.dvc_lock import LOCKS, Stage, check_file, damaged, digest, folder_md5, has_md5, parse
from pipeline.tracking.origin import commit_of, git

_SECTIONS = ("core", "cache", "remote")  # of the configuration, those that say where files are


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
                if not self.commit:
                    check_file(Path(repo.root_dir, path))
                with repo.fs.open(repo.fs.join(repo.root_dir, path), "rb") as file:
                    found += parse(file.read())
            except FileNotFoundError:
                known = self.fallback.read(path) is not None if self.fallback else False
                if not self.commit and (known or path == LOCKS[0]):
                    cure = f"`git checkout HEAD -- {path}` brings it back" if known else "`dvc repro` makes it"
                    raise IntegrityError(f"{path}: no such file; {cure}") from None
            except Exception as error:  # what _parse or DVC raises, whose own exceptions are not in its API
                if not self.commit:
                    raise damaged(path, error) from None
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
    """Return DVC's view of the workspace.

    Raises IntegrityError for a wrong configuration, ParamsError for no repository, SpaceError or OSError where it cannot be used.
    """
    try:
        files = DVCFileSystem()
        is_repository = files.repo.dvc_dir or Path(files.repo.root_dir, LOCKS[0]).exists()
    except Exception as error:  # whatever DVC raises: its exceptions are not in its API
        if (known := describe(error)) and known[1] == NO_SPACE:
            if getattr(error, "filename", None):
                raise
            folder = os.environ.get("DVC_SITE_CACHE_DIR")  # which sqlite's errors do not name
            own = f"`chmod -R u+rwX {quote(folder)}` if it is yours" if folder else "see what `latent doctor` finds"
            where = folder or "the folder of its databases"
            raise SpaceError(f"DVC cannot use {where} ({reason(error)}); make room, or {own}, then run again") from None
        message = f"DVC cannot read its configuration ({reason(error)}); correct it, `dvc config --list` tries it"
        raise IntegrityError(message) from None
    if not is_repository:
        raise ParamsError(f"{Path.cwd()} is not in a DVC repository; run it in one")
    return files


def _at(commit: str, workspace: DVCFileSystem) -> DVCFileSystem:
    # The configuration in a commit would resolve a relative cache.dir differently and lack remotes that were added later.
    return DVCFileSystem(rev=commit, config={section: workspace.repo.config[section] for section in _SECTIONS})


def read_at(commit: str, path: str) -> bytes | None:
    """Return the bytes of an output in a revision, None where DVC has none. Raises IntegrityError when they are damaged."""
    try:
        files = _at(commit, _workspace())
        info = files.info(f"/{path}").get("dvc_info", {})
        content = bytes(files.cat_file(f"/{path}"))
    except FileNotFoundError:
        return None
    except PipelineError:
        raise
    except Exception as error:  # as in Source.read
        _note(reason(error))
        return None
    md5 = str(info.get("md5") or info.get("md5-dos2unix") or "")
    if md5 and not has_md5(content, md5, "md5-dos2unix" in info):
        stored = files.repo.cache.local.oid_to_path(md5)
        cure = "delete it, then `dvc fetch -A` brings it from a remote"
        raise IntegrityError(f"{stored}: damaged, not the {path} of {commit}; {cure}")
    return content


def output_at(revision: str, path: str) -> bytes:
    """Return the bytes of an output in a git revision or an experiment, from DVC's cache or a remote.

    Raises ParamsError when there is no such revision, IntegrityError when its output is missing or damaged.
    """
    if (content := read_at(commit_of(revision), path)) is None:
        raise IntegrityError(
            f"DVC has no {path} of {revision} here; `dvc fetch -A` brings all outputs from a remote, if one is set"
        )
    return content


@dataclass(frozen=True)
class Config:
    """What DVC's configuration says, of the repository, of the user and of the machine together."""

    objects: Path  # the folder of the cached files, by md5: ab/cdef..., with .dir at its end for a folder's list of files
    site_cache: str | None  # core.site_cache_dir, the folder of DVC's databases of all repositories
    remotes: Mapping[str, Mapping[str, Any]]


def config() -> Config:
    """Return DVC's configuration. Raises IntegrityError for a wrong configuration, ParamsError for no repository."""
    repo = _workspace().repo
    if not repo.dvc_dir:
        raise ParamsError(f"{Path.cwd()} has no folder .dvc; `git checkout HEAD -- .dvc` brings it back")
    cache, databases, remotes = Path(repo.cache.local.path), repo.config["core"].get("site_cache_dir"), repo.config["remote"]
    repo.close()
    # DVC takes the repository from which one was cloned for a remote, if it is on this machine.
    return Config(cache, databases, {name: remotes[name] for name in remotes if name != "auto-generated-upstream"})


def sources(scratch: Path) -> list[Source]:
    """Return the commits that experiments started from, the experiments, oldest first, and the workspace."""
    workspace = _workspace()

    def at(commit: str, **tags: str) -> Source:
        exp_tags = {f"dvc.exp.{key}": value for key, value in tags.items()}
        return Source(_at(commit, workspace), scratch, commit, exp_tags)

    # dvc.api lists the experiments of given baselines only; git lists all.
    try:
        listed = git("for-each-ref", "--sort=committerdate", "--format=%(objectname) %(refname:lstrip=2)", "refs/exps/")
    except ParamsError as error:  # DVC works without git, too
        click.echo(f"note: no experiment is read ({error})", err=True)
        listed = b""
    baselines, experiments = dict[str, Source](), list[Source]()
    for commit, ref in map(str.split, listed.decode().splitlines()):
        baseline, _, name = ref.replace("/", "", 1).partition("/")
        if len(baseline) == 40:  # the others are DVC's own: stash, queue, running ...
            baselines.setdefault(baseline, at(baseline))
            experiments.append(at(commit, name=name, baseline=baseline))
    return [*baselines.values(), *experiments, Source(workspace, scratch, fallback=at("HEAD"))]
