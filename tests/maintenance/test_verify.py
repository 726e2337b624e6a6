"""Damage at rest is found and named, and after `latent verify --fix` and `dvc repro` every byte is back."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.maintenance.outputs import outputs
from tests.conftest import flip
from tests.maintenance.conftest import MAKE, OUTPUTS, cached, repro

LIST = "results/folder"


def verify(*options: str) -> Result:
    return CliRunner().invoke(main, ["verify", *options])


def list_object() -> Path:
    """Return the list of the folder's files in DVC's cache."""
    (folder,) = [out for out in outputs("dvc.lock") if out.path == LIST]
    return Path(".dvc/cache/files/md5", folder.md5[:2], folder.md5[2:])


def contents() -> dict[str, bytes]:
    return {path: Path(path).read_bytes() for path in OUTPUTS}


def damage(path: str, here: bool, in_cache: bool, delete: bool) -> None:
    """Flip a bit of an output, of its object, or both, or delete the output; what is damaged keeps its time, as disks do it."""
    place = cached(path)
    if in_cache:
        flip(place)
    if here:
        flip(Path(path))
    if delete:
        Path(path).unlink()


@pytest.mark.parametrize(
    ("here", "in_cache", "delete"),
    [(True, False, False), (False, True, False), (True, True, False), (False, True, True)],
    ids=["here", "cache", "both", "cache-alone"],
)
@pytest.mark.usefixtures("project")
def test_damage_is_named_and_repaired(here: bool, in_cache: bool, delete: bool) -> None:
    before = contents()
    for path in OUTPUTS:
        damage(path, here, in_cache, delete)
    found = verify()
    assert found.exit_code == 3
    lines = [line for line in found.stdout.splitlines() if line.startswith("problem")]
    assert len(lines) == len(OUTPUTS)
    for path in OUTPUTS:
        (line,) = [line for line in lines if line.startswith(f"problem  {path}: ")]
        assert "`latent verify --fix`" in line
    assert verify("--fix").exit_code == 0
    repro()
    assert contents() == before
    again = verify("--all")
    assert (again.exit_code, again.stdout.count("\n")) == (0, 1)
    assert again.stdout.endswith("nothing is damaged\n")


@pytest.mark.usefixtures("project")
def test_a_damaged_file_in_git_is_read_by_dvc_again() -> None:
    repro()  # so that DVC knows the files by their times, and does not read them
    before = contents()
    flip(Path("metrics.json"))
    repro()
    assert contents() != before
    assert verify("--fix").exit_code == 0
    repro()
    assert contents() == before


@pytest.mark.usefixtures("project")
def test_dvc_alone_brings_the_damage_back() -> None:
    """Why the command exists: DVC trusts a cached file without reading it."""
    damage("results/page.html", here=False, in_cache=True, delete=True)
    repro()
    assert verify().exit_code == 3


@pytest.mark.usefixtures("project")
def test_a_whole_file_mends_its_object_without_a_run() -> None:
    flip(cached("results/page.html"))
    assert "made .dvc" not in verify().stdout
    assert verify("--fix").exit_code == 0
    assert cached("results/page.html").stat().st_mode & 0o777 == 0o444
    Path("make.py").write_text("raise SystemExit(1)")  # DVC would run it
    assert verify().stdout.count("\n") == 1


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.usefixtures("project")
def test_damage_of_a_link_into_the_cache_is_damage_of_both(link: Callable[[Path, str], None]) -> None:
    before, place = contents(), cached("results/page.html").resolve()
    Path("results/page.html").unlink()
    link(place, "results/page.html")
    flip(place)
    assert verify().exit_code == 3
    assert verify("--fix").exit_code == 0
    assert not place.exists()
    repro()
    assert contents() == before


@pytest.mark.usefixtures("project")
def test_other_objects_are_read_on_demand() -> None:
    Path("make.py").write_text(MAKE.replace("1000", "999"))
    old = cached("results/page.html")
    repro()
    flip(old)
    assert verify().exit_code == 0
    found = verify("--all")
    assert found.exit_code == 3
    assert old.name in found.stdout
    assert verify("--all", "--fix").exit_code == 0
    assert not old.exists()


@pytest.mark.usefixtures("project")
def test_what_is_missing_is_no_damage_and_has_its_command() -> None:
    shutil.rmtree("results")
    Path("metrics.json").unlink()
    found = verify()
    assert (found.exit_code, found.stdout.count("warning")) == (0, 4)
    for command in ("dvc checkout results/page.html", "dvc checkout results/folder/sub/b", "git checkout HEAD -- metrics.json"):
        assert f"is not here; `{command}` brings it" in found.stdout
    shutil.rmtree(".dvc/cache")
    found = verify()
    assert (found.exit_code, found.stdout.count("is not here, nor in DVC's cache; `dvc repro` makes it")) == (0, 2)
    with open(".dvc/config", "a") as config:
        config.write("['remote \"disk\"']\n    url = ../remote\n")
    assert "; `dvc pull results/folder` brings it, or `dvc repro` makes it" in verify().stdout


@pytest.mark.usefixtures("project")
def test_a_file_that_dvc_does_not_know_is_named_and_kept() -> None:
    stray = Path("results/folder/.page.html.1.tmp")
    stray.write_text("")
    assert f"warning  {stray}: dvc.lock does not name it" in verify("--fix").stdout
    assert stray.exists()


def entry(out: str) -> str:
    """Return a lock file with an output."""
    return f"schema: '2.0'\nstages: {{a: {{cmd: make, outs: [{out}]}}}}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("- 1", "not a lock file with the schema 2.0"),
        ("{", "not valid YAML"),
        ("\0\1", "not valid YAML"),
        ("schema: '2.0'\nstages: 3", "not a lock file with the schema 2.0"),
        (entry("{path: 3}"), "the entry a is not that of a stage"),
        (entry("1"), "the entry a is not that of a stage"),
        (entry("{path: b, hash: md5}"), "the entry a is not that of a stage"),
        ("<<<<<<< HEAD\nstages: {}\n=======\n>>>>>>> b\n", "a merge left its marks in it"),
        (entry("{path: ../b, hash: md5, md5: " + "a" * 32 + "}"), "is no output of this repository"),
        (entry("{path: /b, hash: md5, md5: " + "a" * 32 + "}"), "is no output of this repository"),
        (entry("{path: b, hash: md5, md5: ../../b}"), "the entry a is not that of a stage"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_damaged_lock_file_is_one_line(content: str, message: str) -> None:
    Path("dvc.lock").write_text(content)
    found = verify("--fix")
    assert (found.exit_code, found.stdout) == (3, "")
    assert message in found.stderr
    assert found.stderr.startswith("error: dvc.lock: ")
    assert found.stderr.count("\n") == 1


@pytest.mark.usefixtures("project")
def test_a_missing_lock_file_is_one_line() -> None:
    Path("dvc.lock").unlink()
    assert (verify().exit_code, verify().stderr) == (3, "error: dvc.lock: no such file; run `dvc repro`\n")


@pytest.mark.usefixtures("project")
def test_nothing_is_repaired_while_dvc_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    flip(Path("results/page.html"))
    command = [sys.executable, "-c", "print(flush=True); input()", "dvc", "repro"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dvc:
        assert dvc.stdout
        dvc.stdout.readline()
        held = {"write": {"results/page.html": {"pid": dvc.pid, "cmd": "dvc repro"}}}
        Path(".dvc/tmp/rwlock").write_text(json.dumps(held))
        found = verify("--fix")
        assert found.exit_code == 75
        assert f"process {dvc.pid}" in found.stderr
        assert verify().exit_code == 3
        dvc.communicate(b"\n")
    assert verify("--fix").exit_code == 0


@pytest.mark.usefixtures("project")
def test_from_a_folder_below_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    flip(Path("results/page.html"))
    monkeypatch.chdir("results/folder")
    assert "problem  results/page.html: " in verify().stdout


@pytest.mark.parametrize("with_folder", [True, False])
@pytest.mark.usefixtures("project")
def test_damaged_list_of_a_folder_is_made_again(with_folder: bool) -> None:
    before = contents()
    flip(list_object())
    if not with_folder:
        shutil.rmtree(LIST)
    assert f"problem  {LIST}: its list of files" in verify().stdout
    assert verify("--fix").exit_code == 0
    assert list_object().exists() == with_folder
    repro()
    assert contents() == before
    assert verify("--all").stdout.count("\n") == 1
