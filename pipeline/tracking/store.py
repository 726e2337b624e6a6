"""The MLflow store: its address, the connection to it, and runs started, found, listed and ended in it."""

import errno
import http
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import NO_SPACE_ERRNOS, AccessError, IntegrityError, ParamsError, PipelineError, reason, redact
from pipeline.startup import repository_root
from pipeline.tracking import database
from pipeline.tracking.database import load_mlflow
from pipeline.tracking.failures import SYNC, answer, causes, is_denied, warn
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.origin import origin_tags
from pipeline.tracking.pages import VIEWS, describe_experiment
from pipeline.tracking.record import Record
from pipeline.tracking.run import EXPERIMENT, MODEL_MD5, STAGE, Client, Run

FINGERPRINT = "fingerprint"
"""The tag with the hash of all that decides a training's bits: trainings with the same one share a run."""
PROCESS = "process"
"""The tag with machine, id and start of the process that writes a run."""
PARENT = "MLFLOW_PARENT_RUN_ID"
"""The environment variable with the id of the run of a sweep, below which MLflow shows the runs of its trials."""
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that MLflow does not ask what the experiment is for
_NEWEST_FIRST = ["attributes.start_time DESC"]
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
# What MLflow's own pages ask for curves, and its limits on runs in a question and points in an answer.
_BULK, _MOST_RUNS, _MOST_POINTS = "/ajax-api/2.0/mlflow/metrics/get-history-bulk", 100, 25_000
_SQLITE_PROBLEMS = {  # the second is a limit on the size of files, too
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
}


def root() -> Path:
    """Return the main repository, also from a sub-folder and from the temporary folder of a ``dvc exp run --temp``."""
    return Path(os.environ.get("DVC_ROOT") or repository_root()).resolve()


def store_uri() -> str:
    """Return MLFLOW_TRACKING_URI or ``mlflow.db`` in the root. A relative path is relative to the root."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if file := database.file_of(uri):
        return database.address(root() / file, uri)
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return (root() / uri.removeprefix("file:")).as_uri()
    is_path = ":" not in uri and uri not in ("databricks", "databricks-uc", "uc")
    return str(root() / uri) if is_path else uri


def connect(name: str | None = None, create: bool = True) -> tuple[Client, str]:
    """Return a client and the id of an experiment (``name``, MLFLOW_EXPERIMENT_NAME or the default); create what is missing.

    Who only reads does not ``create``: the id is empty for an experiment that is missing.
    Raises ParamsError for a database that is missing then, PipelineError for a store that cannot be used, and whatever MLflow
    raises.
    """
    uri = store_uri()
    if not create and database.is_absent(uri):
        raise ParamsError(f"there is no MLflow store {redact(uri)} yet; the first training or {SYNC} makes it")
    database.prepare(uri, root())
    mlflow = load_mlflow()
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(name)
    if found is None and not create:
        return client, ""
    if found is None:
        folder = database.artifacts(uri, root())
        try:
            number = client.create_experiment(name, (folder / name).as_uri() if folder else None, {**_KIND, **VIEWS})
            client.set_experiment_tag(number, NOTE, describe_experiment(number))
            return client, number
        except mlflow.exceptions.MlflowException:  # another process may have been faster
            if not (found := client.get_experiment_by_name(name)):
                raise
    if found.lifecycle_stage != "active":
        restore = f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        raise PipelineError(f"the MLflow experiment {name} was deleted; {restore} brings it back, or set MLFLOW_EXPERIMENT_NAME")
    return client, found.experiment_id


def process(number: int) -> str | None:
    """Return machine, id and start of a process, None for one that is gone."""
    try:
        if not Path("/proc/self/stat").exists():
            os.kill(number, 0)
            return f"{platform.node()} {number}"
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return f"{platform.node()} {number} {fields[19]}" if fields[0] != "Z" else None  # the start, in ticks since boot
    except OSError:
        return None


def process_tag() -> dict[str, str]:
    """Return the tag of a run that this process writes."""
    return {PROCESS: process(os.getpid()) or ""}


def may_be_written(record: Record) -> bool:
    """Return whether a process may still log to a run: it is RUNNING, and its process is not known to be gone.

    A process of another machine, or of a run without the tag, may be alive.
    """
    tag, here = record.tags.get(PROCESS, ""), f"{platform.node()} "
    is_dead = tag.startswith(here) and process(int(tag.removeprefix(here).split()[0])) != tag
    return record.status == "RUNNING" and not is_dead


def _former(client: Client, experiment: str, tags: Mapping[str, Any], run_id: str | None) -> Any:
    """Return the newest run of the same training and stage that no other process writes, or ``run_id``, else None."""
    wanted = [f"attributes.run_id = '{run_id}'"] if run_id else []
    wanted += [f"tags.{FINGERPRINT} = '{tags[FINGERPRINT]}'"] if FINGERPRINT in tags else []
    for filter_string in wanted:
        for found in client.search_runs([experiment], filter_string, order_by=_NEWEST_FIRST):
            is_same = found.data.tags.get(STAGE) == tags.get(STAGE)
            if found.info.run_id == run_id or (is_same and not may_be_written(Record.of(found))):
                return found
    return None


def start(name: str, tags: Mapping[str, Any], run_id: str | None = None) -> Run:
    """Start a run, or continue ``run_id`` or one of the same training, by its fingerprint, if the store still has it.

    Without a store the run logs nothing.
    """
    # DVC names a stage of another file `claims/dvc.yaml:train_seeds`; the tag has only the stage's name.
    names = {STAGE: "DVC_STAGE", "dvc.exp.name": "DVC_EXP_NAME", "dvc.exp.baseline": "DVC_EXP_BASELINE_REV"}
    names |= {"mlflow.parentRunId": PARENT}
    tags = {**tags, **{tag: os.environ[key].rpartition(":")[2] for tag, key in names.items() if os.environ.get(key)}}
    tags = {key: str(value) for key, value in (origin_tags() | process_tag() | tags).items()}
    try:
        client, experiment = connect()
        if found := _former(client, experiment, tags, run_id):
            client.log_batch(found.info.run_id, tags=[load_mlflow().entities.RunTag(*tag) for tag in tags.items()])
            client.update_run(found.info.run_id, status="RUNNING")
            return Run(client, found, resumed=True)
        # All tags from the first moment on, so that a run is never without them, whenever the process is killed.
        return Run(client, client.create_run(experiment, run_name=name, tags=tags))
    except Exception as error:  # as in Run.attempt
        warn(error)
        return Run()


def find(model_md5: str) -> Run:
    """Return the newest run, of any status, whose weights have this md5; print a note when there is none."""
    try:
        client, experiment = connect()
        runs = client.search_runs([experiment], f"tags.`{MODEL_MD5}` = '{model_md5}'", order_by=_NEWEST_FIRST, max_results=1)
        if runs:
            return Run(client, runs[0], pauses=False)
        print(f"note: no MLflow run has weights {model_md5}; {SYNC} rebuilds it", file=sys.stderr)
    except Exception as error:  # as in Run.attempt
        warn(error)
    return Run()


def explained(error: Exception) -> Exception:
    """Return an error of one line for one that MLflow, its database, its server or its disk raised."""
    if isinstance(error, PipelineError):
        return error
    uri = redact(store_uri())
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_SPACE_ERRNOS:
            return OSError(cause.errno, cause.strerror, cause.filename or uri)
    for problem, number in _SQLITE_PROBLEMS.items():
        if problem in str(error):
            return OSError(number, problem, str(database.file_of(store_uri()) or uri))
    if is_denied(error):
        return AccessError(f"{uri} does not let this user do it ({answer(error)}); MLFLOW_TRACKING_USERNAME names the user")
    if getattr(error, "error_code", "") in _REFUSED:
        return IntegrityError(f"MLflow refuses it ({reason(error)})")
    return PipelineError(f"the MLflow store {uri} does not answer ({answer(error)})")


@contextmanager
def connected(experiment: str | None = None, create: bool = True) -> Iterator[tuple[Client, str]]:
    """Yield what :func:`connect` returns. Raises what :func:`explained` returns when MLflow fails, here or in the block."""
    try:
        yield connect(experiment, create)
    except Exception as error:  # whatever MLflow raises
        raise explained(error) from None


def records(experiment: str | None = None, deleted: bool = False, wanted: str = "") -> list[tuple[Record, Run]]:
    """Return the runs of an experiment with their content, newest first, ``deleted`` ones, too, if asked.

    ``wanted`` is a filter in the language of MLflow's search, by which the store chooses: ``params.beta = '4'``.
    Raises ParamsError without a store and for a filter that MLflow refuses, and else what :func:`explained` returns.
    """
    with connected(experiment, create=False) as (client, number):
        if not number:
            return []
        mlflow = load_mlflow()
        kind = mlflow.entities.ViewType.ALL if deleted else mlflow.entities.ViewType.ACTIVE_ONLY
        try:
            found = mlflow.search_runs([number], wanted, kind, order_by=_NEWEST_FIRST, output_format="list")
        except mlflow.exceptions.MlflowException as error:
            if not wanted or error.error_code not in _REFUSED:
                raise
            allowed = "allowed is one as in `latent compare --filter \"params.beta = '4'\"`"
            raise ParamsError(f"MLflow refuses the filter {wanted} ({reason(error)}); {allowed}") from None
        return [(Record.of(entity), Run(client, entity, pauses=False)) for entity in found]


def histories(runs: Sequence[Run], key: str) -> list[dict[int, float]]:
    """Return the values of a metric by step, for each run: by one query of a database, or one request to a server for 100 runs.

    Where the store fails all are empty, and the first run is no longer :attr:`~pipeline.tracking.run.Run.alive`.
    """

    def read(client: Client, _: str) -> list[dict[int, float]]:
        points: dict[str, dict[int, float]] = {run.id: {} for run in runs if run.id}
        numbers, store = list(points), client._tracking_client.store  # the client itself asks for one run at a time
        if hasattr(store, "get_metric_history_bulk"):
            for found in store.get_metric_history_bulk(numbers, key, sys.maxsize):
                points[found.run_id][found.step] = found.value
            return list(points.values())
        request = load_mlflow().utils.rest_utils.http_request
        for first in range(0, len(numbers), _MOST_RUNS):
            part = numbers[first : first + _MOST_RUNS]
            asked = {"run_id": part, "metric_key": key}
            answer = request(store.get_host_creds(), _BULK, "GET", params=asked)
            rows = answer.json()["metrics"] if answer.status_code == http.HTTPStatus.OK else []
            if not 0 < len(rows) < _MOST_POINTS:  # another server, or an answer that may be cut
                points |= {number: {row.step: row.value for row in client.get_metric_history(number, key)} for number in part}
            for row in rows:
                points[row["run_id"]][row["step"]] = row["value"]
        return list(points.values())

    found = (runs[0].attempt(read, num_requests=len(runs)) if runs else None) or [{} for _ in runs]
    return [dict(sorted(points.items())) for points in found]


def complete_experiment() -> None:
    """Give an experiment that another program or an earlier version made its description and views, once.

    Raises what :func:`explained` returns.
    """
    with connected() as (client, number):
        held = client.get_experiment(number).tags
        # Who uses it may have deleted some views. The description is written last, so without it a killed process left some out.
        if NOTE not in held or not VIEWS.keys() & held.keys():
            for key, value in (_KIND | VIEWS | {NOTE: describe_experiment(number)}).items():
                if key not in held:
                    client.set_experiment_tag(number, key, value)


def end_stale_runs() -> list[Record]:
    """End the RUNNING runs whose process was killed, FINISHED if they hold a trained model and else KILLED; return them."""
    ended = []
    for record, run in records():
        if record.status == "RUNNING" and not may_be_written(record):
            status = "FINISHED" if MODEL_MD5 in record.tags else "KILLED"
            run.finish(status)
            ended.append(replace(record, status=status))
    return ended
