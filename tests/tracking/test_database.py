"""A database is whole or absent, is refused at once when it is none, and goes with its repository wherever that is moved."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.errors import BusyError, ParamsError, PipelineError
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.tracking import database, store
from pipeline.tracking.run import EXPERIMENT

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
NAMES = ["plain", "a b", "what?", "a#b", "50%", "%41", "ü", "a;b&c=d", "it's", "a:b@c"]


@pytest.fixture
def quick(_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of a template in place of MLflow's migrations, which take seconds."""
    monkeypatch.setattr(database, "_make", lambda file, uri, root: shutil.copy(_template, file))
    return


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with store.start("run", {}) as run:
        Path("file").write_text("content")
        run.log_file("file")
    assert [record.name for record, _ in store.records()] == ["run"]
    assert MlflowClient(store.store_uri()).get_run(run.id).info.status == "FINISHED"
    assert [path.read_text() for path in Path("mlartifacts").rglob("file")] == ["content"]
    assert os.listdir(tmp_path) == [name], "nothing is written outside"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert database.file_of(store.store_uri()) == tmp_path / name / "mlflow.db"


def half_made(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        for table in ("experiments", "runs", "webhooks", "alembic_version"):
            database.execute(f"CREATE TABLE {table} (id INTEGER)")


def test_a_database_is_whole_or_absent(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def killed(source: object, target: object) -> None:
        assert database._is_whole(Path(str(source)))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.connect()
    assert not (workspace / "mlflow.db").exists()
    monkeypatch.setattr(os, "replace", replace)
    half_made(workspace / "mlflow.db")
    (workspace / "mlflow.db-journal").write_text("of the half-made one")
    store.connect()
    places = {found.artifact_location for found in MlflowClient(store.store_uri()).search_experiments()}
    assert places == {f"{workspace}/mlartifacts/0", f"{workspace.as_uri()}/mlartifacts/{EXPERIMENT}"}
    assert sorted(path.name for path in (workspace / ".pipeline").iterdir()) == ["mlflow.lock"]


@pytest.mark.usefixtures("quick", "workspace")
def test_an_empty_or_half_made_database_is_made_anew() -> None:
    for damage in (Path.touch, half_made):
        damage(Path("mlflow.db"))
        assert store.records() == []
        Path("mlflow.db").unlink()


def foreign(file: Path) -> None:
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE alembic_version (id INTEGER)")


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "is a folder, not MLflow's database"),
        (os.mkfifo, "is a device or a pipe, not MLflow's database"),
        (lambda file: file.write_text("text" * 2000), "is not a database"),
        (lambda file: file.write_bytes(b"SQLite format 3\0" + b"text" * 2000), "is damaged"),
        (foreign, "is the database of another program"),
        (lambda file: (file.write_text("x"), file.chmod(0)), r"cannot be read|is not a database"),  # root may read all
    ],
)
def test_what_is_no_database_is_refused_before_mlflow_tries(
    make: object, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(Path("mlflow.db"))  # type: ignore[operator]
    before = Path("mlflow.db").stat().st_mtime_ns
    monkeypatch.setattr(store, "load_mlflow", lambda: pytest.fail("MLflow tries for minutes"))
    with pytest.raises(PipelineError, match=message) as caught:
        store.records()
    assert caught.value.exit_code in (3, 74)
    monkeypatch.setenv("DVC_STAGE", "train_vae")
    with store.start("run", {}) as run:
        assert run.id is None
    warned = capsys.readouterr().err
    assert warned.count("\n") == 1
    assert "`latent sync` restores the run once this is mended" in warned
    assert Path("mlflow.db").stat().st_mtime_ns == before, "it may be of another program"


@pytest.mark.usefixtures("workspace")
def test_the_cure_for_an_address_that_the_user_gave_is_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///folder")
    with pytest.raises(PipelineError, match="is a folder, not MLflow's database; correct MLFLOW_TRACKING_URI, or move it away"):
        store.records()


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("uri", ["sqlite:///file/mlflow.db", "sqlite:////proc/none/mlflow.db", "sqlite:nothing"])
def test_an_address_where_no_database_can_be_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(PipelineError, match=r"cannot be|is not a URL"), store.connected():
        pass


@pytest.mark.usefixtures("workspace")
def test_a_server_that_does_not_answer_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:hunter2@127.0.0.1:9/mlflow")
    with pytest.raises(PipelineError, match=r"postgresql\+psycopg2://127.0.0.1:9/mlflow does not answer \("):
        store.records()
    over, before = threading.Event(), set(threading.enumerate())
    monkeypatch.setattr("sqlalchemy.create_engine", lambda *args, **options: over.wait())
    monkeypatch.setattr(database, "PATIENCE", 0.01)
    with pytest.raises(PipelineError, match="does not answer within"):
        store.records()
    waiting = set(threading.enumerate()) - before
    over.set()
    assert waiting
    assert all(thread.daemon for thread in waiting), "a thread keeps the process"


def test_a_database_keeps_its_artifacts_in_the_repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []

    def make(*arguments: str) -> None:
        made.append(arguments)
        raise OSError("no migrations, which take seconds")

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", make)
    with pytest.raises(PipelineError, match="no migrations"):
        store.connect()
    ((address, folder),) = made
    assert address.startswith(f"sqlite:///{workspace}/.pipeline/"), "under another name until it is whole"
    assert folder == str(workspace / "mlartifacts")
    assert [path.name for path in (workspace / ".pipeline").iterdir()] == ["mlflow.lock"]


def log_all(weights: Path) -> str:
    """Log a run with a file and a model; return the id of the model."""
    with store.start("run", {}) as run:
        run.log_file(weights)
        run.log_model(weights, "vae", (1, 8, 8), 2)
    model = next(record.model_id for record, _ in store.records() if record.id == run.id)
    assert model
    return model


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_repository_may_be_moved_or_copied(
    how: object, workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8))
    save_weights("vae.safetensors", Trained(config.build(), config, "blobs", 4.0))
    MlflowClient(store.store_uri()).create_experiment("of another place", artifact_location="file:///srv/elsewhere/9")
    model = log_all(Path("vae.safetensors"))
    there = tmp_path_factory.mktemp("there") / "what? 50%"
    before = tree(workspace)
    how(str(workspace), str(there))  # type: ignore[operator]
    monkeypatch.chdir(there)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # which MLflow sets to the address in use
    ((_, run),) = store.records()
    fetched = run.fetch("vae.safetensors", Path())
    assert fetched
    assert fetched.is_relative_to(there)
    images = np.zeros((1, 1, 8, 8), np.float32)
    assert mlflow.pyfunc.load_model(f"models:/{model}").predict(images)["code"].shape == (1, 2)
    log_all(Path("vae.safetensors"))
    assert tree(workspace) == (before if how is shutil.copytree else {})
    with closing(sqlite3.connect("mlflow.db")) as file:
        places = [place for (place,) in file.execute("SELECT artifact_uri FROM runs")]
        places += [place for (place,) in file.execute("SELECT artifact_location FROM logged_models")]
    assert all(place.startswith(f"{there.as_uri()}/mlartifacts/") for place in places)
    other = MlflowClient(store.store_uri()).get_experiment_by_name("of another place")
    assert other.artifact_location == "file:///srv/elsewhere/9"


@pytest.mark.parametrize(
    ("uri", "file", "is_absent", "folder"),
    [
        ("sqlite:///{here}/mlflow.db", "{here}/mlflow.db", True, "{here}/mlartifacts"),
        ("sqlite:///{here}/sub/mlflow.db", "{here}/sub/mlflow.db", True, "{here}/mlartifacts"),
        ("sqlite:////srv/none/mlflow.db", "/srv/none/mlflow.db", True, "/srv/none/mlartifacts"),
        ("sqlite://", None, False, None),
        ("sqlite:///file:memory?mode=memory", None, False, None),
        ("postgresql://host/mlflow", None, False, "{here}/mlartifacts"),
        ("mysql+pymysql://host/mlflow", None, False, "{here}/mlartifacts"),
        ("mssql+pyodbc://host/mlflow", None, False, "{here}/mlartifacts"),
        ("oracle://host/mlflow", None, False, "{here}/mlartifacts"),
        ("http://host:5000", None, False, None),
        ("{here}", None, False, None),
        ("{here}/none", None, True, None),
        ("file://{here}/a%20b", None, True, None),
        ("file://{here}", None, False, None),
    ],
)
def test_an_address_says_where_the_database_and_its_artifacts_are(
    uri: str, file: str | None, is_absent: bool, folder: str | None, workspace: Path
) -> None:
    def here(text: str | None) -> Path | None:
        return Path(text.format(here=workspace)) if text else None

    uri = uri.format(here=workspace)
    assert (database.file_of(uri), database.is_absent(uri)) == (here(file), is_absent)
    assert database.artifacts(uri, workspace) == here(folder)


@pytest.mark.usefixtures("workspace")
def test_a_wrong_address_is_named_with_one_that_is_right() -> None:
    with pytest.raises(
        ParamsError, match=r"^MLFLOW_TRACKING_URI: sqlite:nothing is not a URL; allowed is one like sqlite:///mlf"
    ):
        database.file_of("sqlite:nothing")


def test_a_database_that_another_process_writes_is_busy(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_LOCKED", 0.01)
    with closing(sqlite3.connect(store)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError) as caught:
            database._is_whole(store)
    assert str(caught.value) == f"{store} is locked by another process for 0 s; run again once that has ended"
    assert database._is_whole(store)


def test_what_sqlite_finds_wrong_is_one_line_and_empty_where_all_is_right(store: Path) -> None:
    assert database.damage(store) == ""
    content = store.read_bytes()
    store.write_bytes(content[:4096] + b"x" * (len(content) - 4096))
    found = database.damage(store)
    assert found not in ("", "ok")
    assert "\n" not in found
    store.write_text("text" * 2000)
    assert database.damage(store) == "file is not a database"


def test_a_lock_names_its_holder_and_who_does_not_wait_is_told(workspace: Path) -> None:
    path, end = workspace / "new" / "folder" / "x.lock", "; run it again when that one has ended"
    with database.locked(path):
        assert path.read_text() == str(os.getpid())
        with (
            pytest.raises(BusyError, match=f"^another runs as process {os.getpid()}{end}$"),
            database.locked(path, "another runs"),
        ):
            pass
        path.write_text("")
        with pytest.raises(BusyError, match=rf"^another runs as process \?{end}$"), database.locked(path, "another runs"):
            pass
    path.write_text("999999999 of a process that is gone")
    with database.locked(path, "another runs"):
        assert path.read_text() == str(os.getpid())


@pytest.mark.usefixtures("quick")
def test_artifacts_of_a_database_elsewhere_lie_beside_it(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    client, experiment = store.connect()
    assert client.get_experiment(experiment).artifact_location == f"{elsewhere.parent.as_uri()}/mlartifacts/{EXPERIMENT}"
    assert not (workspace / "mlartifacts").exists()


@pytest.mark.usefixtures("workspace")
def test_messages_have_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with store.start("run", {}):
        pass
    assert store.find("a").id is None
    with pytest.raises(PipelineError) as caught:
        store.records()
    said = str(caught.value) + capsys.readouterr().err
    assert "127.0.0.1" in said
    assert "hunter2" not in said
