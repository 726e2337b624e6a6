"""What data sets of your own share: where they are, what they are called, and which of their images are for testing."""

import mmap
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from shlex import quote
from tempfile import TemporaryFile

import numpy as np

from pipeline.data import RESIDENT, Dataset, Images
from pipeline.errors import ParamsError

ARRAYS = (".npz", ".npy", ".safetensors")
KINDS = {"folder": "a folder of PNG, JPEG or WebP files", "arrays": f"a file ({', '.join(ARRAYS)})"}
"""The data sets of your own, by ``data.name``, and what ``data.path`` must be."""
NAMED = 10  # files that a line names
TAKEN = {"mnist", "fashion_mnist", "kmnist", "digits"}  # by the data sets that are not your own


def find(kind: str, path: str | Path) -> Path:
    """Return the path of a data set of this kind. Raises ParamsError when there is none, saying what to do."""
    found = Path(path)
    if not found.exists():
        tracked = found.with_name(f"{found.name}.dvc").is_file()
        command = f"`dvc checkout {quote(str(path))}`, or `dvc pull {quote(str(path))}` from a remote, brings it"
        cure = command if tracked else f"data.name: {kind} needs {KINDS[kind]}"
        raise ParamsError(f"data.path: {path}: no such file or folder; {cure}")
    if not (found.is_dir() if kind == "folder" else found.is_file() and found.suffix in ARRAYS):
        shown = "a folder" if found.is_dir() else "a file" if kind == "folder" else "another file"
        other = " (data.name: arrays reads it)" if kind == "folder" and found.suffix in ARRAYS else ""
        raise ParamsError(f"data.path: {path}: {shown}; data.name: {kind} needs {KINDS[kind]}{other}")
    return found


def name_of(path: Path) -> str:
    """Return the name of the data set at a path, that of its file or folder, with underscores for other letters.

    >>> name_of(Path("images/my photos")), name_of(Path("shapes.npz")), name_of(Path("/data/mnist"))
    ('my_photos', 'shapes', 'own_mnist')
    """
    name = os.path.basename(os.path.abspath(path)).removesuffix(path.suffix if path.suffix in ARRAYS else "")
    name = "".join(" " if letter.isnumeric() and not letter.isalpha() and not letter.isdecimal() else letter for letter in name)
    name = re.sub(r"[^\w.-]+", "_", name).strip("_.-")[:90] or "images"  # of the letters that storage.Name allows
    return f"own_{name}" if name in TAKEN else name


def listed(names: Sequence[str]) -> str:
    """Return the first ten names, and how many more there are.

    >>> listed(["a"] * 2), listed(["b"] * 11)[-12:]
    ('a, a', 'b and 1 more')
    """
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def unread(broken: Mapping[str, str], total: int) -> str:
    """Return a text that counts and names files that cannot be read, of which ``broken`` has the reasons.

    >>> unread({"a.png": "empty"}, 3)
    '1 of 3 images cannot be read: a.png (empty)'
    """
    return f"{len(broken):,} of {total:,} images cannot be read: {listed([f'{file} ({why})' for file, why in broken.items()])}"


def room(shape: Sequence[int]) -> np.ndarray:
    """Return an uint8 array to fill: in memory, or above ``RESIDENT`` in a file without a name in the current folder.

    Raises OSError where the disk has no room for it.
    """
    if (size := prod(shape)) <= RESIDENT:
        return np.empty(shape, np.uint8)
    with TemporaryFile(dir=".") as file:
        file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process that fills the array
            os.posix_fallocate(file.fileno(), 0, size)
        return np.ndarray(shape, np.uint8, mmap.mmap(file.fileno(), size))


def is_test(digests: Iterable[bytes], fraction: float) -> np.ndarray:
    """Return for each image, by the sha256 of its content, whether it is a test image: about a ``fraction`` of all are.

    An image keeps its part when others are added or removed, when it is renamed and when its class changes; copies of an image
    are in the same part. To make this possible the classes are not stratified. One image at least is for testing, two are not.

    >>> is_test([bytes([first]) * 32 for first in (200, 30, 90, 120)], 0.2)
    array([False,  True, False, False])
    """
    values = np.fromiter((int.from_bytes(digest[:8]) for digest in digests), np.uint64)
    test: np.ndarray = values < fraction * 2.0**64
    order = np.argsort(values, kind="stable")
    test[order[:1]], test[order[-2:]] = True, False
    return test


def divided(name: str, images: Images, test: np.ndarray, classes: Sequence[str]) -> Dataset:
    """Return a data set of which ``test`` says which images are for testing.

    Raises ValueError for fewer than two images to train, without one to test, and for names of classes that cannot be shown.
    """
    if test.sum() < 1 or (~test).sum() < 2:
        raise ValueError(f"{(~test).sum()} training and {test.sum()} test images; allowed are at least 2 and 1")
    if bad := [name for name in classes if not (name.isprintable() and 0 < len(name) <= 100)]:
        raise ValueError(f"{bad[0]!a:.120} is no name of a class; allowed are up to 100 printable letters")
    return Dataset(name, images.part(np.flatnonzero(~test)), images.part(np.flatnonzero(test)), tuple(classes))
