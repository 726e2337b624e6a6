"""The reference classifier: it learns, repeats, round-trips, and is left out when its accuracy is too low."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import runtime
from pipeline.classifier import NO_CLASSES, Classifier, accept_classifier, load_classifier, save_classifier, train_classifier
from pipeline.data import Dataset, Images, save_dataset
from pipeline.errors import IntegrityError
from tests.conftest import blobs, craft


@pytest.fixture(scope="module")
def test() -> Images:
    return blobs(200, seed=1)


@pytest.fixture(scope="module")
def classifier(test: Images) -> Classifier:
    with runtime.use("cpu", threads=1):
        trained = train_classifier(Dataset("blobs", blobs(400, seed=0), test), num_steps=60, seed=0)
    assert trained
    return trained


def test_it_learns_and_round_trips(classifier, test, tmp_path: Path):
    assert classifier.accuracy > 0.95
    save_classifier(tmp_path / "classifier", classifier)
    loaded = load_classifier(tmp_path / "classifier")
    save_classifier(tmp_path / "again", loaded)
    assert (tmp_path / "classifier").read_bytes() == (tmp_path / "again").read_bytes()
    for ours, theirs in zip(classifier.predict(test.intensities), loaded.predict(test.intensities), strict=True):
        assert np.array_equal(ours, theirs)


def test_predict_keeps_leading_dimensions(classifier, test):
    features, probabilities = classifier.predict(test.intensities[:6].reshape(2, 3, 1, 8, 8))
    assert (features.shape, probabilities.shape) == ((2, 3, 64), (2, 3, 4))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_training_repeats_to_the_bit(dataset):
    first, second = (train_classifier(dataset, num_steps=5, seed=3).net.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_color_images_round_trip(tmp_path: Path):
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (60, 3, 9, 7), np.uint8), np.arange(60) % 2)
    save_classifier(tmp_path / "color", train_classifier(Dataset("color", images, images), num_steps=2, seed=0))
    assert load_classifier(tmp_path / "color").net.image_shape == (3, 9, 7)


def test_images_without_labels_have_no_classifier(dataset: Dataset, tmp_path: Path):
    unlabeled = Dataset("blobs", replace(dataset.train, labels=None), replace(dataset.test, labels=None))
    classifier = train_classifier(unlabeled, num_steps=5, seed=0)
    assert classifier is None
    save_classifier(tmp_path / "none", classifier)
    accepted, about = accept_classifier(load_classifier(tmp_path / "none"), 0.9)
    assert accepted is None
    assert NO_CLASSES in about["note"]


def test_images_of_one_class_have_no_classifier(dataset: Dataset):
    train = replace(dataset.train, labels=np.zeros(len(dataset.train), np.int64))
    assert train_classifier(replace(dataset, train=train), num_steps=5, seed=0) is None


def test_low_accuracy_is_not_accepted(classifier):
    assert accept_classifier(classifier, classifier.accuracy)[0] is classifier
    assert accept_classifier(classifier, 0.5) == (classifier, {"accuracy": classifier.accuracy, "md5": ""})
    accepted, about = accept_classifier(replace(classifier, accuracy=0.4), 0.5)
    assert accepted is None
    assert "classifier.min_accuracy = 0.5" in about["note"]


def test_other_files_are_refused(tmp_path: Path):
    save_dataset(tmp_path / "data", Dataset("blobs", blobs(4, seed=0), blobs(4, seed=0)))
    for path in (tmp_path / "data", tmp_path / "absent"):
        with pytest.raises(IntegrityError, match=path.name):
            load_classifier(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"accuracy": float("nan")},
        {"accuracy": 2.0},
        {"accuracy": "0.9"},
        {"num_classes": 10**9},
        {"num_classes": 0},
        {"image_shape": [1, 8]},
        {"image_shape": [1, 10**9, 10**9]},
        {"image_shape": [1, -8, -8]},
        {"dataset": None},
        {"extra": 1},
        {"head.bias": np.full(4, np.nan, np.float32)},
        {"head.bias": np.zeros(4)},
        {"head.bias": np.zeros(5, np.float32)},
        {"more": np.zeros(5, np.float32)},
    ],
    ids=str,
)
def test_a_crafted_file_is_refused(wrong: dict, classifier: Classifier, tmp_path: Path):
    save_classifier(tmp_path / "c", classifier)
    craft(tmp_path / "c", wrong)
    with pytest.raises(IntegrityError, match="c: not a classifier of this version"):
        load_classifier(tmp_path / "c")
