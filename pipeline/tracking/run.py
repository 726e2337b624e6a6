"""One MLflow run: log to it and read from it. A server that fails or is slow costs a training next to nothing."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from pipeline.data import Shape
from pipeline.errors import STOPPED
from pipeline.tracking import grids, logged_model
from pipeline.tracking.database import load_mlflow
from pipeline.tracking.failures import SYNC, warn
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.record import Record
from pipeline.tracking.values import finite, text, tile

if TYPE_CHECKING:
    import mlflow.entities

    Client = mlflow.MlflowClient
else:
    Client = Any  # load_mlflow imports mlflow later

EXPERIMENT = "latent-spaces"
MODEL_MD5 = "model.md5"
STAGE = "dvc.stage"
_OF_FILES = (NOTE, "claims", "evaluate.profile")  # tags that say what DVC's files say, and so change with them

SLOW = 1.0  # seconds above which a request counts as slow
_PATIENCE = 30.0  # seconds for what can wait
WORTH = ("params", "model", "champion", "files", "data", "description", "grids")  # what can wait, the most worth first
_PAUSE = 20  # a pause is this many times as long as the slow call, so a slow store costs a training 5% at most
_BATCH = 900  # metrics in one call; with up to 100 tags it holds the 1000 entries that MLflow accepts
SEND_SECONDS = 15.0
"""The least time between two calls with the points and pictures of a training, so that many trainings share a server."""
T = TypeVar("T")


def _entities(kind: str, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [getattr(load_mlflow().entities, kind)(*row) for row in rows]


class Run:
    """An MLflow run to log to. No call raises: the first ``failure`` is a warning, and later calls do nothing.

    Points and grids are sent every :data:`SEND_SECONDS`. After a slow call a training's run pauses: they wait for the end, as
    does all else that can. With ``pauses`` off a run goes on. What waits may take :data:`_PATIENCE` seconds; a note names more.
    A ``resumed`` run logs what the store lacks. One to ``complete`` does so, too, without warnings, keeps its end and tags but
    :data:`_OF_FILES`, and counts what it ``added``. ``id`` is None where there is no run.
    """

    def __init__(
        self, client: Client | None = None, entity: Any = None, complete: bool = False, resumed: bool = False, pauses: bool = True
    ) -> None:
        info = entity.info if entity else None
        self._entity, self._client, self._complete, self._resumed = entity, client, complete, resumed
        self._pauses = pauses and not complete
        self.id: str | None = info.run_id if info else None
        self._start: int = info.start_time if info else 0
        self._end = (info.end_time or info.start_time) if info and complete else None
        self._queue: list[tuple[str, float, int, int]] = []  # key, value, milliseconds since 1970, step
        self._tags: dict[str, str] = {}  # that go with the points
        self._pictures: dict[str, np.ndarray] = {}  # by file name
        self._send_next = 0.0
        self._waiting: list[tuple[str, Callable[[], object]]] = []
        self._pause_end, self._slow, self._left_out, self.added = 0.0, 0.0, False, Counter[str]()
        self.failure = cast(Exception | None, None)
        self._files = self.files() if complete or resumed else {}
        self._steps: dict[str, Collection[int]] = {}  # of points that a resumed run holds

    @cached_property
    def held(self) -> Record:
        """What the run holds: what the store had when this object was made, and what was logged by it."""
        return Record.of(self._entity)

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
        rows = {key: text(value) for key, value in params.items() if self.id and key not in self.held.params}
        if rows:
            self.added["params"] += len(rows)
            self.held.params.update(rows)
            send = partial(self.attempt, lambda client, run: client.log_batch(run, params=_entities("Param", rows.items())))
            self.when_quick("params", send)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as strings."""
        self.log_metrics({}, tags)

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
        if not self._complete and time.perf_counter() >= max(self._pause_end, self._send_next):
            self._send_next = time.perf_counter() + SEND_SECONDS
            self.flush()
            if self._pictures:
                self._send_pictures()

    def flush(self) -> None:
        """Send the queued points and tags."""
        points, tags, self._queue, self._tags = self._queue, self._tags, [], {}
        self.added += Counter("points" if step else "metrics" for *_, step in points)
        self.added["tags"] += len(tags)
        for first in range(0, max(len(points), bool(tags)), _BATCH):
            metrics, named = _entities("Metric", points[first : first + _BATCH]), _entities("RunTag", tags.items())
            self.attempt(lambda client, run: client.log_batch(run, metrics=metrics, tags=named))  # noqa: B023 (called at once)
            tags = {}

    def log_metrics(self, metrics: Mapping[str, float], tags: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Log the finite metrics, which have one value per run, where the run does not hold that value yet, and tags."""
        if not self.id:
            return
        now = round(time.time() * 1000)  # later than an old value; at equal times MLflow shows the larger one
        new = {key: value for key, value in finite(metrics).items() if self.held.metrics.get(key) != value}
        self._queue += [(key, value, now, 0) for key, value in new.items()]
        held = self.held.tags if self._complete else {}
        self._tags |= {
            key: str(value) for key, value in tags.items() if key not in held or (key in _OF_FILES and held[key] != value)
        }
        self.held.metrics.update(new)
        self.held.tags.update(self._tags)
        self.flush()

    def log_grid(self, key: str, images: np.ndarray, step: int, columns: int = 8) -> None:
        """Log images ``[N, C, H, W]`` in [0, 1] as one image per step of ``key``."""
        if self.id and (key, step) not in self._grids:
            self._tags |= grids.TAG.items() - self.held.tags.items()
            self._pictures[grids.file_name(key, step)] = tile(images, columns)

    def _send_pictures(self) -> None:
        pictures, self._pictures = self._pictures, {}
        self.attempt(partial(grids.log, pictures=pictures), num_requests=2 * len(pictures))

    @cached_property
    def _grids(self) -> set[tuple[str, int]]:
        """Key and step of the grids that a resumed run holds."""
        listed = self.attempt(lambda client, run: client.list_artifacts(run, grids.FOLDER)) if self._resumed else []
        return grids.held(entry.path for entry in listed or [])

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
        if self.id and not self.held.has_data:
            self.added["inputs"] += 1
            self.held = replace(self.held, has_data=True, data_shape=shape, data_version=version)
            call = partial(logged_model.log_data, name=name, path=path, digest=version, shape=shape)
            self.when_quick("data", partial(self.attempt, call))

    def log_model(self, weights: Path, name: str, image_shape: Shape, latent_dim: int) -> None:
        """Log the weights as a model for ``mlflow.pyfunc.load_model``, with a signature and without pickle."""
        if self.id and not self.held.model_id:
            self.added["models"] += 1

            def log(client: Client, _: str) -> None:
                info, begun = self._entity.info, self._complete or self._resumed
                model = logged_model.log(client, info, self.held.params, weights, name, image_shape, latent_dim, begun)
                self.held = replace(self.held, model_id=model)

            self.when_quick("model", partial(self.attempt, log, num_requests=20))

    def record(self) -> Record | None:
        """Return the content of the run."""
        return self.attempt(lambda client, run: Record.of(client.get_run(run)))

    def points(self, key: str) -> dict[int, float]:
        """Return a metric's value at each step, in their order, in which PostgreSQL does not keep what was added later."""
        history = self.attempt(lambda client, run: client.get_metric_history(run, key)) or []
        return dict(sorted((metric.step, metric.value) for metric in history))

    def files(self) -> dict[str, int]:
        """Return path and size in bytes of the run's artifacts, without the sample grids."""

        def listed(client: Client, run: str, folder: str | None = None) -> dict[str, int]:
            found: dict[str, int] = {}
            for entry in client.list_artifacts(run, folder):
                if entry.path != grids.FOLDER:
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
        if self._pictures and (status == "FINISHED" or time.perf_counter() < self._pause_end):
            self._waiting.append(("grids", self._send_pictures))
        elif self._pictures:
            self._send_pictures()
        if status == "FINISHED":
            self._catch_up()
        lacked_nothing = self._complete and self.held.status == status and not +self.added
        if not lacked_nothing:
            self.attempt(lambda client, run: client.set_terminated(run, status, self._end))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the run: FINISHED, KILLED by a signal or pruned, or FAILED."""
        self.finish("KILLED" if isinstance(error, STOPPED) else "FAILED" if error else "FINISHED")
