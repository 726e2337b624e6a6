"""Images of your own in one file of arrays."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX, open_memmap

from pipeline.data import RESIDENT, Dataset, Images
from pipeline.datasets.own import divided, find, is_test, name_of, room
from pipeline.errors import IntegrityError
from pipeline.storage import chunks, map_safetensors

NAMES = ("images", "labels", "factors", "test")


def _held(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return map_safetensors(path)[0]
    with open(path, "rb") as file:
        try:
            if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                return {"images": np.asarray(open_memmap(path, mode="r"))}
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files}
        except (MemoryError, ValueError) as error:  # numpy makes room for the shape that a file names, of whatever length it is
            if isinstance(error, MemoryError) or "mmap" in str(error):
                raise ValueError(f"it does not fit into memory, or is damaged ({error})") from None
            raise


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz or .safetensors file by name, that of an .npy file as ``images``; nothing is unpickled.

    Arrays larger than ``RESIDENT`` stay in an .npy or .safetensors file, which is read where they are used.
    Raises ValueError for a member that is no array; zipfile, zlib, numpy and safetensors raise a dozen kinds for damaged files.
    """
    held = _held(path)
    if others := [name for name, array in held.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{', '.join(others)}: no array")
    return {name: array if array.flags.writeable or array.nbytes > RESIDENT else array.copy() for name, array in held.items()}


def _pixels(images: np.ndarray) -> np.ndarray:
    """Return images as uint8 ``[N, C, H, W]``."""
    shown = f"images: {images.dtype} {list(images.shape)}"
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim != 4 or not {images.shape[1], images.shape[3]} & {1, 3}:
        raise ValueError(f"{shown}; allowed are [N, H, W], [N, C, H, W] and [N, H, W, C] with 1 or 3 channels C")
    elif images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if not images.size:
        raise ValueError(f"{shown}; there is no image")
    if images.dtype == np.uint8:
        if images.max() <= 1:
            raise ValueError(f"{shown} with values of 0 and 1 alone, almost black; save them as bool, or multiply them by 255")
        return images
    if images.dtype != bool and images.dtype.kind != "f":
        raise ValueError(f"{shown}; allowed are uint8, bool, and floats in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if not 0 <= low <= high <= 1:  # also for NaN
        raise ValueError(f"{shown} with values from {low:.6g} to {high:.6g}; allowed are floats in [0, 1]")
    pixels, done = room(images.shape), 0
    white = np.uint8(255) if images.dtype == bool else images.dtype.type(255)
    for part in chunks(images):
        pixels[done : done + len(part)] = (part * white).round()
        done += len(part)
    return pixels


def _integers(name: str, values: np.ndarray | None) -> np.ndarray | None:
    if values is not None and values.dtype.kind not in "iu":
        raise ValueError(f"{name}: {values.dtype} {list(values.shape)}; allowed are integers" + " or names" * (name == "labels"))
    if values is not None and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: {values.max()}; allowed are integers of 64 bits with a sign")
    return None if values is None else values.astype(np.int64)


def _dataset(name: str, held: dict[str, np.ndarray], test_size: float) -> Dataset:
    if unknown := sorted(held.keys() - set(NAMES)):
        raise ValueError(f"unknown arrays: {', '.join(unknown)}; allowed are {', '.join(NAMES)}")
    if "images" not in held:
        raise ValueError("no array 'images'")
    pixels, labels, classes = _pixels(held["images"]), held.get("labels"), list[str]()
    if labels is not None and labels.dtype.kind in "SU":
        names, labels = np.unique(labels.astype(str), return_inverse=True)
        classes = names.tolist()
    images = Images(pixels, _integers("labels", labels), _integers("factors", held.get("factors")))
    test = held.get("test")
    if test is None:
        test = is_test((hashlib.sha256(image.data).digest() for part in chunks(pixels) for image in part), test_size)
    elif test.dtype != bool or test.shape != (len(images),):
        raise ValueError(f"test: {test.dtype} {list(test.shape)}; allowed is bool [{len(images)}], true for a test image")
    return divided(name, images, test, classes)


def arrays(path: str | Path, *, test_size: float = 0.2) -> Dataset:
    """Return the arrays of an .npz or .safetensors file, or the images of an .npy file, as a data set.

    ``images`` are ``[N, H, W]``, ``[N, C, H, W]`` or ``[N, H, W, C]`` (uint8, bool, or floats in [0, 1]). ``labels`` ``[N]``
    (integers from 0, or names) and ``factors`` ``[N, K]`` (integers) may be missing. ``test`` ``[N]`` (bool) says which images
    are for testing; without it :func:`is_test` takes about ``test_size`` of them.

    Raises ParamsError for a path that is no such file, IntegrityError, with the file and the array, for all else.
    """
    found = find("arrays", path)
    try:
        return _dataset(name_of(found), read_arrays(found), test_size)
    except MemoryError:
        raise
    except Exception as error:  # any kind, see read_arrays
        raise IntegrityError(f"{found}: {error!s:.300}") from None
