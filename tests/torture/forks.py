"""A server that has imported all that the commands import, and forks a process for each command: 0.1 s instead of 4.

It reads a JSON object a line: module, arguments, folder, environment, and a folder for stdout, stderr, pid and rc.
"""

import atexit
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn


def load() -> None:
    """Import what the commands import, without starting a thread that a fork would lose."""
    import mlflow.data
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import vl_convert  # noqa: F401

    import pipeline.cli
    import pipeline.evaluation.run
    import pipeline.explorer.page
    import pipeline.reporting.compare_figures
    import pipeline.reporting.report
    import pipeline.tracking.sync  # noqa: F401
    from pipeline.training.fused_mlp import FusedMLPStep

    step = FusedMLPStep.__call__

    def audited(*args: Any) -> Any:
        sys.audit("torture.step")
        return step(*args)

    FusedMLPStep.__call__ = audited  # type: ignore[method-assign]


def work(job: dict[str, Any]) -> int:
    """Be the command; return its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(job["log"], name), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = [job["module"], *job["arguments"]]
    sys.orig_argv[:] = [sys.executable, "-m", *sys.argv]
    if (seconds := job.get("checkpoint_seconds")) is not None:
        from pipeline.training import run

        run.CHECKPOINT_SECONDS = seconds
    if size := job.get("largest_file"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    import tests.torture.agent.sitecustomize  # noqa: F401 (as Python does at the start of a real command)

    try:
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
        return stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(job: dict[str, Any]) -> NoReturn:
    """Start a command below a leader of its process group, as dvc does; write the leader's pid, and how the command ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    leader = os.fork()
    if not leader:
        lead(job)
    log = Path(job["log"])
    publish(log / "pid", str(leader))
    code = os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    publish(log / "rc", f"{code} {used.ru_utime + used.ru_stime:.2f}")
    os._exit(0)


def lead(job: dict[str, Any]) -> NoReturn:
    """Wait for the command and end as it ends."""
    os.setsid()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = work(job)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def publish(path: Path, text: str) -> None:
    """Write a file that is whole as soon as it is there."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def main() -> None:
    sys.path.insert(0, os.getcwd())
    load()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        if not os.fork():
            run(json.loads(line))


if __name__ == "__main__":
    main()
