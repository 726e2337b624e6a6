"""One evaluation of files: repeatable bytes, matching data, and one log of what was measured."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from pipeline.classifier import Classifier, save_classifier
from pipeline.data import Dataset, Images, save_dataset
from pipeline.errors import IntegrityError
from pipeline.evaluation.context import PROFILES
from pipeline.evaluation.results import load_results
from pipeline.evaluation.run import evaluate_and_log
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.params import Params
from pipeline.storage import md5
from pipeline.tracking import events, store
from tests.evaluation.conftest import SMALL, new_model


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What reaches MLflow: the md5 that the run is found by, the metrics, and the files."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(store, "find", lambda weights_md5: weights_md5)
    monkeypatch.setattr(events, "log_evaluation", lambda *arguments: calls.append(arguments))
    return calls


@pytest.fixture
def files(tmp_path: Path, train: Images, test: Images, classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(PROFILES, "full", SMALL)
    save_dataset(tmp_path / "data", Dataset("blobs", train, test))
    save_classifier(tmp_path / "classifier", classifier)
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (8,))
    save_weights(tmp_path / "vae", Trained(new_model("vae"), config, "blobs", 1.0))
    return tmp_path


def evaluate(files: Path, params: Params, data: str = "data", classifier: str = "classifier", **options: Any) -> dict[str, Any]:
    params = params.model_copy(update={"classifier": params.classifier.model_copy(update={"min_accuracy": 0.9})})
    return evaluate_and_log("vae", files / "vae", params, files / data, files / classifier, **options)


def test_same_inputs_give_the_same_bytes(files: Path, params: Params, logged: list[tuple[Any, ...]]):
    for folder in (files / "first", files / "second"):
        evaluate(files, params, **{name: folder / name for name in ("results", "metrics", "table")})
    for path in (files / "first").iterdir():
        assert path.read_bytes() == (files / "second" / path.name).read_bytes(), path.name


def test_files_and_log_hold_the_same_numbers(files: Path, params: Params, logged: list[tuple[Any, ...]]):
    metrics, results, table = (files / "out" / name for name in ("metrics", "results", "table"))
    numbers = evaluate(files, params, metrics=metrics, results=results, table=table)
    assert logged == [(md5(files / "vae"), numbers, [table])]
    assert json.loads(metrics.read_text()) == numbers
    assert numbers["model"] == "vae"
    assert numbers["holes/prior/confidence_below_80"] >= 0
    loaded = load_results(results)
    assert (loaded.beta, loaded.seed, loaded.weights_md5) == (1.0, params.seed, md5(files / "vae"))
    assert loaded.arrays.keys() >= {"codes", "labels", "image_elbo", "pair_tortuosity"}
    columns = parquet.read_table(io.BytesIO(table.read_bytes())).column_names
    assert columns[0] == "label"
    assert {"recon", "log_p", "predicted_class"} <= set(columns)


def test_chosen_families_alone_are_measured(files: Path, params: Params, logged: list[tuple[Any, ...]]):
    numbers = evaluate(files, params, families=["test"], results=files / "results")
    assert {key.split("/")[0] for key in numbers} == {"dataset", "model", "likelihood", "profile", "classifier", "test"}
    assert all(name.startswith("image_") for name in load_results(files / "results").arrays)


def test_table_of_images_without_labels_has_none(
    files: Path, params: Params, train: Images, test: Images, logged: list[tuple[Any, ...]]
):
    save_dataset(files / "unlabeled", Dataset("blobs", *(replace(part, labels=None) for part in (train, test))))
    evaluate(files, params, data="unlabeled", families=["test"], table=files / "table")
    columns = parquet.read_table(io.BytesIO((files / "table").read_bytes())).column_names
    assert "label" not in columns
    assert "recon" in columns


def test_other_data_is_refused(files: Path, params: Params, train: Images, logged: list[tuple[Any, ...]]):
    save_dataset(files / "other", Dataset("circles", train, train))
    with pytest.raises(IntegrityError, match="blobs"):
        evaluate(files, params, data="other", metrics=files / "out")
    assert not (files / "out").exists()
    assert not logged


def test_a_classifier_of_other_data_is_named(files: Path, params: Params, classifier: Classifier, logged: list[tuple[Any, ...]]):
    save_classifier(files / "other", replace(classifier, dataset="circles"))
    with pytest.raises(IntegrityError, match=r"/other: trained on \('circles', \(1, 8, 8\)\), but .*/data holds \('blobs', "):
        evaluate(files, params, classifier="other", families=["test"])


def test_without_a_table_none_is_logged(files: Path, params: Params, logged: list[tuple[Any, ...]]):
    numbers = evaluate(files, params, families=["test"])
    assert logged == [(md5(files / "vae"), numbers, [])]


def test_unusable_classifier_is_noted(files: Path, params: Params, classifier: Classifier, logged: list[tuple[Any, ...]]):
    save_classifier(files / "poor", replace(classifier, accuracy=0.5))
    save_classifier(files / "none", None)
    for name, note in (("poor", "min_accuracy"), ("absent", "no such file"), ("none", "no labels")):
        numbers = evaluate(files, params, classifier=name, families=["interpolation", "sample_quality"])
        assert note in numbers["classifier/note"]
        assert not {key for key in numbers if "frechet_distance" in key or "class_switches" in key}
