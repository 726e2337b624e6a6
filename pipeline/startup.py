"""Functions that entry points call before torch is imported: signals, and how OpenMP's threads wait."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn


def cores() -> set[int]:
    """Return the numbers of the CPU cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpu_times() -> tuple[int, int]:
    """Return the total and the idle time of the cores since boot, with waiting for a disk counted as idle."""
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    times = [[int(field) for field in row[1:9]] for row in rows if row[0] in {f"cpu{core}" for core in cores()}]
    return sum(map(sum, times)), sum(row[3] + row[4] for row in times)


def free_cores(seconds: float = 0.1) -> float:
    """Return how many of this process's cores were idle over some seconds, all of them where the system has no such data."""
    try:
        before = _cpu_times()
        time.sleep(seconds)
        total, idle = (after - earlier for after, earlier in zip(_cpu_times(), before, strict=True))
        return len(cores()) * idle / total
    except (OSError, ValueError, ZeroDivisionError):
        return float(len(cores()))


def choose_waiting(threads: int) -> str:
    """Set how OpenMP's threads wait for each other in a computation of so many threads; return the choice.

    It changes speed and no bit. On free cores a thread spins 5,000 times before it sleeps, because waking it for each of a
    step's fifty kernels would halve the speed. Next to another busy process it sleeps at once, because a spinning thread takes
    the core that the other one needs. `python -m benchmarks.load` measures both. libgomp reads the setting when torch is
    imported. A setting of the user stays.
    """
    if "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return "as set"
    if threads > 1 and free_cores() < threads - 0.5:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        return "asleep, as other processes are busy"
    os.environ["GOMP_SPINCOUNT"] = "5000"
    return "spinning"


def _stop(signum: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # dvc sends another one when it ends, during the cleanup
    raise SystemExit(128 + signal.SIGTERM)


def die_with_parent() -> None:
    """Let SIGTERM end this process with exit code 143 after its cleanup, and send it one when its parent dies.

    Otherwise the stage of a killed `dvc` goes on beside that of the next `dvc repro`. Call it before heavy imports.
    """
    signal.signal(signal.SIGTERM, _stop)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
