"""A run tells who trained it where, and with which commit."""

import platform
from pathlib import Path

import pytest

from pipeline.errors import ParamsError
from pipeline.tracking import origin, store
from pipeline.tracking.origin import COMMIT, origin_tags
from tests.tracking.repository import git, write

DIRTY = "mlflow.source.git.dirty"


@pytest.fixture
def commit(workspace: Path) -> str:
    git("init", "-q")
    for path in ("pipeline/code.py", "params.yaml"):
        write(path, "")
    git("add", "-A")
    git("commit", "-qm", "code")
    return git("rev-parse", "HEAD")


def test_a_commit_is_dirty_when_the_code_has_changed_and_not_when_params_have(commit: str) -> None:
    write("params.yaml", "beta: 4")
    write("metrics/new.json", "{}")
    assert {COMMIT: commit, DIRTY: "false"}.items() <= origin_tags().items()
    write("stages/new.py", "")
    assert origin_tags()[DIRTY] == "true"


def test_an_experiment_has_the_commit_it_started_from(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0" * 40)
    assert origin_tags()[COMMIT] == "0" * 40


@pytest.mark.usefixtures("workspace")
def test_what_cannot_be_told_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert origin_tags().keys() == {"host", "mlflow.source.type", "mlflow.source.name"}


@pytest.mark.usefixtures("workspace")
def test_a_git_that_cannot_be_run_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    write("bin/git", "")  # not executable
    monkeypatch.setenv("PATH", "bin")
    assert COMMIT not in origin_tags()
    with pytest.raises(ParamsError, match=r"^git cannot be run \(Permission denied\)$"):
        origin.git("status")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy
@pytest.mark.usefixtures("store")
def test_a_run_has_them_from_the_first_moment_on(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.run.Run.set_tags", lambda *_: pytest.fail("another request"))
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setenv("DVC_STAGE", "claims/dvc.yaml:train_seeds")
    with store.start("run", {"role": "seed"}):
        pass
    ((record, _),) = store.records()
    expected = {"mlflow.user": "ada", "mlflow.source.name": "train_seeds", COMMIT: commit, "role": "seed"}
    assert expected.items() <= record.tags.items()


def test_a_run_tells_this_of_its_process(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("sys.argv", ["/somewhere/train.py", "vae"])
    expected = {"host": platform.node(), "mlflow.source.type": "LOCAL", "mlflow.source.name": "train.py", "mlflow.user": "ada"}
    assert origin_tags() == expected | {COMMIT: commit, DIRTY: "false"}
    assert (COMMIT, origin.CODE) == ("mlflow.source.git.commit", ("pipeline", "stages"))


def test_a_commit_is_found_by_its_revision_or_by_the_name_of_one_experiment(commit: str) -> None:
    write("params.yaml", "beta: 4")
    git("commit", "-qam", "four")
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/four", four := git("rev-parse", "HEAD"))
    git("reset", "-q", "--hard", commit)
    assert [origin.commit_of(name) for name in ("HEAD", commit[:9], "four")] == [commit, commit, four]
    git("update-ref", f"refs/exps/{four[:2]}/{four[2:]}/four", four)
    assert origin.commit_of("four") == four, "twice the same"
    with pytest.raises(ParamsError, match=r"^'fou\?' is neither"):
        origin.commit_of("fou?")
    git("update-ref", f"refs/exps/{four[:2]}/{four[2:]}/four", commit)
    cure = "`git branch --all`, `git tag` and `dvc exp list --all` list what there is"
    for name in ("four", "none", "fou?", "f*", "[f]our", "", "--all"):
        with pytest.raises(ParamsError) as caught:
            origin.commit_of(name)
        assert str(caught.value) == f"{name!r} is neither a revision of this repository nor an experiment; {cure}"


def test_what_git_says_is_in_the_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    with pytest.raises(ParamsError, match=r"^git rev-parse: fatal: not a git repository"):
        origin.git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ParamsError, match=r"^git is not installed$"):
        origin.git("status")
