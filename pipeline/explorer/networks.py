"""The networks that the page runs: their layers, read from a file of weights without torch, and what they compute."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import expit

from pipeline.data import Shape
from pipeline.errors import ParamsError
from pipeline.storage import check_arrays, refusing

KERNEL = 4, 4  # of a convolution, with stride 2 and padding 1, so it halves or doubles the image
KINDS = "linear layers, and convolutions of 4 x 4 with stride 2 and padding 1, with a ReLU between every two"


class NotExplorable(ParamsError):
    """A model or its images are of a kind that the explorer does not show."""


class Layer(NamedTuple):
    """A layer with weights; a ReLU stands between every two.

    ``weight`` is that of torch: Linear ``[out, in]``, Conv2d ``[out, in, 4, 4]``, ConvTranspose2d ``[in, out, 4, 4]``.
    """

    kind: str
    weight: np.ndarray
    bias: np.ndarray
    inputs: Shape
    """Channels, height and width of what it reads; height and width are 1 for numbers that are no image."""
    outputs: Shape

    def channels_last(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight and bias for images ``[H, W, C]``: Linear ``[in, out]``, Conv2d ``[4, 4, in, out]``,
        ConvTranspose2d ``[in, 4, 4, out]``.
        """
        if self.kind != "Linear":
            return self.weight.transpose((2, 3, 1, 0) if self.kind == "Conv2d" else (0, 2, 3, 1)), self.bias
        weight = self.weight.reshape(*self.outputs, *self.inputs).transpose(4, 5, 3, 1, 2, 0)
        return weight.reshape(prod(self.inputs), -1), self.bias.reshape(self.outputs).transpose(1, 2, 0).ravel()


Layers = Sequence[Layer]


def read_layers(part: str, arrays: Mapping[str, np.ndarray], image_shape: Shape, weights: Path) -> list[Layer]:
    """Return the layers of the ``encoder`` or the ``decoder`` among the arrays of a file of weights, from input to output.

    Raises NotExplorable for layers of another kind, IntegrityError for arrays that are no weights.
    """
    own = {name: array for name, array in arrays.items() if name.startswith(f"{part}.")}
    with refusing(weights, "weights"):
        check_arrays(own, {name: " ".join(["f4", *"*" * array.ndim]) for name, array in own.items()})
    names = sorted((name.removesuffix(".weight") for name in own if name.endswith(".weight")), key=lambda name: (len(name), name))
    found, shape = list[Layer](), image_shape  # from the image to the code: encoders halve it this way, and so do decoders
    for name in names if part == "encoder" else reversed(names):
        weight, bias = own[f"{name}.weight"], own.get(f"{name}.bias", np.empty(0))
        channels, height, width = shape
        if weight.ndim == 2:
            kind, (near, far) = "Linear", weight.T.shape if part == "encoder" else weight.shape
            fits, other = near == prod(shape), (far, 1, 1)
        else:
            kind = "Conv2d" if part == "encoder" else "ConvTranspose2d"
            fits = weight.shape[1:] == (channels, *KERNEL) and height % 2 == width % 2 == 0
            other = len(weight), height // 2, width // 2
        inputs, outputs = (shape, other) if part == "encoder" else (other, shape)
        if not fits or bias.shape != (prod(outputs) if kind == "Linear" else outputs[0],):
            raise NotExplorable(f"{weights}: the explorer runs {KINDS}; {name} is none of them")
        found.append(Layer(kind, weight, bias, inputs, outputs))
        shape = other
    return found if part == "encoder" else found[::-1]


def check_kinds(header: Mapping[str, Any], weights: Path) -> None:
    """Raise NotExplorable unless the decoder that the header of a file of weights lists has layers that the page can run."""
    listed = header.get("decoder")
    kinds = list(map(str, listed)) if isinstance(listed, list) else []
    run = [kind for kind in kinds if kind not in ("Unflatten", "ChannelsLast")]
    if len(run) % 2 == 0 or not (set(run[1::2]) <= {"ReLU"} and set(run[::2]) <= {"Linear", "ConvTranspose2d"}):
        found = ", ".join(kinds) or "unknown; train the model again"
        raise NotExplorable(f"{weights}: the explorer runs {KINDS}; the decoder's layers are {found}")


def compute(layers: Layers, x: np.ndarray) -> np.ndarray:
    """Return the outputs ``[N, C, H, W]`` of a network for inputs ``[N, ...]``, as the page computes them."""
    for depth, (kind, weight, bias, inputs, outputs) in enumerate(layers):
        x = (np.maximum(x, 0) if depth else x).reshape(len(x), *inputs)
        if kind == "Linear":
            x = x.reshape(len(x), -1) @ weight.T + bias
        elif kind == "Conv2d":
            windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), KERNEL, axis=(2, 3))[:, :, ::2, ::2]
            x = np.einsum("nihwyx,oiyx->nohw", windows, weight, optimize=True) + bias[:, None, None]
        else:
            channels, height, width = outputs
            parts = np.einsum("nihw,ioyx->yxnohw", x, weight, optimize=True)
            framed = np.zeros((len(x), channels, height + 2, width + 2), np.float32)
            for row, column in product(range(4), repeat=2):
                framed[:, :, row : row + height : 2, column : column + width : 2] += parts[row, column]
            x = framed[:, :, 1:-1, 1:-1] + bias[:, None, None]
    return x.reshape(len(x), *layers[-1].outputs)


def mean_intensities(logits: np.ndarray, likelihood: str) -> np.ndarray:
    """Return the intensities that a decoder's outputs stand for; :mod:`pipeline.models.likelihoods` has the same with torch."""
    probability: np.ndarray = expit(logits)
    if likelihood != "continuous_bernoulli":
        return probability
    is_small = np.abs(logits) < 1e-2
    safe = np.where(is_small, 1, logits)
    return np.where(is_small, 0.5 + logits / 12, probability / np.tanh(safe / 2) - 1 / safe)
