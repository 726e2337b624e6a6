"""The champion of a data set is the model with the best ELBO on the test images."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.tracking import events, store

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
SETTINGS = {"model.name": "vae", "model.hidden_dims": [16, 8], "model.latent_dim": 2, "seed": 1, "beta": 4.0}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8))
    save_weights(tmp_path / "vae.safetensors", Trained(config.build(), config, "blobs", 4.0))
    return tmp_path / "vae.safetensors"


def evaluated(elbo: float, profile: str, weights: Path | None) -> str | None:
    """Log a run of this test ELBO, with a model where there are weights; return its id."""
    with store.start(f"elbo {elbo}", {"dataset": "blobs"}) as run:
        run.log_params(SETTINGS)
        if weights:
            run.log_model(weights, "vae", (1, 8, 8), 2)
        metrics = {"dataset": "blobs", "profile": profile, "test/elbo": elbo, "test/recon": -elbo - 5, "test/kl": 5.0}
        events.log_evaluation(run, metrics, [])
    return run.id


def champion() -> str | None:
    return MlflowClient(store.store_uri()).get_model_version_by_alias("latent-spaces-blobs", "champion").run_id


def test_champion_has_the_best_elbo_of_full_evaluations(weights: Path) -> None:
    fast = evaluated(-30.0, "fast", weights)
    assert champion() == fast
    full = evaluated(-35.0, "full", weights)
    assert champion() == full
    evaluated(-40.0, "full", weights)
    assert champion() == full
    versions = MlflowClient(store.store_uri()).search_model_versions("name = 'latent-spaces-blobs'")
    assert {version.run_id for version in versions} == {fast, full}


def test_run_without_a_model_is_no_champion() -> None:
    evaluated(-30.0, "full", None)
    assert not MlflowClient(store.store_uri()).search_registered_models()


def test_evaluation_without_elbo_promotes_nothing(weights: Path) -> None:
    evaluated(-30.0, "full", None)
    with store.start("ae", {"dataset": "blobs"}) as run:
        run.log_model(weights, "ae", (1, 8, 8), 2)
        events.log_evaluation(run, {"dataset": "blobs", "profile": "full", "test/recon": 3.0}, [])
    assert not MlflowClient(store.store_uri()).search_registered_models()
