"""MLflow: where the store is, one run per training, and how later stages find it. The only module that imports mlflow.

MLflow is a view of what DVC's files hold and never decides whether work succeeds: when its server fails, a run falls
silent after one warning and ``python -m pipeline.sync`` restores it later.
"""

import fcntl
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

# The client's defaults wait four minutes for a server that is not there; these are read when mlflow is imported.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.data.numpy_dataset import from_numpy  # noqa: E402
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # noqa: E402
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunInfo, RunTag  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types import ColSpec, Schema, TensorSpec  # noqa: E402

EXPERIMENT = "latent-spaces"
MODEL_MD5 = "model.md5"
_SQLITE = "sqlite:///"

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


def connect() -> tuple[MlflowClient, str]:
    """Return a client and the id of the experiment, making store and experiment when they are not there yet."""
    uri = store_uri()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
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


class Run:
    """One MLflow run to log to. The first call that fails warns, and the rest do nothing; no call ever raises.

    ``id`` is None when there is no run to log to.
    """

    def __init__(self, client: MlflowClient | None = None, info: RunInfo | None = None) -> None:
        self._client = client
        self.id: str | None = info.run_id if info else None
        self._start: int = info.start_time if info else 0

    def _try(self, log: Callable[[MlflowClient, str], object]) -> None:
        if self._client is None or self.id is None:
            return
        try:
            log(self._client, self.id)
        except Exception as error:  # whatever MLflow, its server or its disk throws must not cost a training
            _warn(error)
            self._client = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, as strings; those of a continued run are the same and change nothing."""
        self._try(lambda client, run: client.log_batch(run, params=[Param(k, str(v)) for k, v in params.items()]))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as strings."""
        self._try(lambda client, run: client.log_batch(run, tags=[RunTag(k, str(v)) for k, v in tags.items()]))

    def log_epoch(self, row: Mapping[str, float], elapsed: float) -> None:
        """Log an epoch's metrics, its number under ``epoch``, ``elapsed`` seconds into the run.

        MLflow keeps one row for equal (key, step, time, value), so what is logged again after a resume adds nothing.
        """
        self.log_metrics({key: value for key, value in row.items() if key != "epoch"}, int(row["epoch"]), elapsed)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0, elapsed: float = 0.0) -> None:
        """Log the finite ones of the metrics in one call."""
        time = self._start + round(elapsed * 1000)
        rows = [Metric(key, value, time, step) for key, value in metrics.items() if math.isfinite(value)]
        self._try(lambda client, run: client.log_batch(run, metrics=rows))

    def log_grid(self, key: str, images: np.ndarray, step: int, columns: int = 8) -> None:
        """Log images ``[N, height, width]`` in [0, 1] as one picture; MLflow shows the steps of a key with a slider."""
        self._try(lambda client, run: client.log_image(run, tile(images, columns), key=key, step=step))

    def log_file(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file as an artifact."""
        self._try(lambda client, run: client.log_artifact(run, str(path), folder))

    def log_data(self, name: str, path: Path, md5: str, images: np.ndarray, context: str) -> None:
        """Log the data set as an input, its digest the md5 that dvc.lock shows."""
        data = from_numpy(images, LocalArtifactDatasetSource(str(path)), name=name, digest=md5)._to_mlflow_entity()
        tags = [InputTag("mlflow.data.context", context)]
        self._try(lambda client, run: client.log_inputs(run, datasets=[DatasetInput(data, tags)]))

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
                    loader_module="pipeline.checkpoint",
                    data_path=str(weights),
                    code_paths=["pipeline"],
                    pip_requirements=requirements,
                    signature=ModelSignature(Schema(inputs), Schema(outputs)),
                )

        self._try(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the run: FINISHED, KILLED by a signal, or FAILED."""
        killed = isinstance(error, SystemExit | KeyboardInterrupt)
        status = "KILLED" if killed else "FAILED" if error else "FINISHED"
        self._try(lambda client, run: client.set_terminated(run, status))


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


def dvc_tags() -> dict[str, str]:
    """Return what DVC tells a stage about itself, as tags."""
    names = {"DVC_STAGE": "dvc.stage", "DVC_EXP_NAME": "dvc.exp.name", "DVC_EXP_BASELINE_REV": "dvc.exp.baseline"}
    return {tag: os.environ[name] for name, tag in names.items() if os.environ.get(name)}
