"""A trained tiny repository, its copies, and commands that are started in them."""

import itertools
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.stages.test_repro import BIN, commit, copy, environment
from tests.torture.store import Store

AGENT = Path(__file__).parent / "agent"
CANARY = "hunter2-canary"
SECRETS = {
    "TORTURE_TOKEN": CANARY,
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "MLFLOW_TRACKING_USERNAME": "user",
    "MLFLOW_TRACKING_PASSWORD": CANARY,
    "PIPELINE_MIRROR": f"http://user:{CANARY}@127.0.0.1:1/?token={CANARY}",
}
KILL, TERM, INT, HUP = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP
TRAINED = {
    name: (
        f"models/{name}.safetensors",
        f"models/replay/{name}.safetensors",
        f"metrics/{name}_history.csv",
        f"metrics/{name}_train.json",
    )
    for name in ("ae", "vae")
}
EVALUATED = {name: (f"results/{name}.safetensors", f"results/{name}_images.parquet", f"metrics/{name}.json") for name in TRAINED}
OUTS = {
    "download": ("data/dataset.safetensors", "metrics/data.json"),
    "train_ae": TRAINED["ae"],
    "train_vae": TRAINED["vae"],
    "train_classifier": ("models/classifier.safetensors", "metrics/classifier.json"),
    "evaluate@ae": EVALUATED["ae"],
    "evaluate@vae": EVALUATED["vae"],
    "explorer": ("explorer/explorer.html",),
    "figures": ("metrics/ae_latent.csv", "metrics/vae_latent.csv", "metrics/figures/overview.png"),
}
COMMANDS: dict[str, tuple[str, ...]] = {  # of the stages, for forks
    "download": ("stages.download",),
    "train_ae": ("stages.train", "ae"),
    "train_vae": ("stages.train", "vae"),
    "train_classifier": ("stages.train_classifier",),
    "evaluate@ae": ("stages.evaluate", "ae"),
    "evaluate@vae": ("stages.evaluate", "vae"),
    "explorer": ("stages.explorer",),
}
FIGURES = ("stages.figures", "--results", "results/ae.safetensors", "--results", "results/vae.safetensors")
LATENT = ("pipeline",)  # `python -m pipeline` is `latent`


def alive(pid: int) -> bool:
    """Return whether a process runs, which a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def group(leader: int) -> list[int]:
    """Return the running processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and alive(int(entry.name)):
            try:
                if os.getpgid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def wait_until(condition: Any, seconds: float, pause: float = 0.01) -> bool:
    """Return whether a condition came true in time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(pause)
    return bool(met)


class Job:
    """A command in a process group of its own, with its output in files."""

    def __init__(self, words: str, log: Path, process: "subprocess.Popen[bytes] | None") -> None:
        self.words, self.log, self._process = words, log, process

    @cached_property
    def pid(self) -> int:
        if self._process:
            return self._process.pid
        wait_until((self.log / "pid").exists, 60, 0.002)
        return int((self.log / "pid").read_text())

    def code(self) -> int | None:
        """Return the exit code, negative for a signal, None while it runs."""
        if self._process:
            return self._process.poll()
        return int((self.log / "rc").read_text().split()[0]) if (self.log / "rc").exists() else None

    def wait(self, seconds: float = 300) -> int:
        """Return the exit code; a command that takes longer is killed, and gives 124."""
        if not wait_until(lambda: self.code() is not None, seconds, 0.005):
            os.killpg(self.pid, KILL)
            wait_until(lambda: self.code() is not None, 10)
            return 124
        return int(self.code() or 0)

    @property
    def cpu(self) -> float:
        """The CPU seconds of a fork that ended."""
        return float((self.log / "rc").read_text().split()[1]) if (self.log / "rc").exists() else 0.0

    @property
    def out(self) -> str:
        return (self.log / "stdout").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.log / "stderr").read_text(errors="replace")

    @property
    def said(self) -> str:
        return self.out + self.err


class Lab:
    """The trained repository, shared by all cases."""

    def __init__(self, folder: Path, seed: int = 1, scale: float = 1.0, minutes: float = 15, figures: bool = False) -> None:
        self.folder, self.seed, self.scale, self.agent = folder, seed, scale, AGENT
        self.end = time.monotonic() + 60 * minutes
        self.template, self.sites = folder / "template", folder / "site"
        self.template.mkdir(parents=True)
        os.environ.setdefault("DVC_SITE_CACHE_DIR", str(self.sites))
        copy(self.template)
        for name in ("tests", "docs", ".github", ".ci", "requirements.lock"):
            path = self.template / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        commit(self.template, "without what no command reads")
        self._forks: list[subprocess.Popen[str]] = []
        self.jobs: list[Job] = []  # forks
        self.keep, self._last = False, dict[str, Path]()
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._server = self._start_forks()
        store = self.fork(self.template, ("stages.train", "--help"))  # the server answers
        assert store.wait() == 0, store.said
        (folder / "bare").mkdir()
        made = self.fork(folder / "bare", (), code="from pipeline.tracking import store; store.connect()")
        assert made.wait() == 0, made.said
        shutil.copy(folder / "bare" / "mlflow.db", self.template)
        self.relocate(self.template, folder / "bare")
        self._train(figures)
        self.store = Store.of(self.template / "mlflow.db")

    def _train(self, figures: bool) -> None:
        """Fill the template as `dvc repro` does; figures take the longest."""
        self.commands = COMMANDS | ({"figures": FIGURES} if figures else {})
        for stage, command in self.commands.items():
            job = self.fork(self.template, command, stage)
            assert job.wait() == 0, job.said
        job = self.start(self.template, "dvc", "commit", "--force", "validate", *self.commands)
        assert job.wait() == 0, job.said
        commit(self.template, "results")

    def cpu(self) -> float:
        """Return the CPU seconds of all commands that ended."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime + sum(job.cpu for job in self.jobs)

    def close(self) -> None:
        for forks in self._forks:
            forks.kill()
            forks.wait()
            for pipe in (forks.stdin, forks.stdout):
                if pipe:
                    pipe.close()

    def _start_forks(self) -> "subprocess.Popen[str]":
        own = environment() | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        own |= {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        command = [sys.executable, "-m", "tests.torture.forks"]
        server = subprocess.Popen(command, cwd=self.template, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        self._forks.append(server)
        return server

    def _environment(self, plan: Mapping[str, Any] | None, own: Mapping[str, str]) -> dict[str, str]:
        private = {"DVC_SITE_CACHE_DIR": str(self.sites), "TMPDIR": str(self.folder / "tmp"), "OMP_NUM_THREADS": "1"}
        (self.folder / "tmp").mkdir(exist_ok=True)
        return environment() | SECRETS | private | ({"TORTURE": json.dumps(plan)} if plan else {}) | own

    def _log(self) -> Path:
        log = self.folder / "logs" / f"{next(self._numbers):05}"
        log.mkdir(parents=True)
        for name in ("stdout", "stderr"):
            (log / name).touch()
        return log

    def start(self, repo: Path, *command: str, plan: Mapping[str, Any] | None = None, **own: str) -> Job:
        """Start a real command."""
        log, program = self._log(), [str(BIN / command[0]), *command[1:]]
        agent = {"PYTHONPATH": os.pathsep.join([str(AGENT), *filter(None, [os.environ.get("PYTHONPATH")])])} if plan else {}
        with open(log / "stdout", "wb") as out, open(log / "stderr", "wb") as err:
            process = subprocess.Popen(
                program, cwd=repo, env=self._environment(plan, own) | agent, stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        return Job(" ".join(command), log, process)

    def fork(
        self,
        repo: Path,
        command: Sequence[str],
        stage: str = "",
        plan: Mapping[str, Any] | None = None,
        code: str = "",
        own: Mapping[str, str] = {},
        **options: Any,
    ) -> Job:
        """Start a command (a module of the template and its arguments) as a fork of a process with all imports done."""
        log = self._log()
        stage_own = {"DVC_STAGE": stage, "DVC_ROOT": str(repo)} if stage else {}
        if code:
            (log / "script.py").write_text(code)
            command = ("tests.torture.script", str(log / "script.py"))
        job = {"module": command[0], "arguments": list(command[1:]), "folder": str(repo), "log": str(log)}
        job |= {"environment": self._environment(plan, stage_own | dict(own)), **options}
        assert self._server.stdin
        with self._lock:
            self._server.stdin.write(json.dumps(job) + "\n")
            self._server.stdin.flush()
        started = Job(" ".join(command), log, None)
        self.jobs.append(started)
        return started

    @staticmethod
    def relocate(repo: Path, *former: Path) -> None:
        """Let the store of a copied repository say that its artifacts lie there."""
        columns = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
        with closing(sqlite3.connect(repo / "mlflow.db")) as db, db:
            for (table, column), old in itertools.product(columns.items(), former):
                db.execute(f"update {table} set {column} = replace({column}, ?, ?)", [old.as_uri(), repo.as_uri()])  # noqa: S608

    def repo(self, name: str, bare_store: bool = False, without: Iterable[str] = (), unlock: Iterable[str] = ()) -> Path:
        """Return a new copy of the template, which replaces the last of this name, unless copies are kept.

        It may lack files, have a store without runs, or stages that dvc.lock does not know.
        """
        if (last := self._last.pop(name, None)) and not self.keep and name not in ("count", "whole"):
            shutil.rmtree(last, ignore_errors=True)
        repo = self.folder / "repos" / f"{re.sub(r'[^a-z]+', '-', name)}-{next(self._numbers)}"
        self._last[name] = repo
        shutil.copytree(self.template, repo, symlinks=True)
        if bare_store:
            shutil.rmtree(repo / "mlartifacts", ignore_errors=True)
            shutil.copy(self.folder / "bare" / "mlflow.db", repo)
        self.relocate(repo, self.template, self.folder / "bare")
        for path in without:
            (repo / path).unlink()
        if stages := list(unlock):
            yaml = YAML()
            lock = yaml.load(repo / "dvc.lock")
            for stage in stages:
                del lock["stages"][stage]
                for path in OUTS[stage]:
                    (repo / path).unlink(missing_ok=True)
            yaml.dump(lock, repo / "dvc.lock")
            shutil.rmtree(repo / ".dvc" / "cache" / "runs", ignore_errors=True)
        return repo
