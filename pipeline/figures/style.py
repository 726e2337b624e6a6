"""What every figure shares: the page it draws from, colors, fonts, layout and tiles of images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure
from PIL import Image, ImageChops, ImageOps

from pipeline.errors import IntegrityError
from pipeline.evaluation.results import Results

WIDTH = 7.8  # inches: with the margins of `png`, under 900 pixels at 110 dpi, so that `dvc plots diff` shows two side by side

# Ten colors that are far apart for readers with usual, deuteranopic and protanopic color vision (the largest smallest distance in
# OKLab that a search found). Their order puts the largest distances between digits that are neighbors in a latent space.
CLASS_COLORS = ["#3c69d2", "#a53c87", "#69001e", "#c387f0", "#2d1e87", "#695a00", "#2da587", "#4be1f0", "#d2c300", "#e1691e"]
MODEL_COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito
INK, PENCIL = "#24292f", "#8b949e"
DOT: dict[str, Any] = {"ls": "", "marker": "o", "ms": 7, "mec": "white", "mew": 1.2}


@dataclass(frozen=True)
class Page:
    """What one set of figures shows: results and training history of each model, by name, in the order of drawing.

    Raises IntegrityError unless there are models and all saw the same test images.
    """

    models: Mapping[str, Results]
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    points: int = 1000  # test images in a scatter

    def __post_init__(self) -> None:
        if not self.models:
            raise IntegrityError("no results of any model to draw; run `dvc repro` to make them")
        (first, expected), *others = self.models.items()
        for name, results in others:
            theirs, ours = (one.arrays.get("inputs", np.empty(0)) for one in (results, expected))
            if results.dataset != expected.dataset or not np.array_equal(theirs, ours):
                raise IntegrityError(f"{name} and {first} were evaluated on different images; run `dvc repro` to evaluate both")

    def having(self, name: str) -> list[Results]:
        """Return the results that have an array of this name."""
        return [results for results in self.models.values() if name in results]


def styled() -> Any:
    """Return a context with the matplotlib settings of this project, whatever the user's own are."""
    return style.context(["default", Path(__file__).with_name("figures.mplstyle")])


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of this size in inches; it is made without pyplot, which would keep it alive."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(number: int, height: float, widest: float = 4.5) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes ``[lines, columns]``: one line of up to three panels, else two or more of at most four.

    A panel is at most ``widest`` inches wide and ``height`` times as high as wide.
    """
    columns = number if number < 4 else min(-(-number // 2), 4)
    lines, width = -(-number // columns), min(WIDTH / columns, widest)
    figure = new_figure(lines * width * height, columns * width)
    axes: np.ndarray = figure.subplots(lines, columns, squeeze=False)
    for ax in axes.flat[number:]:
        ax.set_axis_off()
    return figure, axes


def image_panels(shown: Sequence[Any], draw: Callable[[Axes, Any], float], widest: float = WIDTH) -> Figure:
    """Return a figure with a panel of images for each model shown; ``draw`` returns its height for a width of 1."""
    figure, axes = panels(len(shown), 1, widest)
    tallness, (lines, columns) = max([draw(ax, one) for ax, one in zip(axes.flat, shown, strict=False)]), axes.shape
    figure.set_figheight(lines * (tallness * (figure.get_figwidth() / columns - 0.4) + 0.8))
    return figure


def color_bar(figure: Figure | SubFigure, axes: Axes | np.ndarray, colors: ScalarMappable, **options: Any) -> Colorbar:
    """Add a color bar that several panels share."""
    bar = figure.colorbar(colors, ax=axes, fraction=0.03, pad=0.015, aspect=32, **options)
    bar.outline.set_visible(False)
    return bar


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Return colors ``[N, 3]`` of sRGB in OKLab (Ottosson, 2020), where distances are about those that are seen."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = [[0.41222147, 0.53633254, 0.05144599], [0.21190350, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870]]
    lab = [[0.21045426, 0.79361779, -0.00407205], [1.97799850, -2.42859221, 0.45059371], [0.02590404, 0.78277177, -0.80867577]]
    seen: np.ndarray = np.cbrt(linear @ np.transpose(cones)) @ np.transpose(lab)
    return seen


def distinct_colors(number: int) -> list[str]:
    """Return as many colors: the first of :data:`CLASS_COLORS`, then always the one that is furthest from all before it."""
    rgb = np.stack(np.meshgrid(*[np.linspace(0, 1, 16)] * 3), axis=-1).reshape(-1, 3)
    seen = oklab(rgb)
    dark_enough = seen[:, 0] < 0.85  # to be seen on white
    rgb, seen, colors = rgb[dark_enough], seen[dark_enough], CLASS_COLORS[:number]
    room = np.full(len(rgb), np.inf)
    for i in range(number):
        if i == len(colors):
            colors.append(to_hex(rgb[room.argmax()]))
        room = np.minimum(room, np.linalg.norm(seen - oklab(np.array(to_rgb(colors[i]))), axis=1))
    return colors


def series_colors(names: Iterable[str]) -> dict[str, str]:
    """Return a color for each name: :data:`MODEL_COLORS` for up to six, else :func:`distinct_colors`."""
    names = list(dict.fromkeys(names))
    return dict(zip(names, MODEL_COLORS if len(names) <= len(MODEL_COLORS) else distinct_colors(len(names)), strict=False))


def cut(name: str, most: int = 12) -> str:
    """Return a name of at most ``most`` characters, whose dollar signs begin no formula.

    >>> cut("Ankle boot"), cut("Lawn mower, red"), cut("$5")
    ('Ankle boot', 'Lawn mower,…', '\\\\$5')
    """
    return (name if len(name) <= most else f"{name[: most - 1].rstrip()}…").replace("$", r"\$")


def is_ink(images: np.ndarray) -> bool:
    """Return whether images ``[..., C, H, W]`` in [0, 1] are gray on a black ground: these are drawn as ink on paper."""
    return images.shape[-3] == 1 and bool(np.median(images) < 0.25)


def tiles(ax: Axes, images: np.ndarray, gap: int = 2, *, ink: bool) -> float:
    """Draw images ``[rows, columns, C, H, W]`` in [0, 1], with ``ink`` as ink on paper; return the height for a width of 1.

    The center of image (row, column) is at y = row from the top, x = column; ``gap`` is its white frame in pixels, which is wider
    for images that reach their edge. Of other than one channel or three their mean is drawn.
    """
    white = float(not ink)
    if images.shape[2] not in (1, 3):
        images = images.mean(2, keepdims=True)
    if np.abs(images[..., [0, -1], :] - white).mean() > 0.1:
        gap += images.shape[-2] // 8
    framed = np.pad(images, ((0, 0), (0, 0), (0, 0), (gap, gap), (gap, gap)), constant_values=white)
    rows, columns, channels, height, width = framed.shape
    sheet = framed.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    colors, shown = "gray_r" if ink else "gray", sheet if channels == 3 else sheet[..., 0]
    ax.imshow(shown, cmap=colors, vmin=0, vmax=1, extent=extent, aspect=height / width)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return float(rows * height / (columns * width))


def marks(numbers: Iterable[float]) -> list[str]:
    """Return tick labels with the minus sign of matplotlib's own ticks."""
    return [f"{number:g}".replace("-", "\N{MINUS SIGN}") for number in numbers]


def png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as a PNG file with even margins and without dates or versions, so that equal figures give equal bytes."""
    with styled():
        figure.set_dpi(dpi)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    # 52 levels of each color look the same as 256 and make a file of half the size; 255 is 51 times 5, so white stays white.
    levels: np.ndarray = np.round(np.asarray(canvas.buffer_rgba())[..., :3] / 5) * 5
    image = Image.fromarray(levels.astype(np.uint8))
    image = image.crop(ImageChops.invert(image).getbbox())
    file = BytesIO()
    ImageOps.expand(image, round(0.18 * dpi), "white").save(file, "PNG", optimize=True)
    return file.getvalue()
