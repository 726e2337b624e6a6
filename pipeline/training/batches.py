"""One pass over images: what its steps are taken with, taking them, and validation."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data import RESIDENT, Images, Shape, intensities
from pipeline.models import LatentModel
from pipeline.runtime import Ranks, generator
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import Optimizer
from pipeline.training.step import TrainStep

ALONE = Ranks()
BLOCK, WINDOW = 1 << 17, 1 << 27  # bytes: of images that are read together, and of images that are in memory together
_POOL = 1024
_VALIDATION_BATCH = 2048


class Batches(NamedTuple):
    """The random draws of an epoch. Masks and thresholds are pools: one of each for every image would cost more than a matmul."""

    order: Tensor  # rows of the images [steps, B]
    masks: Tensor  # of the input dropout [M, C, H, W]
    mask_order: Tensor  # rows of the masks [steps, B]
    noise: Tensor  # standard normal [steps, B, noise_dim]
    thresholds: Tensor  # of the binarization, uint8 [M, C, H, W]; M is 0 without it
    threshold_order: Tensor  # rows of the thresholds [steps, B]


def resident(images: Images, device: torch.device) -> Tensor:
    """Return a copy of images on a device as bytes ``[N, C, H, W]``; a batch becomes intensities only when it is used."""
    return torch.from_numpy(images.pixels[np.arange(len(images))]).to(device)


def fits(images: Images) -> bool:
    """Return whether training keeps all images in memory; their size alone decides, because it decides their order, too."""
    return len(images) * prod(images.shape) <= RESIDENT


def windows(config: TrainConfig, epoch: int, images: Images) -> Iterator[np.ndarray]:
    """Yield the numbers of the images that are in memory together, and shuffled with each other, in an epoch.

    These are all images where they fit. Else blocks of 128 KiB of neighbours are put into a random order, which is cut into
    windows of 128 MiB, each of full batches: the two levels of CorgiPile (2206.05830). No image is in two windows; fewer than
    a batch are in none. The windows depend on seed and epoch alone.
    """
    count, size = len(images), prod(images.shape)
    if fits(images):
        yield np.arange(count)
        return
    batch = min(config.batch_size, count)
    block, window = max(1, BLOCK // size), max(1, WINDOW // size // batch) * batch
    order = torch.randperm(-(-count // block), generator=generator(config.seed, "blocks", epoch)).numpy()
    lengths = np.minimum(block, count - order * block)
    ends = lengths.cumsum()
    for start in range(0, count - batch + 1, window):
        places = np.arange(start, min(start + window, count))
        found = ends.searchsorted(places, side="right")
        yield np.sort(order[found] * block + places - (ends - lengths)[found])


def draw_thresholds(count: int, shape: Shape, *key: Any) -> Tensor:
    """Return what :func:`binarize` compares images with, uint8 ``[count, C, H, W]`` from 0 to 254, by the generator of a key."""
    return torch.randint(255, (count, *shape), generator=generator(*key), dtype=torch.uint8)


def binarize(pixels: Tensor, thresholds: Tensor) -> Tensor:
    """Return images (uint8 ``[B, C, H, W]``) in black and white, each pixel white with its intensity as probability.

    >>> binarize(torch.tensor([0, 100, 101, 255], dtype=torch.uint8), torch.full((4,), 100, dtype=torch.uint8)).tolist()
    [0, 0, 255, 255]
    """
    return (pixels > thresholds).to(torch.uint8) * 255


def draw_batches(
    config: TrainConfig, epoch: int, count: int, shape: Shape, noise_dim: int, ranks: Ranks = ALONE, window: int | None = None
) -> Batches:
    """Return the draws of an epoch, or of one of its windows, on the CPU; they depend on the arguments alone.

    It is a permutation of ``count`` images cut into full batches; what remains is left out, another few images each time. A
    hidden pixel's mask is zero, the others are scaled up so that the encoder's first sums keep their mean. Of ``ranks`` each
    draws for its own shards of the batches.
    """
    batch_size = min(config.batch_size, count)
    steps, size, own = count // batch_size, batch_size // config.shards, config.shards // ranks.size
    place = (epoch,) if window is None else (epoch, window)
    keys = [(*place, shard) for shard in range(own * ranks.rank, own * (ranks.rank + 1))] if config.shards > 1 else [place]
    order = torch.randperm(count, generator=generator(config.seed, "order", *place))[: steps * batch_size]
    order = order.view(steps, ranks.size, -1)[:, ranks.rank]
    noise = [torch.randn(steps, size, noise_dim, generator=generator(config.seed, "noise", *key)) for key in keys]
    masks, mask_order = torch.ones(1, *shape), torch.zeros_like(order)
    if config.input_dropout:
        draws = generator(config.seed, "masks", *place)
        masks = (torch.rand(_POOL, *shape, generator=draws) >= config.input_dropout).float().div_(1 - config.input_dropout)
        chosen = [draws] if config.shards == 1 else [generator(config.seed, "mask order", *key) for key in keys]
        mask_order = torch.cat([torch.randint(_POOL, (steps, size), generator=one) for one in chosen], 1)
    thresholds, threshold_order = torch.empty(0, *shape, dtype=torch.uint8), torch.zeros_like(order)
    if config.binarize:
        thresholds = draw_thresholds(_POOL, shape, config.seed, "thresholds", *place)
        chosen = [generator(config.seed, "threshold order", *key) for key in keys]
        threshold_order = torch.cat([torch.randint(_POOL, (steps, size), generator=one) for one in chosen], 1)
    return Batches(order, masks, mask_order, torch.cat(noise, 1), thresholds, threshold_order)


def run_epoch(
    step: TrainStep, optimizer: Optimizer, images: Tensor, batches: Batches, beta: float, rates: Sequence[float]
) -> dict[str, Tensor]:
    """Take one step for each batch of an epoch; return the sums of their terms, which stay on the device.

    Takes what computes the gradients and what applies them, all images (uint8 ``[N, C, H, W]``), the weight of the KL term, and
    the learning rate of each step.
    """
    totals: dict[str, Tensor] = {}
    order, masks, mask_order, noise, thresholds, threshold_order = (tensor.to(images.device) for tensor in batches)
    for rows, mask_rows, eps, threshold_rows, rate in zip(order, mask_order, noise, threshold_order, rates, strict=True):
        pixels = images.index_select(0, rows)
        x = intensities(binarize(pixels, thresholds.index_select(0, threshold_rows)) if len(thresholds) else pixels)
        terms = step(x, x * masks.index_select(0, mask_rows), eps, beta)
        optimizer.set_learning_rate(rate)
        optimizer.step(loss=terms["loss"])
        totals = {name: value + totals[name] if totals else value for name, value in terms.items()}
    return totals


@torch.no_grad()
def validate(model: LatentModel, images: Tensor, noise: Tensor) -> dict[str, Any]:
    """Return the objective at beta = 1 and its parts, means over all ``images`` (uint8 ``[N, C, H, W]``) in nats."""
    totals: dict[str, Tensor] = {}
    for pixels, eps in zip(images.split(_VALIDATION_BATCH), noise.split(_VALIDATION_BATCH), strict=True):
        for name, value in model.loss_terms(intensities(pixels), eps).items():
            totals[name] = totals.get(name, 0) + value.cpu().double() * len(pixels)  # MPS has no float64
    return {name: (total / len(images)).tolist() for name, total in totals.items()}
