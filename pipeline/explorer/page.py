"""Write the latent explorer, a self-contained HTML page with the decoder and the codes of each model."""

import hashlib
import html
import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from pipeline.errors import IntegrityError, ParamsError
from pipeline.explorer.loading import Explored, NotExplorable
from pipeline.figures.latent import Classes, class_places, classes, plane
from pipeline.figures.style import Page

MAX_BYTES = 8_000_000
POINTS = 3000  # test images on a plane
SLIDERS = 16
# Of the models shown first and of a sweep's others; the first pair that fits is used. With float32 a pixel is the model's
# own to 1e-5, with float16 to about 3e-3, less than one of 256 gray levels.
PRECISIONS = (("float32", "float32"), ("float32", "float16"), ("float16", "float16"))
# The page's own script and style alone, known by their hashes; no request leaves. The icon is an empty data: URL.
POLICY = "default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'"


def _add(blob: list[bytes], array: np.ndarray, dtype: str) -> list[Any]:
    """Append an array to those that are compressed as a whole; return type, offset and size, by which the page finds it."""
    values = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
    offset = sum(map(len, blob))
    # All first bytes, then all second ones: signs and exponents are alike and compress better side by side.
    blob.append(values.reshape(-1, 1).view(np.uint8).T.tobytes())
    return [dtype, offset, values.size]


def extent(values: np.ndarray) -> np.ndarray:
    """Return low and high ``[d, 2]`` of a frame over 99% of values ``[N, d]`` in each direction, with a margin."""
    low, high = np.quantile(values, [0.005, 0.995], axis=0)
    margin = np.maximum(0.1 * (high - low), 1e-3)
    return np.stack([low - margin, high + margin], axis=1)


def _marks(xy: np.ndarray, found: Classes, distance: np.ndarray) -> list[Any]:
    """Return the names of the classes that have a place in their own cloud, and this place."""
    if not found.names:
        return []
    places, points = class_places(xy, found.numbers, distance)
    marks = zip(np.unique(found.numbers), places.tolist(), (places == points).all(1), strict=True)
    return [[found.names[number], place] for number, place, in_cloud in marks if in_cloud]


def _describe(explored: Explored, blob: list[bytes], precision: str) -> dict[str, Any]:
    results, codes = explored.results, explored.results["codes"]
    dim, found = codes.shape[1], classes(results)
    sizes = [dim, *(len(bias) for _, bias in explored.layers)]
    if [weight.shape[::-1] for weight, _ in explored.layers] != list(pairwise(sizes)) or sizes[-1] != results["inputs"][0].size:
        raise IntegrityError(f"{results.title}: the decoder and the results are of different shapes; run `dvc repro`")
    center, axes, names = plane(codes)
    xy = (codes - center) @ axes.T
    frame, ranges = extent(xy), extent(codes)
    if dim == 1:
        frame[1] = -0.7, max(len(found.names) - 1, 0) + 0.7
    if dim == 2 and results.has_prior:  # the prior is a circle
        frame = frame.mean(1, keepdims=True) + np.array([-0.5, 0.5]) * np.ptp(frame, axis=1).max()
    if results.has_prior:  # also along a dimension the model does not use
        ranges = np.column_stack([np.minimum(ranges[:, 0], -3), np.maximum(ranges[:, 1], 3)])
    described = {
        "label": results.label,
        "beta": results.beta,
        "prior": results.has_prior,
        "codes": _add(blob, codes[:POINTS], "float32"),
        "center": center.tolist(),
        "axes": axes.tolist(),
        "names": ["z₁", "z₂" if dim == 2 else found.word] if dim <= 2 else names,
        "marks": _marks(xy, found, 0.06 * np.ptp(frame, axis=1)) if dim > 1 else [],
        "frame": frame.tolist(),
        "ranges": ranges.tolist(),
        "sliders": sorted(np.argsort(-codes.var(0), kind="stable")[:SLIDERS].tolist()) if dim > 2 else [],
        "layers": [[_add(blob, weight.T, precision), _add(blob, bias, "float32")] for weight, bias in explored.layers],
    }
    if "confidence_map" in results:
        values, ends = results["confidence_map"], results["map_axes"][:, [0, -1]].tolist()
        described["map"] = {"values": _add(blob, np.rint(255 * values), "uint8"), "shape": values.shape, "frame": ends}
    return described


def _csp_hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _name(card: Sequence[Explored]) -> str:
    name, betas = card[0].results.label, [one.results.beta or 0 for one in card]
    return name if len(card) == 1 else f"{name.split(', β')[0]}, β = {min(betas):g} to {max(betas):g}"


def _assemble(cards: Sequence[Sequence[Explored]], first: str, others: str) -> str:
    shown = Page({str(number): card[0].results for number, card in enumerate(cards)}).models["0"]
    channels, *size = shown["inputs"].shape[1:]
    if channels != 1:
        raise NotExplorable(f"the explorer shows gray images; those of {shown.dataset} have {channels} channels")
    found = classes(shown)
    blob: list[bytes] = []
    data = {
        "shape": size,
        "classes": found.word,
        "names": found.names,
        "colors": found.colors(range(found.colors.N), bytes=True)[:, :3].tolist(),
        "labels": _add(blob, found.numbers[:POINTS], "uint8" if found.colors.N <= 256 else "float32"),
        "cards": [[_describe(one, blob, others if i else first) for i, one in enumerate(card)] for card in cards],
        "precision": sorted({first} | {others for card in cards if len(card) > 1}, reverse=True),
    }
    template = Path(__file__).with_name("explorer.html")
    style, script = (template.with_suffix(suffix).read_text("utf-8") for suffix in (".css", ".js"))
    return Template(template.read_text("utf-8")).substitute(
        policy=POLICY.format(style=_csp_hash(style), script=_csp_hash(script)),
        title=html.escape(f"Latent explorer on {shown.dataset}: {' and '.join(map(_name, cards))}"),
        style=style,
        script=script,
        data=json.dumps(data, sort_keys=True).replace("<", "\\u003c"),
        blob=b64encode(zlib.compress(b"".join(blob))).decode(),
    )


def explorer(cards: Sequence[Sequence[Explored]]) -> str:
    """Return the page, self-contained and under 8 MB; equal models give equal bytes.

    ``cards`` has one entry for each plane, side by side: the model shown first, then those its beta slider also reaches.
    Raises IntegrityError for no models, different test images or layers that do not fit the results, ParamsError over 8 MB.
    """
    for first, others in PRECISIONS:
        document = _assemble(cards, first, others)
        if (size := len(document.encode())) < MAX_BYTES:
            return document
    number, limit = sum(map(len, cards)), MAX_BYTES / 1e6
    raise ParamsError(f"an explorer of {number} models takes {size / 1e6:.1f} MB, over {limit:g}; use fewer models of the sweep")
