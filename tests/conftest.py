"""What several test files need: a clean environment, tiny data, and a runtime of one thread."""

import math
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import sqlalchemy
from diskcache.core import DEFAULT_SETTINGS
from mlflow import MlflowClient

from pipeline import runtime
from pipeline.data import Dataset, Images, save_dataset
from pipeline.params import Params, load_params
from pipeline.storage import load_arrays, save_arrays
from pipeline.tracking import run as tracking_run
from pipeline.tracking import store as tracking

ROOT = Path(__file__).parents[1]
MNIST = ROOT.parent / "shared" / "mnist"

# Property tests try the same examples each time, however long a busy machine takes.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")

# A shell that starts the tests in the background lets them ignore Ctrl-C, which the processes of the tests would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# MLflow's and DVC's databases need not outlive a loss of power here, and a wait for the disk takes longer than a write.
DEFAULT_SETTINGS["sqlite_synchronous"] = 0


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _do_not_wait_for_the_disk(connection: object, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session", autouse=True)
def _site_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site_cache")))
        yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC and MLflow leave variables that would lead a test to another repository or store; a make within make says more."""
    for name in os.environ:
        if name.startswith(("DVC_", "MLFLOW_")) and not name.startswith(("DVC_SITE_CACHE_DIR", "MLFLOW_HTTP_REQUEST_")):
            monkeypatch.delenv(name)
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")  # where the servers of the tests are


@pytest.fixture
def rt() -> Iterator[runtime.Runtime]:
    """A CPU runtime of one thread."""
    with runtime.use("cpu", threads=1) as used:
        yield used


def blobs(count: int, seed: int) -> Images:
    """Return images ``[count, 1, 8, 8]`` of a bright square whose corner is the label's, with noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    pixels = random.integers(0, 40, (count, 1, 8, 8))
    for image, label in zip(pixels, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 200
    return Images(pixels.astype(np.uint8), labels.astype(np.int64))


@pytest.fixture
def dataset() -> Dataset:
    """A tiny data set of four classes."""
    return Dataset("blobs", blobs(120, seed=0), blobs(40, seed=1))


@pytest.fixture
def data_file(dataset: Dataset, tmp_path: Path) -> Path:
    """The tiny data set as a prepared file."""
    save_dataset(tmp_path / "dataset.safetensors", dataset)
    return tmp_path / "dataset.safetensors"


@pytest.fixture
def params() -> Params:
    """The shipped params with models, batches and epochs for the tiny data set."""
    shipped = load_params(ROOT / "params.yaml").model_dump()
    shipped["train"] |= {"batch_size": 16, "threads": 1, "learning_rate": 1e-2, "device": "cpu"}
    shipped["tracking"]["sample_every"] = 2
    shipped["data"]["val_size"] = 0.2
    for name in ("ae", "vae"):
        shipped[name] |= {"hidden_dims": [16, 8], "epochs": 4}
    shipped["vae"]["warmup_epochs"] = 1  # so that the best epoch need not be the last
    shipped["vae"]["decoder_input_lr_multiplier"] = 2.0
    return Params.model_validate(shipped)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository root, the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow store: runs log nothing."""
    monkeypatch.setattr(tracking, "start", lambda *args: tracking_run.Run())
    monkeypatch.setattr(tracking, "find", lambda *args: tracking_run.Run())


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow store without an experiment; making one takes seconds, copying it milliseconds."""
    folder = tmp_path_factory.mktemp("store")
    with chdir(folder):
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(_template: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MLflow store in the workspace, which gets each epoch at once, however long a busy machine takes over a call."""
    monkeypatch.setattr(tracking_run, "SLOW", math.inf)
    monkeypatch.setattr(tracking_run, "SEND_SECONDS", 0.0)
    return Path(shutil.copy(_template, workspace))


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file, which keeps its time, as on a disk that forgets."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def craft(path: Path, wrong: Mapping[str, Any]) -> None:
    """Write a file of arrays anew, with other arrays or entries of its header and a right checksum."""
    arrays, header = load_arrays(path)
    for name, value in wrong.items():
        (arrays if isinstance(value, np.ndarray) else header)[name] = value
    save_arrays(path, arrays, header)
