"""Files are written whole or not at all, a changed bit is noticed, and metrics have one rounding and one spelling."""

import errno
import fcntl
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies
from safetensors import safe_open
from safetensors.numpy import save

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


def test_the_bytes_of_a_file_stay_those_of_earlier_versions(tmp_path: Path) -> None:
    storage.save_arrays(tmp_path / "x", ARRAYS, HEADER)
    assert storage.md5(tmp_path / "x") == "842903c9ec52bbe2a3912124ca0b645b"
    storage.save_metrics(tmp_path / "m.json", {"model": "vae", "test": {"recon": 132.2}})
    assert (tmp_path / "m.json").read_bytes() == b'{\n  "model": "vae",\n  "test/recon": 132.2\n}\n'
    storage.save_csv(tmp_path / "m.csv", [{"epoch": 1, "loss": 0.12345678}, {"epoch": 2, "loss": 3.0}])
    assert (tmp_path / "m.csv").read_bytes() == b"epoch,loss\n1,0.123457\n2,3.0\n"


def test_a_file_is_what_safetensors_itself_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {f"{name} é\t": np.arange(24).reshape(4, 2, 3).astype(name) for name in storage._DTYPES.values()} | ARRAYS
    for chunk in (1, 30, 1 << 24):
        monkeypatch.setattr(storage, "_CHUNK", chunk)
        storage.save_arrays(tmp_path / "x", arrays, HEADER)
        with safe_open(tmp_path / "x", framework="numpy") as file:
            metadata = file.metadata()
        assert (tmp_path / "x").read_bytes() == save(arrays, metadata)
        found, header = storage.load_arrays(tmp_path / "x")
        assert header == HEADER
        assert all(np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in arrays.items())


@pytest.mark.parametrize(("limit", "rows"), [(1, [1] * 7), (12, [1] * 7), (13, [1] * 7), (24, [2, 2, 2, 1]), (99, [7])])
def test_parts_of_an_array_have_a_largest_size(limit: int, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CHUNK", limit)
    parts = list(storage.chunks(np.arange(21, dtype=np.float32).reshape(7, 3)))
    assert [len(part) for part in parts] == rows
    assert np.array_equal(np.concatenate(parts).reshape(-1), np.arange(21))


def test_mapped_arrays_are_not_in_memory_and_stay_when_the_file_is_replaced(tmp_path: Path) -> None:
    storage.save_arrays(tmp_path / "x", ARRAYS, HEADER)
    arrays, header = storage.map_arrays(tmp_path / "x")
    assert (header, arrays.keys()) == (HEADER, ARRAYS.keys())
    storage.save_arrays(tmp_path / "x", {"b": ARRAYS["b"] + 1}, HEADER)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert not any((array.flags.owndata, array.flags.writeable))


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


@given(data=strategies.data())
def test_mutated_bytes_are_refused_or_hold_the_same(
    data: strategies.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "x"
    storage.save_arrays(path, ARRAYS, HEADER)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(strategies.integers(1, 3))):
        start = data.draw(strategies.integers(0, len(content)))
        stop = data.draw(strategies.integers(start, min(start + 9, len(content))))
        content[start:stop] = data.draw(strategies.binary(max_size=9))
    path.write_bytes(content)
    try:
        arrays, header = storage.load_arrays(path)
    except IntegrityError:
        return
    assert header == HEADER
    assert all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())


def test_a_header_that_is_no_mapping_or_nested_deeply_is_refused(tmp_path: Path) -> None:
    for text in (
        "[]",
        '{"header": [], "sha256": ""}',
        "[" * 100_000,
        '{"header": ' + "[" * 50_000 + "]" * 50_000 + ', "sha256": ""}',
    ):
        (tmp_path / "x").write_bytes(save({}, metadata={"pipeline": text}))
        with pytest.raises(IntegrityError, match="x: not a readable file"):
            storage.load_arrays(tmp_path / "x")


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(IntegrityError, match=f"{name}: not a file"):
            storage.load_arrays(tmp_path / name)


def test_the_advice_for_a_damaged_file_does_not_trust_the_cache(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"x: .*; run `latent verify --fix`, then `dvc repro`$"):
        storage.load_arrays(tmp_path / "x")


@pytest.mark.parametrize(
    ("array", "axes"),
    [
        (np.zeros((2, 3)), "f4 2 3"),
        (np.zeros((2, 3), np.float32), "f4 2"),
        (np.zeros((2, 3), np.float32), "f4 2 4"),
        (np.zeros((2, 3), np.float32), "f4 N N"),
        (np.zeros((2, 3), np.float32), "f4 2 3 *"),
        (np.array([1, np.nan], np.float32), "f4 *"),
        (np.array([1, -np.inf], np.float32), "f4 *"),
        (np.zeros(2, np.int8), "f 2"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(array: np.ndarray, axes: str) -> None:
    with pytest.raises(ValueError, match=r"x: "):
        storage.check_arrays({"x": array}, {"x": axes})
    with pytest.raises(ValueError, match="y: an unknown array"):
        storage.check_arrays({"y": array}, {"x": axes})


def test_arrays_that_fit_their_type_and_axes_are_accepted() -> None:
    axes = {"codes": "f4 N d", "label*": "i N", "flags": "b1 *", "images": "f N 3 *"}
    arrays = {"images": np.zeros((5, 3, 9)), "codes": np.zeros((5, 2), np.float32), "labels": np.zeros(5, int)}
    storage.check_arrays(arrays | {"flags": np.zeros(7, bool)}, axes, d=2)
    for sizes, said in (({"d": 3}, "not f4 N d with {'d': 3, 'N': 5}"), ({"N": 4}, "not f N 3 * with {'N': 4}")):
        with pytest.raises(ValueError, match=re.escape(said)):
            storage.check_arrays(arrays, axes, **sizes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="absent: no such file"):
        storage.load_arrays(tmp_path / "absent")


def test_a_write_makes_the_folders_it_needs_and_takes_text(tmp_path: Path) -> None:
    for text in ("é\r\n", ""):
        storage.write(str(tmp_path / "new" / "folder" / "x"), text)
        assert (tmp_path / "new" / "folder" / "x").read_bytes() == text.encode()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write(tmp_path / "x", "old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space") as raised:
        storage.write(tmp_path / "x", "new")
    assert raised.value.filename == str(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    storage.write(tmp_path / "x", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_the_next_write_deletes_what_a_killed_one_left_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, of_another_file = tmp_path / ".a[1].7.tmp", tmp_path / ".a1.7.tmp"
    for path in (gone, of_another_file):
        path.write_text("half")
    replace, seen = os.replace, []

    def replacing(temporary: Path, path: Path) -> None:
        seen.append((temporary.name, storage.is_leftover(temporary)))
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", replacing)
    storage.write(tmp_path / "a[1]", "whole")
    assert seen == [(f".a[1].{os.getpid()}.tmp", False)], "its writer lives"
    assert {path.name for path in tmp_path.iterdir()} == {"a[1]", of_another_file.name}
    assert storage.is_leftover(of_another_file)
    assert not any(map(storage.is_leftover, (tmp_path / "a[1]", tmp_path / ".a.tmp", tmp_path / ".absent.7.tmp")))


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


KEY = strategies.text("abc_ ", min_size=1, max_size=3)
METRICS = strategies.dictionaries(
    KEY,
    strategies.recursive(
        strategies.floats(-1e9, 1e9, allow_subnormal=False)
        | strategies.integers(-(10**6), 10**6)
        | strategies.text(max_size=3)
        | strategies.booleans(),
        lambda inner: strategies.dictionaries(KEY, inner, max_size=3) | strategies.lists(inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


def nested(flat: dict[str, object]) -> dict[str, object]:
    """Return the mappings that :func:`storage.flatten` has made flat."""
    values: dict = {}
    for key, value in flat.items():
        *sections, last = key.split("/")
        section = values
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return values


@given(values=METRICS)
def test_metrics_survive_their_file(values: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("metrics") / "m.json"
    storage.save_metrics(path, values)
    flat = storage.load_json(path)
    assert flat == storage.rounded(storage.flatten(values))
    assert storage.flatten(nested(flat)) == flat


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


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", json.dumps("x"), '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', "[" * 100_000]
)
def test_a_damaged_metrics_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"m\.json"):
        storage.load_json(tmp_path / "m.json")
