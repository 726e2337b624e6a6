"""The MLflow store: its address, the connection to it, and runs started, found and listed in it."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, cast

from pipeline.errors import NO_SPACE_ERRNOS, AccessError, IntegrityError, PipelineError
from pipeline.tracking.run import EXPERIMENT, MODEL_MD5, STAGE, SYNC, Client, Record, Run, load_mlflow, reason, warn

_SQLITE = "sqlite:///"
_NEWEST_FIRST = ["attributes.start_time DESC"]
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED")
_SQLITE_PROBLEMS = {  # the second is a limit on the size of files, too
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
}


def root() -> Path:
    """Return the main repository, also from the temporary folder of a ``dvc exp run --temp``."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def store_uri() -> str:
    """Return MLFLOW_TRACKING_URI or ``mlflow.db`` in the root. A relative sqlite path is relative to the root."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    is_relative = uri.startswith(_SQLITE) and not uri.startswith(f"{_SQLITE}/")
    return f"{_SQLITE}{root() / uri.removeprefix(_SQLITE)}" if is_relative else uri


def connect(name: str | None = None) -> tuple[Client, str]:
    """Return a client and the id of an experiment (``name``, MLFLOW_EXPERIMENT_NAME or the default); create what is missing."""
    mlflow, uri = load_mlflow(), store_uri()
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    lock = root() / ".pipeline" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # MLflow stores an experiment's artifact folder relative to the current one.
    with open(lock, "w") as file, chdir(root()):
        fcntl.flock(file, fcntl.LOCK_EX)  # concurrent migrations of a new sqlite file fail
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(uri)
        if experiment := client.get_experiment_by_name(name):
            return client, experiment.experiment_id
        location = (root() / "mlartifacts" / name).as_uri() if uri.startswith(_SQLITE) else None
        return client, client.create_experiment(name, artifact_location=location)


def start(name: str, tags: Mapping[str, Any], run_id: str | None = None) -> Run:
    """Start a run, or continue ``run_id`` if the store still has it. Without a store the run logs nothing."""
    try:
        client, experiment = connect()
        known = client.search_runs([experiment], f"attributes.run_id = '{run_id}'") if run_id else []
        if known:
            client.update_run(known[0].info.run_id, status="RUNNING")
        run = Run(client, known[0].info if known else client.create_run(experiment, run_name=name).info)
    except Exception as error:  # as in Run.attempt
        warn(error)
        return Run()
    # DVC names a stage of another file `claims/dvc.yaml:train_seeds`; the tag has only the stage's name.
    names = {STAGE: "DVC_STAGE", "dvc.exp.name": "DVC_EXP_NAME", "dvc.exp.baseline": "DVC_EXP_BASELINE_REV"}
    run.set_tags({**tags, **{tag: os.environ[key].rpartition(":")[2] for tag, key in names.items() if os.environ.get(key)}})
    return run


def find(model_md5: str) -> Run:
    """Return the newest run, of any status, whose weights have this md5; print a note when there is none."""
    try:
        client, experiment = connect()
        runs = client.search_runs([experiment], f"tags.`{MODEL_MD5}` = '{model_md5}'", order_by=_NEWEST_FIRST, max_results=1)
        if runs:
            return Run(client, runs[0].info)
        print(f"note: no MLflow run has weights {model_md5}; {SYNC} rebuilds it", file=sys.stderr)
    except Exception as error:  # as in Run.attempt
        warn(error)
    return Run()


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)  # that of requests, or of S3
    return (
        response["ResponseMetadata"]["HTTPStatusCode"] if isinstance(response, dict) else getattr(response, "status_code", None)
    )


def explained(error: Exception) -> Exception:
    """Return an error of one line for one that MLflow, its database, its server or its disk raised."""
    uri, chain = store_uri(), [cast(BaseException, error)]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    code = getattr(error, "error_code", "")
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in NO_SPACE_ERRNOS:
            return OSError(cause.errno, cause.strerror, cause.filename or uri)
    for problem, number in _SQLITE_PROBLEMS.items():
        if problem in str(error):
            return OSError(number, problem, uri.removeprefix(_SQLITE))
    if code in _DENIED or {401, 403} & set(map(_http_status, chain)):
        return AccessError(f"{uri} does not let this user do it ({reason(error)}); MLFLOW_TRACKING_USERNAME names the user")
    if code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
        return IntegrityError(f"MLflow refuses it ({reason(error)})")
    return PipelineError(f"the MLflow store {uri} does not answer ({reason(error)})")


@contextmanager
def connected(experiment: str | None = None) -> Iterator[tuple[Client, str]]:
    """Yield what :func:`connect` returns. Raises what :func:`explained` returns when MLflow fails, here or in the block."""
    try:
        yield connect(experiment)
    except Exception as error:  # whatever MLflow raises
        raise explained(error) from None


def records(experiment: str | None = None, deleted: bool = False) -> list[tuple[Record, Run]]:
    """Return the runs of an experiment with their content, newest first, ``deleted`` ones, too, if asked.

    Raises what :func:`explained` returns.
    """
    with connected(experiment) as (client, number):
        mlflow = load_mlflow()
        kind = mlflow.entities.ViewType.ALL if deleted else mlflow.entities.ViewType.ACTIVE_ONLY
        found = mlflow.search_runs([number], run_view_type=kind, order_by=_NEWEST_FIRST, output_format="list")
        return [(Record.of(entity), Run(client, entity.info)) for entity in found]
