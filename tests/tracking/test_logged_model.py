"""A logged model loads anywhere, with the code it was logged with, and is in the store whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.tracking import logged_model, store
from pipeline.tracking.run import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]


@pytest.fixture
def weights(store: Path) -> Path:
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8))
    save_weights("vae.safetensors", Trained(config.build(), config, "blobs", 4.0))
    return Path("vae.safetensors")


def logged(weights: Path, run: Run) -> str:
    run.log_model(weights, "vae", (1, 8, 8), 2)
    model = next(record.model_id for record, _ in store.records() if record.id == run.id)
    assert model
    return model


def statuses(run: Run) -> tuple[str, list[str]]:
    client = MlflowClient(store.store_uri())
    found = client.get_run(str(run.id))
    return found.info.status, [str(model.status) for model in client.search_logged_models([found.info.experiment_id])]


LOAD = """
import sys
import pipeline  # that of another project
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
print(pipeline.OTHER, model.predict(numpy.full((1, 1, 8, 8), 0.5, numpy.float32))["code"].tolist())
assert not [name for name in sys.modules if name.startswith("pipeline.")]
"""


def test_model_loads_beside_another_package_of_the_same_name(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with store.start("run", {}) as run:
        model = logged(weights, run)
    expected = mlflow.pyfunc.load_model(f"models:/{model}").predict(np.full((1, 1, 8, 8), 0.5, np.float32))["code"].tolist()
    folder = mlflow.artifacts.download_artifacts(f"models:/{model}")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "pipeline.py").write_text("OTHER = 'other'")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, folder],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(elsewhere)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"other {expected}\n"


def test_model_runs_the_code_it_was_logged_with(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = logged_model.package(tmp_path / "now")
    assert logged_model.package(tmp_path / "again").name == now.name
    monkeypatch.setattr(logged_model, "_PIPELINE", now)  # a version with other code
    (now / "models" / "more.py").write_text("from pipeline import data")
    other = logged_model.package(tmp_path / "other")
    assert other.name != now.name
    assert (other / "models" / "more.py").read_text() == f"from {other.name} import data"


def test_model_names_the_range_of_its_input_and_refuses_others(weights: Path) -> None:
    with store.start("run", {}) as run:
        model = logged(weights, run)
    loaded = mlflow.pyfunc.load_model(f"models:/{model}")
    assert "[0, 1]" in loaded.metadata.metadata["input"]
    assert "[0, 1]" in MlflowClient(store.store_uri()).get_logged_model(model).tags["input"]
    for bad in (255.0, float("nan"), -0.1):
        with pytest.raises(ValueError, match=r"must be intensities in \[0, 1\]"):
            loaded.predict(np.full((2, 1, 8, 8), bad, np.float32))


@pytest.mark.parametrize("moment", ["create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs"])
def test_kill_while_a_model_is_logged_leaves_the_status_of_the_run(
    moment: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.start("run", {}) as run:
        pass

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            run.log_model(weights, "vae", (1, 8, 8), 2)
    assert statuses(run)[0] == "FINISHED"
    assert [record.model_id for record, _ in store.records()] == [None]
    assert mlflow.active_run() is None
    logged(weights, run)
    status, models = statuses(run)
    assert status == "FINISHED"
    assert models.count("READY") == len(models) == 1
