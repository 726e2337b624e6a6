"""Files are whole or absent, and a changed bit is noticed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline import files
from pipeline.errors import IntegrityError

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], dtype=np.int64), "empty": np.zeros((0, 3))}
HEADER = {"name": "x", "values": [1.5, None], "nested": {"k": 1}}


def test_round_trip(tmp_path: Path) -> None:
    files.save_arrays(tmp_path / "x.safetensors", ARRAYS, HEADER)
    arrays, header = files.load_arrays(tmp_path / "x.safetensors")
    assert header == HEADER
    assert list(header) == list(HEADER)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    shuffled = dict(reversed(ARRAYS.items()))
    files.save_arrays(tmp_path / "x", ARRAYS, HEADER)
    files.save_arrays(tmp_path / "other name", shuffled, HEADER)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "other name").read_bytes()


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files.save_arrays(path, ARRAYS, HEADER)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"x: "):
            files.load_arrays(path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(IntegrityError):
            files.load_arrays(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="absent: no such file"):
        files.load_arrays(tmp_path / "absent")


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "x", "old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space"):
        files.write(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_md5_is_the_one_dvc_uses(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert files.md5(tmp_path / "x") == "5d41402abc4b2a76b9719d911017c592"
