"""Tasks for the pool's tests, in a module of their own so that their processes import little."""

import os
import signal
from pathlib import Path

from pipeline.sweeps.pool import Report


def square(number: int, report: Report) -> int:
    report(f"squaring {number}")
    return number * number


def read(pipe: Path, report: Report) -> str:
    return pipe.read_text()


def write(pipe: Path, report: Report) -> int:
    return pipe.write_text("at last")


def fail(error: Exception, report: Report) -> None:
    raise error


def die(signum: int, report: Report) -> None:
    os.kill(os.getpid(), signum)


def wait(folder: Path, report: Report) -> None:
    (folder / str(os.getpid())).touch()
    report("waiting")
    signal.pause()


def go_on(report: Report) -> None:
    """Lose the signal that comes with the parent's death."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        report("working")
