"""One pass over images: what its steps are taken with and how long they are, taking them, and validation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data import Split
from pipeline.runtime import generator
from pipeline.step import Step

_MASKS = 1024
_VALIDATION_BATCH = 2048


@dataclass(frozen=True)
class Batches:
    """What the steps of an epoch are taken with, all drawn beforehand."""

    order: Tensor
    """Rows of the images ``[steps, B]``."""
    masks: Tensor
    """A pool of masks ``[M, D]``, float: drawing bits for each image of each step would cost more than a matrix product."""
    mask_order: Tensor
    """Rows of ``masks`` ``[steps, B]``."""
    noise: Tensor
    """Standard normal ``[steps, B, noise_dim]``."""

    def to(self, device: torch.device) -> "Batches":
        """Return them on a device."""
        return Batches(*(tensor.to(device) for tensor in vars(self).values()))


def resident(split: Split, device: torch.device) -> Tensor:
    """Return a split's images on a device as bytes ``[N, D]``; a batch becomes intensities only when it is used."""
    return torch.from_numpy(split.images.reshape(len(split), -1)).to(device)


def draw_batches(
    seed: int, epoch: int, count: int, batch_size: int, input_dim: int, noise_dim: int, input_dropout: float
) -> Batches:
    """Return what the steps of an epoch are taken with, on the CPU; it depends on the arguments alone.

    An epoch is a permutation of ``count`` images cut into full batches; what remains is left out, another few images each
    time. A hidden pixel's mask is zero, the others are scaled up so that the encoder's first sums keep their mean.
    """
    steps = count // batch_size
    order = torch.randperm(count, generator=generator(seed, "order", epoch))[: steps * batch_size].view(steps, batch_size)
    noise = torch.randn(steps, batch_size, noise_dim, generator=generator(seed, "noise", epoch))
    if not input_dropout:
        return Batches(order, torch.ones(1, input_dim), torch.zeros_like(order), noise)
    draws = generator(seed, "masks", epoch)
    masks = (torch.rand(_MASKS, input_dim, generator=draws) >= input_dropout).float().div_(1 - input_dropout)
    return Batches(order, masks, torch.randint(_MASKS, order.shape, generator=draws), noise)


def learning_rate_at(schedule: str, peak: float, step: int, total: int) -> float:
    """Return the step size of a step, from 0, out of ``total``: ``constant``, or ``cosine`` from ``peak`` to zero."""
    return peak if schedule == "constant" else 0.5 * peak * (1 + math.cos(math.pi * step / total))


def run_epoch(step: Step, images: Tensor, batches: Batches, beta: float, rates: Sequence[float]) -> None:
    """Take one step for each batch of an epoch.

    Args:
        step: what takes it.
        images: all of them, uint8 ``[N, D]``.
        batches: what to take them with.
        beta: weight of the KL term.
        rates: the step sizes ``[steps]``.
    """
    step.totals.clear()
    for rows, mask_rows, noise, rate in zip(batches.order, batches.mask_order, batches.noise, rates, strict=True):
        step(images.index_select(0, rows), batches.masks.index_select(0, mask_rows), noise, beta, rate)
        step.optimizer.adapt()


class GraphedEpoch:
    """:func:`run_epoch` for CUDA: a step, with the choice of its batch, is one graph, launched once a step.

    Launching some sixty kernels one by one takes the host longer than they run. Which step it is, the graph counts on the
    device, so that an epoch has no input from the host but its first copies. Between some of the launches stand the products by
    which the optimizer adapts, for which nothing waits either. On another device the same code runs without a graph.
    """

    def __init__(self, step: Step, images: Tensor) -> None:
        self.step, self.images = step, images
        self.inputs: list[Tensor] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self.next = torch.zeros(1, dtype=torch.int64, device=images.device)

    def __call__(self, batches: Batches, beta: float, rates: Sequence[float]) -> None:
        """Take one step for each batch; the arguments are those of :func:`run_epoch`, ``batches`` on any device."""
        device = self.images.device
        given = [*vars(batches).values(), torch.tensor(beta), torch.tensor(rates)]
        self.inputs = self.inputs or [torch.empty_like(tensor, device=device) for tensor in given]
        for kept, tensor in zip(self.inputs, given, strict=True):
            kept.copy_(tensor)
        self.next.zero_()
        for total in self.step.totals.values():
            total.zero_()
        for _ in rates:
            if device.type != "cuda":
                self._take()
            elif self.graph:
                self.graph.replay()
            elif not self.step.totals:
                # Once without a graph, on a stream of its own, for all that is made on first use.
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    self._take()
                torch.cuda.current_stream().wait_stream(stream)
            else:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._take()
                self.graph = graph
                graph.replay()  # capturing takes no step
            self.step.optimizer.adapt()

    def _take(self) -> None:
        order, masks, mask_order, noise, beta, rates = self.inputs
        rows, mask_rows, eps, rate = (each.index_select(0, self.next)[0] for each in (order, mask_order, noise, rates))
        self.step(self.images.index_select(0, rows), masks.index_select(0, mask_rows), eps, beta, rate)
        self.next += 1


@torch.no_grad()
def validate(model: nn.Module, images: Tensor, noise: Tensor) -> dict[str, Any]:
    """Return the model's objective at beta = 1 over all ``images`` (uint8 ``[N, D]``) with the given noise.

    Each term is a mean over the images in nats, one per dimension a list of such means.
    """
    totals: dict[str, Tensor] = {}
    for x, eps in zip(images.split(_VALIDATION_BATCH), noise.split(_VALIDATION_BATCH), strict=True):
        for name, value in model.objective(x.float() / 255, eps).items():  # type: ignore[operator]
            totals[name] = totals.get(name, 0) + value.cpu().double() * len(x)  # MPS has no float64
    return {name: (total / len(images)).tolist() for name, total in totals.items()}
