"""What a case is made of: a source of chance, the checks, the tally, and the registry of all cases."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.lab import CANARY, KILL, Job, Lab
from tests.torture.store import Store

EVENTS = ("import", "write", "rename", "fsync", "sql", "step")
COLUMNS = ("injected", "survived", "lost", "duplicated", "surplus", "tracebacks", "leaked")


@dataclass
class Tally:
    """The counts of a case, and what was seen where it did not hold."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    def row(self) -> list[int]:
        return [self.counts[column] for column in COLUMNS]


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


CASES: dict[str, Callable[[Case], None]] = {}
"""The cases by name, in the order of the table."""


def case(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a case."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        CASES[name] = function
        return function

    return register
