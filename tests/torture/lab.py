"""What the cases share: a trained tiny repository and its copies, processes to start and to stop, checks, and the tally."""

import csv
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.storage import md5
from tests.stages.test_repro import BIN, call, commit, copy, environment

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
EVENTS = ("import", "write", "rename", "fsync", "sql", "step")
COLUMNS = ("injected", "survived", "lost", "duplicated", "surplus", "tracebacks", "leaked")
TRAINED = {
    name: (f"models/{name}.safetensors", f"metrics/{name}_history.csv", f"metrics/{name}_train.json") for name in ("ae", "vae")
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
VOLATILE = "samples_per_second"  # a metric that no file holds


@dataclass
class Tally:
    """The counts of a case, and what was seen where it did not hold."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    def row(self) -> list[int]:
        return [self.counts[column] for column in COLUMNS]


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


@dataclass(frozen=True)
class Store:
    """The runs and points of an mlflow.db, read without a change."""

    runs: dict[str, tuple[str, str, str]]  # stage, md5 of the weights and status by run
    points: Counter[tuple[str, str, int]]  # run, key, step
    values: dict[tuple[str, str, int], float]

    @classmethod
    def of(cls, path: Path, experiment: str = "") -> "Store":
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
            where = f"and e.name = '{experiment}'" if experiment else ""
            listed = "from runs r join experiments e using (experiment_id) where r.lifecycle_stage = 'active'"
            found = db.execute(f"select r.run_uuid, r.status {listed} {where}").fetchall()
            tags = {(run, key): value for run, key, value in db.execute("select run_uuid, key, value from tags")}
            runs = {run: (tags.get((run, "dvc.stage"), ""), tags.get((run, "model.md5"), ""), status) for run, status in found}
            rows = [row for row in db.execute("select run_uuid, key, step, value from metrics") if row[0] in runs]
        points = Counter((run, key, step) for run, key, step, _ in rows)
        return cls(runs, points, {(run, key, step): value for run, key, step, value in rows})

    def by_weights(self) -> Counter[tuple[str, str]]:
        return Counter((stage, weights) for stage, weights, _ in self.runs.values())

    def curves(self) -> dict[tuple[str, str, str, int], float]:
        """Return the value of each point with a step, by stage, weights, key and step."""
        named = {(*self.runs[run][:2], key, step): value for (run, key, step), value in self.values.items() if step}
        return {key: value for key, value in named.items() if key[2] != VOLATILE}


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
        """Return a new copy of the template; ``without`` files, with a store without runs, and with stages that never ran."""
        repo = self.folder / "repos" / f"{name.replace(' ', '-')}-{next(self._numbers)}"
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


class Case:
    """One row of the table while it is made: a source of chance, the checks, and the tally."""

    def __init__(self, lab: Lab, name: str, tally: Tally, round: int = 0) -> None:  # noqa: A002
        self.lab, self.name, self.tally = lab, name, tally
        self.random = random.Random(f"{lab.seed} {name} {round}")  # noqa: S311 (not for secrets)
        self.failed = False
        self._counts: dict[str, dict[str, int]] = {}

    def quota(self, number: int) -> range:
        """Return as many rounds as the time allows: ``number`` in 15 minutes."""
        return range(max(1, round(number * self.lab.scale)))

    def over(self) -> bool:
        """Return whether the time is over, and say so in the table."""
        if time.monotonic() < self.lab.end:
            return False
        self.tally.note = "cut by the time"
        return True

    def plan(self, counts: Mapping[str, int], events: Sequence[str] = EVENTS, number: int = KILL, **more: Any) -> dict[str, Any]:
        """Return a plan for the agent at a random event of those that an undisturbed process counts."""
        event = self.random.choice([event for event in events if counts.get(event)])
        mark = self.lab.folder / "marks"
        mark.mkdir(exist_ok=True)
        plan = {"event": event, "at": self.random.randint(1, counts[event]), "signal": int(number)}
        plan |= {"mark": str(mark / f"{self.name}-{self.random.getrandbits(48):x}"), "torn": self.random.random()}
        return plan | more

    def injected(self, plan: Mapping[str, Any]) -> bool:
        """Count an injection if its event came."""
        hit = Path(plan["mark"]).exists()
        self.tally.counts["injected"] += hit
        return hit

    def find(self, column: str, what: str, number: int = 1) -> None:
        """Note something that does not hold, in a column of the table (empty: in none)."""
        self.failed = True
        if column:
            self.tally.counts[column] += number
        self.tally.findings.append(" ".join(f"{column or 'wrong'}: {what}".split())[:400])

    def settle(self, number: int = 1) -> None:
        """Count the last injections as survived if nothing was found since the last call."""
        if not self.failed:
            self.tally.counts["survived"] += number
        self.failed = False

    def read(self, job: Job, where: str, codes: Iterable[int] = (0,), lines: int | None = None) -> int:
        """Wait for a command; check its exit code, that it says no traceback and no secret, and how many lines on stderr."""
        code, said = job.wait(), job.said
        if "Traceback (most recent call last)" in said:
            last = [line for line in said.splitlines() if line and not line.startswith(" ")]
            self.find("tracebacks", f"{where}: {job.words}: exit {code}: {last[-1] if last else ''}")
        elif code not in set(codes):
            self.find("", f"{where}: {job.words}: exit {code}, allowed {sorted(set(codes))}: {said.strip()[-160:]}")
        elif lines is not None and len(job.err.splitlines()) > lines:
            self.find("", f"{where}: {job.words}: {len(job.err.splitlines())} lines on stderr: {job.err.strip()[-200:]}")
        if CANARY in said:
            self.find("leaked", f"{where}: {job.words}: the secret is printed")
        return code

    def same_bytes(self, repo: Path, paths: Iterable[str], where: str, expected: Path | None = None) -> None:
        """Check files against those of the undisturbed run."""
        for path in paths:
            found, wanted = repo / path, (expected or self.lab.template) / path
            if not found.exists() or found.read_bytes() != wanted.read_bytes():
                self.find("lost", f"{where}: {path} {'differs' if found.exists() else 'is missing'}")

    def clean(self, repo: Path, where: str) -> None:
        """Check that no temporary file is left, and that no secret was written."""
        for path in repo.rglob("*"):
            if path.is_file() and ".git" not in path.parts:
                if path.suffix == ".tmp" and ".dvc" not in path.parts:
                    self.find("surplus", f"{where}: {path.relative_to(repo)} is left")
                elif CANARY.encode() in path.read_bytes():
                    self.find("leaked", f"{where}: the secret is in {path.relative_to(repo)}")

    def store_holds(self, found: Store, wanted: Mapping[tuple[str, str, str, int], float], where: str) -> None:
        """Check that a store has one finished run for each model of the wanted curves, and each of their points once."""
        models = {key[:2] for key in wanted}
        by_weights = found.by_weights()
        for model, count in by_weights.items():
            if count > (model in models):
                self.find("surplus", f"{where}: {count} runs of {model}, not {int(model in models)}", count - (model in models))
        for model in models - by_weights.keys():
            self.find("lost", f"{where}: no run of {model}")
        for run, (stage, weights, status) in found.runs.items():
            if status != "FINISHED" and (stage, weights) in models:
                self.find("lost", f"{where}: run {run[:6]} of {stage} is {status}")
        if twice := [key for key, count in found.points.items() if count > 1 and key[2]]:
            self.find("duplicated", f"{where}: {len(twice)} points more than once, such as {twice[0][1:]}", len(twice))
        curves = found.curves()
        present = {key: value for key, value in wanted.items() if key[:2] in by_weights}
        if missing := [key for key, value in present.items() if curves.get(key) != value]:
            self.find("lost", f"{where}: {len(missing)} points missing or different, such as {missing[0][2:]}", len(missing))

    def wanted(self, *stages: str) -> dict[tuple[str, str, str, int], float]:
        """Return the curves of the undisturbed runs of these stages."""
        return {key: value for key, value in self.lab.store.curves().items() if key[0] in stages}

    def count(self, command: Sequence[str], stage: str = "", store: str = "full", **options: Any) -> dict[str, int]:
        """Run a command undisturbed (once) and return its events by kind; the ``store`` is full, bare or not there."""
        key = f"{' '.join(command)} {store} {options}"
        if key not in self._counts:
            repo = self.lab.repo("count", bare_store=store != "full")
            if store == "none":
                (repo / "mlflow.db").unlink()
            self.read(self.lab.fork(repo, command, stage, plan={"counts": str(repo)}, **options), "undisturbed")
            (file,) = repo.glob("*.json")
            self._counts[key] = json.loads(file.read_text())["counts"]
        return self._counts[key]


def history(repo: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a history."""
    return list(csv.DictReader((repo / f"metrics/{name}_history.csv").read_text().splitlines()))


__all__ = ["COMMANDS", "KILL", "LATENT", "OUTS", "Case", "Job", "Lab", "Store", "Tally", "call", "history", "md5"]
