"""How often a training asks an MLflow server: each call costs the server time, with passwords 0.08 s of a core."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import requests

from pipeline.params import Params
from pipeline.storage import md5
from pipeline.tracking import events, store
from pipeline.tracking import run as tracking_run
from tests.tracking.fake_training import train
from tests.tracking.test_run import Clock

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
SERVER = ["--host", "127.0.0.1", "--workers", "1", "--no-serve-artifacts"]


@pytest.fixture
def calls(_template: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests to an MLflow server, which leaves artifacts to its clients as one with S3 does."""
    workspace.joinpath("server.db").write_bytes(_template.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{workspace}/server.db"}
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), *SERVER]
    command += ["--default-artifact-root", str(workspace / "artifacts")]
    asked: list[str] = []
    send = requests.Session.send

    def counted(self: requests.Session, request: requests.PreparedRequest, **options: object) -> requests.Response:
        asked.append(f"{request.method} {request.path_url.partition('?')[0]}")
        return send(self, request, **options)  # type: ignore[arg-type]

    with subprocess.Popen(command, env=os.environ | own, stderr=subprocess.PIPE, text=True, start_new_session=True) as server:
        try:
            assert any("Uvicorn running on" in line for line in server.stderr or ())  # then it listens
            urlopen(f"http://127.0.0.1:{port}/health").close()
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            monkeypatch.setattr(tracking_run, "SLOW", 1e9)
            monkeypatch.setattr(requests.Session, "send", counted)
            yield asked
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # it has nothing to lose


def test_a_training_of_30_epochs_asks_a_server_25_times_at_most(
    calls: list[str], params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, log_epoch = Clock(), tracking_run.Run.log_epoch

    def take_two_seconds(run: tracking_run.Run, row: dict[str, float], elapsed: float) -> None:
        clock.now += 2.0
        if row["epoch"] % 5 == 0:
            for key in ("samples", "reconstructions"):
                run.log_grid(key, np.zeros((8, 1, 8, 8)), int(row["epoch"]))
        log_epoch(run, row, elapsed)

    monkeypatch.setattr(tracking_run.Run, "log_epoch", take_two_seconds)
    monkeypatch.setattr(tracking_run, "time", clock)
    section = params.vae.model_copy(update={"epochs": 30})
    store.connect()  # makes the experiment
    calls.clear()
    train("vae", params.model_copy(update={"vae": section}), data_file, workspace / "out", workspace / "out")
    assert len(calls) <= 25, calls
    ((record, run),) = store.records()
    assert (record.status, list(run.points("val/loss"))) == ("FINISHED", list(range(1, 31)))
    assert record.model_id
    assert "VAE of blobs" in record.tags["mlflow.note.content"]

    calls.clear()
    metrics = {"dataset": "blobs", "profile": "full", "test/recon": 30.0, "test/kl": 2.0, "test/elbo": -32.0}
    events.log_evaluation(store.find(md5(workspace / "out" / "vae.safetensors")), metrics, [workspace / "out/vae_history.csv"])
    assert len(calls) <= 25, calls
    client, _ = store.connect()
    assert client.get_model_version_by_alias("latent-spaces-blobs", "champion").run_id == record.id
