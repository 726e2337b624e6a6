"""Images have the shapes and types they promise, and the validation images are taken out of the training images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import storage
from pipeline.data import Dataset, Images, Rows, holdout, intensities, load_dataset, save_dataset
from pipeline.errors import IntegrityError
from pipeline.storage import load_arrays, save_arrays
from tests.conftest import blobs, craft

LABELS = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("pixels", "labels", "factors"),
    [
        (np.zeros((2, 1, 3, 3), np.float32), None, None),
        (np.zeros((2, 3, 3), np.uint8), None, None),
        (np.zeros((0, 1, 3, 3), np.uint8), None, None),
        (np.zeros((2, 1, 3, 3), np.uint8), np.zeros(3, np.int64), None),
        (np.zeros((2, 1, 3, 3), np.uint8), np.zeros(2, np.int32), None),
        (np.zeros((2, 1, 3, 3), np.uint8), None, np.zeros(2, np.int64)),
        (np.zeros((2, 1, 3, 3), np.uint8), LABELS, np.zeros((3, 4), np.int64)),
        (np.zeros((2, 1, 3, 3), np.uint8), LABELS - 1, None),
        (np.zeros((2, 1, 3, 3), np.uint8), LABELS + 2**40, None),
    ],
)
def test_images_refuse_other_shapes_and_types(pixels: np.ndarray, labels: np.ndarray | None, factors: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match=r"must be (uint8|int64|0 to 65535)"):
        Images(pixels, labels, factors)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixels": np.zeros((2, 3), np.int8)}, r"images must be uint8 \[N, C, H, W\], not int8 \[2, 3\]"),
        ({"labels": np.zeros((2, 3), np.int64)}, r"labels must be int64 \[2\], not int64 \[2, 3\]"),
        ({"factors": np.zeros((3, 4))}, r"factors must be int64 \[2, K\], not float64 \[3, 4\]"),
        ({"labels": np.array([0, 1 << 16])}, "labels must be 0 to 65535, not 0 to 65536"),
    ],
)
def test_what_is_wrong_with_images_is_said(values: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Images(**{"pixels": np.zeros((2, 1, 3, 3), np.uint8)} | values)


def test_training_and_test_images_have_one_shape() -> None:
    train, test = (Images(np.zeros((2, 1, size, 3), np.uint8)) for size in (3, 4))
    with pytest.raises(ValueError, match=r"^training images \[1, 3, 3\] and test images \[1, 4, 3\] differ in shape$"):
        Dataset("x", train, test)


def test_labels_may_be_of_one_class_up_to_the_largest() -> None:
    pixels = np.zeros((2, 1, 3, 3), np.uint8)
    for label in (0, (1 << 16) - 1):
        assert Images(pixels, np.full(2, label)).labels is not None


def test_taken_images_keep_their_labels_and_factors() -> None:
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None]
    images = Images(pixels, np.arange(5), np.arange(10).reshape(5, 2))
    for indices in (np.array([4, 1]), slice(2, 4)):
        for name, values in vars(images.take(indices)).items():
            assert np.array_equal(values, getattr(images, name)[indices])
    assert images.shape == (1, 1, 1)
    assert len(images) == 5


def test_intensities_of_numpy_and_torch_are_the_same_float32() -> None:
    pixels = np.arange(256, dtype=np.uint8)
    found = intensities(pixels)
    assert found.dtype == np.float32
    assert np.array_equal(found, intensities(torch.from_numpy(pixels)).numpy())
    assert np.array_equal(found, pixels.astype(np.float32) / 255)


def test_color_images_with_factors_and_without_labels_come_back_from_the_prepared_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    color = Images(random.integers(0, 256, (4, 3, 5, 6)).astype(np.uint8), factors=random.integers(0, 9, (4, 2)))
    save_dataset(tmp_path / "d", Dataset("color", color, color.take(slice(2))))
    loaded = load_dataset(tmp_path / "d")
    assert loaded.train.shape == (3, 5, 6)
    assert loaded.train.labels is None
    assert loaded.test.factors is not None
    np.testing.assert_array_equal(loaded.train.pixels, color.pixels)
    np.testing.assert_array_equal(loaded.test.factors, color.factors[:2])


def test_the_prepared_file_gives_the_data_back(dataset: Dataset, tmp_path: Path) -> None:
    save_dataset(tmp_path / "d", dataset)
    loaded = load_dataset(tmp_path / "d")
    assert loaded.name == "blobs"
    np.testing.assert_array_equal(loaded.train.pixels, dataset.train.pixels)
    np.testing.assert_array_equal(loaded.test.labels, dataset.test.labels)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_arrays(tmp_path / "d", {"y": np.zeros(1), "x": np.zeros(1)}, {"dataset": "x"})
    with pytest.raises(IntegrityError, match=r"not a prepared data set of this version \(unknown arrays: x, y\)"):
        load_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_labels": np.full(120, -1)},
        {"train_labels": np.zeros(119, np.int64)},
        {"train_pixels": np.zeros((120, 1, 8, 8), np.float32)},
        {"test_pixels": np.zeros((40, 1, 9, 8), np.uint8)},
        {"test_pixels": np.zeros((40, 8, 8), np.uint8)},
        {"more": np.zeros(1)},
        {"dataset": 5},
        {"dataset": None},
        {"extra": 1},
    ],
    ids=lambda wrong: str({name: np.shape(value) or value for name, value in wrong.items()}),
)
def test_a_crafted_prepared_file_is_refused(wrong: dict, dataset: Dataset, tmp_path: Path) -> None:
    save_dataset(tmp_path / "d", dataset)
    craft(tmp_path / "d", wrong)
    with pytest.raises(IntegrityError, match="d: not a prepared data set"):
        load_dataset(tmp_path / "d")


@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_of_one_part_alone_are_refused(part: str, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only one"):
        replace(dataset, **{part: replace(getattr(dataset, part), labels=None)})
    save_dataset(tmp_path / "d", dataset)
    arrays, header = load_arrays(tmp_path / "d")
    del arrays[f"{part}_labels"]
    save_arrays(tmp_path / "d", arrays, header)
    with pytest.raises(IntegrityError, match="d: not a prepared data set"):
        load_dataset(tmp_path / "d")


def test_holdout_cuts_without_overlap_and_by_seed_alone() -> None:
    images = blobs(100, seed=0)
    train, val = holdout(images, 0.1, seed=3)
    assert (len(train), len(val)) == (90, 10)
    together = np.concatenate([train.pixels, val.pixels]).reshape(100, -1)
    assert np.array_equal(np.unique(together, axis=0), np.unique(images.pixels.reshape(100, -1), axis=0))
    assert len(holdout(images, 0.001, seed=3)[1]) == 1, "one image at least"
    again = holdout(images, 0.1, seed=3)[1]
    other = holdout(images, 0.1, seed=4)[1]
    assert np.array_equal(val.pixels, again.pixels)
    assert not np.array_equal(val.pixels, other.pixels)


def test_a_part_is_read_where_it_is_used() -> None:
    images = blobs(100, seed=0)
    rows = np.array([5, 99, 3, 40])
    part = images.part(rows)
    images.pixels[40] = 7  # type: ignore[index]
    assert (len(part), part.shape, part.pixels.dtype) == (4, (1, 8, 8), np.uint8)
    for indices in (np.array([3, 0]), slice(1, 3)):
        expected = images.take(rows[indices])
        for found in (part.take(indices), part.part(np.arange(4)[indices])):
            np.testing.assert_array_equal(found.pixels, expected.pixels)
            np.testing.assert_array_equal(found.labels, expected.labels)  # type: ignore[arg-type]
    assert (part.take(slice(3, 4)).pixels[:] == 7).all()


def test_a_data_set_of_parts_gives_the_bytes_of_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, rows = blobs(100, seed=0), np.random.default_rng(0).permutation(100)
    save_dataset(tmp_path / "whole", Dataset("blobs", images.take(rows[20:]), images.take(rows[:20])))
    monkeypatch.setattr(storage, "_CHUNK", 300)
    save_dataset(tmp_path / "parts", Dataset("blobs", images.part(rows[20:]), images.part(rows[:20])))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_a_loaded_data_set_and_its_parts_are_not_in_memory(data_file: Path) -> None:
    loaded = load_dataset(data_file)
    assert not loaded.train.pixels.flags.owndata  # type: ignore[union-attr]
    assert all(isinstance(part.pixels, Rows) for part in holdout(loaded.train, 0.1, seed=3))


@pytest.mark.parametrize("chunk", [100, 1 << 24])
def test_mean_image_is_the_mean_intensity(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = blobs(20, seed=0)
    whole = (images.pixels[:].mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
    monkeypatch.setattr(storage, "_CHUNK", chunk)
    assert np.array_equal(images.mean_image(), whole), "to the bit"
    np.testing.assert_allclose(images.mean_image(), images.intensities.mean(axis=0), atol=1e-6)
    assert images.mean_image().dtype == np.float32
