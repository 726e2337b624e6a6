"""The images that a model is given: files, folders, arrays, IDX files and the prepared data set."""

import gzip
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.data import Images, Shape, intensities, load_dataset
from pipeline.datasets.arrays import read_arrays
from pipeline.datasets.image_files import SUFFIXES, UnreadableImage, decode_image, read_content
from pipeline.datasets.own import ARRAYS as SUFFIXES_OF_ARRAYS
from pipeline.datasets.own import unread
from pipeline.errors import ParamsError, PipelineError, printable

ARRAYS = "an array file (.npy, .npz, .safetensors), an IDX file or the prepared data set"


@dataclass(frozen=True)
class GivenImages:
    """Images ``[N, C, H, W]``, bytes or float32 in [0, 1]; columns: ``file`` or ``index`` of each and, where known, ``label``."""

    pixels: np.ndarray
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def intensities(self) -> np.ndarray:
        """The images as float32 in [0, 1]."""
        return intensities(self.pixels) if self.pixels.dtype == np.uint8 else self.pixels

    def take(self, part: slice) -> "GivenImages":
        """Return some of the images."""
        return GivenImages(self.pixels[part], {name: values[part] for name, values in self.columns.items()})


def read_images(
    paths: Sequence[Path],
    shape: Shape,
    part: str = "test",
    fit: str = "crop",
    background: str = "white",
    on_error: str = "",
) -> GivenImages:
    """Return the images in some files for a model that takes images of ``shape``.

    ``paths`` are image files and folders of them, which :func:`~pipeline.datasets.image_files.read_image` fits to the shape. A
    folder's images are those in all folders below it but hidden ones; the label is the name of the first of these. Or it is one
    file with an array ``images`` of the right shape, bytes or floats in [0, 1], and perhaps ``labels``; of the prepared data set
    it is the ``part`` ``test`` or ``train``. With ``on_error="skip"`` image files that cannot be read are named and left
    out; with ``"stop"`` the error says that ``--on-error skip`` is there.

    Raises ParamsError for what is missing, empty or of another kind, and UnreadableImage, which names all, for damaged files.
    """
    if len(paths) == 1 and paths[0].is_file() and paths[0].suffix.lower() not in SUFFIXES:
        pixels, labels = _read_arrays(paths[0], part)
        known = {} if labels is None else {"label": labels}
        return GivenImages(_fitted(pixels, shape, paths[0]), {"index": range(len(pixels)), **known})
    files, labels = list[Path](), list[str]()
    for path in paths:
        below = _below(path) if path.is_dir() else [path]
        if not below:
            raise ParamsError(f"{path}: no image below this folder; allowed are {', '.join(SUFFIXES)}")
        if not path.exists() or (path.is_file() and path.suffix.lower() not in SUFFIXES):
            problem = "must be given alone" if path.exists() else "no such file or folder"
            raise ParamsError(f"{path}: {problem}; allowed are image files ({', '.join(SUFFIXES)}), folders of them, or {ARRAYS}")
        files += below
        labels += [file.relative_to(path).parts[0] if file.parent != path and path.is_dir() else "" for file in below]
    pixels, whole = _read_files(files, shape, fit, background, on_error)
    columns = {"file": [*map(str, files)], **({"label": labels} if any(labels) else {})}
    return GivenImages(pixels, {name: [*map(_text, compress(values, whole))] for name, values in columns.items()})


def _read_files(files: Sequence[Path], shape: Shape, fit: str, background: str, on_error: str) -> tuple[np.ndarray, list[bool]]:
    """Return the images that can be read, and of each file whether it can; name the others."""
    images, broken = list[np.ndarray](), dict[str, str]()
    for file in tqdm(files, "read", unit="image", leave=False, disable=None):
        try:
            images.append(decode_image(read_content(file), shape, fit, background))
        except ValueError as error:
            broken[str(file)] = str(error)
    if broken:
        if len(files) == 1:
            raise UnreadableImage(": ".join(*broken.items()))
        text = unread(broken, len(files))
        if on_error != "skip" or not images:
            raise UnreadableImage(f"{text}; mend or delete them" + ", or add `--on-error skip`" * (on_error == "stop"))
        print(printable(f"{text}; they are left out"), file=sys.stderr)
    return np.stack(images), [str(file) not in broken for file in files]


def _text(path: str) -> str:
    """Return a path as text that can be written, with escapes for bytes that are no letters."""
    return path.encode("utf-8", "backslashreplace").decode()


def _below(folder: Path) -> list[Path]:
    """Return the image files in a folder and those below it, but hidden ones."""
    files = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _read_arrays(path: Path, part: str) -> tuple[np.ndarray, Sequence[Any] | None]:
    """Return the array of images in a file, and their labels where it has any."""
    try:
        if path.suffix not in SUFFIXES_OF_ARRAYS:
            return _read_idx(path), None
        arrays = read_arrays(path)
        return _prepared(path, part) if f"{part}_pixels" in arrays else _named(arrays)
    except (MemoryError, PipelineError):
        raise
    except Exception as error:  # any kind, see read_arrays
        raise ParamsError(f"{path}: not {ARRAYS} ({' '.join(str(error).split()):.200})") from None


def _named(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Sequence[Any] | None]:
    if "images" not in arrays:
        raise ValueError(f"it has no array images, but {', '.join(arrays) or 'nothing'}")
    labels = arrays.get("labels")
    if labels is not None and labels.shape != (number := arrays["images"].shape[:1]):
        raise ValueError(f"labels {list(labels.shape)}, not {list(number)}")
    if labels is not None and labels.dtype.kind not in "biufSU":
        raise ValueError(f"labels of {labels.dtype}; allowed are numbers or names")
    names = labels.astype(str) if labels is not None and labels.dtype.kind == "S" else labels
    return arrays["images"], None if names is None else names.tolist()


def _prepared(path: Path, part: str) -> tuple[np.ndarray, Sequence[Any] | None]:
    dataset = load_dataset(path)
    images: Images = getattr(dataset, part)
    if images.labels is None:
        return images.pixels[:], None
    return images.pixels[:], [dataset.classes[label] if dataset.classes else int(label) for label in images.labels]


def _read_idx(path: Path) -> np.ndarray:
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    if content[:4] != b"\0\0\x08\x03":
        raise ValueError("an IDX file of images begins with the bytes 0 0 8 3")
    return np.frombuffer(content, np.uint8, offset=16).reshape(struct.unpack_from(">3I", content, 4))


def _fitted(array: np.ndarray, shape: Shape, path: Path) -> np.ndarray:
    """Return an array ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` as images. Raises ParamsError for others."""
    channels, height, width = shape
    if array.ndim == 3 and channels == 1:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1:] == (height, width, channels) != shape:
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1:] != shape or not len(array):
        wanted = f"[N, {', '.join(map(str, shape))}]"
        raise ParamsError(f"{path}: images {list(array.shape)}; this model takes {wanted}, and resizes only image files")
    allowed = "allowed are whole numbers from 0 to 255, or floats in [0, 1]"
    if array.dtype.kind not in "biuf":
        raise ParamsError(f"{path}: images of {array.dtype}; {allowed}")
    low, high = array.min(), array.max()  # NaN where there is one, for which the comparisons are false
    if array.dtype.kind in "iu" and high == 1:
        raise ParamsError(f"{path}: images of {array.dtype} with values of 0 and 1 alone, almost black; save them as bool")
    if array.dtype.kind in "iu" and 0 <= low <= high <= 255:
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind in "iu" or not 0 <= low <= high <= 1:
        raise ParamsError(f"{path}: images of {array.dtype} from {low:g} to {high:g}; {allowed}")
    return array.astype(np.float32, copy=False)
