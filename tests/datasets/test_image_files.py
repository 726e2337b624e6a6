"""An image file becomes the array that a viewer of it would show, or is refused by name."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets.image_files import UnreadableImage, decode_image, read_image

COLOR, GRAY = (3, 8, 8), (1, 8, 8)
QUARTERS = np.kron(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [90, 90, 90]]], np.uint8), np.ones((4, 4, 1), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def quarters() -> Image.Image:
    """Return 8 x 8 pixels: red and green above, blue and gray below."""
    return Image.fromarray(QUARTERS)


def flat(mode: str, color: Any, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, color)


@pytest.mark.parametrize("suffix", ["png", "PNG", "webp", "jpg"])
def test_pixels_of_the_right_size_are_kept_whatever_the_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(encoded(quarters()))
    assert np.array_equal(read_image(path, COLOR), QUARTERS.transpose(2, 0, 1))
    assert np.array_equal(read_image(path, GRAY)[0], np.asarray(quarters().convert("L")))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_jpeg_and_webp_are_read_about_as_they_were(kind: str) -> None:
    found = decode_image(encoded(quarters(), kind, quality=95), COLOR)
    assert (
        abs(found[:, [1, 1, 6, 6], [1, 6, 1, 6]].T - np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]])).max() < 40
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_is_turned_upright(orientation: int, kind: str) -> None:
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's numbers of the inverse operations
    stored = quarters() if turned is None else quarters().transpose(Image.Transpose(turned))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode_image(encoded(stored, kind, exif=exif, quality=95), COLOR)
    assert abs(found.astype(int) - QUARTERS.transpose(2, 0, 1))[:, ::5, ::5].max() < 90


def levels_of_16_bits() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 40_000, np.uint16))


LEVELS: dict[str, tuple[Image.Image, int]] = {
    "16 bits": (levels_of_16_bits(), 156),  # 40,000 / 257
    "1 bit": (flat("1", 1), 255),
    "palette": (flat("RGB", (80, 80, 80)).convert("P", palette=Image.Palette.ADAPTIVE), 80),
    "half transparent": (flat("LA", (0, 128)), 127),
    "transparent": (flat("RGBA", (9, 9, 9, 0)), 255),
    "gray": (flat("L", 77), 77),
}


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("shape", [COLOR, GRAY])
def test_every_kind_of_png_keeps_its_brightness(name: str, shape: tuple[int, int, int]) -> None:
    image, level = LEVELS[name]
    found = decode_image(encoded(image), shape)
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert np.unique(found).tolist() == [level]


def test_a_transparent_color_of_a_palette_or_of_rgb_shows_the_background() -> None:
    palette = flat("P", 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    for content in (encoded(palette, transparency=1), encoded(flat("RGB", (1, 2, 3)), transparency=(1, 2, 3))):
        for background, level in (("white", 255), ("black", 0)):
            assert np.unique(decode_image(content, COLOR, background=background)).tolist() == [level]


def test_cmyk_becomes_rgb() -> None:
    found = decode_image(encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), COLOR)
    assert found[0].min() > 200
    assert found[1:].max() < 60


@pytest.mark.parametrize(("size", "bars"), [((16, 8), (0, slice(0, 2))), ((8, 16), (slice(None), slice(0, 2)))])
def test_crop_keeps_the_center_and_pad_the_whole(size: tuple[int, int], bars: Any) -> None:
    content = encoded(flat("L", 100, size))
    assert np.unique(decode_image(content, GRAY, "crop")).tolist() == [100]
    padded = decode_image(content, GRAY, "pad", background="black")[0]
    assert np.unique(padded).tolist() == [0, 100]
    assert np.unique(padded[2:6] if size[0] > size[1] else padded[:, 2:6]).tolist() == [100]
    assert decode_image(content, GRAY, "pad")[0].max() == 255


def test_a_crop_is_of_the_middle() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    assert np.unique(decode_image(encoded(Image.fromarray(wide)), GRAY)).tolist() == [200]


def test_a_large_photo_keeps_its_details() -> None:
    rough = Image.effect_noise((16, 16), 60).resize((64, 64))
    photo, exact = (
        decode_image(encoded(rough, kind, **options), (1, 32, 32)) for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}))
    )
    assert abs(photo.astype(int) - exact).mean() < 3


def test_of_a_photo_with_a_second_view_the_first_is_read() -> None:
    both = encoded(quarters(), "MPO", save_all=True, append_images=[flat("RGB", "red")], quality=95)
    assert abs(decode_image(both, COLOR)[:, 6, 1].astype(int) - [0, 0, 255]).max() < 40


def test_an_image_may_be_of_any_height_and_width() -> None:
    assert decode_image(encoded(quarters()), (3, 5, 11)).shape == (3, 5, 11)


def animated(kind: str) -> bytes:
    return encoded(flat("RGB", "red"), kind, save_all=True, append_images=[flat("RGB", "blue")])


BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello", "no PNG, JPEG or WebP"),
    "GIF": (encoded(flat("L", 0), "GIF"), "no PNG, JPEG or WebP"),
    "truncated": (encoded(Image.effect_noise((64, 64), 50))[:900], "truncated"),
    "animated PNG": (animated("PNG"), "animated, 2 frames"),
    "animated WebP": (animated("WEBP"), "animated, 2 frames"),
    "large": (encoded(flat("1", 0, (10_000, 9_000))), "more than the 89,478,485 pixels"),
    "larger": (encoded(flat("1", 0, (20_000, 10_000))), "more than the 89,478,485 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_by_name(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read_image(path, COLOR)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe", "loop"])
def test_a_path_that_is_no_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    make = {"absent": lambda: None, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}
    make[kind]()
    with pytest.raises(UnreadableImage, match=r"x\.png: "):
        read_image(path, COLOR)


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(quarters()))
    with pytest.raises(UnreadableImage, match="not 2"):
        read_image(tmp_path / "x.png", (2, 8, 8))


WHOLE = {kind: encoded(quarters(), kind) for kind in ("PNG", "JPEG", "WEBP")}


@given(
    kind=st.sampled_from(sorted(WHOLE)),
    at=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_a_damaged_file_is_an_image_or_refused(kind: str, at: float, byte: int, cut: bool) -> None:
    content = bytearray(WHOLE[kind])
    index = int(at * len(content))
    content[index] = byte
    try:
        found = decode_image(bytes(content[:index] if cut else content), COLOR)
    except ValueError as refused:
        reason = str(refused)
    else:
        assert found.shape == COLOR
        return
    assert 0 < len(reason) < 200
    assert "\n" not in reason
