"""How long a training step takes beside its matmuls alone, and beside as many operations at full speed."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.tools import ROOT, noise_images
from pipeline import runtime
from pipeline.models import ModelConfig
from pipeline.models.base import LatentModel
from pipeline.params import load_params
from pipeline.training.batches import draw_batches, resident, run_epoch
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import Optimizer
from pipeline.training.step import train_step

Matmul = tuple[Tensor, Tensor, Tensor]
"""Two matrices and where their product goes."""


def new_model() -> LatentModel:
    """Return the tutorial's VAE with new weights."""
    return ModelConfig("vae", "mlp", (1, 28, 28), 2, (512, 256)).build()


def matmuls(model: LatentModel, batch_size: int) -> list[Matmul]:
    """Return the matmuls of one step: of each linear layer the output, the weights' gradient and the input's gradient."""
    found: list[Matmul] = []
    for net in (model.encoder, model.decoder):
        for index, layer in enumerate(module for module in net.modules() if isinstance(module, nn.Linear)):
            weight = layer.weight.detach()
            x, delta = torch.randn(batch_size, layer.in_features), torch.randn(batch_size, layer.out_features)
            found += [(x, weight.t(), torch.empty_like(delta)), (delta.t(), x, torch.empty_like(weight))]
            if index or net is model.decoder:  # images need no gradient
                found.append((delta, weight, torch.empty_like(x)))
    return found


def microseconds(take: Callable[[], object], times: int) -> float:
    """Return how long one of several calls takes."""
    start = time.perf_counter()
    for _ in range(times):
        take()
    return (time.perf_counter() - start) / times * 1e6


def floors(rounds: int = 9, steps: int = 50) -> dict[str, list[float]]:
    """Return microseconds for each round: ``step``, the same with ``shampoo``, its ``matmuls``, and its ``peak``.

    The peak is as many operations at the speed of matmuls of 2048 x 2048, the practical peak of fused multiply-adds.
    """
    params = load_params(ROOT / "params.yaml")
    config = TrainConfig(epochs=1, batch_size=params.train.batch_size, input_dropout=params.vae.input_dropout)
    data = noise_images(20_000)
    with runtime.use("cpu", 2) as rt:
        products = matmuls(new_model(), config.batch_size)
        operations = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in products)
        images, batches = resident(data, rt.device), draw_batches(config, 1, len(data), data.shape, 2)
        rates = [config.learning_rate] * len(batches.order)
        square = torch.randn(2048, 2048)

        def multiply() -> None:
            for a, b, out in products:
                torch.mm(a, b, out=out)

        def epochs(hidden_optimizer: str) -> Callable[[], object]:
            model = new_model()
            optimizer = Optimizer(model.param_groups(hidden_optimizer))
            step = train_step(model, config.batch_size, rt)
            return lambda: run_epoch(step, optimizer, images, batches, 1.0, rates)

        adam, shampoo = epochs("adam"), epochs("shampoo")
        found: dict[str, list[float]] = {"step": [], "shampoo": [], "matmuls": [], "peak": []}
        for _ in range(rounds + 1):
            found["matmuls"].append(microseconds(multiply, steps))
            found["step"].append(microseconds(adam, 1) / len(rates))
            found["shampoo"].append(microseconds(shampoo, 1) / len(rates))
            found["peak"].append(microseconds(lambda: square @ square, 2) * operations / (2 * 2048**3))
        return {name: times[1:] for name, times in found.items()}  # the first round warms up
