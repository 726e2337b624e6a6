"""The stage train, run by torchrun, in which a rank kills itself at a step of the first attempt: KILL="RANK STEP".

A checkpoint is saved after each epoch.
"""

import os
import signal
import sys

from pipeline.training import run as training_run
from pipeline.training.optimizer import Optimizer
from stages import run
from stages.train import main

if __name__ == "__main__":
    rank, step = map(int, os.environ.get("KILL", "-1 0").split())
    is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    whole = Optimizer.step

    def killed(optimizer: Optimizer, *args: object, **options: object) -> object:
        if is_first and os.environ.get("RANK", "0") == str(rank) and optimizer.num_steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(optimizer, *args, **options)  # type: ignore[arg-type]

    Optimizer.step = killed  # type: ignore[assignment, method-assign]
    training_run.CHECKPOINT_SECONDS = 0
    sys.argv[0] = "train"
    run(main)
