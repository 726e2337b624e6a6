"""The champion of a data set is the model with the best ELBO on the test images."""

from pathlib import Path

import mlflow
import numpy as np
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


def evaluated(elbo: float, profile: str, weights: Path | None, data: str = "a", likelihood: str = "auto") -> str | None:
    """Log a run of this test ELBO, with a model where there are weights; return its id. What is empty is left out."""
    tags = {"dataset": "blobs", "role": "main"} | ({"data.md5": data} if data else {})
    with store.start(f"elbo {elbo}", tags) as run:
        run.log_metrics({"epochs": 4.0})
        run.log_params(SETTINGS | ({"likelihood": likelihood} if likelihood else {}))
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
    client = MlflowClient(store.store_uri())
    events.promote_champion(store.Run(client, client.get_run(str(full))), "blobs")
    versions = client.search_model_versions("name = 'latent-spaces-blobs'")
    assert [version.run_id for version in versions] == [full, fast], "one version for each, and no second of the same run"


@pytest.mark.parametrize(("data", "likelihood"), [("", "auto"), ("a", ""), ("", "")])
def test_a_run_that_lacks_its_data_or_likelihood_can_be_champion(data: str, likelihood: str, weights: Path) -> None:
    only = evaluated(-30.0, "full", weights, data, likelihood)
    assert champion() == only


def test_champion_of_older_data_gives_way_and_one_of_another_likelihood_stays(weights: Path) -> None:
    older = evaluated(-30.0, "full", weights)
    evaluated(12.0, "full", weights, likelihood="gaussian")
    assert champion() == older
    newer = evaluated(-50.0, "full", weights, data="b")
    assert champion() == newer, "more images, other test images"
    evaluated(-51.0, "full", weights, data="b")
    assert champion() == newer
    client = MlflowClient(store.store_uri())
    events.promote_champion(store.Run(client, client.get_run(str(older))), "blobs")
    assert champion() == newer, "a sync of the older run changes nothing"


def test_champion_of_an_earlier_version_gives_way_to_a_better_one_alone(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(events, "HEADLINE", {"test/elbo": "`test/elbo`"})
        patch.setattr(events, "headline", lambda metrics: {"test/elbo": metrics["test/elbo"]})
        patch.setattr(events, "model_card", lambda *_: None)
        create = MlflowClient.create_model_version
        patch.setattr(MlflowClient, "create_model_version", lambda *given, **more: create(*given[:4], **more))  # without tags
        first = evaluated(-35.0, "full", weights)
    assert champion() == first
    evaluated(-36.0, "full", weights)
    assert champion() == first
    better = evaluated(-34.0, "full", weights)
    assert champion() == better


def test_registered_model_has_a_card_and_its_number(weights: Path) -> None:
    evaluated(-35.0, "full", weights)
    client = MlflowClient(store.store_uri())
    model = client.get_registered_model("latent-spaces-blobs")
    assert "`champion` has the best ELBO" in str(model.description)
    version = client.get_model_version_by_alias(model.name, "champion")
    assert version.tags == {"dataset": "blobs", "role": "main", "evaluate.profile": "full", "test_elbo": "-35", "model": "vae"}
    card = str(version.description)
    assert card.startswith("# VAE of blobs\n")
    command = card.partition("load_model(")[2].partition(")")[0]
    assert mlflow.pyfunc.load_model(command.strip('"')).predict(np.zeros((1, 1, 8, 8), np.float32))["code"].shape == (1, 2)
    ((record, _),) = store.records()
    shown = {metric.key: metric.value for metric in client.get_logged_model(str(record.model_id)).metrics or []}
    assert shown.items() >= {"epochs": 4.0, "test_elbo": -35.0}.items()


def test_a_champion_whose_process_was_killed_gets_what_it_lacks(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: str) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "update_model_version", killed)
        with pytest.raises(SystemExit):
            evaluated(-35.0, "full", weights)
    ((record, run),) = store.records()
    events.promote_champion(run, "blobs")
    client = MlflowClient(store.store_uri())
    version = client.get_model_version_by_alias("latent-spaces-blobs", "champion")
    assert version.run_id == record.id
    assert (version.tags.get("test_elbo"), version.tags.get("model")) == ("-35", "vae")
    assert "VAE of blobs" in str(version.description)


def test_run_without_a_model_is_no_champion() -> None:
    evaluated(-30.0, "full", None)
    assert not MlflowClient(store.store_uri()).search_registered_models()


def test_evaluation_without_elbo_promotes_nothing(weights: Path) -> None:
    evaluated(-30.0, "full", None)
    with store.start("ae", {"dataset": "blobs"}) as run:
        run.log_model(weights, "ae", (1, 8, 8), 2)
        events.log_evaluation(run, {"dataset": "blobs", "profile": "full", "test/recon": 3.0}, [])
    assert not MlflowClient(store.store_uri()).search_registered_models()
