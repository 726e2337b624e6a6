"""Run tasks in a process each, as many at a time as the cores allow, with one progress bar."""

import sys
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import click
from tqdm import tqdm

from pipeline.errors import PipelineError, describe
from pipeline.startup import cores, die_with_parent

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
    die_with_parent()
    try:
        messages.send(("done", task(lambda text: messages.send(("progress", text)))))
    except Exception as error:
        if not (known := describe(error)):
            raise
        messages.send(("failed", known))


def run_all(tasks: Mapping[str, Task], name: str, at_once: int, units: int) -> dict[str, Any]:
    """Run tasks by label, each in a process and ``at_once`` at a time, and return the result of each by label.

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
                process.start()
                sender.close()
                running[label] = process, receiver
            ready = wait([messages for _, messages in running.values()])
            for label, (child, messages) in list(running.items()):
                if messages not in ready:
                    continue
                try:
                    kind, value = messages.recv()
                except EOFError:
                    child.join()
                    raise PipelineError(
                        f"{label}: its process ended with exit code {child.exitcode}; see above or run again"
                    ) from None
                if kind == "failed":
                    failure = PipelineError(f"{label}: {value[0]}")
                    failure.exit_code = value[1]
                    raise failure
                if kind == "done":
                    child.join()
                    messages.close()
                    results[label] = value
                    del running[label]
                    continue
                bar.update()
                bar.set_postfix_str(f"{label}: {value}")
                if bar.disable:
                    click.echo(f"{label}: {value}")
        return results
    finally:
        for child, _ in running.values():
            child.terminate()
        for child, _ in running.values():
            child.join()
        bar.close()
