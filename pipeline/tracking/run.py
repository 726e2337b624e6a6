"""One MLflow run: log to it and read from it. A server that fails or is slow costs a training next to nothing."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from pipeline.data import Shape
from pipeline.errors import STOPPED, PipelineError, reason
from pipeline.tracking import logged_model
from pipeline.tracking.database import load_mlflow
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.values import HEADLINE, finite, text, tile

if TYPE_CHECKING:
    import mlflow.entities

    Client = mlflow.MlflowClient
else:
    Client = Any  # load_mlflow imports mlflow later

EXPERIMENT = "latent-spaces"
MODEL_MD5 = "model.md5"
STAGE = "dvc.stage"
_OF_FILES = (NOTE, "claims", "evaluate.profile")  # tags that say what DVC's files say, and so change with them
SYNC = "`latent sync`"

SLOW = 1.0  # seconds above which a request counts as slow
_PATIENCE = 30.0  # seconds for what can wait
WORTH = ("params", "model", "champion", "files", "data", "description", "grids")  # what can wait, the most worth first
_PAUSE = 20  # a pause is this many times as long as the slow call, so a slow store costs a training 5% at most
_BATCH = 1000  # the most metrics that MLflow accepts in one call
T = TypeVar("T")


def _entities(kind: str, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [getattr(load_mlflow().entities, kind)(*row) for row in rows]


def warn(error: Exception) -> None:
    """Print that MLflow failed, and what brings back the run, which for one that DVC did not start is nothing."""
    when = "once this is mended" if isinstance(error, PipelineError) else "later"
    then = f", {SYNC} restores the run {when}" if os.environ.get("DVC_STAGE") else " without it"
    print(f"warning: MLflow failed ({reason(error)}); the work goes on{then}", file=sys.stderr)


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
    data_shape: tuple[int, ...] = ()  # [N, C, H, W] of the training images, empty where it is not known
    data_version: str = ""  # the digest of the data set

    @classmethod
    def of(cls, entity: mlflow.entities.Run) -> Self:
        """Return the record of an MLflow entity."""
        info, data = entity.info, entity.data
        models = entity.outputs.model_outputs if entity.outputs else []
        inputs = entity.inputs.dataset_inputs if entity.inputs else []
        model_id = models[-1].model_id if models else None
        deleted = info.lifecycle_stage == "deleted"
        about = data.params, data.tags, data.metrics, bool(inputs), model_id, deleted, *logged_model.data_of(inputs)
        return cls(info.run_id, info.run_name, info.status, *about)

    def number(self, key: str) -> float | None:
        """Return a number by its key in metrics files, under which runs of earlier versions hold it; None where there is none."""
        return self.metrics.get(HEADLINE.get(key, key), self.metrics.get(key))


class Run:
    """An MLflow run to log to. No call raises: the first ``failure`` is a warning, and later calls do nothing.

    After a slow call a training's run pauses: points are queued for one batch, and what can wait is sent at the end. Others, with
    ``pauses`` off, go on. What can wait may take :data:`_PATIENCE` seconds; a note names what is left out.
    A ``resumed`` run logs what the store lacks. One to ``complete`` does so, too, without warnings, keeps its end and tags but
    :data:`_OF_FILES`, and counts what it ``added``. ``id`` is None where there is no run.
    """

    def __init__(
        self, client: Client | None = None, info: Any = None, complete: bool = False, resumed: bool = False, pauses: bool = True
    ) -> None:
        self._client, self._complete, self._resumed, self._pauses = client, complete, resumed, pauses and not complete
        self.id: str | None = info.run_id if info else None
        self._start: int = info.start_time if info else 0
        self._end = (info.end_time or info.start_time) if info and complete else None
        self._queue: list[tuple[str, float, int, int]] = []  # key, value, milliseconds since 1970, step
        self._waiting: list[tuple[str, Callable[[], object]]] = []
        self._pause_end, self._slow, self._left_out, self.added = 0.0, 0.0, False, Counter[str]()
        self.failure = cast(Exception | None, None)
        self._held, self._files = (self.record(), self.files()) if complete or resumed else (None, {})
        self._steps: dict[str, Collection[int]] = {}  # of points that a resumed run holds

    @property
    def alive(self) -> bool:
        """Whether there is a run and no call to it has failed."""
        return self._client is not None and self.id is not None

    def attempt(self, call: Callable[[Client, str], T], num_requests: int = 1) -> T | None:
        """Return the result of a call with client and run id, or None where it fails.

        A call is slow when it takes longer than :data:`SLOW` for each of its ``num_requests``, an estimate.
        """
        if self._client is None or self.id is None:
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
                if not self._slow and self.alive:
                    print(f"note: MLflow took {took:.1f} s for a call; what can wait is sent at the end", file=sys.stderr)
                self._slow += took
                self._pause_end = time.perf_counter() + _PAUSE * took

    def when_quick(self, what: str, action: Callable[[], object]) -> None:
        """Do what can wait, one of :data:`WORTH`: now, or at the end of the run if MLflow is slow."""
        if self._pauses and time.perf_counter() < self._pause_end:
            self._waiting.append((what, action))
        elif self._slow < _PATIENCE or self._pauses:
            action()
        else:
            self._leave_out([what])

    def _leave_out(self, what: Iterable[str]) -> None:
        restored = f"; {SYNC} adds all but grids" if os.environ.get("DVC_STAGE") else ""
        named = ", ".join(dict.fromkeys(what)) + ("" if self._pauses else " and what follows")
        if not self._left_out:
            print(f"note: MLflow is too slow; left out: {named}{restored}", file=sys.stderr)
        self._left_out = True

    def _catch_up(self) -> None:
        """Send what waits, the most worth first, for a bounded time."""
        until = time.perf_counter() + _PATIENCE
        waiting, self._waiting, self._pause_end = sorted(self._waiting, key=lambda item: WORTH.index(item[0])), [], 0.0
        for index, (_, action) in enumerate(waiting):
            if time.perf_counter() >= until:
                self._leave_out([what for what, _ in waiting[index:]])
                break
            action()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as strings. MLflow accepts the same parameters again when a run continues."""
        rows = {key: text(value) for key, value in params.items() if not self._held or key not in self._held.params}
        if rows:
            self.added["params"] += len(rows)
            send = partial(self.attempt, lambda client, run: client.log_batch(run, params=_entities("Param", rows.items())))
            self.when_quick("params", send)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as strings."""
        held = self._held.tags if self._held and self._complete else {}
        rows = {key: str(value) for key, value in tags.items() if key not in held or (key in _OF_FILES and held[key] != value)}
        if rows:
            self.added["tags"] += len(rows)
            self.attempt(lambda client, run: client.log_batch(run, tags=_entities("RunTag", rows.items())))

    def log_epoch(self, row: Mapping[str, float], elapsed: float = 0.0) -> None:
        """Log an epoch's metrics, ``elapsed`` seconds into the run; a resumed run logs those it does not hold yet."""
        then, step = self._start + round(elapsed * 1000), int(row["epoch"])
        # A curve for each latent dimension (val/kl_per_dim/0 ...) would be many; the file of the history has them.
        curves = {key: value for key, value in row.items() if key != "epoch" and not key[-1].isdecimal()}
        for key, value in finite(curves).items():
            if self._resumed and key not in self._steps:
                self._steps[key] = self.points(key).keys()
            if step not in self._steps.get(key, ()):
                self._queue.append((key, value, then, step))
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
        send = partial(self.attempt, lambda client, run: client.log_image(run, grid, key=key, step=step), num_requests=5)
        if (key, step) not in self._grids:
            self.when_quick("grids", send)

    @cached_property
    def _grids(self) -> set[tuple[str, int]]:
        """Key and step of the grids that a resumed run holds, of file names such as ``samples%step%5%timestamp%...``."""
        listed = self.attempt(lambda client, run: client.list_artifacts(run, "images")) if self._resumed else []
        names = (re.split(r"\W+", Path(entry.path).name) for entry in listed or [])
        return {(name[0], int(name[2])) for name in names if name[1:2] == ["step"]}

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file as an artifact."""
        name = f"{folder}/{Path(path).name}" if folder else Path(path).name
        if name not in self._files or self._files[name] != Path(path).stat().st_size:
            self.added["files"] += 1
            send = partial(self.attempt, lambda client, run: client.log_artifact(run, str(path), folder), num_requests=3)
            self.when_quick("files", send)

    def log_text(self, name: str, content: str) -> None:
        """Log a text as an artifact of this name."""
        if self._files.get(name) != len(content.encode()) or self._text(name) != content:  # one digit may have changed
            self.added["files"] += 1
            send = partial(self.attempt, lambda client, run: client.log_text(run, content, name), num_requests=3)
            self.when_quick("files", send)

    def _text(self, name: str) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            found = self.fetch(name, Path(folder))
            return found.read_text("utf-8", "replace") if found else None

    def log_data(self, name: str, path: str | Path, version: str, shape: tuple[int, ...]) -> None:
        """Log the training data, images of this shape, as an input with its version, an md5 of dvc.lock, as the digest."""
        if not self._held or not self._held.has_data:
            self.added["inputs"] += 1
            call = partial(logged_model.log_data, name=name, path=path, digest=version, shape=shape)
            self.when_quick("data", partial(self.attempt, call))

    def log_model(self, weights: Path, name: str, image_shape: Shape, latent_dim: int) -> None:
        """Log the weights as a model for ``mlflow.pyfunc.load_model``, with a signature and without pickle."""
        if not self._held or not self._held.model_id:
            self.added["models"] += 1
            call = partial(logged_model.log, weights=weights, name=name, image_shape=image_shape, latent_dim=latent_dim)
            self.when_quick("model", partial(self.attempt, call, num_requests=20))

    def record(self) -> Record | None:
        """Return the content of the run."""
        return self.attempt(lambda client, run: Record.of(client.get_run(run)))

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
        """Send the queued points, what waits unless the run was stopped, and the status; a completed run keeps its end."""
        self.flush()
        if status == "FINISHED":
            self._catch_up()
        lacked_nothing = self._complete and self._held and self._held.status == status and not +self.added
        if not lacked_nothing:
            self.attempt(lambda client, run: client.set_terminated(run, status, self._end))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the run: FINISHED, KILLED by a signal or pruned, or FAILED."""
        self.finish("KILLED" if isinstance(error, STOPPED) else "FAILED" if error else "FINISHED")
