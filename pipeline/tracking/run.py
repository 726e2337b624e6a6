"""One MLflow run: log to it and read from it. A server that fails or is slow costs a training next to nothing."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from pipeline.data import Shape
from pipeline.storage import rounded

if TYPE_CHECKING:
    import mlflow.entities

    Client = mlflow.MlflowClient
else:
    Client = Any  # load_mlflow imports mlflow later

EXPERIMENT = "latent-spaces"
MODEL_MD5 = "model.md5"
STAGE = "dvc.stage"
NOTE = "mlflow.note.content"
SYNC = "`latent sync`"

SLOW = 1.0  # seconds above which a request counts as slow
_PAUSE = 20  # a pause is this many times as long as the slow call, so a slow store costs a training 5% at most
_BATCH = 1000  # the most metrics that MLflow accepts in one call
_CLIENT_DEFAULTS = {  # telemetry and logging level are read when mlflow is imported, the others at each call
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # with MLflow's own defaults a server that is down costs four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}

T = TypeVar("T")


def load_mlflow() -> ModuleType:
    """Import and return mlflow, which takes seconds, with defaults for environment variables that the user has not set."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("mlflow")


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images ``[N, C, H, W]`` in [0, 1] as one uint8 image of ``columns`` columns, gray for one channel, else RGB."""
    channels, height, width = images.shape[1:]
    rows = images[: len(images) // columns * columns].reshape(-1, columns, channels, height, width)
    grid: np.ndarray = np.rint(rows.transpose(0, 3, 1, 4, 2).reshape(-1, columns * width, channels) * 255).astype(np.uint8)
    return grid[..., 0] if channels == 1 else grid


def text(value: object) -> str:
    """Return a parameter as MLflow stores it; 4 and 4.0 in params.yaml give the same text.

    >>> text(4.0), text(0.001), text([512, 256])
    ('4', '0.001', '[512, 256]')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the finite metrics, rounded as in DVC's files."""
    return {key: rounded(float(value)) for key, value in metrics.items() if math.isfinite(value)}


def _entities(kind: str, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [getattr(load_mlflow().entities, kind)(*row) for row in rows]


def reason(error: Exception) -> str:
    """Return the message of an exception, as one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def warn(error: Exception) -> None:
    """Print that MLflow failed and how to restore the run."""
    print(f"warning: MLflow failed ({reason(error)}); the work goes on, {SYNC} restores the run later", file=sys.stderr)


@dataclass(frozen=True)
class Record:
    """The content of a run in the store; ``metrics`` are the last values."""

    id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    has_data: bool
    model_id: str | None
    is_deleted: bool

    @classmethod
    def of(cls, entity: mlflow.entities.Run) -> Self:
        """Return the record of an MLflow entity."""
        info, data = entity.info, entity.data
        models = entity.outputs.model_outputs if entity.outputs else []
        has_data = bool(entity.inputs and entity.inputs.dataset_inputs)
        model_id = models[-1].model_id if models else None
        deleted = info.lifecycle_stage == "deleted"
        return cls(info.run_id, info.run_name, info.status, data.params, data.tags, data.metrics, has_data, model_id, deleted)


class Run:
    """An MLflow run to log to. No call raises: the first ``failure`` is a warning, and later calls do nothing.

    After a slow call logging pauses: points are queued for one batch, and what sync can restore is skipped. A run to ``complete``
    never pauses or warns, logs only what the store lacks, and counts it in ``added``. ``id`` is None where there is no run.
    """

    def __init__(self, client: Client | None = None, info: mlflow.entities.RunInfo | None = None, complete: bool = False) -> None:
        self._client, self._complete = client, complete
        self.id: str | None = info.run_id if info else None
        self._start: int = info.start_time if info else 0
        self._end = (info.end_time or info.start_time) if info and complete else None
        self._queue: list[tuple[str, float, int, int]] = []  # key, value, milliseconds since 1970, step
        self._pause_end, self.added, self.failure = 0.0, Counter[str](), cast(Exception | None, None)
        self._held = self.record() if complete else None
        self._files = self.files() if complete else {}

    @property
    def alive(self) -> bool:
        """Whether there is a run and no call to it has failed."""
        return self._client is not None and self.id is not None

    def attempt(self, call: Callable[[Client, str], T], optional: bool = False, num_requests: int = 1) -> T | None:
        """Return the result of a call with client and run id, or None where it fails. A pause skips ``optional`` calls.

        A call is slow when it takes longer than :data:`SLOW` for each of its ``num_requests``, an estimate.
        """
        if self._client is None or self.id is None or (optional and time.perf_counter() < self._pause_end):
            return None
        begun = time.perf_counter()
        try:
            return call(self._client, self.id)
        except Exception as error:  # no error of MLflow, its server or its disk may stop a training
            if not self._complete:
                warn(error)
            self._client, self.failure = None, error
            return None
        finally:
            took = time.perf_counter() - begun
            if took > SLOW * num_requests and not self._complete:
                if not self._pause_end and self.alive:
                    note = f"note: MLflow took {took:.1f} s for a call; points wait for the end, {SYNC} adds the rest"
                    print(note, file=sys.stderr)
                self._pause_end = time.perf_counter() + _PAUSE * took

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as strings. MLflow accepts the same parameters again when a run continues."""
        rows = {key: text(value) for key, value in params.items() if not self._held or key not in self._held.params}
        if rows:
            self.added["params"] += len(rows)
            self.attempt(lambda client, run: client.log_batch(run, params=_entities("Param", rows.items())), optional=True)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as strings."""
        held = self._held.tags if self._held else {}
        rows = {key: str(value) for key, value in tags.items() if key not in held or (key == NOTE and held[key] != value)}
        if rows:
            self.added["tags"] += len(rows)
            self.attempt(lambda client, run: client.log_batch(run, tags=_entities("RunTag", rows.items())))

    def log_epoch(self, row: Mapping[str, float], elapsed: float = 0.0) -> None:
        """Log an epoch's metrics, ``elapsed`` seconds into the run. MLflow keeps equal points once, as after a resume."""
        then, step = self._start + round(elapsed * 1000), int(row["epoch"])
        self._queue += [(key, value, then, step) for key, value in finite(row).items() if key != "epoch"]
        if not self._complete and time.perf_counter() >= self._pause_end:
            self.flush()

    def flush(self) -> None:
        """Send the queued points."""
        points, self._queue = self._queue, []
        self.added += Counter("points" if step else "metrics" for *_, step in points)
        for first in range(0, len(points), _BATCH):
            batch = _entities("Metric", points[first : first + _BATCH])
            self.attempt(lambda client, run: client.log_batch(run, metrics=batch))  # noqa: B023 (called at once)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log the finite metrics, which have one value per run, where the run does not hold that value yet."""
        held = self.attempt(lambda client, run: client.get_run(run).data.metrics) or {}
        now = round(time.time() * 1000)  # later than an old value; at equal times MLflow shows the larger one
        self._queue += [(key, value, now, 0) for key, value in finite(metrics).items() if held.get(key) != value]
        self.flush()

    def log_grid(self, key: str, images: np.ndarray, step: int, columns: int = 8) -> None:
        """Log images ``[N, C, H, W]`` in [0, 1] as one image per step of ``key``."""
        grid = tile(images, columns)
        self.attempt(lambda client, run: client.log_image(run, grid, key=key, step=step), optional=True, num_requests=5)

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file as an artifact."""
        name = f"{folder}/{Path(path).name}" if folder else Path(path).name
        if name not in self._files or self._files[name] != Path(path).stat().st_size:
            self.added["files"] += 1
            self.attempt(lambda client, run: client.log_artifact(run, str(path), folder), optional=True, num_requests=3)

    def log_data(self, name: str, path: str | Path, md5: str, shape: tuple[int, ...]) -> None:
        """Log the training data, images of this shape, as an input with its md5 of dvc.lock as the digest."""

        def log(client: Client, run: str) -> None:
            mlflow = load_mlflow()
            images = np.broadcast_to(np.uint8(0), shape)  # MLflow stores only shape and type
            source = mlflow.data.sources.LocalArtifactDatasetSource(str(path))
            data = mlflow.data.from_numpy(images, source, name=name, digest=md5)._to_mlflow_entity()
            tags = _entities("InputTag", [("mlflow.data.context", "training")])
            client.log_inputs(run, datasets=_entities("DatasetInput", [(data, tags)]))

        if not self._held or not self._held.has_data:
            self.added["inputs"] += 1
            self.attempt(log, optional=True)

    def log_model(self, weights: Path, name: str, image_shape: Shape, latent_dim: int) -> None:
        """Log the weights as a model for ``mlflow.pyfunc.load_model``, with a signature and without pickle."""

        def log(client: Client, run: str) -> None:
            mlflow = load_mlflow()
            pixels, code = ((np.dtype(np.float32), (-1, *shape)) for shape in (image_shape, (latent_dim,)))
            spec, schema = mlflow.types.TensorSpec, mlflow.types.Schema
            outputs = schema([spec(*code, "code"), spec(*pixels, "reconstruction")])
            with mlflow.start_run(run_id=run, log_system_metrics=False), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*input example was not provided")  # it would run the model
                mlflow.pyfunc.log_model(
                    name=name,
                    loader_module="pipeline.models.weights",
                    data_path=str(weights),
                    code_paths=[str(Path(__file__).parents[1])],
                    pip_requirements=[f"{package}=={version(package)}" for package in ("numpy", "safetensors", "torch")],
                    signature=mlflow.models.ModelSignature(schema([spec(*pixels)]), outputs),
                )

        if not self._held or not self._held.model_id:
            self.added["models"] += 1
            self.attempt(log, optional=True, num_requests=20)

    def record(self) -> Record | None:
        """Return the content of the run, or None where the store does not answer."""
        return self.attempt(lambda client, run: Record.of(client.get_run(run)), optional=True)

    def points(self, key: str) -> dict[int, float]:
        """Return a metric's value at each step."""
        history = self.attempt(lambda client, run: client.get_metric_history(run, key)) or []
        return {metric.step: metric.value for metric in history}

    def files(self) -> dict[str, int]:
        """Return path and size in bytes of the run's artifacts, without the sample grids."""

        def listed(client: Client, run: str, folder: str | None = None) -> dict[str, int]:
            found: dict[str, int] = {}
            for entry in client.list_artifacts(run, folder):
                if entry.path != "images":
                    found |= listed(client, run, entry.path) if entry.is_dir else {entry.path: entry.file_size or 0}
            return found

        return self.attempt(listed) or {}

    def fetch(self, path: str, folder: Path) -> Path | None:
        """Return an artifact as a local file, downloaded to ``folder`` from a server."""
        found = self.attempt(lambda client, run: client.download_artifacts(run, path, str(folder)))
        return Path(found) if found else None

    def finish(self, status: str = "FINISHED") -> None:
        """Send the queued points and set the status; a completed run keeps its end time, and one that lacked nothing all."""
        self.flush()
        if self._held and self._held.status == status and not +self.added:
            return
        self.attempt(lambda client, run: client.set_terminated(run, status, self._end))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the run: FINISHED, KILLED by a signal, or FAILED."""
        self.finish("KILLED" if isinstance(error, SystemExit | KeyboardInterrupt) else "FAILED" if error else "FINISHED")
