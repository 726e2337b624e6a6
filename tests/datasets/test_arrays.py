"""A file of arrays becomes a data set, or is refused with its name, the array and what is allowed."""

import errno
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline import storage
from pipeline.data import save_dataset
from pipeline.datasets import arrays as arrays_module
from pipeline.datasets import own
from pipeline.datasets.arrays import arrays, read_arrays
from pipeline.errors import IntegrityError, ParamsError

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (12, 3, 4, 5)).astype(np.uint8)


def saved(folder: Path, suffix: str = ".npz", **values: Any) -> Path:
    path = folder / f"shapes{suffix}"
    if suffix == ".npz":
        np.savez(path, **values)
    elif suffix == ".npy":
        np.save(path, values["images"])
    else:
        save_file(values, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
def test_images_come_back_and_keep_their_part_when_others_are_added(suffix: str, tmp_path: Path) -> None:
    dataset = arrays(saved(tmp_path, suffix, images=BYTES))
    assert (dataset.name, dataset.train.shape, dataset.train.labels, dataset.classes) == ("shapes", (3, 4, 5), None, ())
    both = np.concatenate([dataset.train.pixels, dataset.test.pixels]).reshape(12, -1)
    assert np.array_equal(np.unique(both, axis=0), np.unique(BYTES.reshape(12, -1), axis=0))
    more = arrays(saved(tmp_path, suffix, images=np.concatenate([BYTES[::-1], BYTES[:1] // 2])))
    assert {image.tobytes() for image in more.test.pixels} >= {image.tobytes() for image in dataset.test.pixels}


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
@pytest.mark.parametrize(
    "images", [BYTES, BYTES.transpose(0, 2, 3, 1), BYTES > 99, BYTES / 255], ids=lambda array: str(array.dtype)
)
def test_images_that_do_not_fit_into_memory_give_the_same_prepared_file(
    suffix: str, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, suffix, images=np.ascontiguousarray(images))
    save_dataset(tmp_path / "one", arrays(path))
    monkeypatch.chdir(tmp_path)
    for module in (arrays_module, own):
        monkeypatch.setattr(module, "RESIDENT", 0)
    monkeypatch.setattr(storage, "_CHUNK", 130)
    if suffix != ".npz":
        assert not read_arrays(path)["images"].flags.owndata
    save_dataset(tmp_path / "two", arrays(path))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert {entry.name for entry in tmp_path.iterdir()} == {"one", "two", path.name}


def test_a_disk_without_room_for_the_images_is_said_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "RESIDENT", 99)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert own.room((9, 11)).shape == (9, 11)
    with pytest.raises(OSError, match="No space"):
        own.room((10, 10))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("images", "shape"),
    [(BYTES, (3, 4, 5)), (BYTES.transpose(0, 2, 3, 1), (3, 4, 5)), (BYTES[:, 0], (1, 4, 5)), (BYTES[:, :1], (1, 4, 5))],
    ids=["NCHW", "NHWC", "NHW", "one channel"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_every_layout_and_type_gives_the_same_pixels(
    images: np.ndarray, shape: tuple[int, ...], dtype: Any, tmp_path: Path
) -> None:
    values = images if dtype == np.uint8 else (images / 255).astype(dtype)
    test = np.arange(12) >= 10
    dataset = arrays(saved(tmp_path, images=values, test=test))
    assert np.array_equal(dataset.train.pixels, BYTES[:10, : shape[0]])
    assert np.array_equal(dataset.test.pixels, BYTES[10:, : shape[0]])


def test_floats_are_rounded(tmp_path: Path) -> None:
    assert np.unique(arrays(saved(tmp_path, images=np.full((5, 2, 2), 0.999))).train.pixels).tolist() == [255]


def test_bool_is_black_and_white(tmp_path: Path) -> None:
    dataset = arrays(saved(tmp_path, images=BYTES > 99, test=np.arange(12) == 0))
    assert np.array_equal(dataset.train.pixels, (BYTES[1:] > 99) * 255)


def test_labels_names_and_factors_stay_with_their_images(tmp_path: Path) -> None:
    factors, names = np.arange(24).reshape(12, 2), np.array(["dog", "cat", "owl"] * 4)
    path = saved(tmp_path, images=BYTES, labels=names, factors=factors, test=np.arange(12) >= 9)
    dataset = arrays(path)
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.train.labels is not None
    assert [dataset.classes[label] for label in dataset.train.labels] == names[:9].tolist()
    assert np.array_equal(dataset.test.factors, factors[9:])
    numbered = arrays(saved(tmp_path, images=BYTES, labels=np.arange(12, dtype=np.int8) % 5))
    assert numbered.classes == ()
    assert numbered.train.labels is not None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "above 1": (
        {"images": BYTES / 200},
        r"images: float64 \[12, 3, 4, 5\] with values from 0.* to 1\.2.*; allowed are floats in",
    ),
    "below 0": ({"images": BYTES / 127.5 - 1}, r"with values from -1 to .*; allowed are floats in \[0, 1\]"),
    "NaN": ({"images": np.full((5, 2, 2), np.nan)}, "with values from nan to nan"),
    "integers": ({"images": BYTES.astype(np.int64)}, "int64 .* allowed are uint8, bool, and floats"),
    "zeros and ones": ({"images": BYTES // 200}, "values of 0 and 1 alone"),
    "flat": ({"images": BYTES.reshape(12, -1)}, r"uint8 \[12, 60\]; allowed are \[N, H, W\]"),
    "five channels": ({"images": np.zeros((12, 5, 4, 5))}, "with 1 or 3 channels"),
    "none": ({"images": BYTES[:0]}, "there is no image"),
    "two": ({"images": BYTES[:2]}, "allowed are at least 2 and 1"),
    "other names": ({"imgs": BYTES}, "unknown arrays: imgs; allowed are images, labels"),
    "no images": ({"labels": np.arange(3)}, "no array 'images'"),
    "float labels": ({"images": BYTES, "labels": np.arange(12.0)}, "labels: float64 .* allowed are integers or names"),
    "few labels": ({"images": BYTES, "labels": np.arange(3)}, r"labels must be int64 \[12\]"),
    "negative labels": ({"images": BYTES, "labels": np.arange(12) - 1}, "labels must be 0 to"),
    "float factors": ({"images": BYTES, "factors": np.zeros((12, 2))}, "factors: float64 .* allowed are integers$"),
    "test of another type": ({"images": BYTES, "test": np.arange(12)}, "allowed is bool"),
    "all for testing": ({"images": BYTES, "test": np.ones(12, bool)}, "0 training and 12 test images"),
    "objects": ({"images": np.array([{}, {}, {}])}, "[Oo]bject arrays"),
    "factors above 64 bits with a sign": (
        {"images": BYTES, "factors": np.full((12, 2), 2**64 - 1, np.uint64)},
        "factors: 18446744073709551615; allowed are integers of 64 bits",
    ),
    "labels above 64 bits with a sign": (
        {"images": BYTES, "labels": np.full(12, 2**63, np.uint64)},
        "labels: 9223372036854775808",
    ),
    "labels of two axes": ({"images": BYTES, "labels": np.zeros((12, 1), int)}, r"labels must be int64 \[12\], not"),
    "one factor": ({"images": BYTES, "factors": np.arange(12)}, r"factors must be int64 \[12, K\], not int64 \[12\]"),
    "test of two axes": ({"images": BYTES, "test": np.zeros((12, 1), bool)}, r"allowed is bool \[12\]"),
    "fields": ({"images": np.zeros((12, 4, 5), [("a", "u1")])}, "allowed are uint8, bool"),
    "times": ({"images": BYTES.astype("M8[s]")}, "allowed are uint8, bool"),
    "complex": ({"images": BYTES.astype(complex)}, "complex128 .* allowed are uint8, bool"),
    "a name of a class with NUL": ({"images": BYTES, "labels": np.array(["a\0b", "a"] * 6)}, "no name of a class"),
    "a nameless class": ({"images": BYTES, "labels": np.array(["", "a"] * 6)}, "no name of a class"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_are_not_allowed_are_refused_by_name(name: str, tmp_path: Path) -> None:
    values, message = BAD[name]
    with pytest.raises(IntegrityError, match=message) as caught:
        arrays(saved(tmp_path, **values))
    assert str(caught.value).startswith(f"{tmp_path}/shapes.npz: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_a_damaged_file_is_refused(suffix: str, damage: str, tmp_path: Path) -> None:
    path = saved(tmp_path, suffix, images=BYTES)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"hello world"}[damage])
    with pytest.raises(IntegrityError, match=r"^.*shapes\.\w+: "):
        arrays(path)


def test_a_file_with_what_is_no_array_of_numpy_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("images", b"hello")
    header = json.dumps({"images": {"dtype": "F8_E4M3", "shape": [3, 2, 2], "data_offsets": [0, 12]}}).encode()
    (tmp_path / "quarter.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(12))
    for name, message in (("text.npz", "images: no array"), ("quarter.safetensors", "arrays of type F8_E4M3")):
        with pytest.raises(IntegrityError, match=f"^{tmp_path}/{name}: .*{message}"):
            arrays(tmp_path / name)


def test_a_file_that_names_a_shape_beyond_all_memory_is_refused_as_damaged(tmp_path: Path) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**15}, 28, 28), }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(IntegrityError, match=f"^{tmp_path}/{name}: it does not fit into memory, or is damaged"):
            arrays(tmp_path / name)


def test_the_order_of_bytes_and_of_axes_in_a_file_changes_nothing(tmp_path: Path) -> None:
    expected = arrays(saved(tmp_path, images=BYTES / 255, labels=np.arange(12) % 5))
    other = {"images": np.asfortranarray((BYTES / 255).astype(">f8")), "labels": (np.arange(12) % 5).astype(">i4")}
    found = arrays(saved(tmp_path, **other))
    for part in ("train", "test"):
        assert np.array_equal(getattr(found, part).pixels, getattr(expected, part).pixels)
        assert np.array_equal(getattr(found, part).labels, getattr(expected, part).labels)


def test_a_path_that_is_no_file_of_arrays_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    for name, message in (
        ("absent.npz", "no such file"),
        ("x.txt", r"another file; .* needs a file \(\.npz"),
        (".", "a folder; "),
    ):
        with pytest.raises(ParamsError, match=rf"^data\.path: .*{message}"):
            arrays(tmp_path / name)
