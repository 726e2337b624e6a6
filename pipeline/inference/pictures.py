"""Decoded images as a picture, as an array, or as a folder of image files."""

import math
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid

from pipeline.errors import ParamsError
from pipeline.storage import write

SUFFIXES = (".png", ".npz", "")
SEEN = 64  # pixels: a lower image is enlarged in a picture


def save_images(path: Path, images: np.ndarray, columns: int = 0, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write images ``[N, C, H, W]``, float32 in [0, 1]: what ``path`` ends with says how.

    A .png file is one picture of all of them, with some ``columns`` (0: about as many as rows), enlarged if they are small. A
    .npz file has them as ``images``, and further ``arrays``. Any other path is a new folder of PNG files: 0.png, 1.png, ...

    Raises ParamsError for a folder that is not empty, and for a picture of images that are neither gray nor RGB.
    """
    if path.suffix == ".npz":
        np.savez(file := BytesIO(), allow_pickle=False, images=images, **(arrays or {}))
        write(path, file.getvalue())
        return
    if images.shape[1] not in (1, 3):
        raise ParamsError(f"{path}: images of {images.shape[1]} channels are no PNG; --out images.npz keeps them")
    if path.suffix == ".png":
        write(path, _png(_grid(images, columns or math.ceil(math.sqrt(len(images))))))
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ParamsError(f"{path}: it is there already; give the name of a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:  # renamed once it is whole
        folder, digits = Path(scratch, path.name), len(str(len(images) - 1))
        folder.mkdir()
        for index, image in enumerate(images):
            (folder / f"{index:0{digits}}.png").write_bytes(_png(image))
        folder.replace(path)


def _grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images as one image ``[C, H, W]``, with white lines between them."""
    scale = max(1, round(SEEN / images.shape[-2]))
    larger = images.repeat(scale, axis=-2).repeat(scale, axis=-1)
    grid: np.ndarray = make_grid(torch.from_numpy(larger), columns, pad_value=1.0).numpy()
    return grid[: images.shape[1]]


def _png(image: np.ndarray) -> bytes:
    pixels = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def in_pairs(upper: np.ndarray, lower: np.ndarray, columns: int) -> np.ndarray:
    """Return two sets of images ``[N, C, H, W]`` as rows of some ``columns``, each row of the first above that of the second."""
    lacking = -len(upper) % columns
    both = np.pad(np.stack([upper, lower]), [(0, 0), (0, lacking), *[(0, 0)] * 3], constant_values=1.0)
    return both.reshape(2, -1, columns, *upper.shape[1:]).swapaxes(0, 1).reshape(-1, *upper.shape[1:])
