"""What can be wrong with MLflow's store is found before a training meets it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.maintenance.doctor import _findings
from pipeline.maintenance.findings import Finding
from pipeline.tracking import store as tracking

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy


def findings() -> list[Finding]:
    return list(_findings("mlflow"))


def levels() -> list[str]:
    return [finding.level for finding in findings()]


@pytest.mark.usefixtures("workspace")
def test_no_store_yet_is_right_and_makes_none() -> None:
    (found,) = findings()
    assert (found.level, found.text[:12]) == ("ok", "no store yet")
    assert not Path("mlflow.db").exists()


@pytest.mark.usefixtures("store")
def test_runs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start("a", {}):
        pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets for itself
    (found,) = findings()
    assert (found.level, found.text) == ("ok", f"1 runs in sqlite:///{Path.cwd()}/mlflow.db")


@pytest.mark.parametrize("kind", ["folder", "text", "cut", "flipped"])
def test_a_database_that_is_none(kind: str, store: Path) -> None:
    if kind == "folder":
        store.unlink()
        store.mkdir()
    elif kind == "text":
        store.write_text("no database\n" * 100)
    elif kind == "cut":
        store.write_bytes(store.read_bytes()[: store.stat().st_size // 2])
    else:
        content = store.read_bytes()
        store.write_bytes(content[:50_000] + b"\1" * 50_000 + content[100_000:])
    (found,) = findings()
    assert found.level == "problem"
    assert "mlflow.db" in found.text
    assert "latent sync`" in f"{found.text}{found.cure}"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite://mlflow.db", "mlruns", "nonsense://a"])
@pytest.mark.usefixtures("workspace")
def test_an_address_that_leads_nowhere(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (found,) = findings()
    assert found.level == "problem"
    assert "could not be checked" not in found.text


def test_credentials_are_hidden(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "secret" not in str(findings())


@pytest.mark.usefixtures("store")
def test_a_deleted_experiment_is_named() -> None:
    with tracking.start("a", {}):
        pass
    client = MlflowClient(tracking.store_uri())
    client.delete_experiment(tracking.connect()[1])
    (found,) = findings()
    assert found.level == "problem"
    assert "`mlflow experiments restore --experiment-id 1`" in found.text


@pytest.mark.usefixtures("store")
def test_runs_of_killed_processes_are_ended() -> None:
    code = "from pipeline.tracking import store; import os; store.start('killed', store.process_tag()); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    with tracking.start("alive", tracking.process_tag()):
        (_, stale) = findings()
        assert (stale.level, "1 runs are RUNNING whose process was killed, the newest killed" in stale.text) == ("warning", True)
        assert stale.repaired().level == "fixed"
        assert levels() == ["ok"]
        assert {record.name: record.status for record, _ in tracking.records()} == {"alive": "RUNNING", "killed": "KILLED"}


@pytest.mark.usefixtures("store")
def test_a_repository_that_was_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start("a", {}):
        pass
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy("mlflow.db", other)
    monkeypatch.chdir(other)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets for itself
    assert levels() == ["ok"]
    ((record, run),) = tracking.records()
    assert (record.name, str(other) in run._client.get_run(run.id).info.artifact_uri) == ("a", True)
