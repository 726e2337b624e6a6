"""A logged model loads anywhere, with the code it was logged with, and is in the store whole or not at all."""

import ast
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import mlflow
import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, load_weights, save_weights
from pipeline.tracking import events, logged_model, store
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


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment of its own: it has MLflow and what a model requires, and not this project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env", symlinks=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # without the links to this project that it holds
    uvicorn = folder / "env/bin/uvicorn"  # which `mlflow models serve` runs
    uvicorn.write_text(f"#!{folder}/env/bin/python\nfrom uvicorn.main import main\nmain()\n")
    uvicorn.chmod(0o755)
    return folder


LOAD = """
import sys
import pipeline  # that of another project
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
print(pipeline.OTHER, model.predict(numpy.full((1, 1, 8, 8), 0.5, numpy.float32))["code"].tolist())
assert not [name for name in sys.modules if name.startswith("pipeline.")]
"""


def test_model_loads_in_another_environment_beside_a_package_of_the_same_name(weights: Path, elsewhere: Path) -> None:
    with store.start("run", {}) as run:
        model = logged(weights, run)
    expected = mlflow.pyfunc.load_model(f"models:/{model}").predict(np.full((1, 1, 8, 8), 0.5, np.float32))["code"].tolist()
    folder = mlflow.artifacts.download_artifacts(f"models:/{model}")
    (elsewhere / "pipeline.py").write_text("OTHER = 'other'")
    done = subprocess.run(
        [elsewhere / "env/bin/python", "-c", LOAD, folder],
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
        with pytest.raises(MlflowException, match=r"must be intensities in \[0, 1\]"):
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
    with store.start("run", {}, run.id) as again:
        logged(weights, again)
    status, models = statuses(run)
    assert status == "FINISHED"
    assert models.count("READY") == len(models) == 1


def test_requirements_are_what_the_logged_code_imports(tmp_path: Path) -> None:
    copy, found = logged_model.package(tmp_path), set()
    for path in copy.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                found |= {str(name).partition(".")[0] for name in names}
    assert found - sys.stdlib_module_names - {copy.name} == {"mlflow", *logged_model.REQUIREMENTS}


def asked(port: int, images: np.ndarray) -> tuple[int, dict]:
    """Return status and content of the answer of a server to these images."""
    answer = requests.post(f"http://127.0.0.1:{port}/invocations", json={"inputs": images.tolist()}, timeout=60)
    return answer.status_code, answer.json()


def test_a_champion_is_served_from_another_folder_and_environment(weights: Path, elsewhere: Path) -> None:
    with store.start("run", {"dataset": "blobs"}) as run:
        logged(weights, run)
        events.log_evaluation(run, {"dataset": "blobs", "profile": "full", "test/elbo": -30.0}, [])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"MLFLOW_TRACKING_URI": store.store_uri(), "PATH": f"{elsewhere}/env/bin:{os.environ['PATH']}"}
    options = ["--model-uri", "models:/latent-spaces-blobs@champion", "--port", str(port), "--env-manager", "local"]
    command = [f"{elsewhere}/env/bin/python", "-m", "mlflow", "models", "serve", *options]
    with subprocess.Popen(
        command, cwd=elsewhere, env=os.environ | environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        try:
            said = []
            for line in server.stderr or ():
                said.append(line)
                if "Uvicorn running" in line:
                    break
            assert server.poll() is None, "".join(said)
            images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
            status, content = asked(port, images)
            expected = load_weights(weights).predict(images)
            assert status == 200
            for name in ("code", "reconstruction"):
                np.testing.assert_allclose(content["predictions"][name], expected[name], atol=1e-6)
            status, content = asked(port, images * 255)
            assert status == 400
            assert content["message"].startswith("images must be intensities in [0, 1], not from ")
            assert content["message"].endswith("; divide bytes by 255")
            status, content = asked(port, images[:, :, :7])
            assert status == 400
            assert "Shape of input (3, 1, 7, 8) does not match expected shape (-1, 1, 8, 8)" in content["message"]
        finally:
            os.killpg(server.pid, signal.SIGTERM)
