"""The training loop: a generator of epochs that knows no tracker, no file and no model's name."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pipeline.data import Images
from pipeline.errors import DivergedError, ParamsError
from pipeline.models import LatentModel
from pipeline.runtime import Ranks, Runtime, generator
from pipeline.storage import Arrays, flatten
from pipeline.training.batches import ALONE, binarize, draw_batches, draw_thresholds, fits, resident, run_epoch, validate, windows
from pipeline.training.config import TrainConfig
from pipeline.training.optimizer import Optimizer, optimizer_shapes
from pipeline.training.schedules import EarlyStopping, kl_weight, learning_rate
from pipeline.training.step import ShardedStep, train_step


@dataclass(frozen=True)
class State:
    """Everything a training continues from, to the bit: arrays and a JSON-able header."""

    arrays: Arrays
    header: dict[str, Any]


@dataclass(frozen=True)
class Epoch:
    """The result of one pass over the training images.

    ``metrics`` are nats per image: ``train/*`` the means over the epoch's steps, ``val/*`` over the validation images at
    beta = 1 with the same noise every time. ``state`` is valid until the next epoch is asked for.
    """

    number: int  # from 1
    metrics: dict[str, float]
    seconds: float  # wall time of the training steps
    samples: int  # images trained on
    is_last: bool
    state: State


@dataclass(frozen=True)
class Done:
    """What is done of an epoch: windows and steps, the sums of the steps' terms, and wall time."""

    windows: int = 0
    steps: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def state_shapes(model: LatentModel, config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the arrays of a training's :class:`State` have in a file."""
    shapes = optimizer_shapes(model.param_groups(config.hidden_optimizer, config.decoder_input_lr_multiplier))
    return shapes | {"weights": shapes["exp_avg"], "best_weights": shapes["exp_avg"]}


def fit(
    model: LatentModel,
    train: Images,
    val: Images,
    config: TrainConfig,
    *,
    runtime: Runtime | None = None,
    resume: State | None = None,
    ranks: Ranks = ALONE,
    keep: Callable[[State], None] | None = None,
) -> Iterator[Epoch]:
    """Train a model, yielding after each epoch; when the generator ends, the model holds the best weights.

    Permutations, masks and noise depend on ``(config.seed, epoch)`` alone (:func:`draw_batches`), so that continuing from
    ``resume`` gives the bits of an uninterrupted run. Images that do not fit into memory are read and shuffled in parts
    (:func:`windows`).

    Args:
        model: moved to the runtime's device and changed in place.
        train, val: images to learn from and to choose the best epoch by.
        runtime: where to compute; by default the CPU as it is.
        resume: the state to continue from.
        ranks: the processes that train this model, each in a call of its own; their number changes no bit.
        keep: called with the state after each window within an epoch, which a training can continue from, too.

    Raises DivergedError when a loss or a gradient was not finite; no step was taken with it. Raises ParamsError when a batch
    cannot be cut into ``config.shards``.
    """
    runtime = runtime or Runtime(torch.device("cpu"))
    device = runtime.device
    model.to(device).train()
    whole, held_out = resident(train, device) if fits(train) else None, resident(val, device)
    batch_size = min(config.batch_size, len(train))
    if batch_size % config.shards:
        raise ParamsError(f"train.shards: {config.shards} parts cannot be cut from batches of {batch_size}, all training images")
    steps = len(train) // batch_size
    if config.binarize:
        held_out = binarize(held_out, draw_thresholds(len(val), val.shape, config.seed, "validation thresholds").to(device))
    val_noise = torch.randn(len(val), model.noise_dim, generator=generator(config.seed, "validation")).to(device)
    optimizer = Optimizer(model.param_groups(config.hidden_optimizer, config.decoder_input_lr_multiplier))
    step = train_step(model, batch_size // config.shards, runtime, config.fused)
    if config.shards > 1:
        step = ShardedStep(step, optimizer.gradient, config.shards, ranks)
    best_weights = optimizer.weights.clone()
    epoch, stopping, done = 0, EarlyStopping(), Done()
    if resume:
        header = dict(resume.header)
        epoch, stopping = header["epoch"], EarlyStopping(**{name: header[name] for name in asdict(stopping)})
        done = Done(**header.get("done", {}))
        saved = {name: torch.from_numpy(array).to(device) for name, array in resume.arrays.items()}
        optimizer.weights.copy_(saved["weights"])
        best_weights.copy_(saved["best_weights"])
        optimizer.load_state_dict(saved)

    def state(**more: Any) -> State:
        tensors = optimizer.state_dict() | {"weights": optimizer.weights, "best_weights": best_weights}
        return State({name: tensor.numpy(force=True) for name, tensor in tensors.items()}, asdict(stopping) | more)

    while not stopping.should_stop(config, epoch):
        epoch += 1
        start = time.perf_counter() - done.seconds
        first = (epoch - 1) * steps
        rates = [learning_rate(config, first + i, config.epochs * steps) for i in range(steps)]
        for number, rows in enumerate(windows(config, epoch, train)):
            if number < done.windows:
                continue
            images = resident(train.part(rows), device) if whole is None else whole
            window = number if whole is None else None
            batches = draw_batches(config, epoch, len(images), train.shape, model.noise_dim, ranks, window)
            last = done.steps + len(batches.order)
            sums = run_epoch(step, optimizer, images, batches, kl_weight(config, epoch), rates[done.steps : last])
            del images  # a window, so that it is not in memory beside the next one
            if optimizer.found_inf.item():
                raise DivergedError(
                    f"epoch {epoch}: the loss or a gradient is not finite; no step was taken with it; "
                    + config.advice(model.is_probabilistic)
                )
            totals = {name: total.item() + done.totals.get(name, 0.0) for name, total in sums.items()}
            done = Done(number + 1, last, totals, time.perf_counter() - start)
            if keep and last < steps:
                keep(state(epoch=epoch - 1, done=asdict(done)))
        metrics, seconds = {f"train/{name}": total / steps for name, total in done.totals.items()}, done.seconds
        done = Done()
        ranks.check_equal(optimizer.weights)
        metrics |= flatten({"val": ranks.broadcast(None if ranks.rank else validate(model, held_out, val_noise))})
        metrics["learning_rate"] = rates[-1]
        if not math.isfinite(metrics["val/loss"]):
            raise DivergedError(f"epoch {epoch}: the validation loss is not finite; {config.advice(model.is_probabilistic)}")
        if stopping.update(config, epoch, metrics["val/loss"]):
            best_weights.copy_(optimizer.weights)
        yield Epoch(epoch, metrics, seconds, steps * batch_size, stopping.should_stop(config, epoch), state(epoch=epoch))

    with torch.no_grad():
        optimizer.weights.copy_(best_weights)
    model.eval()
