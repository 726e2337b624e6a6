"""What every figure shares: the page it draws from, colours, type, and tiles of images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageOps

from pipeline.errors import IntegrityError
from pipeline.results import Results

WIDTH = 14.5  # inches: about 1600 pixels at 110 dpi

# The ten colours of "Accessible Color Sequences for Data Visualization" (2107.02270), which stay apart for colour-blind
# readers, dealt out so that digits which lie side by side in a latent space (4-7-9, 3-5-8) are the furthest apart.
CLASS_COLORS = ListedColormap(
    ["#717581", "#b9ac70", "#e76300", "#3f90da", "#a96b59", "#ffa90e", "#94a4a2", "#832db6", "#bd1f01", "#92dadd"], "classes"
)
CLASS_NORM = BoundaryNorm(np.arange(-0.5, 10), 10)
MODEL_COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito
INK, PENCIL = "#24292f", "#8b949e"

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the bytes are the same on every machine
    "font.size": 12,
    "axes.titlesize": 14,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.6,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), PENCIL),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
}


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
            if results.dataset != expected.dataset or not np.array_equal(results.inputs, expected.inputs):
                raise IntegrityError(
                    f"{name} and {first} were evaluated on different images; run `dvc repro` to evaluate both anew"
                )

    @property
    def dataset(self) -> str:
        """The data set that all the models saw."""
        return next(iter(self.models.values())).dataset


def styled() -> Any:
    """Return a context in which matplotlib draws this project's way, whatever the user's own settings are."""
    return style.context(["default", _STYLE])


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, in inches; no pyplot, so nothing global holds on to it."""
    return Figure(figsize=(width, height), layout="constrained")


def layout(panels: int) -> tuple[int, int]:
    """Return (columns, lines) for a number of panels: one line up to three, then two or more.

    >>> layout(2), layout(4)
    ((2, 1), (2, 2))
    """
    columns = panels if panels < 4 else min(-(-panels // 2), 4)
    return columns, -(-panels // columns)


def label(results: Results) -> str:
    """Return the model with its beta, where the data set is named elsewhere."""
    return results.title.replace(f" on {results.dataset}", "")


def tiles(ax: Axes, images: np.ndarray, gap: int = 2) -> float:
    """Draw images ``[rows, columns, height, width]`` in [0, 1] as ink on paper, the first row on top.

    The centre of tile (row, column) lies at y = row, x = column; ``gap`` is the paper around each image, in its pixels.
    Returns the height of the whole for a width of 1.
    """
    framed = np.pad(images, ((0, 0), (0, 0), (gap, gap), (gap, gap)))
    rows, columns, height, width = framed.shape
    sheet = framed.swapaxes(1, 2).reshape(rows * height, columns * width)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, extent=extent, aspect=height / width)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return rows * height / (columns * width)


def marks(numbers: Iterable[float]) -> list[str]:
    """Return tick labels with the minus sign that matplotlib's own ticks have."""
    return [f"{number:g}".replace("-", "\N{MINUS SIGN}") for number in numbers]


def png(figure: Figure, dpi: int) -> bytes:
    """Return a figure as a PNG file with even margins and without dates or versions: equal figures give equal bytes."""
    with styled():
        figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    # 52 levels of each colour look the same as 256 and make a file of half the size; 255 is 51 times 5, so white stays white.
    levels = np.round(np.asarray(canvas.buffer_rgba())[..., :3] / 5) * 5
    image = Image.fromarray(levels.astype(np.uint8))
    image = image.crop(ImageChops.invert(image).getbbox())
    file = BytesIO()
    ImageOps.expand(image, round(0.18 * dpi), "white").save(file, "PNG", optimize=True)
    return file.getvalue()
