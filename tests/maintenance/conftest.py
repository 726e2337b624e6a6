"""A small repository in which DVC itself runs a pipeline."""

import shutil
import subprocess
import warnings
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from pipeline.storage import md5

MAKE = """
import json, pathlib
pathlib.Path("results/folder/sub").mkdir(parents=True, exist_ok=True)
for name in ("page.html", "folder/a", "folder/sub/b"):
    pathlib.Path("results", name).write_text(name * 1000)
pathlib.Path("metrics.json").write_text(json.dumps({"loss": 1.5}))
"""
PIPELINE = """
stages:
  make:
    cmd: python make.py
    deps: [make.py]
    outs: [results/page.html, results/folder]
    metrics:
      - metrics.json: {cache: false}
"""
OUTPUTS = ("results/page.html", "results/folder/a", "results/folder/sub/b", "metrics.json")


def git(*arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false"]
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def repro() -> None:
    """Run the pipeline as ``dvc repro`` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DVC's own use of its libraries
        with Repo() as repo:
            repo.reproduce()


def cached(path: str) -> Path:
    """Return the object in DVC's cache of a file as it is now."""
    hexdigest = md5(path)
    return Path(".dvc/cache/files/md5", hexdigest[:2], hexdigest[2:])


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    with chdir(folder):
        git("init", "-q")
        Repo.init().close()
        Path("make.py").write_text(MAKE)
        Path("dvc.yaml").write_text(PIPELINE)
        Path(".gitignore").write_text("/results\n/site\n")
        Path(".dvc/config").write_text("[core]\n    site_cache_dir = site\n")
        repro()
        git("add", "-A")
        git("commit", "-qm", "results")
    return folder


@pytest.fixture
def project(_made: Path, workspace: Path) -> Path:
    """A committed repository with a pipeline that has run, the current folder."""
    return Path(shutil.copytree(_made, workspace, dirs_exist_ok=True))
