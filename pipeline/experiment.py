"""One training as its users see it: DVC's outputs, MLflow's run, and checkpoints to continue from."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline import runs, runtime, tracking
from pipeline.checkpoint import Checkpoints, source_sha256
from pipeline.data import Split, holdout, load_dataset
from pipeline.files import md5
from pipeline.history import flatten, save_csv, save_json
from pipeline.models import MODELS, Model
from pipeline.models.layers import start_at_mean
from pipeline.params import ModelParams, Params, TrainParams, VAEParams
from pipeline.trainer import Epoch, State, fit
from pipeline.weights import Trained, save_weights

GRID = 64
CHECKPOINT_SECONDS = 10.0  # what a SIGKILL may cost beside the running epoch; one after each epoch of a second would cost 4%


def reads(params: Params, name: str) -> dict[str, Any]:
    """Return the params that decide a model's training, flat, as they are logged to MLflow."""
    section: ModelParams = getattr(params, name)
    values = {"seed": params.seed, "data.val_size": params.data.val_size, "model.name": name}
    values |= {f"train.{key}": value for key, value in params.train.model_dump().items()}
    values |= {f"model.{key}": value for key, value in section.model_dump().items()}
    return values | ({"beta": params.beta} if isinstance(section, VAEParams) else {})


def build(name: str, section: ModelParams, train: Split, seed: int) -> Model:
    """Return the untrained model, its weights drawn by ``seed`` and its first guess the mean training image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name](train.images[0].size, section.latent_dim, section.hidden_dims)
    start_at_mean(model.decoder, torch.from_numpy(train.mean_image()), len(train))
    return model


@torch.no_grad()
def _log_grids(run: tracking.Run, trained: Trained, x: Tensor, latents: Tensor, step: int) -> None:
    def images(logits: Tensor) -> np.ndarray:
        return torch.sigmoid(logits).numpy(force=True).reshape(-1, *trained.image_shape)

    run.log_grid("samples", images(trained.model.decode(latents)), step)
    columns = min(8, len(x))
    x = x[: len(x) // columns * columns]
    inputs = x.numpy(force=True).reshape(-1, columns, *trained.image_shape)
    outputs = images(trained.model.decode(trained.model.embed(x))).reshape(inputs.shape)
    # Each row of inputs stands above the row of their reconstructions.
    rows = np.stack([inputs, outputs], axis=1).reshape(-1, *trained.image_shape)
    run.log_grid("reconstructions", rows, step, columns)


def _progress(epochs: Iterator[Epoch], name: str, total: int, done: int) -> Iterator[Epoch]:
    """Pass epochs on, showing a bar on a terminal and a line each in a log."""
    bar = tqdm(epochs, name, total, initial=done, unit="epoch", disable=None)
    for epoch in bar:
        line = f"train/loss {epoch.metrics['train/loss']:.2f}, val/loss {epoch.metrics['val/loss']:.2f} nats"
        if bar.disable:
            click.echo(f"{name} epoch {epoch.step}/{total}: {line}, {epoch.samples / epoch.seconds:,.0f} images/s")
        bar.set_postfix_str(line)
        yield epoch


def train(name: str, params: Params, data: Path, out: Path, metrics: Path) -> Checkpoints:
    """Train a model, from its last checkpoint if there is one.

    Writes ``out/NAME.safetensors``, ``metrics/NAME_history.csv`` and ``metrics/NAME_train.json``, and logs one MLflow run.

    Args:
        name: the model, in the registry and in ``params``.
        params: all of params.yaml; :func:`reads` says which of it counts.
        data: the prepared data set.
        out, metrics: folders to write to.

    Returns:
        Its checkpoints, to be cleared once nothing can delete the outputs any more.

    Raises:
        IntegrityError: the data file is missing or damaged.
        BusyError: the same training already runs.
        DivergedError: the loss is no longer finite; the last checkpoint is kept.
    """
    settings, section, options = reads(params, name), getattr(params, name), params.train
    dataset = load_dataset(data)
    training, validation = holdout(dataset.train, params.data.val_size, params.seed)
    trained = Trained(build(name, section, training, params.seed), name, dataset.name, training.image_shape, settings.get("beta"))
    identity = {"data.md5": md5(data), "source.sha256": source_sha256()}
    root = tracking.root() / ".pipeline" / "checkpoints"
    with (
        runtime.use(options.device, options.threads, options.precision) as rt,
        Checkpoints(root, name, **settings, **identity, device=rt.device.type, gpu=rt.gpu) as saved,
    ):
        click.echo(f"{name} on {dataset.name}: {len(training)} training and {len(validation)} validation images; {rt}")
        tags = {"dataset": dataset.name, **identity, "device": rt.device.type, "threads": rt.threads, "torch": torch.__version__}
        with tracking.start(runs.label(settings), tags, saved.run_id) as run:
            saved.run_id = run.id
            runs.began(run, settings, dataset.name, data, identity["data.md5"], dataset.train.images.shape)
            rows, best_epoch = _train(trained, training, validation, section, options, params.seed, rt, saved, run)
            history, weights = metrics / f"{name}_history.csv", out / f"{name}.safetensors"
            save_weights(weights, trained)
            save_csv(history, rows)
            summary = {"epochs": len(rows), "best": rows[best_epoch - 1]}
            save_json(metrics / f"{name}_train.json", summary)
            runs.trained(run, settings, flatten(summary), md5(weights), training.images[0].size, history, weights)
    return saved


def _train(
    trained: Trained,
    training: Split,
    validation: Split,
    section: ModelParams,
    options: TrainParams,
    seed: int,
    rt: runtime.Runtime,
    saved: Checkpoints,
    run: tracking.Run,
) -> tuple[list[dict[str, float]], int]:
    """Run the epochs that are left; return the history, a row an epoch, and the best epoch's number."""
    checkpoint = saved.load()
    resume = State(*checkpoint) if checkpoint else None
    rows: list[dict[str, float]] = resume.header["rows"] if resume else []
    elapsed: list[float] = resume.header["elapsed"] if resume else []
    best_epoch: int = resume.header["best_epoch"] if resume else 0
    if resume:
        click.echo(f"continuing after epoch {len(rows)}")
    for row, seconds in zip(rows, elapsed, strict=True):
        run.log_epoch(row, seconds)
    latents = torch.randn(GRID, section.latent_dim, generator=runtime.generator(seed, "grid")).to(rt.device)
    shown = torch.from_numpy(validation.take(slice(GRID // 2)).pixels).to(rt.device)
    epochs = fit(
        trained.model,
        training,
        validation,
        epochs=section.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        patience=options.patience,
        seed=seed,
        beta=1.0 if trained.beta is None else trained.beta,
        warmup_epochs=getattr(section, "warmup_epochs", 0),
        input_dropout=section.input_dropout,
        latent_lr_scale=section.latent_lr_scale,
        preconditioner=section.preconditioner,
        runtime=rt,
        resume=resume,
    )
    unsaved: State | None = None
    saved_at = time.monotonic()
    try:
        for epoch in _progress(epochs, trained.name, section.epochs, len(rows)):
            rows.append({"epoch": epoch.step, **epoch.metrics})
            elapsed.append((elapsed[-1] if elapsed else 0.0) + epoch.seconds)
            best_epoch = epoch.state.header["best_epoch"]
            header = epoch.state.header | {"rows": [*rows], "elapsed": [*elapsed]}
            unsaved = State({name: array.copy() for name, array in epoch.state.arrays.items()}, header)
            if epoch.is_last or time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                saved.save(unsaved.arrays, unsaved.header)
                unsaved, saved_at = None, time.monotonic()
            run.log_epoch(rows[-1] | {"samples_per_second": epoch.samples / epoch.seconds}, elapsed[-1])
            if epoch.step % options.sample_every == 0 or epoch.step == section.epochs:
                _log_grids(run, trained, shown, latents, epoch.step)
    except BaseException:  # a signal, numbers that are not finite: whatever stops a training, its last epoch is kept
        if unsaved:
            with suppress(OSError):
                saved.save(unsaved.arrays, unsaved.header)
        raise
    return rows, best_epoch
