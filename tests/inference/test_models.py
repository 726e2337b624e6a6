"""A model is found in a file, in a revision or an experiment, and in MLflow's store."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.errors import IntegrityError, ParamsError, PipelineError
from pipeline.inference.models import find_model
from pipeline.models.weights import load_weights
from pipeline.params import Params
from pipeline.storage import load_arrays, save_arrays
from pipeline.tracking import store as tracking
from tests.conftest import craft
from tests.tracking.repository import Repository

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
VAE = "models/vae.safetensors"


@pytest.fixture
def repository(params: Params, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(params, data_file, monkeypatch)


def refused(kind: type[PipelineError], find: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        find()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_revision_or_experiment_comes_from_the_cache(repository: Repository) -> None:
    repository.train("vae", 1.0)
    baseline = repository.commit()
    repository.train("vae", 4.0)
    repository.save_experiment("four", baseline)
    craft(Path(VAE), {"dataset": "changed"})
    repository.relock("train_vae")
    repository.commit()
    here = load_arrays(VAE)
    Path(VAE).unlink()  # as in a fresh clone: what is read is in the cache alone
    found = {rev: find_model(VAE, rev) for rev in ("HEAD", "HEAD~1", baseline[:8], "four")}
    assert {rev: (one.dataset, one.beta) for rev, one in found.items()} == {
        "HEAD": ("changed", 4.0),
        "HEAD~1": ("blobs", 1.0),
        baseline[:8]: ("blobs", 1.0),
        "four": ("blobs", 4.0),
    }
    assert not Path(VAE).exists()
    message = refused(ParamsError, lambda: find_model(VAE, "five"))
    assert message.startswith("'five' is neither a revision of this repository nor an experiment; `git branch --all`")
    assert refused(ParamsError, lambda: find_model(VAE, "")).startswith("'' is neither a revision")
    message = refused(IntegrityError, lambda: find_model("models/other.safetensors", "HEAD"))
    assert message.startswith("DVC has no models/other.safetensors of HEAD here; `dvc fetch -A`")

    save_arrays(VAE, here[0], {**here[1], "config": {}})  # as another version writes them
    repository.relock("train_vae")
    repository.commit()
    message = refused(IntegrityError, lambda: find_model(VAE, "HEAD"))
    assert message.startswith(f"{VAE} of HEAD: not weights of this version (config.")
    assert message.endswith("use it with the version of this project that trained it, or train it again")


def test_a_model_of_the_store_is_found_by_alias_version_and_id_without_running_its_code(repository: Repository) -> None:
    repository.train("vae", 1.0)
    repository.evaluate()
    ((record, _),) = tracking.records()
    for loader in Path("mlartifacts").rglob("*.py"):
        loader.write_text("raise SystemExit('the code of the model ran')")
    expected = load_weights(VAE)
    addresses = ["models:/latent-spaces-blobs@champion", "models:/latent-spaces-blobs/1", f"models:/{record.model_id}"]
    for address in addresses:
        found = find_model(address)
        assert (found.config, found.dataset, found.beta) == (expected.config, "blobs", 1.0)
        assert all(found.model.state_dict()[name].equal(weight) for name, weight in expected.model.state_dict().items())
    there = "; there are models:/latent-spaces-blobs@champion"
    for address in ("models:/latent-spaces-blobs@best", "models:/latent-spaces-blobs/2", "models:/none@best", "models:/m-1"):
        message = refused(ParamsError, lambda: find_model(address))  # noqa: B023 (called at once)
        assert message.startswith(f"{address}: no such model in sqlite:///")
        assert message.endswith(there)
    allowed = "models:/vae: allowed are models:/NAME@ALIAS, models:/NAME/VERSION and models:/ID"
    assert refused(ParamsError, lambda: find_model("models:/vae")) == allowed
    MlflowClient(tracking.store_uri()).delete_registered_model_alias("latent-spaces-blobs", "champion")
    assert refused(ParamsError, lambda: find_model(addresses[0])).endswith("; `latent sync` registers the best model")
