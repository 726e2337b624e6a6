"""What is installed: locked packages, the environment without CUDA, and the package itself."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import ROOT

LOCKS = ["requirements.lock", *(str(path.relative_to(ROOT)) for path in ROOT.glob(".ci/requirements-*.txt"))]


@pytest.mark.parametrize("path", LOCKS)
def test_locked_packages_have_hashes_and_no_address(path: str) -> None:
    text = (ROOT / path).read_text()
    packages = re.findall(r"^[a-z\d][^\n]*(?:\n    [^\n]*)*", text, re.MULTILINE)
    assert packages
    assert all("==" in package and "--hash=sha256:" in package for package in packages)
    assert "://" not in text


def test_documents_and_notebook_lock_what_the_project_locks() -> None:
    """Packages that the notebook shares with the project have the same version: it is installed into the same environment."""
    versions = [dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / path).read_text(), re.MULTILINE)) for path in LOCKS]
    locked = dict(zip(LOCKS, versions, strict=True))
    notebook, project = locked[".ci/requirements-notebook.txt"], locked["requirements.lock"]
    assert {name: notebook[name] for name in notebook.keys() & project} == {
        name: project[name] for name in notebook.keys() & project
    }
    assert "jupyterlab" not in project
    assert "mkdocs" not in project


def test_without_cuda_only_torch_and_torchvision_are_without_a_hash(tmp_path: Path) -> None:
    printed = tmp_path / "print.mk"
    printed.write_text(f"include {ROOT}/Makefile\nprint:\n\t@$(CPU_LOCK)\n")
    text = subprocess.check_output(["make", "-f", printed, "print"], cwd=ROOT, text=True)
    packages = re.findall(r"^([a-z\d][^\n]*)((?:\n    [^\n]*)*)", text, re.MULTILINE)
    bare = [name for name, rest in packages if "--hash=" not in rest]
    assert [name.partition("==")[0] for name in bare] == ["torch", "torchvision"]
    assert not re.search(r"^(nvidia|cuda|triton)", text, re.MULTILINE)
    locked = re.findall(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    left_out = set(locked) - {name.partition("==")[0] for name, _ in packages}
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in left_out)


def test_an_index_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/requirements-uv.txt").touch()
    uv = tmp_path / ".uv/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(
        '#!/bin/sh\ncase "$*" in *torch-backend*) echo "error: dns" >&2; exit 2;; venv*) mkdir .venv;; *) exit 9;; esac\n'
    )
    uv.chmod(0o755)
    done = subprocess.run(["make", "env", "TORCH=cpu"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    size, error, stopped = done.stderr.splitlines()
    assert "to download" in size
    assert error.startswith("error: PyTorch's index of CPU builds cannot be reached; try again, or")
    assert stopped.startswith("make: ***")


def test_an_unknown_build_of_torch_is_one_line() -> None:
    done = subprocess.run(["make", "env", "TORCH=rocm"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "TORCH is rocm; allowed are default and cpu" in line


def test_the_package_has_its_files_and_its_command_runs_anywhere(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, source], check=True)
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('wheel'))"
    name = subprocess.check_output([sys.executable, "-c", build], cwd=source, text=True).splitlines()[-1]
    with ZipFile(source / "wheel" / name) as wheel:
        wheel.extractall(installed)
    for folder in ("pipeline", "stages"):
        files, there = ({path.relative_to(at) for path in (at / folder).rglob("*.*")} for at in (source, installed))
        assert files == there
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "latent = pipeline.__main__:main" in entry_points.read_text()
    run = [
        sys.executable,
        "-P",
        "-c",
        "import sys, pipeline.__main__ as found; print(found.__file__, flush=True); sys.exit(found.main())",
    ]
    for options in (["--help"], ["--version"], ["gate", "--help"]):
        environment = {"PYTHONPATH": str(installed)}  # which comes before this repository
        said = subprocess.check_output([*run, *options], cwd=tmp_path, env=environment, text=True)
        assert Path(said.splitlines()[0]).is_relative_to(installed)
