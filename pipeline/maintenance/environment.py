"""The repository, its settings and its environment: versions, params, device, DVC and MLflow."""

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import PipelineError, reason
from pipeline.maintenance.findings import DOCTOR_FIX, Finding
from pipeline.params import load_params
from pipeline.startup import cores
from pipeline.tracking.dvc_lock import LOCKS, read
from pipeline.tracking.dvc_repo import config
from pipeline.tracking.origin import git

_OF_A_STAGE = ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV")


def repository() -> Iterator[Finding]:
    """Look at the repository's git and lock files."""
    here = Path.cwd()
    if not Path("dvc.yaml").exists():
        yield Finding("problem", "repository", f"{here} has no dvc.yaml", "`cd` to the folder that you cloned")
    try:
        if git("rev-parse", "--is-shallow-repository") == b"true\n":
            text = "a shallow clone, in which `dvc exp run --temp` and `--queue` lose experiments"
            yield Finding("warning", "repository", text, "`git fetch --unshallow`")
    except PipelineError as error:
        yield Finding("problem", "repository", str(error), "DVC and `latent sync` need git: clone the repository with it")
    if not str(here).isascii():
        text = f"{here} has letters outside of ASCII, in which `dvc exp run --temp` fails"
        yield Finding("warning", "repository", text, "use another folder for such experiments")
    for lock in (lock for lock in LOCKS if lock == LOCKS[0] or Path(lock).exists()):
        try:
            _read(lock.replace(".lock", ".yaml"), lambda text: YAML(typ="safe", pure=True).load(text)["stages"].keys())
            yield Finding("ok", "repository", f"{lock} names {len(read(lock))} stages")
        except PipelineError as error:
            yield Finding("problem", "repository", str(error))
    if found := [name for name in _OF_A_STAGE if name in os.environ]:
        text = f"{', '.join(found)} is set, which only DVC should do for its stages"
        yield Finding("warning", "repository", text, f"`unset {' '.join(found)}`")


def line_ends() -> Iterator[Finding]:
    """Look for files that git holds with Unix's line ends and that are here with those of Windows: their md5 is another one."""
    listed = [entry.partition("\t") for entry in os.fsdecode(git("ls-files", "--eol", "-z")).split("\0")]
    changed = [Path(path) for about, _, path in listed if about.startswith("i/lf") and ("w/crlf" in about or "w/mixed" in about)]

    def convert() -> str:
        for path in changed:
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
        return "converted"

    if changed:
        text = f"{len(changed)} files have the line ends of Windows, so that DVC runs their stages again, the first {changed[0]}"
        yield Finding("problem", "line ends", text, DOCTOR_FIX, convert)


def _read(name: str, parse: Callable[[str], Any]) -> Any:
    """Return what a file that git tracks says. Raises PipelineError where it cannot be read."""
    try:
        return parse(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, YAMLError) as error:
        text = f"{name} cannot be read ({reason(error):.120})"
        raise PipelineError(f"{text}; `git checkout HEAD -- {name}` brings the committed one back") from None


def _locked(text: str) -> list[Requirement]:
    packages = [Requirement(line.strip(" \\")) for line in text.splitlines() if re.match(r"\w", line)]
    return [package for package in packages if not package.marker or package.marker.evaluate()]


def versions() -> Iterator[Finding]:
    """Compare Python and the installed packages with pyproject.toml and requirements.lock."""
    project = _read("pyproject.toml", lambda text: tomllib.loads(text)["project"])
    python = ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(project["requires-python"]).contains(python):
        text = f"Python {python}; needed is {project['requires-python']}"
        yield Finding("problem", "versions", text, "`rm -r .venv`, then `make env PYTHON=python3.11` with such a one")
    needed, missing, other = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}, [], []
    for package in _read("requirements.lock", _locked):
        try:
            if not package.specifier.contains(installed := version(package.name), prereleases=True):
                other.append(f"{package.name} {installed} instead of {str(package.specifier).strip('=')}")
        except PackageNotFoundError:
            if canonicalize_name(package.name) in needed:
                missing.append(package.name)
    if missing:
        yield Finding("problem", "versions", f"not installed: {', '.join(missing)}", "`make env`")
    if other:
        text = f"{len(other)} packages have another version than in requirements.lock: {', '.join(other[:3])}"
        yield Finding("warning", "versions", text, "`make env`")
    if not missing and not other:
        names = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "dvc"))
        yield Finding("ok", "versions", f"Python {python}, {names}: as in requirements.lock")
    for command in ("python", "dvc"):
        found = shutil.which(command)
        if found is None or Path(found).parent.resolve() != Path(sys.executable).parent.resolve():
            text = f"the command `{command}` is {found or 'missing'}; `dvc repro` needs that of {sys.prefix}"
            yield Finding("warning", "versions", text, f"`source {quote(f'{sys.prefix}/bin/activate')}`")


def params() -> Iterator[Finding]:
    """Check params.yaml, its threads against the cores, and its device against the machine."""
    from pipeline.runtime import choose_device  # imports torch

    given, count = load_params(), len(cores())
    for key, threads in (("train.threads", given.train.threads), ("pool.threads", given.pool.threads)):
        if threads > count:
            text = f"{key} is {threads}, this process has {count} cores: more threads are slower by far"
            yield Finding("warning", "params", text, f"set {key} to {count} in params.yaml (it changes the last bits)")
    device, why = choose_device(given.train.device)
    yield Finding("ok", "params", f"params.yaml is valid; trainings compute on {device} ({why}), {count} cores")


def dvc() -> Iterator[Finding]:
    """Say where DVC keeps its cache, and whether its remotes are there."""
    found = config()
    local = " (with .dvc/config.local)" if Path(".dvc/config.local").exists() else ""
    yield Finding("ok", "dvc", f"cache {found.objects.parents[1]}, {len(found.remotes)} remotes{local}")
    for name, remote in found.remotes.items():
        url = remote["url"]
        if "://" in url:
            pass  # only a pull tells
        elif not Path(url).is_dir():
            cure = f"mount it, or `dvc remote modify {name} url FOLDER`"
            yield Finding("warning", "dvc", f"remote {name}: there is no folder {url}", cure)
        elif not os.access(url, os.R_OK | os.X_OK):
            yield Finding("warning", "dvc", f"remote {name}: you may not read it", f"`ls -ld {quote(url)}` says who may")
        elif not os.access(url, os.W_OK):
            yield Finding("ok", "dvc", f"remote {name}: you may read it and not write to it, so `dvc push` fails")
        if not remote.get("verify"):
            text = f"remote {name}: what is pulled is not checked"
            yield Finding("warning", "dvc", text, f"`dvc remote modify {name} verify true`")
