"""MLflow's store: its address, its database, its experiment, and runs whose process was killed."""

import os
from collections.abc import Iterator
from shlex import quote

from pipeline.errors import redact
from pipeline.maintenance.findings import Finding
from pipeline.tracking import database, store

FIX = "`latent doctor --fix`"


def _end_stale_runs() -> str:
    return f"ended {len(store.end_stale_runs())}"


def check() -> Iterator[Finding]:
    """Look at the store as a training would, but make none. Raises PipelineError where it cannot be used."""
    uri, root = store.store_uri(), store.root()
    set_by = " (MLFLOW_TRACKING_URI)" if os.environ.get("MLFLOW_TRACKING_URI") else ""
    shown = f"{redact(uri)}{set_by}"
    if file := database.file_of(uri):
        if not file.exists():
            yield Finding("ok", "mlflow", f"no store yet; the first training or `latent sync` makes {shown}")
            return
        if file.is_file() and (damage := database.damage(file)):
            cure = f"`mv {quote(str(file))} {quote(str(file))}.damaged && latent sync` makes a new one from DVC's files"
            yield Finding("problem", "mlflow", f"{file} is damaged ({damage})", cure)
            return
        if file.is_file() and (former := sorted(database.former_roots(file, root))):
            text = f"{file} looks for its artifacts in {former[0]}, from where the repository came"
            yield Finding("warning", "mlflow", text, f"{FIX}, or the next training", lambda: _relocate(uri, shown))
            if database.former_roots(file, root):
                return
    runs = [record for record, _ in store.records()]
    yield Finding("ok", "mlflow", f"{len(runs)} runs in {shown}")
    if stale := [record for record, _ in store.stale_runs()]:
        text = f"{len(stale)} runs are RUNNING whose process was killed, the newest {stale[0].name}"
        yield Finding("warning", "mlflow", text, FIX, _end_stale_runs)
    for record in runs:
        if record.status == "RUNNING" and store.PROCESS not in record.tags:
            text = f"{record.name} is RUNNING, by a version that did not note its process"
            command = f"MLFLOW_TRACKING_URI={quote(redact(uri))} mlflow runs delete --run-id {record.id}"
            yield Finding("warning", "mlflow", text, f"if nothing trains it: `{command}`")


def _relocate(uri: str, shown: str) -> str:
    database.prepare(uri, store.root())
    return f"{shown} looks in this repository now"
