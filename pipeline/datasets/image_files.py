"""One image file as an array of the size that a net takes."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.data import Shape
from pipeline.errors import IntegrityError

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_BYTES = 1 << 28
_TOO_MANY = Image.DecompressionBombError, Image.DecompressionBombWarning


class UnreadableImage(IntegrityError):
    """A file is no image that this pipeline takes; the message names the file and the reason."""


def _eight_bits(image: Image.Image, background: str) -> Image.Image:
    """Return an upright image with 8 bits a channel and no transparency."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a photo with a second view or a preview beside it
        raise ValueError(f"animated, {image.n_frames} frames; save one of them as an image")  # type: ignore[attr-defined]
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would cut all values above 255
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image


def read_content(path: Path) -> bytes:
    """Return the bytes of a file. Raises ValueError, saying why, where it cannot be read."""
    try:
        if not path.is_file():  # reading a pipe may wait for ever
            raise ValueError("not a file" if path.exists() else "no such file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None


def decode_image(content: bytes, shape: Shape, fit: str = "crop", background: str = "white") -> np.ndarray:
    """Return the bytes of a file as an image; :func:`read_image` says how. Raises ValueError, saying why, where it is none."""
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"an image file has 1 (gray) or 3 channels (color), not {channels}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that does not matter here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                # A JPEG of a camera is decoded at a fraction of its size: 12 instead of 114 ms for 12 million pixels.
                image.draft(None, (2 * max(height, width),) * 2)
                plain = _eight_bits(image, background).convert("L" if channels == 1 else "RGB")
    except _TOO_MANY:
        raise ValueError(f"more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are read") from None
    except UnidentifiedImageError:
        raise ValueError("no PNG, JPEG or WebP" if content else "empty") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, EOFError, struct.error and others for damaged files
        raise ValueError(" ".join(str(error).split())[:100] or type(error).__name__) from None
    size = width, height
    fitted = ImageOps.pad(plain, size, color=background) if fit == "pad" else ImageOps.fit(plain, size)
    return np.asarray(fitted, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def read_image(path: str | Path, shape: Shape, fit: str = "crop", background: str = "white") -> np.ndarray:
    """Return a PNG, JPEG or WebP file as uint8 ``[C, H, W]`` of ``shape``: gray with one channel, color with three.

    The image is turned upright as its EXIF data say, put on ``background`` where it is transparent, and resized. ``crop`` keeps
    its center, ``pad`` all of it, between bars of ``background``. Gray levels of 16 bits become 8 bits, CMYK becomes RGB.
    Raises UnreadableImage for damaged and animated files, other formats, over 89 million pixels and other numbers of channels.

    >>> read_image("cat.jpg", (3, 64, 64), fit="pad").shape  # doctest: +SKIP
    (3, 64, 64)
    """
    try:
        return decode_image(read_content(Path(path)), shape, fit, background)
    except ValueError as error:
        raise UnreadableImage(f"{path}: {error}") from None
