"""Write the latent explorer, a self-contained HTML page with the networks and the codes of each model, and the test images."""

import hashlib
import html
import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import ParamsError
from pipeline.explorer.loading import Explored
from pipeline.explorer.networks import Layers, NotExplorable
from pipeline.figures.latent import classes, plane
from pipeline.figures.style import Page, is_ink

MAX_BYTES = 10_000_000
POINTS = 3000  # test images on a plane, as dots
PIXELS = 3_000_000  # bytes of those that are shown as images, too: the first ones
SLIDERS = 16
SCRIPTS = ("network.js", "simd.js", "plane.js", "card.js", "input.js", "modes.js", "drawing.js", "tour.js", "main.js")


class Precision(NamedTuple):
    """The types of a model's weights; an encoder may be left out."""

    decoder: str
    encoder: str | None


# Of the models shown first and of a sweep's others; the first pair that fits is used. With float32 a pixel is the model's own to
# 1e-5, with float24 (a float32 without its lowest byte) to 1e-4, with float16 to about 3e-3, less than one of 256 gray levels.
PRECISIONS = (
    (Precision("float32", "float32"), Precision("float32", "float32")),
    (Precision("float32", "float24"), Precision("float32", "float24")),
    (Precision("float24", "float16"), Precision("float16", "float16")),
    (Precision("float16", "float16"), Precision("float16", "float16")),
    (Precision("float16", None), Precision("float16", None)),
)
# The page's own scripts and style alone, known by their hashes; no request leaves. The icon is an empty data: URL.
WASM = "'wasm-unsafe-eval'"  # allows WebAssembly, and no text that is run as a script
POLICY = (
    f"default-src 'none'; script-src {WASM} {{scripts}}; style-src {{style}}; img-src data:; base-uri 'none'; form-action 'none'"
)


def _add(blob: list[bytes], array: np.ndarray, dtype: str) -> list[Any]:
    """Append an array to those that are compressed as a whole; return type, offset and size, by which the page finds it."""
    values = np.ascontiguousarray(array, np.dtype(dtype.replace("24", "32")).newbyteorder("<"))
    offset = sum(map(len, blob))
    planes = values.reshape(-1, 1).view(np.uint8)
    if dtype == "float24":  # rounded to the three upper bytes
        planes = (values.reshape(-1, 1).view("<u4") + np.uint32(0x80)).view(np.uint8)[:, 1:]
    # All first bytes, then all second ones: signs and exponents are alike and compress better side by side.
    blob.append(planes.T.tobytes())
    return [dtype, offset, values.size]


def extent(values: np.ndarray) -> np.ndarray:
    """Return low and high ``[d, 2]`` of a frame over 99% of values ``[N, d]`` in each direction, with a margin."""
    low, high = np.quantile(values, [0.005, 0.995], axis=0)
    margin = np.maximum(0.1 * (high - low), 1e-3)
    return np.stack([low - margin, high + margin], axis=1)


def _network(layers: Layers, blob: list[bytes], precision: str) -> list[dict[str, Any]]:
    described = []
    for layer in layers:
        weight, bias = layer.channels_last()
        packed = {"weight": _add(blob, weight, precision), "bias": _add(blob, bias, "float32")}
        described.append({"kind": layer.kind, "inputs": layer.inputs, **packed})
    return described


def _describe(explored: Explored, blob: list[bytes], types: Precision) -> dict[str, Any]:
    results, codes = explored.results, explored.results["codes"]
    dim, found = codes.shape[1], classes(results)
    center, axes, names = plane(codes)

    def frame(*parts: np.ndarray) -> np.ndarray:
        ends = np.array([extent(part) for part in parts])
        around = np.column_stack([ends[..., 0].min(0), ends[..., 1].max(0)])
        if dim == 1:
            around[1] = -0.7, max(len(found.names) - 1, 0) + 0.7
        if dim == 2 and results.has_prior:  # the prior is a circle
            around = around.mean(1, keepdims=True) + np.array([-0.5, 0.5]) * np.ptp(around, axis=1).max()
        return around

    places, ranges = (codes - center) @ axes.T, extent(codes)
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
        "frame": frame(places).tolist(),
        "ranges": ranges.tolist(),
        "sliders": sorted(np.argsort(-codes.var(0), kind="stable")[:SLIDERS].tolist()) if dim > 2 else [],
        "decoder": _network(explored.networks.decoder, blob, types.decoder),
        "likelihood": explored.networks.likelihood,
        "encoder": _network(explored.networks.encoder, blob, types.encoder) if types.encoder else [],
    }
    if results.has_prior and "spread" in results:
        described["spread"] = _add(blob, results["spread"][:POINTS], "float32")
    if explored.replay is not None:
        dots = np.clip((explored.replay - center) @ axes.T, -6e4, 6e4)  # the largest float16 is 65,504
        described["replay"] = {
            "points": _add(blob, dots, "float16"),
            "epochs": len(dots) - 1,
            "frame": frame(places, *dots).tolist(),
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


def _assemble(cards: Sequence[Sequence[Explored]], images: np.ndarray, first: Precision, others: Precision) -> str:
    shown = Page({str(number): card[0].results for number, card in enumerate(cards)}).models["0"]
    ink, (channels, *size) = is_ink(shown["inputs"]), shown["inputs"].shape[1:]
    if channels not in (1, 3):
        raise NotExplorable(f"the explorer shows images of 1 channel or 3; those of {shown.dataset} have {channels}")
    if not ink:  # nothing to draw
        first, others = first._replace(encoder=None), others._replace(encoder=None)
    found, with_image = classes(shown), max(PIXELS // images[0].size, 1)
    blob: list[bytes] = []
    data = {
        "shape": [*size, channels],
        "ink": ink,
        "classes": found.word,
        "named": found.named,
        "names": found.names,
        "colors": found.colors(range(found.colors.N), bytes=True)[:, :3].tolist(),
        "labels": _add(blob, found.numbers[:POINTS], "uint8" if found.colors.N <= 256 else "float32"),
        "images": _add(blob, images[: min(with_image, POINTS)].transpose(0, 2, 3, 1), "uint8"),
        "cards": [[_describe(one, blob, others if i else first) for i, one in enumerate(card)] for card in cards],
        "precision": sorted({first.decoder} | {others.decoder for card in cards if len(card) > 1}, reverse=True),
    }
    folder = Path(__file__).parent
    style, *scripts = ((folder / name).read_text("utf-8") for name in ("explorer.css", *SCRIPTS))
    subject = html.escape(f"{shown.data}: {' and '.join(map(_name, cards))}")
    return Template((folder / "explorer.html").read_text("utf-8")).substitute(
        policy=POLICY.format(style=_csp_hash(style), scripts=" ".join(map(_csp_hash, scripts))),
        title=f"Latent explorer on {subject}",
        subtitle=subject,
        style=style,
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        data=json.dumps(data, sort_keys=True).replace("<", "\\u003c"),
        blob=b64encode(zlib.compress(b"".join(blob), 9)).decode(),
    )


def explorer(cards: Sequence[Sequence[Explored]], images: np.ndarray) -> str:
    """Return the page, self-contained and under 10 MB; equal models give equal bytes.

    ``cards`` has one entry for each plane, side by side: the model shown first, then those its beta slider also reaches;
    ``images`` are the bytes ``[N, C, H, W]`` of the test images. Raises IntegrityError for no models or different test images,
    NotExplorable for images of other channels and for two models over 10 MB, ParamsError for a sweep over 10 MB.
    """
    for first, others in PRECISIONS:
        document = _assemble(cards, images, first, others)
        if (size := len(document.encode())) < MAX_BYTES:
            return document
    number, limit = sum(map(len, cards)), MAX_BYTES / 1e6
    takes = f"an explorer of {number} models takes {size / 1e6:.1f} MB, over {limit:g}"
    if number > len(cards):
        raise ParamsError(f"{takes}; use fewer models of the sweep")
    raise NotExplorable(f"{takes}; smaller hidden_dims of ae and vae make a smaller page")
