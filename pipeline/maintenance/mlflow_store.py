"""MLflow's store: its address, its database, its experiment, and runs whose process was killed."""

import os
from collections.abc import Iterator
from shlex import quote

from pipeline.errors import redact
from pipeline.maintenance.findings import DOCTOR_FIX, Finding
from pipeline.tracking import database, store


def check() -> Iterator[Finding]:
    """Look at the store as a training would, but make none. Raises PipelineError where it cannot be used."""
    uri = store.store_uri()
    shown = redact(uri) + (" (MLFLOW_TRACKING_URI)" if os.environ.get("MLFLOW_TRACKING_URI") else "")
    if file := database.file_of(uri):
        if not file.exists():
            yield Finding("ok", "mlflow", f"no store yet; the first training or `latent sync` makes {shown}")
            return
        if file.is_file() and (damage := database.damage(file)):
            cure = f"`mv {quote(str(file))} {quote(str(file))}.damaged && latent sync` makes a new one from DVC's files"
            yield Finding("problem", "mlflow", f"{file} is damaged ({damage})", cure)
            return
    runs = [record for record, _ in store.records()]
    yield Finding("ok", "mlflow", f"{len(runs)} runs in {shown}")
    running = [record for record in runs if record.status == "RUNNING"]
    if stale := [record for record in running if not store.may_be_written(record)]:
        text = f"{len(stale)} runs are RUNNING whose process was killed, the newest {stale[0].name}"
        yield Finding("warning", "mlflow", text, DOCTOR_FIX, lambda: f"ended {len(store.end_stale_runs())}")
    for record in (record for record in running if store.PROCESS not in record.tags):
        command = f"MLFLOW_TRACKING_URI={quote(redact(uri))} mlflow runs delete --run-id {record.id}"
        text = f"{record.name} is RUNNING, by a version that did not note its process"
        yield Finding("warning", "mlflow", text, f"if nothing trains it: `{command}`")
