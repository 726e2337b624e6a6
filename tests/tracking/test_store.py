"""Where the store is, and how runs are started and found in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking import store
from pipeline.tracking.run import EXPERIMENT, MODEL_MD5, load_mlflow
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
