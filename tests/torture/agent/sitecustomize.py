"""Send a signal at the n-th event of this process, or count its events; Python imports this file at its start (PYTHONPATH).

Events are imports, files opened for writing, renames, fsyncs, SQL statements, and steps of a training (in forks alone).
"""

import atexit
import json
import os
import signal
import sqlite3
import stat
import sys
import threading
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR


class Agent:
    """What a plan says: ``event``, ``at`` (its number), ``signal``, ``target``; optional ``path``, ``torn``, ``counts``."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan, self.pid, self.counts, self.sync = plan, os.getpid(), dict[str, int](), os.fsync
        self.armed = True
        os.fsync, self.connect = self.fsync, sqlite3.connect
        sqlite3.connect = sqlite3.dbapi2.connect = self.traced
        sys.addaudithook(self.hook)
        if plan.get("counts"):
            atexit.register(self.save)

    def save(self) -> None:
        self.armed = False
        with open(f"{self.plan['counts']}/{self.pid}.json", "w") as file:
            json.dump({"command": " ".join(sys.orig_argv), "counts": self.counts}, file)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "import":
            self.happened("import")
        elif event == "open" and isinstance(args[2], int) and args[2] & WRITES:
            self.happened("write", str(args[0]))
        elif event == "os.rename":
            self.happened("rename", str(args[1]))
        elif event == "torture.step":
            self.happened("step")

    def traced(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection = self.connect(*args, **options)
        connection.set_trace_callback(lambda statement: self.happened("sql"))
        return connection

    def fsync(self, file: int) -> None:
        self.happened("fsync", os.readlink(f"/proc/self/fd/{file}"), file)
        self.sync(file)

    def happened(self, kind: str, path: str = "", file: int | None = None) -> None:
        wanted = self.plan.get("path", "")
        if not self.armed or os.getpid() != self.pid or "__pycache__" in path or path.startswith("/dev/") or wanted not in path:
            return
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind == self.plan.get("event") and self.counts[kind] == self.plan["at"]:
            self.armed = False
            self.fire(file)

    def fire(self, file: int | None) -> None:
        number, target = self.plan["signal"], self.plan.get("target", "self")
        try:
            open(self.plan["mark"], "x").close()
        except FileExistsError:  # another process with this plan was first
            return
        if self.plan.get("torn") and file is not None and not stat.S_ISDIR(os.fstat(file).st_mode):
            os.ftruncate(file, int(os.fstat(file).st_size * self.plan["torn"]))
        kill = os.killpg if target == "group" else os.kill
        process = {"self": self.pid, "parent": os.getppid()}.get(target, os.getpgid(0))  # dvc leads the group of its stage
        # In a callback of sqlite the exception would get lost that a signal raises, its own or that of a parent's death. So what
        # this process outlives for a moment comes a little later.
        if number == signal.SIGKILL and (target in ("self", "group") or self.plan["event"] != "sql"):
            kill(process, number)
        else:
            timer = threading.Timer(0.002, kill, (process, number))
            timer.daemon = True
            timer.start()


def arm(environment: "os._Environ[str]", command: str) -> None:
    """Follow the plan in the environment if it is for this command."""
    plan = json.loads(environment.get("TORTURE", "{}"))
    if plan and plan.get("match", "") in command and not os.path.exists(plan.get("mark", "")):
        Agent(plan)


arm(os.environ, " ".join(sys.orig_argv))
