"""Each thing that can be wrong around a run is found, with its cure, whatever else is broken."""

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.maintenance import environment, locks, places
from pipeline.maintenance.doctor import CHECKS
from pipeline.maintenance.findings import Finding
from pipeline.tracking import dvc_repo
from pipeline.tracking.dvc_repo import config
from tests.conftest import ROOT
from tests.maintenance.conftest import git

DEAD = 2**22 + 1  # above the largest number of a process
Check = Callable[[], Iterator[Finding]]


def doctor(*options: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *options])


def lines(check: Check) -> list[str]:
    return [str(finding) for finding in check()]


def levels(check: Check) -> set[str]:
    return {finding.level for finding in check()} or {"ok"}


def repair(check: Check) -> None:
    """Repair what a check finds, and see that it finds no more."""
    for finding in check():
        if finding.level != "ok":
            assert finding.repaired().level == "fixed"
    assert levels(check) == {"ok"}


@pytest.fixture
def whole(project: Path) -> Path:
    """A repository with all that a check reads."""
    for name in ("params.yaml", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, project)
    return project


@pytest.mark.usefixtures("whole")
def test_a_sound_repository_has_no_problem() -> None:
    found = doctor()
    assert found.exit_code == 0
    assert "problem  " not in found.stdout
    assert found.stdout.splitlines()[-1].startswith("doctor: 0 problems")


BROKEN = (
    "dvc.lock",
    "dvc.yaml",
    "params.yaml",
    ".dvc/config",
    ".dvc",
    ".git",
    "requirements.lock",
    "pyproject.toml",
    "mlflow.db",
)


@pytest.mark.parametrize("how", ["missing", "garbage", "folder"])
@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.usefixtures("whole")
def test_what_is_broken_stops_no_check(name: str, how: str) -> None:
    path = Path(name)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if how == "garbage":
        path.write_bytes(b"\0\xff{<<<<<<< \n")
    elif how == "folder":
        path.mkdir()
    found = doctor("--fix")
    assert found.exit_code in (0, 1), found.exception
    assert "could not be checked" not in found.stdout
    assert {line[9:].partition(":")[0] for line in found.stdout.splitlines()[:-1]} >= CHECKS.keys()


@pytest.mark.usefixtures("workspace")
def test_an_empty_folder_is_no_repository() -> None:
    found = doctor()
    assert found.exit_code == 1
    assert "has no dvc.yaml; `cd` to the folder that you cloned" in found.stdout
    assert "could not be checked" not in found.stdout


def test_an_error_in_a_check_is_its_finding(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Iterator[Finding]:
        yield Finding("ok", "params", "so far")
        raise ZeroDivisionError("by nothing")

    monkeypatch.setitem(CHECKS, "params", fails)
    found = doctor()
    assert found.exit_code == 1
    assert "problem  params: could not be checked (ZeroDivisionError: by nothing)" in found.stdout
    assert "dvc: cache" in found.stdout


def test_without_git_the_other_checks_go_on(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(whole))
    found = doctor()
    assert found.exit_code == 1
    assert "problem  repository: git is not installed" in found.stdout


def test_a_repair_that_fails_is_told_and_counts() -> None:
    def fix() -> str:
        raise PermissionError("not yours")

    finding = Finding("problem", "locks", "held", "wait", fix)
    assert str(finding.repaired()) == "problem  locks: held; the repair failed (not yours); wait"


@pytest.mark.usefixtures("whole")
def test_temporary_files_of_dead_processes_alone_are_deleted() -> None:
    Path("models").mkdir()
    left, used = Path(f"models/.a.safetensors.{DEAD}.tmp"), Path(f".mlflow.db.{os.getpid()}.tmp")
    for path in (left, used):
        path.write_bytes(b"12345")
    with used.open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)  # as a process holds it that writes
        (found,) = lines(places.leftovers)
        assert found.startswith(f"warning  leftovers: 1 temporary files of killed processes, 0.0 MB, the first {left}")
        repair(places.leftovers)
    assert used.exists()


@pytest.mark.usefixtures("whole")
def test_checkpoints_are_counted_and_kept() -> None:
    folder = Path(".pipeline/checkpoints/vae/abc")
    folder.mkdir(parents=True)
    for name in ("lock", "0.safetensors"):
        (folder / name).write_bytes(b"x")
    assert levels(places.leftovers) == {"ok"}
    os.utime(folder, (0, 0))
    (found,) = places.leftovers()
    assert (found.level, found.cure, found.fix) == ("warning", "`make clean`, while none runs", None)


@pytest.mark.usefixtures("whole")
def test_folders_that_everybody_may_change_are_closed() -> None:
    assert levels(places.permissions) == {"ok"}
    Path("metrics").mkdir()
    Path("metrics").chmod(0o777)
    assert "every user of this machine may change metrics; `chmod o-w metrics`" in lines(places.permissions)[0]
    repair(places.permissions)
    assert Path("metrics").stat().st_mode & 0o777 == 0o775


def test_databases_of_dvc_that_everybody_may_replace(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_is_reachable", lambda path: path == Path("site"))  # pytest's own folder is private
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    Path("site").mkdir(exist_ok=True)
    Path("site").chmod(0o777)
    (found,) = places.permissions()
    assert "every user of this machine may replace, and unpickles them" in found.text
    monkeypatch.setenv("HOME", str(whole))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    Path(".dvc/config").write_text("")
    subprocess.run(found.cure.strip("`"), shell=True, check=True)  # noqa: S602
    assert config().site_cache == f"{whole}/.cache/dvc_site"
    assert (whole / ".cache/dvc_site").stat().st_mode & 0o777 == 0o700
    (whole / ".dvc/tmp/site_cache").mkdir(mode=0o700)  # as `latent` does
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(whole / ".dvc/tmp/site_cache"))
    assert places._site_cache() == whole / ".cache/dvc_site"
    assert levels(places.permissions) == {"ok"}


@pytest.mark.parametrize("name", ["models", ".pipeline"])
@pytest.mark.usefixtures("whole")
def test_a_file_in_the_place_of_a_folder(name: str) -> None:
    Path(name).write_text("")
    assert f"problem  access: {name} must be a folder, and is a file; `mv {name} {name}.old`" in lines(places.access)
    Path(name).unlink()
    Path(name).symlink_to("nowhere")
    assert f"problem  access: {name} must be a folder, and is a link to nothing; `mv {name} {name}.old`" in lines(places.access)
    assert levels(places.space) <= {"ok", "warning"}


@pytest.mark.usefixtures("whole")
def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("models").mkdir(mode=0o500)

    def temporary(dir: Path) -> IO[bytes]:  # noqa: A002
        if dir == Path("models"):  # as for a user who is not root
            raise PermissionError(13, "Permission denied")
        return BytesIO()

    monkeypatch.setattr(places.tempfile, "TemporaryFile", temporary)
    (found,) = [finding for finding in places.access() if finding.level == "problem"]
    assert found.cure == "`chmod u+rwx models`"
    assert found.repaired().level == "fixed"
    assert Path("models").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("free", "level"), [(5e9, "ok"), (5e8, "warning"), (5e7, "problem")])
@pytest.mark.usefixtures("whole")
def test_little_room(free: float, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    assert levels(places.space) == {level}


@pytest.mark.usefixtures("whole")
def test_line_ends_of_windows() -> None:
    git("config", "core.autocrlf", "false")
    source, before = Path("make.py"), Path("make.py").read_bytes()
    source.write_bytes(before.replace(b"\n", b"\r\n"))
    assert "1 files have the line ends of Windows" in lines(environment.line_ends)[0]
    repair(environment.line_ends)
    assert source.read_bytes() == before


@pytest.mark.usefixtures("whole")
def test_params_that_are_refused_and_more_threads_than_cores() -> None:
    assert levels(environment.params) <= {"ok", "warning"}
    path = Path("params.yaml")
    shipped = path.read_text()
    path.write_text(shipped.replace("threads: 2 ", "threads: 1024 "))
    assert any("train.threads is 1024, this process has" in line for line in lines(environment.params))
    path.write_text(shipped.replace("beta: 1.0", "beta: -1"))
    assert "problem  params: params.yaml: beta: -1 is not allowed" in doctor().stdout


@pytest.mark.usefixtures("whole")
def test_versions_are_those_of_the_lock_file() -> None:
    path = Path("requirements.lock")
    path.write_text(path.read_text().replace("\nmlflow==", "\nmlflow==0."))
    assert any("1 packages have another version" in line and "mlflow" in line for line in lines(environment.versions))
    path = Path("pyproject.toml")
    path.write_text(path.read_text().replace('requires-python = ">=3.11"', 'requires-python = ">=4"'))
    assert "problem" in levels(environment.versions)


def test_another_python_than_that_of_the_stages(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("python", "dvc"):
        Path(name).write_text("#!/bin/sh\n")
        Path(name).chmod(0o755)
    monkeypatch.setenv("PATH", str(whole), prepend=os.pathsep)
    assert sum("bin/activate`" in line for line in lines(environment.versions)) == 2


def test_variables_that_dvc_sets_for_its_stages(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(whole / "gone"))
    assert "warning  repository: DVC_ROOT is set, which only DVC should do for its stages; `unset DVC_ROOT`" in doctor().stdout


@pytest.mark.usefixtures("whole")
def test_remotes_that_are_not_there_or_not_checked() -> None:
    with open(".dvc/config", "a") as config:
        config.write(
            "['remote \"disk\"']\n    url = /nowhere\n['remote \"net\"']\n    url = https://me:secret@host/a\n    verify = true\n"
        )
    said = lines(environment.dvc)
    assert any("remote disk: there is no folder /nowhere" in line for line in said)
    assert any("`dvc remote modify disk verify true`" in line for line in said)
    assert not any(" net: " in line for line in said)
    assert "secret" not in doctor().stdout


def test_a_remote_that_this_user_may_not_use(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole / "a remote").mkdir()
    (whole / ".dvc/config.local").write_text("['remote \"disk\"']\n    url = ../a remote\n    verify = true\n")
    assert levels(environment.dvc) == {"ok"}
    monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)  # as for a user who is not root
    assert any("remote disk: you may read it and not write to it, so `dvc push` fails" in line for line in lines(environment.dvc))
    assert levels(environment.dvc) == {"ok"}, "as a mirror for a team may be"
    monkeypatch.setattr(os, "access", lambda path, mode: mode & os.R_OK == 0)
    (found,) = [finding for finding in environment.dvc() if finding.level == "warning"]
    assert "you may not read it" in found.text
    assert subprocess.run(found.cure.split("`")[1], shell=True).returncode == 0  # noqa: S602


def test_databases_of_dvc_that_cannot_be_written(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:  # as for a user who is not root
        raise refused

    refused: Exception = sqlite3.OperationalError("attempt to write a readonly database")
    monkeypatch.setattr(dvc_repo, "DVCFileSystem", refuse)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(whole / "of all"))
    found = doctor()
    assert [line for line in found.stdout.splitlines() if line.startswith("problem")] == [
        f"problem  dvc: DVC cannot use {whole}/of all (attempt to write a readonly database); "
        f"make room, or `chmod -R u+rwX '{whole}/of all'` if it is yours, then run again"
    ]
    refused = PermissionError(13, "Permission denied", "a/b")
    assert "problem  dvc: a/b: Permission denied; make room or make it writable, then run again" in doctor().stdout


@pytest.mark.parametrize("content", ["", "{", "[]", "\0", '{"write": {"a": {"cmd": "dvc"}}}'])
@pytest.mark.usefixtures("whole")
def test_a_lock_that_dvc_cannot_read_is_removed(content: str) -> None:
    Path(".dvc/tmp/rwlock").write_text(content)
    assert "problem  locks: .dvc/tmp/rwlock is not what DVC writes" in lines(locks.check)[0]
    repair(locks.check)


@pytest.mark.usefixtures("whole")
def test_a_lock_of_a_process_that_is_another_one_now() -> None:
    """DVC refuses while a process of that number exists."""
    with subprocess.Popen(["sleep", "60"]) as other:
        held = {"write": {"results": {"pid": other.pid, "cmd": "dvc repro"}}, "read": {"a": [{"pid": DEAD, "cmd": "dvc"}]}}
        Path(".dvc/tmp/rwlock").write_text(json.dumps(held))
        assert f"names process {other.pid} (sleep 60) as DVC, which it is not" in lines(locks.check)[0]
        repair(locks.check)
        other.kill()


@pytest.mark.parametrize(
    "name", [".dvc/tmp/lock", ".pipeline/checkpoints/vae/abc/lock", ".pipeline/mlflow.lock", ".pipeline/sync.lock"]
)
@pytest.mark.usefixtures("whole")
def test_the_holder_of_a_lock_is_named(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with open(name, "w") as file:
        file.write(f" {os.getpid()}\n")
        file.flush()
        assert levels(locks.check) == {"ok"}
        fcntl.flock(file, fcntl.LOCK_EX)
        (found,) = lines(locks.check)
        assert found.startswith(f"warning  locks: {name} is held by process {os.getpid()} (")


@pytest.mark.usefixtures("whole")
def test_a_lock_of_git_is_named() -> None:
    Path(".git/index.lock").touch()
    assert "`rm .git/index.lock`" in lines(locks.check)[0]
