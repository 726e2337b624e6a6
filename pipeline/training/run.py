"""One training with its outputs for DVC, its MLflow run, and its checkpoints."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline import runtime
from pipeline.data import Images, holdout, load_dataset
from pipeline.errors import ParamsError
from pipeline.models import MODELS, ModelConfig
from pipeline.models.likelihoods import likelihood_for
from pipeline.models.weights import Trained, save_weights
from pipeline.params import ModelParams, Params
from pipeline.storage import flatten, md5, save_arrays, save_csv, save_metrics
from pipeline.tracking import events, store
from pipeline.tracking.dvc_lock import version_here
from pipeline.tracking.pages import label
from pipeline.tracking.run import Run
from pipeline.training.checkpoint import Checkpoints, source_sha256
from pipeline.training.config import TrainConfig
from pipeline.training.replay import Replay
from pipeline.training.trainer import Epoch, State, fit, state_shapes

GRID = 64
FEW_STEPS = 10
CHECKPOINT_SECONDS = 10.0  # what a SIGKILL may cost beside the running epoch or window; one after each of a second would cost 4%
HISTORY_SECONDS = 1.0  # between two versions of the history, which can be watched while it grows

Progress = Callable[[Iterator[Epoch], str, int, int], Iterator[Epoch]]
"""Pass on the epochs of a training of this name, out of a total, some of which are done, and show them."""


def logged_params(params: Params, name: str) -> dict[str, Any]:
    """Return the params that decide a model's training, flat, as they are logged to MLflow."""
    section: ModelParams = getattr(params, name)
    values = {"seed": params.seed, "data.val_size": params.data.val_size, "model.name": name, "likelihood": params.likelihood}
    values |= {f"train.{key}": value for key, value in params.train.model_dump().items()}
    values |= {f"model.{key}": value for key, value in section.model_dump().items()}
    return values | ({"beta": params.beta} if MODELS[name].is_probabilistic else {})


def new_model(name: str, params: Params, dataset: str, train: Images) -> Trained:
    """Return the untrained model of params.yaml, its weights drawn by ``seed``, its decoder's bias at the mean image.

    Raises ParamsError for a net that is not registered or does not accept the ``hidden_dims``, and for a likelihood that does not
    go with ``train.binarize``.
    """
    section: ModelParams = getattr(params, name)
    likelihood = likelihood_for(params.likelihood, train.shape[0])
    if params.train.binarize and likelihood != "bernoulli":
        raise ParamsError(f"train.binarize: black and white pixels go with likelihood bernoulli, not with {likelihood}")
    config = ModelConfig(name, section.net, train.shape, section.latent_dim, tuple(section.hidden_dims), likelihood)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        model = config.build()
    model.start_at_mean(torch.from_numpy(train.mean_image()), len(train))
    return Trained(model, config, dataset, params.beta if model.is_probabilistic else None)


def show_progress(epochs: Iterator[Epoch], name: str, total: int, done: int) -> Iterator[Epoch]:
    """Pass epochs on, showing the time left: in a bar on a terminal, and in a line each in a log."""
    bar, begun = tqdm(epochs, name, total, initial=done, unit="epoch", disable=None), time.monotonic()
    for epoch in bar:
        line = f"train/loss {epoch.metrics['train/loss']:.2f}, val/loss {epoch.metrics['val/loss']:.2f} nats"
        if bar.disable:
            left = tqdm.format_interval((time.monotonic() - begun) / (epoch.number - done) * (total - epoch.number))
            click.echo(f"{name} epoch {epoch.number}/{total}: {line}, {epoch.samples / epoch.seconds:,.0f} images/s, {left} left")
        bar.set_postfix_str(line)
        yield epoch


def _grid_logger(run: Run, trained: Trained, validation: Images, params: Params, device: torch.device) -> Callable[..., None]:
    """Return what logs samples from the prior and reconstructions of validation images every few epochs and after the last."""
    trained.model.to(device)
    latents = torch.randn(GRID, trained.model.latent_dim, generator=runtime.generator(params.seed, "grid")).to(device)
    columns = min(8, len(validation))
    x = torch.from_numpy(validation.take(slice(min(GRID // 2, len(validation)) // columns * columns)).intensities).to(device)

    def images(z: Tensor) -> np.ndarray:
        return trained.model.decode_images(z).numpy(force=True)

    @torch.no_grad()
    def log(epoch: int, is_last: bool = False) -> None:
        if epoch % params.tracking.sample_every and not is_last:
            return
        run.log_grid("samples", images(latents), epoch)
        pair = np.stack([x.numpy(force=True), images(trained.model.encode(x).mean)])
        # Each row of inputs stands above the row of their reconstructions.
        rows = pair.reshape(2, -1, columns, *x.shape[1:]).swapaxes(0, 1).reshape(-1, *x.shape[1:])
        run.log_grid("reconstructions", rows, epoch, columns)

    return log


class _Keeper:
    """What a training has so far: a row and the time after each epoch, and its last state, which becomes a checkpoint."""

    def __init__(self, saved: Checkpoints, resume: State | None, watched: Replay) -> None:
        header: dict[str, Any] = resume.header if resume else {"rows": [], "elapsed": [], "best_epoch": 0}
        self.rows, self.elapsed, self.best_epoch = [*header["rows"]], [*header["elapsed"]], header["best_epoch"]
        self._saved, self._watched, self._at = saved, watched, time.monotonic()
        self._unsaved: State | None = None

    def note(self, state: State, is_last: bool = False) -> bool:
        """Copy a state; save it when it is the last or the last checkpoint is ten seconds old, and return whether it is saved."""
        self.best_epoch = state.header["best_epoch"]
        arrays = {name: array.copy() for name, array in (state.arrays | {"codes": self._watched.codes}).items()}
        self._unsaved = State(arrays, state.header | {"rows": [*self.rows], "elapsed": [*self.elapsed]})
        if is_due := is_last or time.monotonic() - self._at >= CHECKPOINT_SECONDS:
            self.save()
        return is_due

    def save(self) -> None:
        """Save what :meth:`note` has noted and not saved."""
        if self._unsaved:
            self._saved.save(self._unsaved.arrays, self._unsaved.header)
            self._unsaved, self._at = None, time.monotonic()


def _follow(epochs: Iterator[Epoch], kept: _Keeper, history: Path, run: Run, log_grids: Callable[..., None]) -> None:
    """Run the epochs that are left: log them, save history and checkpoints."""
    rows, elapsed = kept.rows, kept.elapsed
    for row, seconds in zip(rows, elapsed, strict=True):
        run.log_epoch(row, seconds)
    if rows:  # without epochs that a killed process ran after its last checkpoint
        save_csv(history, rows)
    else:
        history.unlink(missing_ok=True)
        log_grids(0)
    shown_at = -math.inf
    try:
        for epoch in epochs:
            rows.append({"epoch": epoch.number, **epoch.metrics})
            elapsed.append((elapsed[-1] if elapsed else 0.0) + epoch.seconds)
            kept.note(epoch.state, epoch.is_last)
            if epoch.is_last or time.monotonic() - shown_at >= HISTORY_SECONDS:
                save_csv(history, rows)
                shown_at = time.monotonic()
            run.log_epoch(rows[-1] | {"samples_per_second": epoch.samples / epoch.seconds}, elapsed[-1])
            log_grids(epoch.number, epoch.is_last)
    except BaseException:  # a signal, numbers that are not finite: whatever stops a training, its last state is kept
        with suppress(OSError):
            kept.save()
            if rows:
                save_csv(history, rows)
        raise


def train(
    name: str,
    params: Params,
    data: Path,
    out: Path,
    metrics: Path,
    stem: str = "",
    role: str = "main",
    progress: Progress = show_progress,
    replay: Path | None = None,
) -> Checkpoints:
    """Train a model, from its last checkpoint if there is one.

    Writes ``out/STEM.safetensors``, ``metrics/STEM_history.csv`` and ``metrics/STEM_train.json``, and logs one MLflow run.

    Of ``params``, :func:`logged_params` says what counts; ``data`` is the prepared data set; the files in the folders ``out`` and
    ``metrics`` are called ``stem`` (default: ``name``); ``role`` is a tag of the run; ``replay`` is a file to write with the
    codes of test images after each epoch. The history grows with each epoch, so that `dvc plots show` and editors can show it.

    Where torchrun has started this process as rank 0, the other ranks must call :func:`assist`.

    Returns its checkpoints, to be cleared once nothing can delete the outputs any more.

    Raises:
        IntegrityError: the data file is missing or damaged.
        BusyError: the same training already runs.
        DivergedError: the loss is no longer finite; the last checkpoint is kept.
    """
    settings, options, stem = logged_params(params, name), params.train, stem or name
    dataset = load_dataset(data)
    training, validation = holdout(dataset.train, params.data.val_size, params.seed)
    identity = {"data.md5": md5(data), "source.sha256": source_sha256()}
    root = store.root() / ".pipeline" / "checkpoints"
    with (
        runtime.use(options.device, options.threads, options.precision) as rt,
        Checkpoints(root, name, **settings, **identity, device=rt.device.type, gpu=rt.gpu) as saved,
        runtime.ranks(rt.device, options.shards) as ranks,
    ):
        trained = new_model(name, params, dataset.name, training)
        where = f"{rt}, in {ranks.size} processes" if ranks.size > 1 else str(rt)
        click.echo(f"{stem} on {dataset.name}: {len(training)} training and {len(validation)} validation images; {where}")
        about = {store.FINGERPRINT: saved.fingerprint, "dataset": dataset.name, **identity, "torch": torch.__version__}
        about |= {"device": rt.device.type, "threads": str(rt.threads), "role": role}
        with store.start(label(settings), about, saved.run_id()) as run:
            saved.run_id(run.id)
            version = version_here(identity["data.md5"])
            events.log_training_start(run, settings, dataset.name, data, version, dataset.train.pixels.shape)
            config = TrainConfig.from_params(params, getattr(params, name))
            watched = Replay(trained.model, dataset.test, config.epochs, rt.device)
            checkpoint = saved.load(config.epochs, state_shapes(trained.model, config) | {"codes": watched.codes.shape})
            resume = ranks.broadcast(State(*checkpoint) if checkpoint else None)
            if resume:
                watched.codes = resume.arrays["codes"]
            done, steps = resume.header["epoch"] if resume else 0, len(training) // config.batch_size
            kept = _Keeper(saved, resume, watched)

            def keep(state: State) -> None:
                if kept.note(state):
                    share = state.header["done"]["steps"] / steps
                    tqdm.write(f"{stem} epoch {state.header['epoch'] + 1}/{config.epochs}: {share:.0%} of the images")

            if resume:
                more = f" and {resume.header['done']['steps']:,} steps" if "done" in resume.header else ""
                click.echo(f"{stem}: continuing after epoch {done}{more}")
            fitted = fit(trained.model, training, validation, config, runtime=rt, resume=resume, ranks=ranks, keep=keep)
            epochs = watched.follow(fitted)
            if steps < FEW_STEPS:
                click.echo(f"note: few steps an epoch, of {config.batch_size} images each; a smaller train.batch_size makes more")
            log_grids = _grid_logger(run, trained, validation, params, rt.device)
            history, weights = metrics / f"{stem}_history.csv", out / f"{stem}.safetensors"
            _follow(progress(epochs, stem, config.epochs, done), kept, history, run, log_grids)
            rows, best_epoch = kept.rows, kept.best_epoch
            save_weights(weights, trained)
            if replay:
                save_arrays(replay, {"codes": watched.codes[: 1 + len(rows)]}, {"weights_md5": md5(weights)})
            summary = flatten({"epochs": len(rows), "best": rows[best_epoch - 1]})
            save_metrics(metrics / f"{stem}_train.json", summary)
            events.log_training_end(run, settings, summary, md5(weights), training.shape, history, weights)
    return saved


def assist(name: str, params: Params, data: Path) -> None:
    """Compute the shards of another rank than 0 in a training that torchrun has started; :func:`train` writes its outputs.

    Takes the arguments of :func:`train`, and raises PipelineError where rank 0 has ended.
    """
    dataset, options = load_dataset(data), params.train
    training, validation = holdout(dataset.train, params.data.val_size, params.seed)
    with runtime.use(options.device, options.threads, options.precision) as rt, runtime.ranks(rt.device, options.shards) as ranks:
        model = new_model(name, params, dataset.name, training).model
        config = TrainConfig.from_params(params, getattr(params, name))
        for _ in fit(model, training, validation, config, runtime=rt, resume=ranks.broadcast(), ranks=ranks):
            pass
