"""Files are written whole or not at all, a changed bit is noticed, and metrics have one rounding and one spelling."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline import storage
from pipeline.errors import IntegrityError

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], dtype=np.int64), "empty": np.zeros((0, 3))}
HEADER = {"name": "x", "values": [1.5, None], "nested": {"k": 1}}


def test_round_trip(tmp_path: Path) -> None:
    storage.save_arrays(tmp_path / "x.safetensors", ARRAYS, HEADER)
    arrays, header = storage.load_arrays(tmp_path / "x.safetensors")
    assert header == HEADER
    assert list(header) == list(HEADER)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    shuffled = dict(reversed(ARRAYS.items()))
    storage.save_arrays(tmp_path / "x", ARRAYS, HEADER)
    storage.save_arrays(tmp_path / "other name", shuffled, HEADER)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "other name").read_bytes()


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    storage.save_arrays(path, ARRAYS, HEADER)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"x: "):
            storage.load_arrays(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(IntegrityError):
            storage.load_arrays(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="absent: no such file"):
        storage.load_arrays(tmp_path / "absent")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write(tmp_path / "x", "old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space"):
        storage.write(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_md5_is_the_one_dvc_uses(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert storage.md5(tmp_path / "x") == "5d41402abc4b2a76b9719d911017c592"


def test_metrics_files_are_flat_rounded_and_in_order(tmp_path: Path) -> None:
    values = {"dataset": "mnist", "test": {"recon": 132.20001234, "kl_per_dim": [1.0, 2]}, "note": {"why": "text"}}
    storage.save_metrics(tmp_path / "m.json", values)
    loaded = storage.load_json(tmp_path / "m.json")
    expected = {"dataset": "mnist", "test/recon": 132.2, "test/kl_per_dim/0": 1.0, "test/kl_per_dim/1": 2, "note/why": "text"}
    assert list(loaded.items()) == list(expected.items())
    assert storage.numbers(loaded) == {"test/recon": 132.2, "test/kl_per_dim/0": 1.0, "test/kl_per_dim/1": 2.0}


def test_a_key_with_a_dot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence_0\.8"):
        storage.flatten({"holes": {"confidence_0.8": 0.1}})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_not_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        storage.save_metrics(tmp_path / "m.json", {"test": {"recon": value}})
    with pytest.raises(ValueError, match="not a finite number"):
        storage.save_csv(tmp_path / "m.csv", [{"epoch": 1, "loss": value}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[1]", "{", json.dumps("x")])
def test_a_damaged_metrics_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"m\.json"):
        storage.load_json(tmp_path / "m.json")
