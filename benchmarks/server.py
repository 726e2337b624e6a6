"""How an MLflow server does under load: ``python -m benchmarks.server``, on the server of MLFLOW_TRACKING_URI.

Each client is a thread with a run of its own. It logs the nine numbers of an epoch in one call, again and again, as a training
does every 15 seconds. The first calls of each client, in which the server opens its connections, are not counted. The clients
share the processor with a server on the same machine. Their runs are deleted at the end.
"""

import os
import threading
import time
from itertools import chain
from typing import Any

import click
import mlflow
import numpy as np
from mlflow.entities import Metric

from benchmarks.tools import machine, table
from pipeline.tracking import store

NUMBERS = 9
EXPERIMENT = "load"


def load(client: mlflow.MlflowClient, run: str, warm: float, end: float, seconds: list[float], errors: list[str]) -> None:
    """Call until ``end``, a time of perf_counter; keep the seconds of the calls that begin after ``warm``, and their errors."""
    step = 0
    while (begun := time.perf_counter()) < end:
        step += 1
        points = [Metric(f"val/{key}", 1.0, step, step) for key in range(NUMBERS)]
        error = ""
        try:
            client.log_batch(run, points)
        except Exception as found:  # whatever a server does under load
            error = type(found).__name__
        if begun >= warm:
            seconds.append(time.perf_counter() - begun)
            errors += [error] if error else []


def measure(client: mlflow.MlflowClient, runs: list[str], warm_up: float, duration: float) -> list[str]:
    """Return a row of the table for a client of each run."""
    warm = time.perf_counter() + warm_up
    took: list[float] = []
    errors: list[str] = []
    given: list[Any] = [warm, warm + duration, took, errors]
    threads = [threading.Thread(target=load, args=(client, run, *given)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    half, most = (f"{1000 * np.quantile(took, share):.0f}" for share in (0.5, 0.95))
    return [str(len(runs)), str(len(took)), f"{len(took) / duration:.1f}", half, most, str(len(errors))]


@click.command()
@click.option("--clients", type=int, multiple=True, default=(1, 4, 16), show_default=True)
@click.option("--warm-up", default=5.0, show_default=True, help="Seconds that are not counted.")
@click.option("--duration", default=20.0, show_default=True, help="Seconds that are.")
def main(clients: tuple[int, ...], warm_up: float, duration: float) -> None:
    """Print a table of calls a second, their time, and errors."""
    if not store.store_uri().startswith("http"):
        raise click.UsageError("MLFLOW_TRACKING_URI names no server; docs/server.md says how to start one")
    click.echo(machine("mlflow"))
    head = ["clients", "calls", "calls/s", "p50, ms", "p95, ms", "errors"]
    client, experiment = store.connect(EXPERIMENT)
    groups = [[client.create_run(experiment).info.run_id for _ in range(count)] for count in clients]
    table(head, [measure(client, runs, warm_up, duration) for runs in groups])
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "120"  # a server that was too slow still has work to do
    for run in chain(*groups):
        client.delete_run(run)


if __name__ == "__main__":
    main()
