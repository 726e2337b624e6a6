"""Run tasks in a process each, as many at a time as the cores allow, with one progress bar."""

import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import click
from tqdm import tqdm

from pipeline.errors import OUT_OF_MEMORY, PipelineError, describe
from pipeline.startup import begin, cores, die_with_parent

Report = Callable[[str], None]
"""Report that one unit of a task is done, with a few words for the progress bar."""
Task = Callable[[Report], Any]
"""Work for a process, which returns its result. Both are pickled: a task is a function of a module, or a partial of one."""


def workers(threads: int, device: str) -> int:
    """Return how many processes with this many threads each fit the machine's cores; 1 on a GPU."""
    if device != "cpu":
        from pipeline.runtime import choose_device

        device = choose_device(device)[0].type
    return max(1, len(cores()) // threads) if device == "cpu" else 1


def _work(task: Task, messages: Connection) -> None:
    begin()
    if parent := parent_process():
        die_with_parent(parent.pid)

    def send(kind: str, content: Any) -> None:
        try:
            messages.send((kind, content))
        except BrokenPipeError:  # the parent was killed, and the SIGTERM came where Python drops what a handler raises
            sys.exit(128 + signal.SIGTERM)

    try:
        send("done", task(partial(send, "progress")))
    except Exception as error:
        if not (known := describe(error)):
            raise
        send("failed", known)


def _start(process: BaseProcess) -> None:
    """Start a process that never sees Ctrl-C, even while it still imports: this process ends it with a SIGTERM."""
    resource_tracker.ensure_running()  # starting it later would let signals through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _dead(label: str, exitcode: int | None) -> PipelineError:
    """Return the error of a process that ended without a word."""
    if exitcode != -signal.SIGKILL:
        return PipelineError(f"{label}: its process ended with exit code {exitcode}; see above or run again")
    error = PipelineError(
        f"{label}: its process was killed, as the system does when memory runs out; "
        "raise pool.threads, so that fewer run at once, or lower the hidden_dims"
    )
    error.exit_code = OUT_OF_MEMORY
    return error


def run_all(tasks: Mapping[str, Task], name: str, at_once: int, units: int) -> dict[str, Any]:
    """Run tasks by label, each in a process and ``at_once`` at a time, and return the results in the same order.

    The progress bar ``name`` counts ``units`` reports. When a task fails, or this process is stopped, the others get SIGTERM,
    upon which a training saves its last epoch. Raises the PipelineError of a task, or one when a process died.
    """
    context = get_context("spawn")  # a fork of a process that has used OpenMP hangs
    waiting, running, results = dict(tasks), dict[str, tuple[BaseProcess, Connection]](), dict[str, Any]()
    bar = tqdm(total=units, desc=name, unit="step", disable=None, file=sys.stderr)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                label = next(iter(waiting))
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(waiting.pop(label), sender), name=label, daemon=True)
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
                    child.join()
                    raise _dead(label, child.exitcode) from None
                if kind in ("done", "failed"):
                    child.join()
                    messages.close()
                    del running[label]
                if kind == "failed":
                    failure = PipelineError(f"{label}: {value[0]}")
                    failure.exit_code = value[1]
                    raise failure
                if kind == "done":
                    results[label] = value
                    continue
                bar.update()
                bar.set_postfix_str(f"{label}: {value}")
                if bar.disable:
                    click.echo(f"{label}: {value}")
        return {label: results[label] for label in tasks}  # whichever ended first: files are written in this order
    finally:
        for child, _ in running.values():
            child.terminate()
        for child, _ in running.values():
            child.join()
        bar.close()
