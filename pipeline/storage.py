"""Atomic writes, checksummed arrays in safetensors, and metrics files with one rounding and one spelling of a key."""

import csv
import fcntl
import hashlib
import io
import json
import math
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from pipeline.errors import DAMAGED, IntegrityError, ParamsError

Arrays = dict[str, np.ndarray]
Sliced = Any
"""An array, or what has the shape, the type and the slices of one that does not fit into memory."""
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # with the number of the process that writes it
_METADATA_KEY = "pipeline"  # one key alone, because safetensors writes keys in hash order, which differs between processes
# The types of safetensors and numpy, in the order in which safetensors puts arrays into a file.
_KINDS = ("U64", "I64", "F64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8", "BOOL")
_DTYPES = {kind: np.dtype(bool if kind == "BOOL" else f"<{kind[0].lower()}{int(kind[1:]) // 8}") for kind in _KINDS}
_CHUNK = 1 << 24  # bytes


def md5(path: str | Path) -> str:
    """Return the hex md5 of a file's bytes, the hash by which dvc.lock names it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def is_leftover(path: Path) -> bool:
    """Return whether this is the temporary file of :func:`write` in a process that was killed: nobody holds its lock."""
    if _TEMPORARY.fullmatch(path.name):
        with suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def write(path: str | Path, content: bytes | str | Iterable[np.ndarray]) -> None:
    """Write a file atomically: after a crash or an OSError (disk full, read-only) it has all of the old or of the new content.

    Content that does not fit into memory is given in parts.

    What an earlier writer of this file has left when it was killed is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in filter(is_leftover, path.parent.glob(f".{escape(path.name)}.*.tmp")):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            with suppress(OSError):  # some file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            parts = (content.encode(),) if isinstance(content, str) else (content,) if isinstance(content, bytes) else content
            file.writelines(parts)  # type: ignore[arg-type]  # contiguous arrays are buffers of bytes
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # which a full disk does not name
        raise
    finally:
        with suppress(OSError):  # there is none after a success
            temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def chunks(array: Sliced) -> Iterator[np.ndarray]:
    """Yield an array in contiguous parts of at most 16 MiB, or of one row."""
    size = math.prod(array.shape[1:]) * array.dtype.itemsize
    step = max(1, _CHUNK // max(1, size))
    for start in range(0, len(array), step):
        yield np.ascontiguousarray(array[start : start + step])


def _digest(header: Mapping[str, Any], arrays: Mapping[str, Sliced]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        for part in chunks(array):
            digest.update(part.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _parts(arrays: Mapping[str, Sliced], metadata: str) -> Iterator[np.ndarray]:
    """Yield the content of a safetensors file: the size of its header, the header in JSON, and the arrays."""
    dtypes, header, end = list(_DTYPES.values()), dict[str, Any]({"__metadata__": {_METADATA_KEY: metadata}}), 0
    ordered = sorted(arrays.items(), key=lambda item: (dtypes.index(item[1].dtype), item[0]))
    for name, array in ordered:
        start, end = end, end + math.prod(array.shape) * array.dtype.itemsize
        header[name] = {"dtype": _KINDS[dtypes.index(array.dtype)], "shape": array.shape, "data_offsets": (start, end)}
    content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    yield np.frombuffer(len(content).to_bytes(8, "little") + content, np.uint8)
    for _, array in ordered:
        yield from chunks(array)


def save_arrays(path: str | Path, arrays: Mapping[str, Sliced], header: Mapping[str, Any]) -> None:
    """Write named arrays, a JSON header and a sha256 of both to a safetensors file; equal content gives equal bytes.

    The arrays need not fit into memory.
    """
    arrays = {name: array if array.shape else np.atleast_1d(array) for name, array in arrays.items()}
    write(path, _parts(arrays, json.dumps({"header": header, "sha256": _digest(header, arrays)})))


Name = Annotated[str, Field(pattern=r"^\w[\w .-]*$", max_length=100)]
"""A name in a header, which may become part of a path and of a message."""
ClassName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=100)]
"""The name of a class, which is shown."""
Size = Annotated[int, Field(ge=1, le=1 << 16)]
"""A size in a header, within the bounds of params.yaml."""


class Header(BaseModel):
    """What the header of a file of arrays holds; a kind of file has a subclass."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, header: Mapping[str, Any]) -> None:
        """Raise ValidationError unless the header has these keys and types; of numbers NaN and infinity are not allowed."""
        cls.model_validate_json(json.dumps(header))


@contextmanager
def refusing(path: str | Path, kind: str) -> Iterator[None]:
    """Raise IntegrityError, naming the file and the ``kind`` that it is not, for what its content makes the code within raise."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise IntegrityError(f"{path}: not {kind} of this version ({problem:.200}); {DAMAGED}") from None
    except (KeyError, TypeError, ValueError, RuntimeError, ParamsError) as error:
        raise IntegrityError(f"{path}: not {kind} of this version ({error!s:.200}); {DAMAGED}") from None


def map_safetensors(path: str | Path) -> tuple[Arrays, dict[str, str]]:
    """Return ``(arrays, metadata)`` of any safetensors file; the arrays stay in the file, which is read where they are used.

    Raises SafetensorError for what is no such file, ValueError for other types of arrays.
    """
    with safe_open(path, framework="numpy") as checked:
        metadata = checked.metadata() or {}
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = {name: about for name, about in json.loads(file.read(start - 8)).items() if name != "__metadata__"}
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if others := {about["dtype"] for about in header.values()} - _DTYPES.keys():
        raise ValueError(f"arrays of type {', '.join(sorted(others))}")
    arrays: Arrays = {
        name: np.ndarray(about["shape"], _DTYPES[about["dtype"]], held, start + about["data_offsets"][0])
        for name, about in header.items()
    }
    return arrays, metadata


def map_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Return ``(arrays, header)``, the arrays as :func:`map_safetensors` does; errors are those of :func:`load_arrays`."""
    if not os.path.exists(path):
        raise IntegrityError(f"{path}: no such file; run `dvc repro` (comparison models: `dvc repro -P`)")
    if not os.path.isfile(path):
        raise IntegrityError(f"{path}: not a file; move it away, then run `dvc repro`")
    try:
        arrays, metadata = map_safetensors(path)
        envelope = json.loads(metadata[_METADATA_KEY])
        header = envelope["header"]
        if not isinstance(header, dict):
            raise TypeError("its header is no mapping")
        is_whole = _digest(header, arrays) == envelope["sha256"]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not a readable file of this pipeline ({error!s:.200}); {DAMAGED}") from None
    if not is_whole:
        raise IntegrityError(f"{path}: content does not match its sha256 (damaged); {DAMAGED}")
    return arrays, header


def load_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Return ``(arrays, header)``; nothing in the file is executed. Raises IntegrityError if it is missing or any bit differs."""
    arrays, header = map_arrays(path)
    return {name: array.copy() for name, array in arrays.items()}, header


def check_arrays(arrays: Mapping[str, np.ndarray], axes: Mapping[str, str], **sizes: int) -> None:
    """Raise ValueError unless every array has the type and the axes of the first name or pattern that fits, and finite numbers.

    An axis is a number, a letter that stands for one size in all arrays, or ``*``; ``sizes`` gives letters their size.

    >>> check_arrays({"codes": np.zeros((3, 2)), "labels": np.zeros(4, int)}, {"codes": "f N d", "labels": "i N"})
    Traceback (most recent call last):
    ValueError: labels: int64 [4], not i N with {'N': 3, 'd': 2}
    """
    for name, array in arrays.items():
        expected = next((found for pattern, found in axes.items() if fnmatchcase(name, pattern)), None)
        if expected is None:
            raise ValueError(f"{name}: an unknown array")
        kind, *letters = expected.split()
        fits = array.dtype.str[1:].startswith(kind) and len(letters) == array.ndim
        for letter, size in zip(letters, array.shape, strict=False):
            wanted = int(letter) if letter.isdigit() else size if letter == "*" else sizes.setdefault(letter, size)
            fits = fits and size == wanted
        if not fits:
            raise ValueError(f"{name}: {array.dtype} {list(array.shape)}, not {expected}" + (f" with {sizes}" if sizes else ""))
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name}: a number is not finite")


def rounded(value: Any) -> Any:
    """Round every float in nested mappings and lists to six significant digits. Raises ValueError for NaN and infinity.

    >>> rounded({"recon": 132.20001234, "per_dim": [0.1234567]})
    {'recon': 132.2, 'per_dim': [0.123457]}
    """
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return float(f"{value:.6g}")
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested metrics with flat keys, ``section/name``. Raises ValueError for a key with a ``.``, DVC's own separator.

    >>> flatten({"model": "vae", "test": {"recon": 132.2, "kl_per_dim": [3.1, 3.2]}})
    {'model': 'vae', 'test/recon': 132.2, 'test/kl_per_dim/0': 3.1, 'test/kl_per_dim/1': 3.2}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if "." in key:
            raise ValueError(f"a metric's key must not contain '.': {key!r}")
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numeric entries of a flat metrics file as floats, without its text and booleans."""
    return {key: float(value) for key, value in metrics.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def save_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON, rounded, in the order given. Raises ValueError for NaN and infinity."""
    write(path, json.dumps(rounded(values), indent=2, allow_nan=False) + "\n")


def save_metrics(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write nested metrics as a flat JSON file (see :func:`flatten`). Raises ValueError for NaN and infinity."""
    save_json(path, flatten(values))


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is not a finite number")
    return value


def load_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON file of this pipeline. Raises IntegrityError naming the file when it is missing or damaged."""
    try:
        values = json.loads(Path(path).read_bytes(), parse_constant=_finite, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); run `dvc repro` to make it") from None
    if not isinstance(values, dict):
        raise IntegrityError(f"{path}: not a mapping; delete it and run `dvc repro`")
    return values


def save_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns of the first row, rounded. Raises ValueError for NaN, infinity and unknown columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rounded(list(rows)))
    write(path, text.getvalue())
