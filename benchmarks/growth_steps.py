"""The steps that `benchmarks.growth` measures, and the memory that an epoch takes."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tools import ROOT
from pipeline import runtime
from pipeline.errors import DivergedError
from pipeline.models import ModelConfig
from pipeline.params import load_params
from pipeline.training.batches import Batches, draw_batches, run_epoch
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import Optimizer
from pipeline.training.schedules import learning_rate
from pipeline.training.step import train_step

SHAPE = (1, 28, 28)
WARM_UP, LEAST = 3, 5  # steps before the clock starts, and fewest steps under it


class Point:
    """A setting and, for each round, the seconds of drawing an epoch's batches and those of its steps per image."""

    def __init__(self, samples: int, hidden: Sequence[int], latent: int, batch: int, threads: int) -> None:
        self.samples, self.latent, self.batch, self.threads = samples, latent, batch, threads
        params = load_params(ROOT / "params.yaml")
        # One epoch, without the KL warm-up; Adam for all layers.
        config = TrainConfig.from_params(params, params.vae)
        self.config = replace(config, epochs=1, batch_size=batch, warmup_epochs=0, hidden_optimizer="adam")
        model = ModelConfig("vae", "mlp", SHAPE, latent, tuple(hidden)).build()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.optimizer = Optimizer(model.param_groups())
        with runtime.use("cpu", threads) as rt:
            self.step = train_step(model, batch, rt)
        self.drawing: list[float] = []
        self.image: list[float] = []

    def draw(self, epoch: int) -> tuple[Batches, list[float]]:
        """Return what the trainer prepares for an epoch: its batches, and the learning rate of each step."""
        batches = draw_batches(self.config, epoch, self.samples, SHAPE, self.latent)
        steps = len(batches.order)
        return batches, [learning_rate(self.config, step, steps) for step in range(steps)]

    def measure(self, images: Tensor, epoch: int, seconds: float) -> None:
        """Measure steps for about so many seconds, on the first of the images ``[N, C, H, W]``."""

        def take(first: int, count: int) -> float:
            part = slice(first, first + count)
            names = "order", "mask_order", "noise", "threshold_order"
            some = batches._replace(**{name: getattr(batches, name)[part] for name in names})
            begun = time.perf_counter()
            run_epoch(self.step, self.optimizer, images[: self.samples], some, self.config.beta, rates[part])
            return (time.perf_counter() - begun) / some.order.numel()

        with runtime.use("cpu", self.threads):
            begun = time.perf_counter()
            batches, rates = self.draw(epoch)
            self.drawing.append(time.perf_counter() - begun)
            expected = take(0, WARM_UP) * self.batch
            self.image.append(take(WARM_UP, max(LEAST, round(seconds / expected))))
        if self.optimizer.found_inf:
            raise DivergedError("a loss was not finite; the time of a step without an update says nothing")


def stated(file: str, key: str) -> int:
    """Return the bytes that a file of /proc states, in kB, under a key."""
    lines = (line.split() for line in Path("/proc", file).read_text().splitlines())
    return next(int(line[1]) for line in lines if line[0] == f"{key}:") << 10


def fill(points: Sequence[Point]) -> tuple[Tensor, list[int]]:
    """Return images for the largest of the points, uint8 ``[N, C, H, W]``, and the bytes in memory for an epoch of each."""
    before = stated("self/status", "VmRSS")
    images = torch.empty(points[-1].samples, *SHAPE, dtype=torch.uint8)
    block = torch.randint(0, 256, (points[0].samples, *SHAPE), dtype=torch.uint8)
    held, filled = [], 0
    for point in points:
        while filled < point.samples:
            part = images[filled : point.samples][: len(block)]
            part.copy_(block[: len(part)])
            filled += len(part)
        kept = point.draw(1)
        held.append(stated("self/status", "VmRSS") - before - block.nbytes)
        del kept
    return images, held
