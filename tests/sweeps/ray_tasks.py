"""A cluster of two nodes that loses a worker and a node, in a process of its own: `python -m tests.sweeps.ray_tasks PARAMS`."""

import os
import signal
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from pipeline.params import load_params
from pipeline.sweeps import sweep
from pipeline.sweeps.pool import Report
from pipeline.sweeps.trial import Trial, run

KILLED, LOST, NODES = Path("killed"), Path("lost"), Path("nodes")


def run_with_faults(trial: Trial, report: Report) -> dict[str, Any]:
    """Run a trial, but kill its process in the second epoch where seed is 1, and wait for the end of its node where it is 2."""
    import ray

    from pipeline.training import run as training_run

    training_run.CHECKPOINT_SECONDS = 0

    def fault(said: str) -> None:
        if not said.startswith("epoch 2/"):
            return
        if trial.values["seed"] == 1 and not KILLED.exists():
            KILLED.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.values["seed"] == 2 and not LOST.exists():
            LOST.touch()
            NODES.write_text(ray.get_runtime_context().get_node_id())
            signal.pause()

    return run(trial, fault)


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1) for _ in range(2))}
    os.mkfifo(NODES)

    def remove() -> None:
        cluster.remove_node(nodes[NODES.read_text()], allow_graceful=False)

    Thread(target=remove, daemon=True).start()
    sweep.run = run_with_faults  # type: ignore[assignment]
    found = sweep.sweep(load_params(), "vae", {"seed": [1, 2, 3]}, "ray", 1, 0, cluster.address, Path(sys.argv[1]))
    print(found.command)
    cluster.shutdown()


if __name__ == "__main__":
    main()
