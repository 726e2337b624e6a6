"""Trials on a Ray cluster, or by Ray on this machine alone; what a lost worker or node did goes on elsewhere."""

import logging
import os
import signal
import time
from collections.abc import Generator, Mapping
from typing import Any

from pipeline.errors import BusyError, ParamsError, PipelineError, reason
from pipeline.sweeps.pool import Resources, Task, attempt

RETRIES = 10  # of a trial whose worker or node was lost, each from its last checkpoint
BUSY_SECONDS = 60  # in which the former process of a trial ends, after Ray has lost it


def patient(label: str, task: Task) -> Any:
    """Return what :func:`~pipeline.sweeps.pool.attempt` returns, once the former process of the task has ended."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        result = attempt(label, task)
        is_busy = isinstance(result, PipelineError) and result.exit_code == BusyError.exit_code
        if not is_busy or time.monotonic() > until:
            return result
        time.sleep(1)


def outcomes(tasks: Mapping[str, Task], resources: Resources) -> Generator[tuple[str, Any], None, None]:
    """Run tasks by label, each in a process of its own; yield label and result, or PipelineError, as they end.

    ``resources.address`` is that of a cluster; without one Ray starts on this machine. All nodes must see the repository and the
    environment under the same paths.

    Raises ParamsError where Ray is not installed or no node has what a trial needs, PipelineError where it does not answer.
    """
    try:
        import ray
    except ImportError as error:
        cure = "`make ray` installs what --backend ray needs, or: pip install 'latent-pipeline[ray]'"
        raise ParamsError(f"{error}; {cure}") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which would be sent
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(resources.address or "local", log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except Exception as error:  # whatever Ray raises
        where = f"at {resources.address}" if resources.address else "on this machine"
        raise PipelineError(f"Ray {where} does not answer ({reason(error)})") from None
    signal.signal(signal.SIGTERM, stop)  # in whose place Ray has put its own
    try:
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(kind, 0) >= count for kind, count in wanted.items()) for node in nodes):
            raise ParamsError(f"--cpus {resources.cpus} --gpus {resources.gpus}: no node of Ray has as many")
        # A process for each task: a training sets the folder, the environment and threads of its process.
        remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=RETRIES, max_calls=1)(patient)
        waiting = {remote.options(name=label).remote(label, task): label for label, task in tasks.items()}
        while waiting:
            (ended,), _ = ray.wait([*waiting])
            label = waiting.pop(ended)
            try:
                yield label, ray.get(ended)
            except ray.exceptions.RayError as error:
                yield label, PipelineError(f"{label}: {str(error).strip().splitlines()[-1]}")
    finally:
        ray.shutdown()  # which ends the tasks that run
