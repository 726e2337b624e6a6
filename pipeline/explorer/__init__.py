"""The latent explorer: one HTML file in which the browser itself decodes the point under the pointer, for every model."""

import html
import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import IntegrityError, ParamsError
from pipeline.figures.latent import class_name, spread_out
from pipeline.figures.style import CLASS_COLORS, Page, label
from pipeline.files import load_arrays
from pipeline.laboratory import Laboratory
from pipeline.results import Results

MAX_BYTES = 8_000_000
POINTS = 3000  # test images on a plane
SLIDERS = 16
# Of the models shown first and of a sweep's others; the first pair that fits is taken. With float32 a pixel is the model's
# own to 1e-5, with float16 to about 3e-3, less than one of 256 grey levels.
PRECISIONS = (("float32", "float32"), ("float32", "float16"), ("float16", "float16"))
_PARTS = Path(__file__).parent

Layer = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Explored:
    """One model to explore: where it puts the test images, and its decoder."""

    results: Results
    layers: Sequence[Layer]
    laboratory: Laboratory | None = None


def layers(weights: Path) -> list[Layer]:
    """Return weight ``[out, in]`` and bias ``[out]`` of each linear layer of the decoder in a file of weights, without torch.

    Raises IntegrityError naming the file when it is missing, damaged, or of another kind of decoder.
    """
    arrays, header = load_arrays(weights)
    kinds = header.get("decoder", [])
    if len(kinds) % 2 == 0 or kinds != ["ReLU" if index % 2 else "Linear" for index in range(len(kinds))]:
        found = ", ".join(kinds) or "unknown; train the model again"
        raise IntegrityError(f"{weights}: the explorer decodes linear layers with a ReLU between each two; these are {found}")
    try:
        return [(arrays[f"decoder.{index}.weight"], arrays[f"decoder.{index}.bias"]) for index in range(0, len(kinds), 2)]
    except KeyError as error:
        raise IntegrityError(f"{weights}: the explorer decodes linear layers with a bias; there is no {error}") from None


class _Blob:
    """Arrays one behind the other, compressed as a whole; the page finds each by type, place and size."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def add(self, array: np.ndarray, dtype: str) -> list[Any]:
        values = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
        # All first bytes, then all second ones: signs and exponents are alike and compress where they lie side by side.
        place = sum(map(len, self.parts))
        self.parts.append(values.reshape(-1, 1).view(np.uint8).T.tobytes())
        return [dtype, place, values.size]

    def text(self) -> str:
        return b64encode(zlib.compress(b"".join(self.parts))).decode()


def plane(results: Results) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the centre ``[d]`` and the axes ``[2, d]`` of the plane on which codes are drawn, and the names of its axes.

    Two dimensions are drawn as they are, more through their first two principal components; one has an empty second axis.
    """
    codes = results.codes.astype(np.float64)
    dim = codes.shape[1]
    if dim <= 2:
        return np.zeros(dim), np.eye(2, dim), ["z₁", "z₂" if dim == 2 else class_name(results)]
    centre = codes.mean(0)
    _, scale, axes = np.linalg.svd(codes - centre, full_matrices=False)
    axes = axes[:2] * np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]  # the sign is free: fix it
    shares = scale[:2] ** 2 / max((scale**2).sum(), 1e-300)
    return centre, axes, [f"component {i} ({share:.0%} of variance)" for i, share in enumerate(shares, 1)]


def extent(values: np.ndarray) -> np.ndarray:
    """Return low and high ``[d, 2]`` of a frame over 99% of values ``[N, d]`` in each direction, with a margin."""
    low, high = np.quantile(values, [0.005, 0.995], axis=0)
    margin = np.maximum(0.1 * (high - low), 1e-3)
    return np.stack([low - margin, high + margin], axis=1)


def _describe(explored: Explored, blob: _Blob, precision: str) -> dict[str, Any]:
    results, laboratory = explored.results, explored.laboratory
    dim, prior = results.codes.shape[1], results.beta is not None
    sizes = [dim, *(len(bias) for _, bias in explored.layers)]
    if [weight.shape[::-1] for weight, _ in explored.layers] != list(pairwise(sizes)) or sizes[-1] != results.inputs[0].size:
        raise IntegrityError(f"{results.title}: the decoder and the results are of different shapes; run `dvc repro`")
    centre, axes, names = plane(results)
    xy, labels = (results.codes - centre) @ axes.T, results.labels
    frame, ranges = extent(xy), extent(results.codes)
    if dim == 1:
        frame[1] = -0.7, labels.max() + 0.7
    if dim == 2 and prior:  # the prior is a circle
        frame = frame.mean(1, keepdims=True) + np.array([-0.5, 0.5]) * np.ptp(frame, axis=1).max()
    if prior:  # also along a dimension the model does not use
        ranges = np.column_stack([np.minimum(ranges[:, 0], -3), np.maximum(ranges[:, 1], 3)])
    medians = np.array([np.median(xy[labels == one], axis=0) for one in np.unique(labels)])
    described: dict[str, Any] = {
        "label": label(results),
        "beta": results.beta,
        "codes": blob.add(results.codes[:POINTS], "float32"),
        "centre": centre.tolist(),
        "axes": axes.tolist(),
        "names": names,
        "marks": spread_out(medians, 0.06 * np.ptp(frame, axis=1)).tolist() if dim > 1 else [],
        "frame": frame.tolist(),
        "ranges": ranges.tolist(),
        "sliders": sorted(np.argsort(-results.codes.var(0), kind="stable")[:SLIDERS].tolist()) if dim > 2 else [],
        "layers": [[blob.add(weight.T, precision), blob.add(bias, "float32")] for weight, bias in explored.layers],
    }
    if laboratory and "confidence_map" in laboratory.arrays and dim == 2:
        described["map"] = {
            "values": blob.add(np.rint(255 * laboratory.arrays["confidence_map"]), "uint8"),
            "shape": laboratory.arrays["confidence_map"].shape,
            "frame": laboratory.arrays["map_axes"][:, [0, -1]].tolist(),
        }
    return described


def _name(card: Sequence[Explored]) -> str:
    name, betas = label(card[0].results), [one.results.beta or 0 for one in card]
    return name if len(card) == 1 else f"{name.split(', β')[0]}, β = {min(betas):g} to {max(betas):g}"


def _assemble(cards: Sequence[Sequence[Explored]], first: str, others: str) -> str:
    results = {str(number): card[0].results for number, card in enumerate(cards)}
    page, blob = Page(results), _Blob()
    shape, labels = page.models["0"].inputs.shape[1:], page.models["0"].labels[:POINTS]
    data: dict[str, Any] = {
        "shape": shape,
        "classes": class_name(page.models["0"]),
        "colors": CLASS_COLORS(range(int(labels.max()) + 1), bytes=True)[:, :3].tolist(),
        "labels": blob.add(labels, "uint8"),
        "cards": [[_describe(one, blob, others if i else first) for i, one in enumerate(card)] for card in cards],
        "precision": sorted({first} | {others for card in cards if len(card) > 1}, reverse=True),
    }
    title = f"Latent explorer on {page.dataset}: {' and '.join(map(_name, cards))}"
    values = {
        "title": html.escape(title),
        "style": (_PARTS / "explorer.css").read_text(),
        "script": (_PARTS / "explorer.js").read_text(),
        "data": json.dumps(data, sort_keys=True).replace("<", "\\u003c"),
        "blob": blob.text(),
    }
    document = (_PARTS / "explorer.html").read_text()
    for name, value in values.items():
        document = document.replace(f"{{{{{name}}}}}", value)
    return document


def explorer(cards: Sequence[Sequence[Explored]]) -> str:
    """Return the page, self-contained and under 8 MB; equal models give equal bytes.

    Args:
        cards: one entry for each plane, side by side: the model shown first, and then those its beta slider also reaches.

    Raises:
        IntegrityError: no models, models of different test images, or a decoder whose layers do not fit the results.
        ParamsError: too many or too large models for 8 MB.
    """
    for first, others in PRECISIONS:
        document = _assemble(cards, first, others)
        if (size := len(document.encode())) < MAX_BYTES:
            return document
    number = sum(map(len, cards))
    raise ParamsError(
        f"an explorer of {number} models takes {size / 1e6:.1f} MB, over {MAX_BYTES / 1e6:g}; give it fewer of a sweep"
    )
