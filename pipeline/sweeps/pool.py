"""Run tasks in a process each, as many at a time as the cores allow, with one progress bar."""

import signal
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import click
from tqdm import tqdm

from pipeline.errors import OUT_OF_MEMORY, PipelineError, describe
from pipeline.startup import begin, cores, die_with_parent

Report = Callable[[str], None]
"""Report that one unit of a task is done, with a few words for the progress bar."""
Task = Callable[[Report], Any]
"""Work for a process, which returns its result. Both are pickled: a task is a function of a module, or a partial of one."""


class Resources(NamedTuple):
    """What a backend gives each trial, and where: an ``address`` of its own kind, and a folder for its files.

    ``name`` is shown beside the progress.
    """

    cpus: int
    gpus: int
    address: str | None
    folder: Path
    name: str = "sweep"


def workers(threads: int, device: str) -> int:
    """Return how many processes with this many threads each fit the machine's cores; 1 on a GPU."""
    if device != "cpu":
        from pipeline.runtime import choose_device

        device = choose_device(device)[0].type
    return max(1, len(cores()) // threads) if device == "cpu" else 1


def attempt(label: str, task: Task, report: Report = lambda said: None) -> Any:
    """Return the result of a task, or a PipelineError that begins with ``label`` for an error that the user can act on.

    Other errors are raised.
    """
    try:
        return task(report)
    except Exception as error:
        if not (known := describe(error)):
            raise
        message, exit_code = known
        return _error(label, message, exit_code)


def _work(label: str, task: Task, messages: Connection) -> None:
    begin()
    if parent := parent_process():
        die_with_parent(parent.pid)

    def send(kind: str, content: Any) -> None:
        try:
            messages.send((kind, content))
        except BrokenPipeError:  # the parent was killed, and the SIGTERM came where Python drops what a handler raises
            sys.exit(128 + signal.SIGTERM)

    send("done", attempt(label, task, partial(send, "progress")))


def _start(process: BaseProcess) -> None:
    """Start a process that never sees Ctrl-C, even while it still imports: this process ends it with a SIGTERM."""
    resource_tracker.ensure_running()  # starting it later would let signals through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _error(label: str, message: str, exit_code: int) -> PipelineError:
    error = PipelineError(f"{label}: {message}")
    error.exit_code = exit_code
    return error


def _dead(label: str, exitcode: int | None) -> PipelineError:
    """Return the error of a process that ended without a word."""
    if exitcode != -signal.SIGKILL:
        return PipelineError(f"{label}: its process ended with exit code {exitcode}; see above or run again")
    cure = "raise pool.threads, so that fewer run at once, or lower the hidden_dims"
    return _error(label, f"its process was killed, as the system does when memory runs out; {cure}", OUT_OF_MEMORY)


def outcomes(
    tasks: Mapping[str, Task], name: str, at_once: int, units: int, leave: bool = True
) -> Generator[tuple[str, Any], None, None]:
    """Run tasks by label, each in a process and ``at_once`` at a time; yield label and result, or PipelineError, as they end.

    The progress bar ``name`` counts ``units`` reports; at the end it stays if it is to ``leave`` a trace. When the generator is
    closed, or this process is stopped, the tasks that run get SIGTERM, upon which a training saves its last epoch.
    """
    context = get_context("spawn")  # a fork of a process that has used OpenMP hangs
    waiting, running = dict(tasks), dict[str, tuple[BaseProcess, Connection]]()
    bar = tqdm(total=units, desc=name, unit="step", disable=None, file=sys.stderr, leave=leave)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                label = next(iter(waiting))
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(label, waiting.pop(label), sender), name=label, daemon=True)
                _start(process)
                sender.close()
                running[label] = process, receiver
            ready = wait([messages for _, messages in running.values()])
            for label, (child, messages) in list(running.items()):
                if messages not in ready:
                    continue
                try:
                    kind, value = messages.recv()
                except (EOFError, OSError):
                    kind, value = "dead", None
                if kind == "progress":
                    bar.update()
                    bar.set_postfix_str(f"{label}: {value}")
                    if bar.disable:
                        click.echo(f"{label}: {value}")
                    continue
                child.join()
                messages.close()
                del running[label]
                bar.clear()  # for the lines that follow
                yield label, value if kind == "done" else _dead(label, child.exitcode)
    finally:
        for child, _ in running.values():
            child.terminate()
        for child, _ in running.values():
            child.join()
        bar.close()


def run_all(tasks: Mapping[str, Task], name: str, at_once: int, units: int) -> dict[str, Any]:
    """Run tasks as :func:`outcomes` does, and return the results in the order of the tasks.

    Raises the PipelineError of the first task that fails, after the others were stopped.
    """
    results = {}
    with closing(outcomes(tasks, name, at_once, units)) as ended:
        for label, result in ended:
            if isinstance(result, PipelineError):
                raise result
            results[label] = result
    return {label: results[label] for label in tasks}  # whichever ended first: files are written in this order
