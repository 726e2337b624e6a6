"""Each logged and each registered model has a card that says what it is, its numbers, how to use it and what it is not for."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from pipeline.cli import main
from pipeline.params import Params
from pipeline.tracking import events, logged_model
from pipeline.tracking import store as tracking
from pipeline.tracking.card import model_card
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.pages import KNOWN
from pipeline.tracking.record import Record
from tests.tracking.fake_training import settings, train
from tests.tracking.repository import Repository

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
METRICS = {"test/elbo": -35.0, "test/elbo_se": 0.25, "test/recon": 30.0, "test/recon_se": 0.125, "test/kl": 5.0}


def record(params: Params, name: str = "vae", tags: Mapping[str, str] | None = None, **metrics: float) -> Record:
    values = {key: str(value) for key, value in settings(name, params).items()}
    tags = {"dataset": "mnist", "evaluate.profile": "full", **(tags or {})}
    return Record("1", "my run", "FINISHED", values, tags, metrics, True, "m-1", False, (60_000, 1, 28, 28), "1" * 32)


def files(model_id: str) -> dict[str, str]:
    """Return the text of the cards among the artifacts of a model."""
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}"))
    return {path.name: path.read_text() for path in folder.glob("*.md")}


@pytest.mark.usefixtures("store")
def test_a_logged_model_has_a_card_from_its_training_on_and_its_numbers_from_its_evaluation_on(
    params: Params, data_file: Path, workspace: Path
) -> None:
    train("vae", params, data_file, workspace, workspace)
    client = MlflowClient(tracking.store_uri())
    ((found, run),) = tracking.records()
    model_id = str(found.model_id)
    card = client.get_logged_model(model_id).tags[NOTE]
    assert card.startswith("# VAE of blobs\n")
    assert "120 of shape [1, 8, 8]" in card
    assert "It was not yet evaluated" in card
    assert files(model_id) == {"README.md": card}

    events.log_evaluation(run, {"dataset": "blobs", "profile": "fast", **METRICS}, [])
    model = client.get_logged_model(model_id)
    card = model.tags[NOTE]
    assert "On 2,000 or fewer test images:" in card
    assert "| ELBO, nats per image | -35 | 0.25 |\n" in card
    assert "| reconstruction term, nats per image | 30 | 0.12 |\n" in card
    assert "| KL term, nats per image | 5 |  |\n" in card
    assert files(model_id) == {"README.md": card}
    assert {"MLmodel", "README.md"} <= {entry.path for entry in client.list_logged_model_artifacts(model_id)}

    version = client.get_model_version_by_alias("latent-spaces-blobs", "champion")
    assert str(version.description) == card.replace(f"models:/{model_id}", f"models:/latent-spaces-blobs/{version.version}")
    for text in (card, str(version.description)):
        (address,) = re.findall(r'load_model\("(.*)"\)', text)
        assert mlflow.pyfunc.load_model(address).predict(np.zeros((1, 1, 8, 8), np.float32))["code"].shape == (1, 2)
        done = CliRunner().invoke(main, ["encode", "dataset.safetensors", "--model", address, "--out", "codes.csv"])
        assert done.exit_code == 0, done.stderr


def test_a_card_says_what_decides_the_model_and_nothing_of_who_trained_it_where(params: Params) -> None:
    secret = dict.fromkeys(("host", "mlflow.user", "mlflow.source.name", "process", "dvc.exp.name"), "SECRET")
    card = model_card(record(params, tags={"model.md5": "0" * 32, **secret}), "models:/m-1")
    assert "SECRET" not in card
    for part in ("60,000 of shape [1, 28, 28]", "[16, 8]", "`mlp`", f"`{'0' * 32}`", f"`{'1' * 32}`", KNOWN["mnist"]):
        assert part in card, part
    assert "-S vae.epochs=4" in card
    assert "-S data.name=mnist" in card
    assert len(card) < 5000, "the longest description that MLflow keeps"


CARD = """\
# VAE of mnist

A variational autoencoder: it encodes an image as a normal distribution of latent points, and decodes these.

| | |
|---|---|
| run | `my run` |
| net | `mlp`, hidden layers [16, 8], 2 latent dimensions |
| likelihood of the pixels | bernoulli if gray, discretized_logistic if color |
| weight of the KL term | 1.0 |
| training images | 60,000 of shape [1, 28, 28] |
| held out for validation | 0.2 of these |
| data | mnist, version `11111111111111111111111111111111` |
| licence of the data | CC BY-SA 3.0, Yann LeCun, Corinna Cortes and Christopher J.C. Burges |
| weights | md5 `00000000000000000000000000000000` |

## Numbers

On all test images:

| | | standard error |
|---|---|---|
| ELBO, nats per image | -35.1235 | 0.25 |
| reconstruction term, nats per image | 30 | 0.12 |
| KL term, nats per image | 5 |  |
| bits per dimension | 0.5 |  |
| log p(x), nats per image | -33 |  |
| mean squared error of an intensity | 0.04 |  |
| Fréchet distance of samples from the prior | 1.5 |  |
| share of images whose nearest codes have their class | 0.75 |  |

## Use

In a copy of this project:

    latent encode photos/ --out codes.parquet \\
      --model models:/m-1

Anywhere; this runs the code that was logged with the model:

    import mlflow
    model = mlflow.pyfunc.load_model("models:/m-1")
    code = model.predict(images)["code"]

Takes: Images [N, C, H, W], float32, each value an intensity in [0, 1]; other values are refused. Their shape is [1, 28, 28].

Gives: a dict with `code` [N, 2] (of a VAE the posterior mean) and `reconstruction` [N, 1, 28, 28].

## Limits

- It was trained on mnist alone. It gives other images a code, too, but that says little about them.
- With 2 latent dimensions, a reconstruction loses what differs between similar images.
- It is made to study latent spaces, and not for decisions about people.

## Train it again

"""


def test_a_card_is_this_text(params: Params) -> None:
    numbers = METRICS | {"test/elbo": -35.123456, "test/bits_per_dim": 0.5, "log_likelihood/log_p": -33.0, "test/mse": 0.04}
    numbers |= {"sample_quality/prior/frechet_distance": 1.5, "latent/knn_accuracy": 0.75}
    vae = record(params, tags={"model.md5": "0" * 32}, **numbers)
    card = model_card(replace(vae, params=vae.params | {"likelihood": "auto"}), "models:/m-1")
    assert card.startswith(CARD)
    assert card.removeprefix(CARD).startswith("    dvc exp run \\\n      -S beta=1.0 ")
    ae = record(params, "ae", {"model.md5": "0" * 32, "evaluate.profile": "fast"}, **numbers)
    changes = {
        "VAE of": "AE of",
        "A variational autoencoder: it encodes an image as a normal distribution of latent points, and decodes these.": (
            "An autoencoder: it encodes an image as a latent point, and decodes latent points to images."
        ),
        "bernoulli if gray, discretized_logistic if color": "bernoulli",
        "KL term | 1.0": "KL term | it has no KL term",
        "On all": "On 2,000 or fewer",
        "similar images.": ("similar images.\n- It has no prior: points from N(0, I) can lie far from the codes of all images."),
    }
    expected = CARD
    for old, new in changes.items():
        expected = expected.replace(old, new)
    assert model_card(ae, "models:/m-1").startswith(expected)


def test_a_card_of_a_run_without_any_content_says_so() -> None:
    lines = model_card(Record("1", "run", "FINISHED", {}, {}, {}, False, "m-1", False), "models:/m-1").splitlines()
    table = dict(line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and len(line) > 5)
    assert table == {
        "run": "`run`",
        "net": "`?`, hidden layers ?, ? latent dimensions",
        "likelihood of the pixels": "bernoulli",
        "weight of the KL term": "it has no KL term",
        "training images": "?",
        "held out for validation": "? of these",
        "data": "?, version `?`",
        "licence of the data": "not known here",
        "weights": "md5 `?`",
    }
    assert "Gives: a dict with `code` [N, ?] (of a VAE the posterior mean) and `reconstruction` [N, C, H, W]." in lines
    assert "It was not yet evaluated on the test images." in lines


def test_a_card_names_what_is_missing(params: Params) -> None:
    own = model_card(record(params, "ae", {"dataset": "my_photos"}), "models:/m-1")
    assert "| licence of the data | not known here |" in own
    assert "| weight of the KL term | it has no KL term |" in own
    assert "It has no prior" in own
    assert "data.name" not in own, "the name of the folder is no value of it"
    bare = Record("1", "run", "FINISHED", {}, {}, {}, False, "m-1", False)
    card = model_card(bare, "models:/m-1")
    assert card.startswith("# ? of ?\n")
    assert "None" not in card


@pytest.mark.usefixtures("store")
def test_sync_gives_a_model_of_an_earlier_version_its_card_once(
    params: Params, data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(params, data_file, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(logged_model, "describe", lambda *_: None)
        repository.train("vae", 1.0)
    client = MlflowClient(tracking.store_uri())
    ((found, _),) = tracking.records()
    model_id = str(found.model_id)
    assert NOTE not in client.get_logged_model(model_id).tags
    assert CliRunner().invoke(main, ["sync"]).exit_code == 0
    card = client.get_logged_model(model_id).tags[NOTE]
    assert files(model_id) == {"README.md": card}

    def refused(*_: object) -> None:
        raise AssertionError("nothing is to be written")

    monkeypatch.setattr(MlflowClient, "set_logged_model_tags", refused)
    monkeypatch.setattr(MlflowClient, "log_model_artifact", refused)
    done = CliRunner().invoke(main, ["sync"])
    assert "0 of them new or incomplete" in done.output
    assert client.get_logged_model(model_id).tags[NOTE] == card


@pytest.mark.usefixtures("store")
def test_a_card_whose_process_was_killed_is_completed(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_logged_model_tags", killed)
        with pytest.raises(SystemExit):
            train("vae", params, data_file, workspace, workspace)
    ((found, run),) = tracking.records()
    events.describe(run)
    card = MlflowClient(tracking.store_uri()).get_logged_model(str(found.model_id)).tags[NOTE]
    assert files(str(found.model_id)) == {"README.md": card}
