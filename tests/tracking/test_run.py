"""What a run holds, and what a store that is slow, hangs or is gone may cost: little."""

import json
import os
import platform
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib.image
import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import PipelineError
from pipeline.params import Params
from pipeline.storage import md5, rounded
from pipeline.tracking import events, store
from pipeline.tracking import run as tracking_run
from pipeline.tracking.record import Record
from pipeline.tracking.run import Run
from pipeline.tracking.values import tile
from tests.tracking.fake_training import history, settings, train

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]


def only() -> tuple[Record, Run]:
    (found,) = store.records()
    return found


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("store")
def test_training_is_one_run_with_params_metrics_data_and_model(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train_vae")
    monkeypatch.setenv("DVC_EXP_NAME", "four")
    train("vae", params.model_copy(update={"beta": 4.0}), data_file, workspace / "out", workspace / "out")
    record, run = only()
    weights = workspace / "out" / "vae.safetensors"
    assert (record.name, record.status) == ("β=4 vae seed=1 16-8-2", "FINISHED")
    expected = {"dataset": "blobs", "dvc.stage": "train_vae", "dvc.exp.name": "four", "data.md5": md5(data_file)}
    assert expected.items() <= record.tags.items()
    assert record.tags["model.md5"] == md5(weights)
    assert record.params["beta"] == "4"
    assert record.params["model.latent_dim"] == "2"
    assert record.metrics.items() >= {"epochs": 4.0, "best_epoch": 4.0, "best_val_recon": 33.5}.items()
    assert list(run.points("val/loss")) == [1, 2, 3, 4]
    assert run.files().keys() == {"vae.safetensors", "vae_history.csv"}
    assert record.has_data
    note = record.tags["mlflow.note.content"]
    first, model, again, command = note.split("\n\n")
    assert again == "Train it again:"
    assert command.startswith("    dvc exp run \\\n      -S beta=4 ")
    assert first == "Validation, epoch 4 of 4: **ELBO -33.90** nats per image: reconstruction 33.50, KL 0.40"
    assert model == "VAE of blobs: 2 latent dimensions, hidden layers [16, 8], β = 4, seed 1"

    found = store.find(md5(weights))
    metrics = {
        "dataset": "blobs",
        "profile": "fast",
        "test/recon": 30.0,
        "test/kl": 2.0,
        "test/elbo": -32.0,
        "holes/note": "none",
    }
    events.log_evaluation(found, metrics, [])
    record, _ = only()
    assert record.status == "FINISHED"
    assert record.tags["evaluate.profile"] == "fast"
    assert "holes/note" not in record.metrics
    first = "Test images (fast evaluation): **ELBO -32.00** nats per image: reconstruction 30.00, KL 2.00\n"
    assert record.tags["mlflow.note.content"].startswith(first)


@pytest.mark.usefixtures("store")
def test_a_run_holds_this_and_nothing_else(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setenv("DVC_STAGE", "claims/dvc.yaml:train_comparison")
    train("vae", params, data_file, workspace / "out", workspace / "out", "comparison")
    weights, client = workspace / "out" / "vae.safetensors", MlflowClient(store.store_uri())
    metrics = {"dataset": "blobs", "profile": "full", "test/recon": 30.0, "test/kl": 2.0, "test/gray_floor": 1.0}
    found = store.find(md5(weights))
    events.log_evaluation(found, metrics, [data_file])
    events.log_figures(found, "figures", [workspace / "out" / "vae_history.csv"])
    events.log_claims(found, {"a": {"verdict": "fails"}, "b": {"verdict": "holds"}, "c": {"verdict": "holds"}})
    record, run = only()
    held = client.get_run(record.id)

    assert (record.name, record.status, record.is_deleted) == ("β=1 vae seed=1 16-8-2", "FINISHED", False)
    assert held.info.end_time >= held.info.start_time
    values = settings("vae", params).items()
    assert record.params == {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in values}
    expected = {
        "dataset": "blobs",
        "data.md5": md5(data_file),
        "source.sha256": "0",
        "device": "cpu",
        "threads": "1",
        "torch": "0",
        "role": "comparison",
        "dvc.stage": "train_comparison",
        "model.md5": md5(weights),
        "evaluate.profile": "full",
        "claims": "2 holds, 1 fails",
        "host": platform.node(),
        "process": store.process(os.getpid()),
        "mlflow.user": "ada",
        "mlflow.runName": record.name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "train_comparison",
        "mlflow.loggedImages": "True",
    }
    tags = {key: value for key, value in record.tags.items() if not key.startswith("mlflow.") or key in expected}
    assert tags == expected
    curves = {
        key: [(step, rounded(row[key]), 1000 * step) for step, row in enumerate(history("vae", params), 1)]
        for key in ("train/loss", "val/loss", "val/recon", "val/kl")
    }
    curves["samples_per_second"] = [(step, 1000.0, 1000 * step) for step in (1, 2, 3, 4)]
    last = history("vae", params)[-1]
    numbers = {f"best_{key.replace('/', '_')}": last[key] for key in ("epoch", "val/loss", "val/recon", "val/kl")}
    numbers |= {"epochs": 4.0, "test_recon": 30.0, "test_kl": 2.0}
    points = {key: client.get_metric_history(record.id, key) for key in record.metrics}
    begun = held.info.start_time
    assert curves == {key: [(p.step, p.value, p.timestamp - begun) for p in points[key]] for key in curves}
    once = {key: [(point.step, point.value) for point in points[key]] for key in points.keys() - curves}
    assert once == {key: [(0, value)] for key, value in numbers.items()}
    assert all(0 <= points[key][0].timestamp - begun < 600_000 for key in once)

    made = [
        "claims.json",
        "dataset.safetensors",
        "evaluation.json",
        "figures/vae_history.csv",
        "vae.safetensors",
        "vae_history.csv",
    ]
    assert sorted(run.files()) == made
    assert run.files() == {path: (run.fetch(path, Path()) or data_file).stat().st_size for path in made}
    assert (run.fetch("evaluation.json", Path()) or data_file).read_text() == json.dumps(metrics, indent=2) + "\n"
    (picture,) = [entry.path for entry in client.list_artifacts(record.id, "images") if entry.path.endswith(".png")]
    assert "+step+4+" in picture

    (data,) = held.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("blobs", md5(data_file))
    assert json.loads(data.dataset.source) == {"uri": str(data_file)}
    assert {tag.key: tag.value for tag in data.tags} == {"mlflow.data.context": "training"}
    model = client.get_logged_model(str(record.model_id))
    assert (model.name, model.source_run_id, model.status, model.params) == ("vae", record.id, "READY", record.params)
    assert model.tags["input"] == "Images [N, C, H, W], float32, each value an intensity in [0, 1]; other values are refused."
    assert {metric.key: (metric.value, metric.timestamp) for metric in model.metrics or []} == {
        key: (value, points[key][0].timestamp) for key, value in numbers.items() if not key.startswith("test")
    }
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{record.model_id}"))
    required = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in required] == ["mlflow", "numpy", "pydantic", "safetensors", "torch"]


@pytest.mark.usefixtures("store")
def test_logged_model_loads_with_the_signature_of_images(params: Params, data_file: Path, workspace: Path) -> None:
    train("vae", params, data_file, workspace / "out", workspace / "out")
    loaded = mlflow.pyfunc.load_model(f"models:/{only()[0].model_id}")
    signature = loaded.metadata.signature
    assert [spec.shape for spec in signature.inputs.inputs] == [(-1, 1, 8, 8)]
    assert {spec.name: spec.shape for spec in signature.outputs.inputs} == {"code": (-1, 2), "reconstruction": (-1, 1, 8, 8)}
    result = loaded.predict(np.random.default_rng(0).random((3, 1, 8, 8), np.float32))
    assert (result["code"].shape, result["reconstruction"].shape) == ((3, 2), (3, 1, 8, 8))


@pytest.mark.usefixtures("store")
def test_logged_data_set_has_digest_and_shape_of_its_images(params: Params, data_file: Path, workspace: Path) -> None:
    train("ae", params, data_file, workspace / "out", workspace / "out")
    entity = MlflowClient(store.store_uri()).get_run(only()[0].id)
    (data,) = [logged.dataset for logged in entity.inputs.dataset_inputs]
    assert (data.name, data.digest) == ("blobs", md5(data_file))
    assert "[120, 1, 8, 8]" in data.profile


def test_tile_puts_images_in_rows() -> None:
    images = np.arange(6).reshape(6, 1, 1, 1).repeat(2, axis=2) / 255
    assert tile(images, columns=3).tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]


def test_tile_keeps_colors() -> None:
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])
    assert tile(colors.reshape(3, 3, 1, 1) / 255, columns=3).tolist() == [colors.tolist()]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_is_logged_as_a_picture_of_its_step_also_by_a_run_that_is_stopped(
    channels: int, error: type[BaseException] | None
) -> None:
    with pytest.raises(error) if error else nullcontext(), store.start("run", {}) as run:
        run.log_grid("samples", np.ones((4, channels, 2, 3)), step=5, columns=2)
        if error:
            raise error
    artifacts = MlflowClient(store.store_uri()).list_artifacts(run.id, "images")
    (picture,) = [found.path for found in artifacts if found.path.endswith(".png")]
    assert re.match(r"images/samples\W+step\W+5\W", picture)
    assert matplotlib.image.imread(run.fetch(picture, Path()) or "").shape[:2] == (4, 6)


@pytest.mark.usefixtures("store")
def test_points_are_rounded_as_in_files_and_finite() -> None:
    with store.start("run", {}) as run:
        run.log_epoch({"epoch": 1, "val/loss": 132.20001234, "val/kl": float("nan")}, 1.0)
        run.log_metrics({"test/recon": 132.20001234, "test/kl": float("inf")})
    assert run.points("val/loss") == {1: 132.2}
    assert run.points("val/kl") == {}
    assert only()[0].metrics == {"val/loss": 132.2, "test/recon": 132.2}


@pytest.mark.usefixtures("store")
def test_new_value_of_a_metric_replaces_the_old_one_and_an_equal_one_adds_nothing() -> None:
    with store.start("run", {}) as run:
        for value in (3.0, 2.0, 2.0):
            run.log_metrics({"test/recon": value})
    assert only()[0].metrics == {"test/recon": 2.0}
    assert len(MlflowClient(store.store_uri()).get_metric_history(run.id, "test/recon")) == 2


@pytest.mark.usefixtures("store")
def test_run_that_fails_or_is_killed_has_that_status() -> None:
    for error, status in {ValueError(): "FAILED", KeyboardInterrupt(): "KILLED", SystemExit(143): "KILLED"}.items():
        with pytest.raises(type(error)), store.start(status, {}) as run:
            raise error
        assert [record.status for record, _ in store.records() if record.id == run.id] == [status]


@pytest.mark.usefixtures("store")
def test_continued_run_is_the_same_run() -> None:
    with store.start("run", {}) as first:
        first.log_epoch({"epoch": 1, "val/loss": 3.0}, 1.0)
    with store.start("run", {}, first.id) as second:
        assert only()[0].status == "RUNNING"
        for epoch in (1, 2):
            second.log_epoch({"epoch": epoch, "val/loss": 3.0}, float(epoch))
    assert second.id == first.id
    assert len(MlflowClient(store.store_uri()).get_metric_history(first.id, "val/loss")) == 2


@pytest.mark.usefixtures("store")
def test_a_completed_run_keeps_its_tags_but_for_those_that_follow_from_files() -> None:
    with store.start("run", {"role": "main", "evaluate.profile": "fast", "claims": "2 holds"}):
        pass
    client = MlflowClient(store.store_uri())
    for count in (2, 0):
        run = Run(client, client.get_run(only()[0].id), complete=True)
        run.set_tags({"role": "sweep", "evaluate.profile": "full", "claims": "1 holds, 1 fails"})
        assert run.added["tags"] == count
    expected = {"role": "main", "evaluate.profile": "full", "claims": "1 holds, 1 fails"}
    assert expected.items() <= only()[0].tags.items()


@pytest.mark.usefixtures("store")
def test_a_text_of_the_same_length_replaces_the_old_one_and_an_equal_one_adds_nothing() -> None:
    for text in ("0.8385", "0.8386", "0.8386"):
        with store.start("run", {}, only()[0].id if store.records() else None) as run:
            run.log_text("evaluation.json", text)
        found = run.fetch("evaluation.json", Path("copy"))
        assert found
        assert found.read_text() == text
    assert "files" not in run.added


class Server(ThreadingHTTPServer):
    """A server that never answers, and counts."""

    asked, daemon_threads = 0, True


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


FILES = ["vae.safetensors", "vae_history.csv", "vae_train.json"]


def test_server_that_hangs_is_asked_once(
    hanging: Server, params: Params, data_file: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("vae", params, data_file, workspace / "out", workspace / "out")
    assert hanging.asked == 1
    assert capsys.readouterr().err.count("warning: MLflow failed") == 1
    assert outputs(workspace / "out") == FILES


def test_server_that_refuses_leaves_a_warning_and_all_files(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    train("vae", params, data_file, workspace / "out", workspace / "out")
    assert capsys.readouterr().err.count("warning: MLflow failed") == 1
    assert outputs(workspace / "out") == FILES
    with pytest.raises(PipelineError, match="does not answer"):
        store.records()


class Clock:
    """A clock that calls move on."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.mark.usefixtures("store")
def test_slow_server_gets_all_points_at_the_end(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, batches = Clock(), []
    log_batch = MlflowClient.log_batch

    def slow(self: MlflowClient, run: str, metrics: list = [], **others: list) -> None:  # noqa: B006 (as MLflow has it)
        clock.now += 2.0
        batches.append(len(metrics))
        log_batch(self, run, metrics=metrics, **others)

    monkeypatch.setattr(tracking_run, "SLOW", 1.0)
    monkeypatch.setattr(tracking_run, "time", clock)
    monkeypatch.setattr(MlflowClient, "log_batch", slow)
    train("vae", params, data_file, workspace / "out", workspace / "out")
    record, run = only()
    assert list(run.points("val/loss")) == [1, 2, 3, 4]
    assert record.status == "FINISHED"
    assert record.tags["model.md5"] == md5(workspace / "out" / "vae.safetensors")
    assert batches.count(0) + 1 == len(batches) - 1, "the points of all epochs in one batch, the summary in another"
    assert record.params["model.latent_dim"] == "2"
    assert record.model_id
    assert run.files().keys() == {"vae.safetensors", "vae_history.csv"}
    assert "VAE of blobs" in record.tags["mlflow.note.content"]
    assert capsys.readouterr().err.count("note: MLflow took 2.0 s for a call") == 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock, and an MLflow that takes 11 s over each file, picture and batch."""
    clock = Clock()

    def delay(name: str) -> None:
        call = getattr(MlflowClient, name)

        def delayed(*args: object, **options: object) -> object:
            clock.now += 11.0
            return call(*args, **options)

        monkeypatch.setattr(MlflowClient, name, delayed)

    for name in ("log_artifact", "log_artifacts", "log_batch"):
        delay(name)
    monkeypatch.setattr(tracking_run, "SLOW", 1.0)
    monkeypatch.setattr(tracking_run, "time", clock)
    return clock


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("stage", ["train_vae", None])
def test_what_a_slow_server_leaves_no_time_for_is_the_least_worth_and_is_named(
    stage: str | None,
    slow: Clock,
    params: Params,
    data_file: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if stage:
        monkeypatch.setenv("DVC_STAGE", stage)
    begun = slow.now
    train("vae", params, data_file, workspace / "out", workspace / "out")
    record, run = only()
    assert record.status == "FINISHED"
    assert record.tags["model.md5"] == md5(workspace / "out" / "vae.safetensors")
    assert {"epochs", "val/loss"} <= record.metrics.keys()
    assert record.model_id, "before files and pictures"
    assert not [path for path in run.files() if path.startswith("images")]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: MLflow")]
    assert len(lines) == 2
    assert lines[1].startswith("note: MLflow is too slow; left out: ")
    assert lines[1].endswith("grids" if stage is None else "grids; `latent sync` adds all but grids")
    assert slow.now - begun < 4 * 11 + 30 + 2 * 11


@pytest.mark.usefixtures("store")
def test_evaluation_on_a_slow_server_makes_a_champion(
    params: Params, data_file: Path, workspace: Path, request: pytest.FixtureRequest
) -> None:
    train("vae", params, data_file, workspace / "out", workspace / "out")
    slow = request.getfixturevalue("slow")
    found = store.find(md5(workspace / "out" / "vae.safetensors"))
    metrics = {"dataset": "blobs", "profile": "full", "test/recon": 30.0, "test/kl": 2.0, "test/elbo": -32.0}
    events.log_evaluation(found, metrics, [workspace / "out" / "vae_history.csv"] * 9)
    assert MlflowClient(store.store_uri()).get_model_version_by_alias("latent-spaces-blobs", "champion").run_id == found.id
    assert slow.now - 1000 < 11 * 2 + 30 + 2 * 11


@pytest.mark.usefixtures("store")
def test_data_that_another_process_stores_at_the_same_time_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    log_inputs, calls = MlflowClient.log_inputs, []

    def racing(self: MlflowClient, *args: object, **others: object) -> None:
        calls.append(others)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed: datasets.experiment_id, datasets.name, datasets.digest")
        log_inputs(self, *args, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_inputs", racing)
    with store.start("a", {}) as run:
        run.log_data("blobs", "data.safetensors", "0" * 32, (1, 1, 8, 8))
    assert len(calls) == 2
    record = run.record()
    assert record
    assert record.has_data


@pytest.mark.usefixtures("store")
def test_server_that_fails_during_training_leaves_one_warning(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    assert outputs(workspace / "out") == FILES
