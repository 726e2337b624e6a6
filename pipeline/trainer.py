"""The training loop: a generator of epochs that knows no tracker, no file and no model's name."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data import Split
from pipeline.epoch import GraphedEpoch, draw_batches, learning_rate_at, resident, run_epoch, validate
from pipeline.errors import DivergedError
from pipeline.history import flatten
from pipeline.optimizer import Optimizer, hidden_weights
from pipeline.runtime import Runtime, generator
from pipeline.step import AutogradStep, ExplicitStep, Step


@dataclass(frozen=True)
class State:
    """Everything a training continues from, to the bit: arrays and a JSON-able header."""

    arrays: dict[str, np.ndarray]
    header: dict[str, Any]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave.

    ``metrics`` are nats per image: ``train/*`` the means over the epoch's steps, ``val/*`` over the validation images at
    beta = 1 with the same noise every time. ``state`` is valid until the next epoch is asked for.
    """

    step: int
    """The epoch's number, from 1."""
    metrics: dict[str, float]
    seconds: float
    """Wall time of the training steps."""
    samples: int
    """Images trained on."""
    is_last: bool
    """Whether training ends with it."""
    state: State


def fit(
    model: nn.Module,
    train: Split,
    val: Split,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    schedule: str = "cosine",
    patience: int = 7,
    seed: int = 0,
    beta: float = 1.0,
    warmup_epochs: int = 0,
    input_dropout: float = 0.0,
    latent_lr_scale: float = 1.0,
    preconditioner: str = "none",
    make_optimizer: Callable[[nn.Module, Mapping[str, float], Collection[str]], Optimizer] = Optimizer,
    runtime: Runtime | None = None,
    explicit: bool = True,
    resume: State | None = None,
) -> Iterator[Epoch]:
    """Train a model, yielding after each epoch; when the generator ends, the model holds the best weights.

    Permutations, masks and noise depend on ``(seed, epoch)`` alone (:func:`draw_batches`), so that continuing from
    ``resume`` gives the bits of an uninterrupted run.

    Args:
        model: has ``objective(x, noise, beta, seen)`` that returns ``loss`` and its parts, and ``noise_dim``.
        train, val: images to learn from and to choose the best epoch by.
        epochs: passes over the training images, at most.
        batch_size: images per step.
        learning_rate: the step size at the start, Adam's (1412.6980) and the preconditioned matrices'.
        schedule: ``constant`` or ``cosine`` (to zero over all epochs, 1608.03983).
        patience: epochs without a lower validation loss before stopping; 0 never stops early.
        seed: of the permutations and the noise.
        beta: weight of the KL term.
        warmup_epochs: epochs, at most all, over which that weight rises linearly to ``beta``; the best epoch is chosen after
            them.
        input_dropout: fraction of the pixels hidden from the encoder, others in each step, while the target stays whole: an
            encoder that learns images by heart places new ones badly (1511.06406, 1805.08913).
        latent_lr_scale: times the step size with which the decoder's first layer learns. Adam moves every weight alike, so a
            layer of two inputs, whose weights are large, follows slowly (see 2203.03466 for how widths and step sizes go
            together).
        preconditioner: ``shampoo`` steps the matrices between hidden layers by it, ``none`` by Adam like everything else.
        make_optimizer: makes the optimizer of a model, given scales of the step size and names of preconditioned matrices.
        runtime: where to compute; by default the CPU as it is.
        explicit: take the written-out step where the model allows it; False: the reference through autograd.
        resume: the state to continue from.

    Raises:
        DivergedError: a loss or a gradient was not finite; no step was taken with it.
        ParamsError: ``shampoo`` for a model whose encoder or decoder is not a ``nn.Sequential``.
        ValueError: a ``latent_lr_scale`` for a model whose decoder does not begin with a linear layer.
    """
    runtime = runtime or Runtime(torch.device("cpu"))
    device = runtime.device
    model.to(device).train()
    warmup_epochs = min(warmup_epochs, epochs)
    noise_dim = int(model.noise_dim)  # type: ignore[arg-type]
    images, held_out = resident(train, device), resident(val, device)
    batch_size = min(batch_size, len(train))
    steps = len(train) // batch_size
    val_noise = torch.randn(len(val), noise_dim, generator=generator(seed, "validation")).to(device)
    faster = ("decoder.0.weight", "decoder.0.bias") if latent_lr_scale != 1 else ()
    hidden = hidden_weights(model) if preconditioner == "shampoo" else ()
    optimizer = make_optimizer(model, dict.fromkeys(faster, latent_lr_scale), hidden)
    kind = ExplicitStep if explicit and ExplicitStep.applies_to(model, runtime) else AutogradStep
    take_step: Step = kind(model, optimizer, batch_size, runtime)
    graphed = GraphedEpoch(take_step, images) if device.type == "cuda" else None
    best_weights = optimizer.weights.clone()
    epoch, best_epoch, best_loss, waited = 0, 0, math.inf, 0
    if resume:
        epoch, best_epoch, best_loss, waited = (resume.header[key] for key in ("epoch", "best_epoch", "best_loss", "waited"))
        saved = {name: torch.from_numpy(array).to(device) for name, array in resume.arrays.items()}
        best_weights.copy_(saved["best_weights"])
        optimizer.resume(saved, epoch * steps)

    while epoch < epochs and not (patience and waited >= patience):
        epoch += 1
        start = time.perf_counter()
        batches = draw_batches(seed, epoch, len(train), batch_size, images.shape[1], noise_dim, input_dropout)
        weight = beta * min(1.0, epoch / warmup_epochs) if warmup_epochs else beta
        first = (epoch - 1) * steps
        rates = [learning_rate_at(schedule, learning_rate, first + i, epochs * steps) for i in range(steps)]
        if graphed:
            graphed(batches, weight, rates)
        else:
            run_epoch(take_step, images, batches.to(device), weight, rates)
        metrics = {f"train/{name}": total.item() / steps for name, total in take_step.totals.items()}
        seconds = time.perf_counter() - start
        if optimizer.bad.item():
            raise DivergedError(
                f"epoch {epoch}: the loss or a gradient is not finite; no step was taken with it. "
                f"Lower train.learning_rate ({learning_rate:g}) or beta ({beta:g})"
            )
        metrics |= flatten({"val": validate(model, held_out, val_noise)})
        metrics["learning_rate"] = rates[-1]
        if not math.isfinite(metrics["val/loss"]):
            raise DivergedError(
                f"epoch {epoch}: the validation loss is not finite; lower train.learning_rate ({learning_rate:g})"
            )
        if metrics["val/loss"] < best_loss and epoch >= warmup_epochs:
            best_epoch, best_loss, waited = epoch, metrics["val/loss"], 0
            best_weights.copy_(optimizer.weights)
        elif epoch > warmup_epochs:
            waited += 1
        tensors = optimizer.state | {"best_weights": best_weights}
        state = State(
            {name: tensor.numpy(force=True) for name, tensor in tensors.items()},
            {"epoch": epoch, "best_epoch": best_epoch, "best_loss": best_loss, "waited": waited},
        )
        is_last = epoch == epochs or bool(patience and waited >= patience)
        yield Epoch(epoch, metrics, seconds, steps * batch_size, is_last, state)

    with torch.no_grad():
        optimizer.weights.copy_(best_weights)
    model.eval()
