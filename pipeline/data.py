"""Images with optional labels and factors, the prepared file that DVC versions, and the validation split."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from pipeline.storage import ClassName, Header, Name, chunks, map_arrays, refusing, save_arrays

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
MAX_CLASSES = 1 << 16
RESIDENT = 1 << 30
"""Bytes of images that are kept in memory; of more, a part is. It is a fixed number, because it decides the order of training."""
Pixels = TypeVar("Pixels")


def intensities(pixels: Pixels) -> Pixels:
    """Return bytes 0..255, a numpy array or a torch tensor, as float32 intensities in [0, 1].

    >>> intensities(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ], dtype=float32)
    """
    return pixels / np.float32(255)  # type: ignore[operator, no-any-return]  # numpy and torch share no type


class Rows:
    """Rows of an array that are copied only where they are asked for, by ``[...]``, so that all of them need not fit into memory.

    >>> rows = Rows(np.array([0, 10, 20, 30]), np.array([3, 1, 2]))
    >>> rows.shape, rows[1:]
    ((3,), array([10, 20]))
    """

    def __init__(self, array: "np.ndarray | Rows", rows: np.ndarray) -> None:
        self._array, self._rows = array, rows
        self.shape: tuple[int, ...] = (len(rows), *array.shape[1:])
        self.dtype: np.dtype[Any] = array.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._array[self._rows[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Images:
    """Images ``[N, C, H, W]`` (uint8, 0 black to 255 white), with labels ``[N]`` and factors ``[N, K]`` (int64) where known.
    Labels are numbers of classes, from 0.

    Raises ValueError for other shapes and types.

    >>> images = Images(np.zeros((5, 1, 28, 28), np.uint8))
    >>> len(images), images.shape, images.labels is None
    (5, (1, 28, 28), True)
    """

    pixels: np.ndarray | Rows
    labels: np.ndarray | None = None
    factors: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or len(self.pixels.shape) != 4 or not prod(self.pixels.shape):
            raise ValueError(f"images must be uint8 [N, C, H, W], not {self.pixels.dtype} {list(self.pixels.shape)}")
        for name, values, ndim in (("labels", self.labels, 1), ("factors", self.factors, 2)):
            if values is not None and (values.dtype != np.int64 or values.ndim != ndim or len(values) != len(self)):
                expected = f"[{len(self)}]" if ndim == 1 else f"[{len(self)}, K]"
                raise ValueError(f"{name} must be int64 {expected}, not {values.dtype} {list(values.shape)}")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < MAX_CLASSES:
            raise ValueError(f"labels must be 0 to {MAX_CLASSES - 1}, not {self.labels.min()} to {self.labels.max()}")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> Shape:
        """Channels, height and width of each image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def intensities(self) -> np.ndarray:
        """The images as float32 in [0, 1], ``[N, C, H, W]``."""
        return intensities(self.pixels[:])

    def take(self, indices: np.ndarray | slice) -> "Images":
        """Return the images at ``indices``, with their labels and factors."""
        labels, factors = (None if values is None else values[indices] for values in (self.labels, self.factors))
        return Images(self.pixels[indices], labels, factors)

    def part(self, rows: np.ndarray) -> "Images":
        """Return the images at the numbers ``rows``; their pixels are copied where they are used, not here."""
        labels, factors = (None if values is None else values[rows] for values in (self.labels, self.factors))
        return Images(Rows(self.pixels, rows), labels, factors)

    def mean_image(self) -> np.ndarray:
        """Return the mean intensity of each pixel, ``[C, H, W]``, float32 in [0, 1]."""
        total = np.zeros(self.shape)
        for part in chunks(self.pixels):
            total += part.sum(axis=0, dtype=np.float64)  # of integers, so it is exact
        return (total / len(self) / 255).astype(np.float32)


@dataclass(frozen=True)
class Dataset:
    """A named data set with its train/test split, and the names of its classes where they have any.

    Raises ValueError when the parts differ in shape, only one has labels, or a label has no name among some.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...] = ()
    """The name of each label, from 0; empty where a class is called by its number."""

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            raise ValueError(f"training images {list(self.train.shape)} and test images {list(self.test.shape)} differ in shape")
        if (self.train.labels is None) != (self.test.labels is None):
            raise ValueError("only one of training and test images has labels")
        if self.classes:
            highest = max((int(part.labels.max()) for part in (self.train, self.test) if part.labels is not None), default=-1)
            if not highest < len(self.classes) == len(set(self.classes)):
                raise ValueError(f"the names of {highest + 1} classes must be as many and differ, not {list(self.classes)}"[:500])


class _Header(Header):
    dataset: Name
    classes: list[ClassName] = Field([], max_length=MAX_CLASSES)


def save_dataset(path: str | Path, dataset: Dataset) -> None:
    """Write the prepared file; the same images give the same bytes."""
    parts = (("train", dataset.train), ("test", dataset.test))
    arrays = {f"{part}_{name}": array for part, images in parts for name, array in vars(images).items() if array is not None}
    save_arrays(path, arrays, {"dataset": dataset.name} | ({"classes": [*dataset.classes]} if dataset.classes else {}))


def load_dataset(path: str | Path) -> Dataset:
    """Return the data set of a prepared file; its images stay in the file, which is read where they are used.

    Raises IntegrityError naming it when it is missing or damaged.
    """
    arrays, header = map_arrays(path)
    with refusing(path, "a prepared data set"):
        _Header.check(header)
        names = {part: [f"{part}_{field}" for field in ("pixels", "labels", "factors")] for part in ("train", "test")}
        if unknown := arrays.keys() - {*names["train"], *names["test"]}:
            raise ValueError(f"unknown arrays: {', '.join(sorted(unknown))}")
        train, test = (
            Images(arrays[pixels], arrays.get(labels), arrays.get(factors)) for pixels, labels, factors in names.values()
        )
        return Dataset(header["dataset"], train, test, tuple(header.get("classes", ())))


def holdout(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Split images into parts ``(train, validation)``; ``seed`` chooses the ``round(fraction * N)`` validation images."""
    order = np.random.default_rng(seed).permutation(len(images))
    size = max(1, round(fraction * len(images)))
    return images.part(np.sort(order[size:])), images.part(np.sort(order[:size]))
