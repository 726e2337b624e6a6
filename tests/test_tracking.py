"""What a training tells MLflow, what evaluate adds, and what a store that is slow, hangs or is gone may cost: little."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline import runs, tracking
from pipeline.errors import PipelineError
from pipeline.experiment import train
from pipeline.files import md5
from pipeline.params import Params

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]

SETTINGS = {"model.name": "vae", "model.hidden_dims": [16, 8], "model.latent_dim": 2, "seed": 1, "beta": 4.0}


def only(name: str | None = None) -> tuple[tracking.Record, tracking.Run]:
    (found,) = [pair for pair in tracking.records() if name in (None, pair[0].name)]
    return found


def scored(elbo: float, profile: str = "full", weights: str = "") -> str | None:
    """Log a run of this test ELBO with a model; return its id."""
    with tracking.start(f"elbo {elbo}", {"dataset": "blobs"}) as run:
        run.log_params(SETTINGS)
        if weights:
            run.log_model(Path(weights), "vae", 64, 2)
        runs.evaluated(run, profile, {"test/elbo": elbo, "test/recon": -elbo - 5, "test/kl": 5.0}, "blobs", [])
    return run.id


def champion() -> str | None:
    return MlflowClient(tracking.store_uri()).get_model_version_by_alias("latent-spaces-blobs", "champion").run_id


def test_a_training_is_one_run_that_says_what_it_is(
    store: Path, params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train_vae")
    monkeypatch.setenv("DVC_EXP_NAME", "four")
    train("vae", params.model_copy(update={"beta": 4.0}), data_file, workspace / "out", workspace / "out")
    record, run = only()
    weights = workspace / "out" / "vae.safetensors"
    assert (record.name, record.status) == ("vae 16-8-2 beta=4 seed=1", "FINISHED")
    expected = {"dataset": "blobs", "dvc.stage": "train_vae", "dvc.exp.name": "four", "data.md5": md5(data_file)}
    assert expected.items() <= record.tags.items()
    assert record.tags["model.md5"] == md5(weights)
    assert record.params["beta"] == "4"
    assert record.params["model.latent_dim"] == "2"
    assert list(run.points("val/loss")) == [1, 2, 3, 4]
    assert run.files().keys() == {"vae.safetensors", "vae_history.csv"}
    assert record.has_data
    note = record.tags["mlflow.note.content"]
    assert "**VAE** of **blobs**: 2 latent dimensions, hidden layers [16, 8], β = 4, seed 1." in note
    assert f"| {record.metrics['best/val/recon']:.2f} | {record.metrics['best/val/kl']:.2f} |" in note
    assert "dvc exp run -S beta=4 -S data.name=blobs" in note
    assert "-S 'vae.hidden_dims=[16,8]'" in note

    images = np.random.default_rng(0).random((3, 64), np.float32)
    loaded = mlflow.pyfunc.load_model(f"models:/{record.model_id}")
    assert loaded.predict(images)["reconstruction"].shape == (3, 64)

    found = tracking.find(md5(weights))
    runs.evaluated(found, "fast", {"test/recon": 30.0, "test/kl": 2.0, "test/elbo": -32.0}, "blobs", [])
    record, _ = only()
    assert record.status == "FINISHED"
    assert "| test images (fast) | 30.00 | 2.00 | -32.00 |" in record.tags["mlflow.note.content"]
    assert champion() == record.id


def test_points_say_what_the_files_say(store: Path) -> None:
    with tracking.start("run", {}) as run:
        run.log_epoch({"epoch": 1, "val/loss": 132.20001234, "val/kl": float("nan")}, 1.0)
    assert run.points("val/loss") == {1: 132.2}
    assert run.points("val/kl") == {}


def test_measured_again_the_new_value_counts_and_an_equal_one_adds_nothing(store: Path) -> None:
    with tracking.start("run", {}) as run:
        for value in (3.0, 2.0, 2.0):
            run.log_metrics({"test/recon": value})
    assert only()[0].metrics == {"test/recon": 2.0}
    assert len(MlflowClient(tracking.store_uri()).get_metric_history(run.id, "test/recon")) == 2


def test_the_champion_has_the_best_elbo_of_full_evaluations(
    store: Path, params: Params, data_file: Path, workspace: Path
) -> None:
    train("vae", params, data_file, workspace / "out", workspace / "out")
    weights = str(workspace / "out" / "vae.safetensors")
    first = scored(-30.0, "fast", weights)
    assert champion() == first
    second = scored(-35.0, "full", weights)
    assert champion() == second
    scored(-40.0, "full", weights)
    assert champion() == second
    versions = MlflowClient(tracking.store_uri()).search_model_versions("name = 'latent-spaces-blobs'")
    assert {version.run_id for version in versions} == {first, second}


def test_a_run_that_fails_or_is_killed_has_that_status(store: Path) -> None:
    for error, status in {ValueError(): "FAILED", KeyboardInterrupt(): "KILLED", SystemExit(143): "KILLED"}.items():
        with pytest.raises(type(error)), tracking.start(status, {}) as run:
            raise error
        assert [record.status for record, _ in tracking.records() if record.id == run.id] == [status]


class Server(ThreadingHTTPServer):
    """A stand-in that answers after ``delay`` seconds, with an error unless ``works``, and counts."""

    delay, asked, daemon_threads = 0.0, 0, True


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked += 1  # type: ignore[attr-defined]
            over.wait(10)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield server
    over.set()
    server.shutdown()
    server.server_close()


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_server_that_hangs_costs_one_call(
    hanging: Server, params: Params, data_file: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.perf_counter()
    train("vae", params, data_file, workspace / "out", workspace / "out")
    assert time.perf_counter() - begun < 5
    assert hanging.asked == 1
    assert capsys.readouterr().err.count("warning: MLflow failed") == 1
    assert len(outputs(workspace / "out")) == 3


def test_a_server_that_refuses_costs_nothing(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    begun = time.perf_counter()
    train("vae", params, data_file, workspace / "out", workspace / "out")
    assert time.perf_counter() - begun < 5
    assert capsys.readouterr().err.count("warning: MLflow failed") == 1
    with pytest.raises(PipelineError, match="does not answer"):
        tracking.records()


class Clock:
    """A clock that calls move on."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


def test_a_slow_server_gets_all_points_at_the_end(
    store: Path,
    params: Params,
    data_file: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, batches = Clock(), []
    log_batch = MlflowClient.log_batch

    def slow(self: MlflowClient, run: str, metrics: list = [], **others: list) -> None:  # noqa: B006 (as MLflow has it)
        clock.now += 2.0
        batches.append(len(metrics))
        log_batch(self, run, metrics=metrics, **others)

    monkeypatch.setattr(tracking, "SLOW", 1.0)
    monkeypatch.setattr(tracking, "time", clock)
    monkeypatch.setattr(MlflowClient, "log_batch", slow)
    train("vae", params, data_file, workspace / "out", workspace / "out")
    record, run = only()
    assert list(run.points("val/loss")) == [1, 2, 3, 4]
    assert record.status == "FINISHED"
    assert record.tags["model.md5"] == md5(workspace / "out" / "vae.safetensors")
    assert clock.now - 1000 <= 2.0 * 4, f"batches of {batches}"
    assert capsys.readouterr().err.count("note: MLflow took 2.0 s for a call") == 1


def test_a_server_that_dies_in_the_middle_warns_once(
    store: Path,
    params: Params,
    data_file: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = 0
    log_batch = MlflowClient.log_batch

    def dying(self: MlflowClient, *args: object, **others: object) -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise ConnectionError("gone")
        log_batch(self, *args, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", dying)
    train("vae", params, data_file, workspace / "out", workspace / "out")
    assert asked == 4
    assert capsys.readouterr().err.count("warning: MLflow failed (gone)") == 1
    monkeypatch.undo()
    assert len(outputs(workspace / "out")) == 3
