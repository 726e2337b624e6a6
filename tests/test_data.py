"""Splits hold what they say, and the validation images are taken out of the training images."""

from pathlib import Path

import numpy as np
import pytest
from conftest import blobs

from pipeline.data import Dataset, Split, holdout, load_dataset, save_dataset
from pipeline.errors import IntegrityError
from pipeline.files import save_arrays


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 3, 3), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 9), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((0, 3, 3), np.uint8), np.zeros(0, np.int64)),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_a_split_refuses_other_shapes_and_types(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be (uint8|int64)"):
        Split(images, labels)


def test_the_prepared_file_gives_the_data_back(dataset: Dataset, tmp_path: Path) -> None:
    save_dataset(tmp_path / "d", dataset)
    loaded = load_dataset(tmp_path / "d")
    assert loaded.name == "blobs"
    np.testing.assert_array_equal(loaded.train.images, dataset.train.images)
    np.testing.assert_array_equal(loaded.test.labels, dataset.test.labels)


def test_another_file_is_not_taken_for_data(tmp_path: Path) -> None:
    save_arrays(tmp_path / "d", {"x": np.zeros(1)}, {"dataset": "x"})
    with pytest.raises(IntegrityError, match="not a prepared data set"):
        load_dataset(tmp_path / "d")


def test_holdout_cuts_without_overlap_and_by_seed_alone() -> None:
    split = blobs(100, seed=0)
    train, val = holdout(split, 0.1, seed=3)
    assert (len(train), len(val)) == (90, 10)
    together = np.concatenate([train.images, val.images]).reshape(100, -1)
    assert np.array_equal(np.unique(together, axis=0), np.unique(split.images.reshape(100, -1), axis=0))
    again = holdout(split, 0.1, seed=3)[1]
    other = holdout(split, 0.1, seed=4)[1]
    assert np.array_equal(val.images, again.images)
    assert not np.array_equal(val.images, other.images)


def test_mean_image_is_the_mean_intensity() -> None:
    split = blobs(20, seed=0)
    np.testing.assert_allclose(split.mean_image(), split.pixels.mean(axis=0), atol=1e-6)
