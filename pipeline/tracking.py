"""MLflow: where the store is, one run per training, and how later stages find it. The only module that imports mlflow.

MLflow is a view of what DVC's files hold and never decides whether work succeeds: when its server fails, a run falls
silent after one warning, when it is slow a run waits with what can wait, and ``python -m pipeline.sync`` restores the rest.
"""

import fcntl
import logging
import math
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from pipeline.errors import PipelineError

# The client's defaults wait four minutes for a server that is not there; these are read when mlflow is imported.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.data.numpy_dataset import from_numpy  # noqa: E402
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # noqa: E402
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunInfo, RunTag  # noqa: E402
from mlflow.entities import Run as Entity  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types import ColSpec, Schema, TensorSpec  # noqa: E402

EXPERIMENT = "latent-spaces"
MODEL_MD5 = "model.md5"
NOTE = "mlflow.note.content"
CHAMPION = "champion"
_SQLITE = "sqlite:///"

SLOW = 1.0  # seconds: a call that takes longer is a slow one
_REST = 20  # times as long as a slow call took, a run waits with its next: a slow store costs a training 5% at most
_BATCH = 1000  # what MLflow accepts of metrics in one call

T = TypeVar("T")

for _logger in ("mlflow", "alembic"):
    logging.getLogger(_logger).setLevel(logging.ERROR)


def root() -> Path:
    """Return the main repository, also from the throw-away folder of a ``dvc exp run --temp``."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def store_uri() -> str:
    """Return the tracking URI: MLFLOW_TRACKING_URI, its relative sqlite path taken from the root, or the root's mlflow.db."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE) and not uri.startswith(f"{_SQLITE}/"):
        uri = f"{_SQLITE}{root() / uri.removeprefix(_SQLITE)}"
    return uri


@contextmanager
def _exclusive() -> Iterator[None]:
    """Let one process at a time create the store: migrations of a fresh sqlite file race, and all but one fail."""
    path = root() / ".pipeline" / "mlflow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def connect(name: str | None = None) -> tuple[MlflowClient, str]:
    """Return a client and the id of an experiment, making store and experiment when they are not there yet.

    The experiment is ``name``, else MLFLOW_EXPERIMENT_NAME, else :data:`EXPERIMENT`.
    """
    uri = store_uri()
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    # MLflow freezes an experiment's artifact folder relative to the cwd of whoever creates it.
    with _exclusive(), chdir(root()):
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment:
            return client, experiment.experiment_id
        location = (root() / "mlartifacts" / name).as_uri() if uri.startswith(_SQLITE) else None
        return client, client.create_experiment(name, artifact_location=location)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images ``[N, height, width]`` in [0, 1] as one picture, uint8, ``columns`` to a row.

    >>> tile(np.ones((6, 28, 28)), columns=3).shape
    (56, 84)
    """
    height, width = images.shape[1:]
    rows = images[: len(images) // columns * columns].reshape(-1, columns, height, width)
    return np.rint(rows.swapaxes(1, 2).reshape(-1, columns * width) * 255).astype(np.uint8)


def text(value: object) -> str:
    """Return a parameter as MLflow holds it: one spelling of a number, whether params.yaml says 4 or 4.0.

    >>> text(4.0), text(0.001), text([512, 256])
    ('4', '0.001', '[512, 256]')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the finite ones of the metrics with the six digits that DVC's files have, so that both say the same."""
    return {key: float(f"{value:.6g}") for key, value in metrics.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Record:
    """What a run holds in the store; ``metrics`` are the last values."""

    id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    has_data: bool
    model_id: str | None

    @classmethod
    def of(cls, entity: Entity) -> Self:
        """Return the record of MLflow's own entity."""
        info, data = entity.info, entity.data
        models = entity.outputs.model_outputs if entity.outputs else []
        has_data = bool(entity.inputs and entity.inputs.dataset_inputs)
        model_id = models[-1].model_id if models else None
        return cls(info.run_id, info.run_name, info.status, data.params, data.tags, data.metrics, has_data, model_id)


class Run:
    """One MLflow run to log to. The first call that fails warns, and the rest do nothing; no call ever raises.

    After a slow call the run rests: points wait for one batch later, at the latest at the end, and what sync can restore is
    left to it. ``id`` is None when there is no run to log to.
    """

    def __init__(self, client: MlflowClient | None = None, info: RunInfo | None = None) -> None:
        self._client = client
        self.id: str | None = info.run_id if info else None
        self._start: int = info.start_time if info else 0
        self._waiting: list[Metric] = []
        self._rest_until = 0.0

    @property
    def alive(self) -> bool:
        """Whether there is a run and no call to it has failed."""
        return self._client is not None and self.id is not None

    @property
    def _rests(self) -> bool:
        return time.perf_counter() < self._rest_until

    def _try(self, log: Callable[[MlflowClient, str], T], can_wait: bool = False, calls: int = 1) -> T | None:
        """Do what makes about so many calls to the server, unless it can be left to sync and the run rests."""
        if self._client is None or self.id is None or (can_wait and self._rests):
            return None
        begun = time.perf_counter()
        try:
            return log(self._client, self.id)
        except Exception as error:  # whatever MLflow, its server or its disk throws must not cost a training
            _warn(error)
            self._client = None
            return None
        finally:
            took = time.perf_counter() - begun
            if took > SLOW * calls:
                self._slow(took)

    def _slow(self, seconds: float) -> None:
        if not self._rest_until and self.alive:
            print(f"note: MLflow took {seconds:.1f} s for a call; {_LATER}", file=sys.stderr)
        self._rest_until = time.perf_counter() + _REST * seconds

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as strings; those of a continued run are the same and change nothing."""
        rows = [Param(key, text(value)) for key, value in params.items()]
        self._try(lambda client, run: client.log_batch(run, params=rows), can_wait=True)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as strings."""
        rows = [RunTag(key, str(value)) for key, value in tags.items()]
        self._try(lambda client, run: client.log_batch(run, tags=rows))

    def log_epoch(self, row: Mapping[str, float], elapsed: float = 0.0) -> None:
        """Log an epoch's metrics, its number under ``epoch``, ``elapsed`` seconds into the run.

        MLflow keeps one row for equal (key, step, time, value), so what is logged again after a resume adds nothing.
        """
        then, step = self._start + round(elapsed * 1000), int(row["epoch"])
        self._waiting += [Metric(key, value, then, step) for key, value in finite(row).items() if key != "epoch"]
        if not self._rests:
            self.flush()

    def flush(self) -> None:
        """Send the points that wait."""
        points, self._waiting = self._waiting, []
        self._log_points(points)

    def _log_points(self, points: list[Metric]) -> None:
        for first in range(0, len(points), _BATCH):
            batch = points[first : first + _BATCH]
            self._try(lambda client, run, batch=batch: client.log_batch(run, metrics=batch))  # type: ignore[misc]

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log the finite ones of metrics that have one value in a run's life, where the run does not hold that value yet."""
        held = self._try(lambda client, run: client.get_run(run).data.metrics) or {}
        now = round(time.time() * 1000)  # after any former value, or MLflow would show the larger one
        self._log_points([Metric(key, value, now, 0) for key, value in finite(metrics).items() if held.get(key) != value])

    def log_grid(self, key: str, images: np.ndarray, step: int, columns: int = 8) -> None:
        """Log images ``[N, height, width]`` in [0, 1] as one picture; MLflow shows the steps of a key with a slider."""
        self._try(lambda client, run: client.log_image(run, tile(images, columns), key=key, step=step), can_wait=True, calls=5)

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file as an artifact."""
        self._try(lambda client, run: client.log_artifact(run, str(path), folder), can_wait=True, calls=3)

    def log_data(self, name: str, path: str | Path, md5: str, shape: tuple[int, ...], context: str) -> None:
        """Log the data set, images of this shape, as an input; its digest is the md5 that dvc.lock shows."""
        images = np.broadcast_to(np.uint8(0), shape)  # MLflow keeps shape and type alone
        data = from_numpy(images, LocalArtifactDatasetSource(str(path)), name=name, digest=md5)._to_mlflow_entity()
        inputs = [DatasetInput(data, [InputTag("mlflow.data.context", context)])]
        self._try(lambda client, run: client.log_inputs(run, datasets=inputs), can_wait=True)

    def log_model(self, weights: Path, name: str, input_dim: int, latent_dim: int) -> None:
        """Log the weights as a model that ``mlflow.pyfunc.load_model`` opens, with signature and without pickle."""
        pixels, code = (TensorSpec(np.dtype(np.float32), (-1, size), None) for size in (input_dim, latent_dim))
        requirements = [f"{package}=={version(package)}" for package in ("numpy", "safetensors", "torch")]
        inputs: list[ColSpec | TensorSpec] = [pixels]
        outputs: list[ColSpec | TensorSpec] = [
            TensorSpec(code.type, code.shape, "code"),
            TensorSpec(pixels.type, pixels.shape, "reconstruction"),
        ]

        def log(client: MlflowClient, run: str) -> None:
            with mlflow.start_run(run_id=run, log_system_metrics=False), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*input example was not provided")  # it would run the model
                mlflow.pyfunc.log_model(
                    name=name,
                    loader_module="pipeline.weights",
                    data_path=str(weights),
                    code_paths=[str(Path(__file__).parent)],
                    pip_requirements=requirements,
                    signature=ModelSignature(Schema(inputs), Schema(outputs)),
                )

        self._try(log, can_wait=True, calls=20)

    def crown(self, dataset: str) -> None:
        """Point the alias ``champion`` of the model ``latent-spaces-DATASET`` at the run with the best ELBO on its test images.

        Runs that were evaluated on all of them go before others.
        """
        name = f"{EXPERIMENT}-{dataset}"

        def log(client: MlflowClient, run: str) -> None:
            experiment = client.get_run(run).info.experiment_id
            scored = f"tags.dataset = '{dataset}' and metrics.`test/elbo` < 0"
            for condition in (f"{scored} and tags.`evaluate.profile` = 'full'", scored):
                best = client.search_runs([experiment], condition, order_by=["metrics.`test/elbo` DESC"], max_results=1)
                if best:
                    break
            winner = Record.of(best[0]) if best else None
            if winner is None or winner.model_id is None:
                return
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name, description=f"Models of {dataset}; `{CHAMPION}` has the best test ELBO.")
            known = [found for found in client.search_model_versions(f"name = '{name}'") if found.run_id == winner.id]
            source = f"models:/{winner.model_id}"
            chosen = (known or [client.create_model_version(name, source, winner.id, model_id=winner.model_id)])[0]
            client.set_registered_model_alias(name, CHAMPION, chosen.version)

        self._try(log, can_wait=True, calls=10)

    def record(self) -> Record | None:
        """Return what the run holds, or None where the store does not answer."""
        return self._try(lambda client, run: Record.of(client.get_run(run)), can_wait=True)

    def points(self, key: str) -> dict[int, float]:
        """Return a metric's value at each step."""
        return {m.step: m.value for m in self._try(lambda client, run: client.get_metric_history(run, key)) or []}

    def files(self) -> dict[str, int]:
        """Return the run's artifacts, path and bytes, without the sample grids."""

        def walk(client: MlflowClient, run: str, folder: str | None = None) -> dict[str, int]:
            found: dict[str, int] = {}
            for entry in client.list_artifacts(run, folder):
                if entry.path != "images":
                    found |= walk(client, run, entry.path) if entry.is_dir else {entry.path: entry.file_size or 0}
            return found

        return self._try(walk) or {}

    def fetch(self, path: str, folder: Path) -> Path | None:
        """Return an artifact as a file, downloaded to ``folder`` unless it is a local one."""
        found = self._try(lambda client, run: client.download_artifacts(run, path, str(folder)))
        return Path(found) if found else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the run: FINISHED, KILLED by a signal, or FAILED."""
        killed = isinstance(error, SystemExit | KeyboardInterrupt)
        status = "KILLED" if killed else "FAILED" if error else "FINISHED"
        self.flush()
        self._try(lambda client, run: client.set_terminated(run, status))


class Repair(Run):
    """A run that DVC's files are logged to again: what it holds is left alone, and what is added is counted."""

    def __init__(self, client: MlflowClient, info: RunInfo, is_new: bool) -> None:
        super().__init__(client, info)
        self.added: Counter[str] = Counter()
        self.is_new = is_new
        self._end = info.end_time
        self._held = Record.of(client.get_run(info.run_id))
        self._files = {} if is_new else self.files()

    def _slow(self, seconds: float) -> None:
        """Take the time it takes."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        missing = {key: value for key, value in params.items() if key not in self._held.params}
        if missing:
            self.added["params"] += len(missing)
            super().log_params(missing)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        missing = {key: value for key, value in tags.items() if key not in self._held.tags or key == NOTE}
        changed = {key: value for key, value in missing.items() if self._held.tags.get(key) != str(value)}
        if changed:
            self.added["tags"] += len(changed)
            super().set_tags(changed)

    def log_epochs(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Log the points of a training history that the run lacks."""
        rows = [finite(row) for row in rows]
        held = {} if self.is_new else {key: self.points(key) for key in {key: None for row in rows for key in row}}
        for row in rows:
            missing = {key: row[key] for key in row if row["epoch"] not in held.get(key, {})}
            self.added["points"] += len(missing.keys() - {"epoch"})
            self._waiting += [Metric(k, v, self._start, int(row["epoch"])) for k, v in missing.items() if k != "epoch"]
        self.flush()

    def _log_points(self, points: list[Metric]) -> None:
        self.added["metrics"] += sum(point.step == 0 for point in points)
        super()._log_points(points)

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        name = f"{folder}/{Path(path).name}" if folder else Path(path).name
        if self._files.get(name) != Path(path).stat().st_size:
            self.added["files"] += 1
            super().log_file(path, folder)

    def log_data(self, name: str, path: str | Path, md5: str, shape: tuple[int, ...], context: str) -> None:
        if not self._held.has_data:
            self.added["inputs"] += 1
            super().log_data(name, path, md5, shape, context)

    def log_model(self, weights: Path, name: str, input_dim: int, latent_dim: int) -> None:
        if not self._held.model_id:
            self.added["models"] += 1
            super().log_model(weights, name, input_dim, latent_dim)

    def finish(self) -> None:
        """Give the run the status of one whose outputs are all there; one that was made anew takes no time."""
        if self.is_new or self._held.status != "FINISHED" or self.added["models"]:
            self._try(lambda client, run: client.set_terminated(run, "FINISHED", self._end or self._start))


_LATER = "points wait for the end, and `python -m pipeline.sync` adds what is left out"


def _warn(error: Exception) -> None:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    print(
        f"warning: MLflow failed ({reason}); the work goes on, `python -m pipeline.sync` restores the run later", file=sys.stderr
    )


def start(name: str, tags: Mapping[str, Any], run_id: str | None = None) -> Run:
    """Start a run, or continue ``run_id`` if the store still has it. Without a store the run logs nothing."""
    try:
        client, experiment = connect()
        known = client.search_runs([experiment], f"attributes.run_id = '{run_id}'") if run_id else []
        if known:
            client.update_run(known[0].info.run_id, status="RUNNING")
        info = known[0].info if known else client.create_run(experiment, run_name=name).info
    except Exception as error:  # see Run
        _warn(error)
        return Run()
    run = Run(client, info)
    run.set_tags({**tags, **dvc_tags()})
    return run


def find(model_md5: str) -> Run:
    """Return the newest run whose weights have this md5, FINISHED or not; saying so when there is none."""
    try:
        client, experiment = connect()
        query = f"tags.`{MODEL_MD5}` = '{model_md5}'"
        runs = client.search_runs([experiment], query, order_by=["attributes.start_time DESC"], max_results=1)
    except Exception as error:  # see Run
        _warn(error)
        return Run()
    if not runs:
        print(f"note: no MLflow run has weights {model_md5}; `python -m pipeline.sync` rebuilds it", file=sys.stderr)
        return Run()
    return Run(client, runs[0].info)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # see Run
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PipelineError(f"the MLflow store {store_uri()} does not answer ({reason})") from None


def records(experiment: str | None = None) -> list[tuple[Record, Run]]:
    """Return all runs of an experiment with what they hold, the newest first. Raises PipelineError without a store."""
    with _answering():
        client, number = connect(experiment)
        found, token = [], None
        while True:
            page = client.search_runs([number], order_by=["attributes.start_time DESC"], page_token=token)
            found += [(Record.of(entity), Run(client, entity.info)) for entity in page]
            if not (token := page.token):
                return found


def repair(run_id: str | None, name: str = "", start_time: int = 0) -> Repair:
    """Return a run to complete from DVC's files, a new one that began at ``start_time`` (ms) without an id.

    Raises PipelineError without a store.
    """
    with _answering():
        client, experiment = connect()
        if run_id:
            return Repair(client, client.get_run(run_id).info, is_new=False)
        return Repair(client, client.create_run(experiment, start_time, run_name=name).info, is_new=True)


def dvc_tags() -> dict[str, str]:
    """Return what DVC tells a stage about itself, as tags."""
    names = {"DVC_STAGE": "dvc.stage", "DVC_EXP_NAME": "dvc.exp.name", "DVC_EXP_BASELINE_REV": "dvc.exp.baseline"}
    return {tag: os.environ[name] for name, tag in names.items() if os.environ.get(name)}
