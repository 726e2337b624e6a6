"""Where the store is, and how runs are started, found and ended in it."""

import errno
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import AccessError, IntegrityError, ParamsError, PipelineError
from pipeline.tracking import store
from pipeline.tracking.database import load_mlflow
from pipeline.tracking.record import Record
from pipeline.tracking.registry import fetch_weights
from pipeline.tracking.run import EXPERIMENT, MODEL_MD5
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy


def test_store_is_a_sqlite_file_in_the_root(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.store_uri() == f"sqlite:///{workspace}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert store.store_uri() == f"sqlite:///{workspace}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////srv/mlflow.db")
    assert store.store_uri() == "sqlite:////srv/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert store.store_uri() == "http://team:5000"


def test_experiment_in_a_temporary_folder_uses_the_store_of_the_main_repository(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.chdir(tmp_path_factory.mktemp("exp"))
    assert store.store_uri() == f"sqlite:///{workspace}/mlflow.db"


def test_relative_addresses_are_relative_to_the_repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / ".dvc").mkdir()
    (workspace / "docs").mkdir()
    monkeypatch.chdir(workspace / "docs")
    expected = {
        "": f"sqlite:///{workspace}/mlflow.db",
        "sqlite:///x.db?timeout=9": f"sqlite:///{workspace}/x.db?timeout=9",
        "./mlruns": f"{workspace}/mlruns",
        "mlruns": f"{workspace}/mlruns",
        "file:mlruns": f"{workspace.as_uri()}/mlruns",
        "file:///srv/mlruns": "file:///srv/mlruns",
        "/srv/mlruns": "/srv/mlruns",
        "databricks": "databricks",
        "sqlite://": "sqlite://",
    }
    for given, resolved in expected.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert store.store_uri() == resolved


@pytest.mark.parametrize("uri", ["", "sqlite:///other.db", "mlruns", "file:mlruns"])
def test_who_only_reads_makes_no_store(uri: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = set(workspace.iterdir())
    for read in (store.records, lambda: fetch_weights("models:/nothing@champion", workspace)):
        with pytest.raises(ParamsError, match=r"no MLflow store .* the first training or `latent sync` makes it"):
            read()
    assert set(workspace.iterdir()) == before


@pytest.mark.usefixtures("store")
def test_who_only_reads_makes_no_experiment() -> None:
    client, _ = store.connect()
    before = [found.name for found in client.search_experiments()]
    assert store.records("misspelled") == []
    assert [found.name for found in client.search_experiments()] == before


@pytest.mark.usefixtures("store")
def test_runs_go_to_the_experiment_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    with store.start("run", {}):
        pass
    assert [record.name for record, _ in store.records("other")] == ["run"]
    assert store.records(EXPERIMENT) == []


@pytest.mark.usefixtures("store")
def test_artifacts_of_a_sqlite_store_lie_in_the_root(workspace: Path) -> None:
    client, experiment = store.connect()
    location = client.get_experiment(experiment).artifact_location
    assert location == f"file://{workspace}/mlartifacts/latent-spaces"


@pytest.mark.usefixtures("store")
def test_newest_run_of_the_weights_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for md5 in ("a", "b", "b"):
        with store.start("run", {MODEL_MD5: md5}) as run:
            runs.append(run.id)
    assert store.find("b").id in runs[1:]
    assert store.find("a").id == runs[0]
    assert not capsys.readouterr().err
    assert store.find("c").id is None
    assert "no MLflow run has weights c" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("address", "name"), [("train_ae", "train_ae"), ("claims/dvc.yaml:train_seeds", "train_seeds")])
def test_run_is_tagged_with_the_name_of_its_stage(address: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", address)
    with store.start("run", {}):
        pass
    ((record, _),) = store.records()
    assert record.tags["dvc.stage"] == name


@pytest.mark.usefixtures("store")
def test_run_is_continued_where_the_store_still_has_it() -> None:
    with store.start("run", {}) as first:
        pass
    with store.start("run", {}, first.id) as second, store.start("run", {}, "0" * 32) as third:
        assert second.id == first.id
        assert third.id not in (None, first.id)


@pytest.mark.usefixtures("store")
def test_deleted_experiment_comes_back_with_the_command_that_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    client, experiment = store.connect()
    client.delete_experiment(experiment)
    with pytest.raises(PipelineError, match="was deleted; `mlflow experiments restore") as caught:
        store.records()
    command = shlex.split(str(caught.value).split("`")[1])
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert store.records() == []


GONE = "999999999 1"


def killed(run_id: str | None, host: str | None = None) -> None:
    """Leave a run as a process of a machine, by default this one, leaves it when it is killed."""
    client, here = MlflowClient(store.store_uri()), store.process_tag()[store.PROCESS].split()[0]
    client.update_run(str(run_id), status="RUNNING")
    client.set_tag(str(run_id), store.PROCESS, f"{host or here} {GONE}")


@pytest.mark.usefixtures("store")
def test_runs_whose_process_is_gone_are_ended_and_no_others() -> None:
    runs = {}
    for name, tags in {"killed": {}, "trained": {MODEL_MD5: "a"}, "of another machine": {}}.items():
        with store.start(name, tags) as run:
            runs[name] = run.id
        killed(run.id, "elsewhere" if "machine" in name else None)
    with store.start("lives", {}):
        assert {record.name for record in store.end_stale_runs()} == {"killed", "trained"}
        assert {record.name: record.status for record, _ in store.records()} == {
            "killed": "KILLED",
            "trained": "FINISHED",
            "of another machine": "RUNNING",
            "lives": "RUNNING",
        }
        assert store.end_stale_runs() == []


@pytest.mark.usefixtures("store")
def test_training_continues_the_run_of_its_fingerprint_and_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(stage: str, fingerprint: str) -> str | None:
        monkeypatch.setenv("DVC_STAGE", stage)
        with store.start("run", {store.FINGERPRINT: fingerprint}) as started:
            return started.id

    first = run("train_vae", "a")
    assert run("train_vae", "a") == first, "which has finished"
    killed(first)
    assert run("train_vae", "a") == first
    others = [run("train_vae", "b"), run("claims/dvc.yaml:train_comparison", "a")]
    assert len({first, *others}) == 3
    killed(first, "elsewhere")
    other = run("train_vae", "a")
    assert other != first, "a process of another machine may be alive"
    monkeypatch.setenv("DVC_STAGE", "train_vae")
    with store.start("run", {store.FINGERPRINT: "a"}) as lives, store.start("run", {store.FINGERPRINT: "a"}) as second:
        assert lives.id == other
        assert second.id not in (first, other)


FULL = """
import resource, signal
from pathlib import Path
from pipeline.tracking import run, store
run.SEND_SECONDS = 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with store.start("run", {}) as run:
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path("mlflow.db").stat().st_size, resource.RLIM_INFINITY))
    for epoch in range(1, 2000):
        run.log_epoch({"epoch": epoch, "val/loss": 1.0})
        if not run.alive:
            break
    else:
        raise SystemExit("not full")
"""


@pytest.mark.usefixtures("store")
def test_full_disk_is_one_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: MLflow failed (")
    assert done.stderr.count("\n") == 1


def test_client_defaults_leave_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"})
    load_mlflow()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_importing_tracking_neither_imports_mlflow_nor_sets_the_environment() -> None:
    code = """
import os, sys
from pipeline.tracking import events, store
assert "mlflow" not in sys.modules
assert not [name for name in os.environ if name.startswith("MLFLOW_") and name != "MLFLOW_TRACKING_URI"]
store.connect()
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
"""
    environment = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "sqlite://"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("store")
def test_a_model_that_is_not_there_is_named_with_what_mlflow_says(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        fetch_weights("models:/nothing@champion", tmp_path)
    said = str(caught.value).removeprefix("models:/nothing@champion: no such model in ")
    assert "nothing" in said, "MLflow's reason"
    assert said.endswith("`latent sync` registers the best model")


def test_a_process_has_machine_number_and_start_and_one_that_is_gone_has_none() -> None:
    host, number = platform.node(), os.getpid()
    start = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]  # field 22, `starttime`
    assert store.process(number) == f"{host} {number} {start}"
    assert store.process_tag() == {"process": f"{host} {number} {start}"}
    assert store.process(999_999_999) is None


@pytest.mark.parametrize(
    ("status", "process", "expected"),
    [
        ("RUNNING", "{here}", True),
        ("RUNNING", "", True),
        ("RUNNING", "elsewhere 1 1", True),
        ("RUNNING", "{here}1", False),
        ("FINISHED", "{here}", False),
        ("KILLED", "", False),
    ],
)
def test_a_run_may_be_written_unless_it_has_ended_or_its_process_is_gone(status: str, process: str, expected: bool) -> None:
    tags = {store.PROCESS: process.format(here=store.process(os.getpid()))}
    assert store.may_be_written(Record("1", "run", status, {}, tags, {}, False, None, False)) is expected


def denied(code: str, said: str) -> MlflowException:
    error = MlflowException(said)
    error.error_code = code
    return error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ParamsError("as it is"), ParamsError, "as it is"),
        (
            denied("PERMISSION_DENIED", "no"),
            AccessError,
            "{uri} does not let this user do it (no); MLFLOW_TRACKING_USERNAME names the user",
        ),
        (denied("INVALID_PARAMETER_VALUE", "no"), IntegrityError, "MLflow refuses it (no)"),
        (denied("BAD_REQUEST", "no"), IntegrityError, "MLflow refuses it (no)"),
        (denied("INTERNAL_ERROR", "no"), PipelineError, "the MLflow store {uri} does not answer (no)"),
        (OSError(errno.ENOSPC, "full", "a/file"), OSError, f"[Errno {errno.ENOSPC}] full: 'a/file'"),
        (OSError(errno.EDQUOT, "full"), OSError, f"[Errno {errno.EDQUOT}] full: '{{uri}}'"),
        (
            OSError(errno.ECONNREFUSED, "refused"),
            PipelineError,
            f"the MLflow store {{uri}} does not answer ([Errno {errno.ECONNREFUSED}] refused)",
        ),
        (ValueError("disk I/O error"), OSError, f"[Errno {errno.ENOSPC}] disk I/O error: '{{file}}'"),
        (ValueError("database or disk is full"), OSError, f"[Errno {errno.ENOSPC}] database or disk is full: '{{file}}'"),
        (
            ValueError("attempt to write a readonly database"),
            OSError,
            f"[Errno {errno.EROFS}] attempt to write a readonly database: '{{file}}'",
        ),
    ],
)
def test_an_error_of_the_store_is_one_line_of_its_kind(
    error: Exception, kind: type[Exception], said: str, workspace: Path
) -> None:
    found = store.explained(error)
    assert type(found) is kind
    assert str(found) == said.format(uri=f"sqlite:///{workspace}/mlflow.db", file=workspace / "mlflow.db")


@pytest.mark.usefixtures("store")
def test_a_filter_that_mlflow_refuses_is_named_with_one_that_is_allowed() -> None:
    with store.start("four", {}) as run:
        run.log_params({"beta": 4.0})
    with store.start("one", {}):
        pass
    assert [record.name for record, _ in store.records(wanted="params.beta = '4'")] == ["four"]
    with pytest.raises(
        ParamsError, match=r"^MLflow refuses the filter beta 4 \(.+\); allowed is one as in `latent compare --filter "
    ):
        store.records(wanted="beta 4")
    client, experiment = store.connect()
    client.delete_run(run.id)
    assert [record.name for record, _ in store.records()] == ["one"]
    assert [(record.name, record.is_deleted) for record, _ in store.records(deleted=True)] == [("one", False), ("four", True)]
    assert client.get_experiment(experiment).tags["mlflow.experimentKind"] == "custom_model_development"
