"""Files that are whole or absent: atomic writes, and arrays in safetensors that carry their own checksum."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.errors import IntegrityError

Arrays = dict[str, np.ndarray]

# safetensors writes its metadata in hash order, so more than one key would make the bytes differ from save to save.
_METADATA_KEY = "pipeline"


def md5(path: str | Path) -> str:
    """Return the hex md5 of a file's bytes, the hash by which dvc.lock names it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def write(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Raises OSError (disk full, read-only) with the old file untouched and no temporary file left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it had no room for
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _digest(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Write named arrays and a JSON header to one safetensors file; equal content gives equal bytes.

    A sha256 over header and arrays goes with them, because safetensors itself does not notice a flipped bit.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    envelope = {"header": header, "sha256": _digest(header, arrays)}
    write(path, save(arrays, metadata={_METADATA_KEY: json.dumps(envelope)}))


def load_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Read what :func:`save_arrays` wrote: ``(arrays, header)``.

    Raises IntegrityError naming the file when it is missing, cut, or changed in any bit. Nothing in it is executed.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            envelope = json.loads((file.metadata() or {})[_METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        header, expected = envelope["header"], envelope["sha256"]
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file; run `dvc repro` (or `dvc pull`) to make it") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: not a readable file of this pipeline ({error}); delete it and run `dvc repro`") from None
    if _digest(header, arrays) != expected:
        raise IntegrityError(f"{path}: content does not match its sha256 (damaged); delete it and run `dvc repro`")
    return arrays, header
