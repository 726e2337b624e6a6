"""The tutorial's data loaders, and the images of any data loader."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from pipeline import datasets
from pipeline.data import Dataset, Images, Shape, holdout, load_dataset
from pipeline.datasets.arrays import arrays
from pipeline.datasets.folder import folder
from pipeline.datasets.own import ARRAYS
from pipeline.datasets.transfer import Unavailable

PREPARED = Path(__file__).parents[2] / "data/dataset.safetensors"
Loader = DataLoader[Any]


class ImageTensors(TensorDataset):
    """Images as pairs of intensities ``[C, H, W]``, float32 in [0, 1], and a label where there are labels."""

    def __init__(self, images: Images, name: str) -> None:
        super().__init__(*(torch.tensor(array) for array in (images.intensities, images.labels) if array is not None))
        self.images, self.name = images, name


def _obtain(name: str) -> Dataset:
    if PREPARED.exists() and (prepared := load_dataset(PREPARED)).name == name:
        return prepared
    named = [mirror for mirror in [os.environ.get("PIPELINE_MIRROR")] if mirror]
    try:
        return datasets.load(name, named)
    except Unavailable as error:
        if named:
            raise
        warnings.warn(f"NOT {name}: no mirror has it ({error}); these are scikit-learn's 1,797 digits instead", stacklevel=3)
        return datasets.load("digits")


def load_mnist(batch_size: int = 128, *, name: str = "mnist", val_size: float = 0.05, seed: int = 1) -> tuple[Loader, ...]:
    """Return ``(train_loader, val_loader, test_loader)`` of images ``[B, 1, 28, 28]`` in [0, 1] and labels ``[B]``.

    ``name`` is ``mnist``, ``fashion_mnist``, ``kmnist`` or ``digits``; ``val_size`` the fraction of the training images that is
    held out for validation, by ``seed``. The images are read from ``data/dataset.safetensors`` if it holds this data set, else
    downloaded, from the folder or URL in the environment variable ``PIPELINE_MIRROR`` if it is set, which must have them. Without
    it and without a network they are scikit-learn's digits, with a warning. The training images are shuffled.
    """
    return _loaders(_obtain(name), batch_size, val_size, seed)


def load_images(
    path: str | Path,
    size: int = 28,
    channels: int = 1,
    *,
    fit: str = "crop",
    background: str = "white",
    on_error: str = "stop",
    batch_size: int = 128,
    test_size: float = 0.2,
    val_size: float = 0.05,
    seed: int = 1,
) -> tuple[Loader, ...]:
    """Return ``(train_loader, val_loader, test_loader)`` of images of your own, ``[B, channels, size, size]`` in [0, 1].

    ``path`` is a folder, of which :func:`pipeline.datasets.folder.folder` says how it is read, or a file for
    :func:`pipeline.datasets.arrays.arrays`, whose images keep their size. The names of its subfolders are the classes; without
    classes the batches have no labels.

    >>> train, val, test = load_images("images/photos", size=32, channels=3)  # doctest: +SKIP
    >>> Autoencoder(input_dim=3 * 32 * 32)  # doctest: +SKIP
    """
    if Path(path).suffix in ARRAYS:
        dataset = arrays(path, test_size=test_size)
    else:  # in this process: others would run a script that lacks `if __name__ == "__main__"` again
        options: dict[str, Any] = {"fit": fit, "background": background, "test_size": test_size, "on_error": on_error}
        dataset = folder(path, (channels, size, size), workers=1, **options)
    return _loaders(dataset, batch_size, val_size, seed)


def _loaders(dataset: Dataset, batch_size: int, val_size: float, seed: int) -> tuple[Loader, ...]:
    train, val = holdout(dataset.train, val_size, seed)
    print(f"{dataset.name}: {len(train):,} train, {len(val):,} validation and {len(dataset.test):,} test images")
    splits = (train, val, dataset.test)
    return tuple(DataLoader(ImageTensors(images, dataset.name), batch_size, shuffle=images is train) for images in splits)


def images_of(loader: Loader, shape: Shape) -> Images:
    """Return the images of a loader, each of ``shape``. Raises ValueError for intensities outside [0, 1] and other sizes.

    A loader that is not from :func:`load_mnist` is read once, and its intensities are rounded to 256 gray levels.
    """
    if isinstance(loader.dataset, ImageTensors):
        images = loader.dataset.images
        return Images(images.pixels[:].reshape(len(images), *shape), images.labels)
    batches = [batch if isinstance(batch, list | tuple) else (batch,) for batch in loader]
    x, *rest = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"images must be in [0, 1], not [{x.min():.3g}, {x.max():.3g}]; leave out Normalize")
    return Images((x * 255).round().byte().reshape(len(x), *shape).numpy(), rest[0].long().numpy() if rest else None)
