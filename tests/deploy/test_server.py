"""A team server: runs of several users, a database that is killed, and what others on the machine may see."""

import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from pipeline.cli import main
from pipeline.params import Params
from pipeline.storage import md5
from pipeline.tracking import events, failures, store
from pipeline.tracking import run as tracking_run
from tests.conftest import ROOT
from tests.deploy.conftest import TeamServer
from tests.tracking.fake_training import train
from tests.tracking.repository import Repository, git
from tests.tracking.test_sync import champion, contents

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
METRICS = {"dataset": "blobs", "profile": "full", "test/recon": 30.0, "test/kl": 2.0, "test/elbo": -32.0}


@pytest.fixture
def environment(team_server: TeamServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that the server prints, set in this process, with an experiment of its own for each test."""
    printed = team_server.up()
    for key, value in printed.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    monkeypatch.setattr(tracking_run, "SLOW", 1e9)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # which would keep the endpoint of an earlier test
    return printed


def started(server: TeamServer, service: str = "*") -> list[psutil.Process]:
    """Return the processes that deploy/local.py has started."""
    return [psutil.Process(json.loads(path.read_text())[0]) for path in server.folder.glob(f"run/{service}.pid")]


def test_a_second_up_starts_nothing_and_prints_the_same(team_server: TeamServer) -> None:
    before = sorted(path.read_text() for path in team_server.folder.glob("run/*.pid"))
    printed = team_server.run("up")
    assert sorted(path.read_text() for path in team_server.folder.glob("run/*.pid")) == before
    assert printed.stdout == team_server.run("up").stdout
    assert all(line.startswith("export ") for line in printed.stdout.splitlines())


def test_the_services_get_no_settings_of_another_server(team_server: TeamServer) -> None:
    assert not [first for first in started(team_server) if {"AWS_PROFILE", "MLFLOW_TRACKING_USERNAME"} & first.environ().keys()]


def test_another_port_for_what_runs_is_refused_and_it_runs_on(team_server: TeamServer) -> None:
    former = (team_server.folder / "run/mlflow.port").read_text()
    done = team_server.run("up", MLFLOW_PORT="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: mlflow runs on port {former}; unset MLFLOW_PORT, or run `deploy/local.sh down` first\n"
    assert (team_server.folder / "run/mlflow.port").read_text() == former
    assert [process.is_running() for process in started(team_server)] == [True] * 3


def test_a_user_is_made_once_and_a_second_time_is_one_line_without_a_hash(
    team_server: TeamServer, environment: dict[str, str]
) -> None:
    team_server.add_user("nina", "reader", environment)
    command = [sys.executable, str(ROOT / "deploy/user.py"), "nina", "editor"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: there is a user nina already\n")


def test_others_on_the_machine_see_no_password_and_no_port_is_open_to_other_machines(team_server: TeamServer) -> None:
    secret = list((team_server.folder / "passwords").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert {"admin", "postgres", "s3", "secret_key"} <= {path.name for path in secret}
    passwords = [path.read_text() for path in secret if not path.name.startswith(("aws_", "basic_auth"))]
    assert all(len(password) == 32 for password in passwords)
    said, open_to = [path.read_text() for path in team_server.folder.glob("run/*.log")], set[str]()
    for first in started(team_server):
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # PostgreSQL has some that live for a moment
                said.append(" ".join(process.cmdline()))
                open_to |= {connection.laddr.ip for connection in process.net_connections("inet")}
    assert len(said) > 6
    assert not [text for text in said for password in passwords if password in text]
    assert open_to == {"127.0.0.1"}


@pytest.mark.parametrize(("package", "command"), [("boto3", "`make s3`"), ("psycopg", "`make server`")])
def test_a_missing_package_is_named_with_the_command_that_adds_it(
    package: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError("artifacts")
    error.__cause__ = ModuleNotFoundError(f"No module named '{package}'", name=package)
    failures.warn(error)
    assert str(store.explained(error)).endswith(f"does not answer (the package {package} is missing; {command} adds it)")
    assert f"MLflow failed (the package {package} is missing; {command} adds it)" in capsys.readouterr().err


@pytest.mark.parametrize("password", ["", "password1234", "admin"])
def test_a_password_that_is_guessed_is_refused(
    environment: dict[str, str], password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    done = CliRunner().invoke(main, ["compare"])
    assert done.exit_code == 77
    assert "does not let this user do it" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_training_has_its_model_in_s3_its_user_and_commit_and_becomes_the_champion(
    environment: dict[str, str],
    team_server: TeamServer,
    params: Params,
    data_file: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in team_server.add_user("maria", "editor", environment).items():
        monkeypatch.setenv(key, value)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "empty")
    train("vae", params, data_file, workspace / "out", workspace / "out")
    events.log_evaluation(store.find(md5(workspace / "out" / "vae.safetensors")), METRICS, [])
    ((record, run),) = store.records()
    client = MlflowClient(store.store_uri())
    assert client.get_run(record.id).info.artifact_uri.startswith("s3://mlflow/")
    assert client.get_logged_model(str(record.model_id)).artifact_location.startswith("s3://mlflow/")
    assert {"vae.safetensors", "vae_history.csv", "evaluation.json"} == run.files().keys()
    assert record.tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert record.tags["mlflow.user"]
    assert champion() == record.name


def test_a_reader_writes_nothing_is_told_so_once_and_has_all_files(
    environment: dict[str, str],
    team_server: TeamServer,
    params: Params,
    data_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.connect()  # the administrator's experiment
    reader = team_server.add_user("rita", "reader", environment)
    monkeypatch.chdir(data_file.parent)
    repository = Repository(params, data_file, monkeypatch)
    for key, value in reader.items():
        monkeypatch.setenv(key, value)
    repository.train("vae", 4.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("warning: MLflow failed (it does not let rita do it: Permission denied); the work goes on"), said
    assert {"vae.safetensors"} <= {path.name for path in Path("models").iterdir()}
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == 77, done.output
    assert "Permission denied" in done.stderr
    assert store.records() == []


def test_a_training_outlives_the_database_and_sync_restores_all_of_it_once(
    environment: dict[str, str],
    team_server: TeamServer,
    params: Params,
    data_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking_run, "SEND_SECONDS", 0.0)
    monkeypatch.chdir(data_file.parent)
    repository = Repository(params, data_file, monkeypatch)
    log_epoch = tracking_run.Run.log_epoch

    def kill_database(run: tracking_run.Run, row: dict[str, float], elapsed: float) -> None:
        if row["epoch"] == 3:
            (postgres,) = started(team_server, "postgres")
            family = [postgres, *postgres.children()]
            for process in family:
                with suppress(psutil.NoSuchProcess):  # it ends by itself without the first one
                    process.kill()
            psutil.wait_procs(family)
        log_epoch(run, row, elapsed)

    with monkeypatch.context() as patch:
        patch.setattr(tracking_run.Run, "log_epoch", kill_database)
        repository.train("vae", 4.0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "warning: MLflow failed" in said
    assert Path("models/vae.safetensors").exists()
    assert team_server.up() == environment
    (lost,) = contents().values()
    assert list(lost["points"]["val/loss"]) == [1, 2]
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == 0, done.output
    (restored,) = contents().values()
    assert (restored["status"], restored["model"][:2]) == ("FINISHED", ["vae", "READY"])
    assert list(restored["points"]["val/loss"]) == [1, 2, 3, 4]
    assert restored["files"].keys() == {"vae.safetensors", "vae_history.csv"}
    client = MlflowClient(store.store_uri())
    assert len(client.get_metric_history(store.records()[0][0].id, "val/loss")) == 4, "no point twice"
    assert "0 of them new or incomplete" in CliRunner().invoke(main, ["sync"]).output


def test_what_is_missing_or_wrong_is_one_line(tmp_path: Path) -> None:
    own = os.environ | {"SERVER_FOLDER": str(tmp_path / "server")}
    for arguments, said in {(): "say `deploy/local.sh up`", ("sideways",): "say `deploy/local.sh up`"}.items():
        done = subprocess.run([sys.executable, ROOT / "deploy/local.py", *arguments], env=own, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert said in done.stderr
    done = subprocess.run([sys.executable, "-S", ROOT / "deploy/user.py"], env=own, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = subprocess.run([sys.executable, ROOT / "deploy/local.py", "down"], env=own, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), "nothing to stop"
