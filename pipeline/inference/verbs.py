"""What a trained model does: arrays in, arrays out, in batches."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from pipeline.errors import DivergedError, ParamsError
from pipeline.inference.given import GivenImages
from pipeline.models.weights import Trained
from pipeline.runtime import generator

BATCH = 500  # images at once


class Codes(NamedTuple):
    """Codes of images ``[N, d]``: the posterior's mean, and its standard deviation, None for points."""

    mean: np.ndarray
    std: np.ndarray | None


def _parts(total: int, verb: str) -> Iterator[slice]:
    """Yield the batches, with a bar on a terminal."""
    with tqdm(total=total, desc=verb, unit="image", leave=False, disable=None) as bar:
        for start in range(0, total, BATCH):
            yield slice(start, start + BATCH)
            bar.update(min(BATCH, total - start))


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DivergedError(f"the model gives {name} that are not finite; its weights or what it was given are too large")
    return values


def _device(trained: Trained) -> torch.device:
    return next(trained.model.parameters()).device


@torch.no_grad()
def encode(trained: Trained, images: GivenImages) -> Codes:
    """Return the codes of images of the model's shape. Raises DivergedError for codes that are not finite."""
    found = [
        trained.model.encode(torch.tensor(images.take(part).intensities, device=_device(trained)))
        for part in _parts(len(images), "encode")
    ]
    mean, std = (_finite("codes", torch.cat([getattr(one, name) for one in found]).numpy(force=True)) for name in ("mean", "std"))
    return Codes(mean, std if trained.model.is_probabilistic else None)


@torch.no_grad()
def decode(trained: Trained, codes: np.ndarray) -> np.ndarray:
    """Return the images ``[N, C, H, W]``, float32 in [0, 1], at codes ``[N, d]``.

    Raises ParamsError for codes of another d, DivergedError for images that are not finite.
    """
    if codes.shape[1:] != (trained.config.latent_dim,):
        raise ParamsError(f"codes of {codes.shape[1]} numbers; this model's codes have {trained.config.latent_dim}")
    points = torch.tensor(codes, device=_device(trained))
    images = torch.cat([trained.model.decode_images(points[part]) for part in _parts(len(codes), "decode")])
    return _finite("images", images.numpy(force=True))


def sample(trained: Trained, number: int, seed: int) -> np.ndarray:
    """Return latent points ``[number, d]`` from the prior N(0, I)."""
    points: np.ndarray = torch.randn(number, trained.config.latent_dim, generator=generator(seed, "sample")).numpy()
    return points


def line(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Return the points ``[steps, d]`` at equal distances on the line between two codes ``[d]``, ends included.

    >>> line(np.zeros(2, np.float32), np.ones(2, np.float32), 3).tolist()
    [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
    """
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    points: np.ndarray = (1 - share) * start + share * end
    return points


def nearest(codes: np.ndarray, code: np.ndarray, number: int, without: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the codes ``[N, d]`` nearest to a code ``[d]``, nearest first, and their Euclidean distances.

    The code of the index ``without`` is left out.

    >>> nearest(np.array([[0.0], [3.0], [1.0]]), np.array([0.9]), 2)[0].tolist()
    [2, 0]
    """
    distances = np.linalg.norm(codes.astype(np.float64) - code, axis=1)
    order = np.argsort(distances, kind="stable")
    order = order[order != without][:number]
    return order, distances[order]
