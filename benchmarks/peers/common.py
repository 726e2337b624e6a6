"""What every contender shares: the images, the number of epochs, and one line of JSON at the end. numpy only."""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

FOLDER, EPOCHS, NET = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
BATCH, THREADS = 128, 2


def images(part: str) -> np.ndarray:
    """Return the images of ``train`` or ``test``, uint8 ``[N, 28, 28]``."""
    return np.load(FOLDER / f"{part}.npy")


class Clock:
    """Times epochs."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.first = 0.0
        self.start = time.perf_counter()

    def epoch(self) -> None:
        """Note the end of an epoch; of the first, also how long after the start of the process it came."""
        self.first = self.first or time.time() - float(os.environ["BENCH_START"])
        self.seconds.append(time.perf_counter() - self.start)
        self.start = time.perf_counter()


def report(clock: Clock, elbo: float) -> None:
    """Print what was measured: seconds of each epoch and to the end of the first, -ELBO on the test images, peak memory."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"epochs": clock.seconds, "first": clock.first, "nelbo": elbo, "peak_mib": memory}))
