"""What entry points need before heavy imports: signals, damaged bytecode, the root, and how OpenMP's threads wait."""

import ctypes
import marshal
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def repository_root() -> Path:
    """Return the nearest folder with DVC's folder, from the current one up, else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)


def cores() -> set[int]:
    """Return the numbers of the CPU cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpu_times() -> tuple[int, int]:
    """Return the total and the idle time of the cores since boot, with waiting for a disk counted as idle."""
    with open("/proc/stat") as file:
        rows = [line.split() for line in file]
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
    imported. A setting of the user stays. More threads than cores, which wait for each other, are warned of.
    """
    if threads > (count := len(cores())):
        text = f"warning: {threads} threads on {count} cores are much slower than {count}; lower train.threads or pool.threads"
        print(text, file=sys.stderr)
    if "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return "as set"
    if threads > 1 and free_cores() < threads - 0.5:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        return "asleep, as other processes are busy"
    os.environ["GOMP_SPINCOUNT"] = "5000"
    return "spinning"


def _stop(signum: int, frame: object) -> None:
    end = SystemExit(128 + signum)

    def stop_again(*_: object) -> None:
        raise end

    # Python drops what is raised in a finalizer or a callback, prints it and goes on: raise it again outside of those.
    signal.signal(signal.SIGALRM, stop_again)
    sys.unraisablehook = lambda dropped: dropped.exc_value is end and signal.setitimer(signal.ITIMER_REAL, 0.01)
    # dvc and the pool send a SIGTERM when they end, too; it must not end the cleanup. A second Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise end


def _delete_damaged_bytecode() -> None:
    """Delete the compiled files of this project that Python has cut on a full disk: no import of them would succeed again."""
    for package in ("pipeline", "stages"):
        for path in (Path(__file__).parents[1] / package).rglob(f"*.{sys.implementation.cache_tag}.pyc"):
            try:
                marshal.loads(path.read_bytes()[16:])  # noqa: S302 (what an import does) after the header
            except (EOFError, TypeError, ValueError):
                path.unlink()
            except OSError:  # deleted by another process
                continue


def begin() -> None:
    """Prepare a process, first of all: end it in silence with 130 at Ctrl-C and 143 at SIGTERM, after its cleanup.

    It also deletes damaged bytecode, and opens closed standard streams so that prints go nowhere.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as in a job in the background of a script
            signal.signal(signum, _stop)
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    _delete_damaged_bytecode()


def end() -> None:
    """Ignore Ctrl-C and SIGTERM from now on: the work is done, and Python's own cleanup would print a traceback."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _is_orphan(found: int, parent: int | None) -> bool:
    if parent:
        return found != parent
    # DVC's commands are of its process group, other children of their parent's session, unless they lead one of their own.
    if "DVC_STAGE" in os.environ:
        return os.getpgid(found) != os.getpgrp() != os.getpid()
    return os.getsid(found) != os.getsid(0) != os.getpid()


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _die_with_dvc_behind_its_shell(shell: int) -> None:
    """End this process with DVC when the shell that DVC runs a command in stays between the two, as dash does."""
    import select
    from threading import Thread

    with suppress(OSError):  # another kernel, or the shell has ended, which ends this process
        with open(f"/proc/{shell}/comm") as name, open(f"/proc/{shell}/environ", "rb") as variables:
            if not name.read().strip().endswith("sh") or b"DVC_STAGE=" not in variables.read():
                return
        dvc = _parent_of(shell)
        end = select.poll()
        end.register(os.pidfd_open(dvc), select.POLLIN)
        if _parent_of(shell) != dvc or _is_orphan(dvc, None):
            sys.exit(128 + signal.SIGTERM)

        def wait() -> None:
            end.poll()
            os.kill(os.getpid(), signal.SIGTERM)

        Thread(target=wait, daemon=True).start()


def die_with_parent(parent: int | None = None) -> None:
    """Let this process end with its parent, by a SIGTERM, also when the parent, whose process id may be given, has ended already.

    Otherwise the stage of a killed `dvc` goes on beside that of the next `dvc repro`.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    found = os.getppid()
    if _is_orphan(found, parent):
        sys.exit(128 + signal.SIGTERM)
    if "DVC_STAGE" in os.environ and not parent:
        _die_with_dvc_behind_its_shell(found)


def begin_stage() -> None:
    """Prepare the process of a stage, unless it is already: :func:`begin` and :func:`die_with_parent`."""
    if signal.getsignal(signal.SIGTERM) is not _stop:
        begin()
        die_with_parent()
