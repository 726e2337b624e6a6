"""Images with labels: the split, the prepared file that DVC versions, and the train/validation cut."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import IntegrityError
from pipeline.files import load_arrays, save_arrays


@dataclass(frozen=True)
class Split:
    """Grey images ``[N, height, width]`` (uint8, 0 black to 255 white) and labels ``[N]`` (int64).

    Raises ValueError when shapes or types are anything else.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 3 or not self.images.size:
            raise ValueError(f"images must be uint8 [N, height, width], not {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def pixels(self) -> np.ndarray:
        """The images as flat intensities ``[N, height * width]``, float32 in [0, 1]."""
        return self.images.reshape(len(self), -1).astype(np.float32) / 255

    def take(self, indices: np.ndarray | slice) -> "Split":
        """Return the images and labels at ``indices``."""
        return Split(self.images[indices], self.labels[indices])

    def mean_image(self) -> np.ndarray:
        """Return the mean intensity of each pixel, ``[height * width]``, float32 in [0, 1]."""
        return (self.images.reshape(len(self), -1).mean(axis=0, dtype=np.float64) / 255).astype(np.float32)


@dataclass(frozen=True)
class Dataset:
    """A named data set with its published train/test split."""

    name: str
    train: Split
    test: Split


def save_dataset(path: str | Path, dataset: Dataset) -> None:
    """Write the prepared file; the same images give the same bytes."""
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        split: Split = getattr(dataset, part)
        arrays |= {f"{part}_images": split.images, f"{part}_labels": split.labels}
    save_arrays(path, arrays, {"dataset": dataset.name})


def load_dataset(path: str | Path) -> Dataset:
    """Read the prepared file. Raises IntegrityError naming it when it is missing or damaged."""
    arrays, header = load_arrays(path)
    try:
        train, test = (Split(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test"))
        return Dataset(header["dataset"], train, test)
    except (KeyError, ValueError) as error:
        raise IntegrityError(f"{path}: not a prepared data set ({error}); delete it and run `dvc repro`") from None


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cut a split into ``(train, validation)``, the latter ``round(fraction * N)`` images drawn by ``seed``."""
    order = np.random.default_rng(seed).permutation(len(split))
    size = max(1, round(fraction * len(split)))
    return split.take(np.sort(order[size:])), split.take(np.sort(order[:size]))
