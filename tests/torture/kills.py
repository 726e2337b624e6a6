"""SIGKILL at any file, SQL statement, import and step; the next start ends as if nothing had been."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.startup import cores
from tests.torture.checks import Case, case
from tests.torture.lab import COMMANDS, KILL, LATENT, OUTS, Job, group, wait_until
from tests.torture.store import Store

GONE = 3.0  # seconds in which a trainer must follow its dvc, on free cores


def chains(case: Case, number: int, longest: int) -> list[int]:
    """Return the lengths of chains of kills in one repository, in sum ``number`` scaled."""
    left, found = len(case.quota(number)), []
    while left > 0:
        found.append(min(left, case.random.randint(1, longest)))
        left -= found[-1]
    return found


def killed(case: Case, job: Job, plan: Mapping[str, Any], where: str, codes: Sequence[int] = (0,)) -> bool:
    """Wait for a command with a plan, return whether it was killed by it."""
    code = job.wait()
    hit = case.injected(plan)
    if not hit:
        case.read(job, where, codes)
    elif code != -KILL:
        case.find("", f"{where}: killed, yet exit {code}")
    return hit


def gone(case: Case, job: Job, where: str) -> None:
    """Check that no process of a group outlives its leader for long."""
    seconds = GONE * max(1, os.getloadavg()[0] / len(cores()))
    if not wait_until(lambda: not group(job.pid), seconds):
        case.find("surplus", f"{where}: {len(group(job.pid))} processes live {seconds:.1f} s after their parent's death")
        wait_until(lambda: not group(job.pid), 60)


@case("kill: training")
def training(case: Case) -> None:
    """The trainer alone, in a checkpoint's write too."""
    stage, command = "train_vae", COMMANDS["train_vae"]
    counts = case.count(command, stage, "bare", checkpoint_seconds=0)
    for length in chains(case, 150, 5):
        repo = case.lab.repo(case.name, bare_store=True, without=OUTS[stage])
        options = {"checkpoint_seconds": 0} if case.random.random() < 0.7 else {}
        hits, where = 0, ""
        for _ in range(length):
            plan = case.plan(counts, ("write", "rename", "fsync", "sql", "step", "step"))
            where = f"{plan['event']} {plan['at']}"
            hits += killed(case, case.lab.fork(repo, command, stage, plan, **options), plan, where)
        finish(case, repo, command, stage, where, hits, ("train_vae",), **options)
        if case.over():
            return


def finish(
    case: Case, repo: Path, command: Sequence[str], stage: str, where: str, hits: int, stages: Sequence[str], **options: Any
) -> None:
    """Run a command to its end and check the files, the store and what is left."""
    case.read(case.lab.fork(repo, command, stage, **options), f"after {where}")
    case.same_bytes(repo, OUTS.get(stage, ()), where)
    case.store_holds(Store.of(repo / "mlflow.db"), case.wanted(*stages), where)
    case.clean(repo, where)
    case.settle(hits)


@case("kill: stages")
def stages(case: Case) -> None:
    """Every other stage."""
    names = ["download", "train_classifier", "evaluate@ae", "evaluate@vae", "explorer", "download", "explorer"]
    if "figures" in case.lab.commands:
        names.append("figures")
    for index in case.quota(30):
        name = names[index % len(names)]
        repo = case.lab.repo(case.name, without=OUTS[name])
        plan = case.plan(case.count(case.lab.commands[name], name), ("write", "rename", "fsync", "sql"))
        where = f"{name}, {plan['event']} {plan['at']}"
        hit = killed(case, case.lab.fork(repo, case.lab.commands[name], name, plan), plan, where)
        finish(case, repo, case.lab.commands[name], name, where, hit, ("train_ae", "train_vae"))
        if case.over():
            return


@case("kill: dvc")
def dvc(case: Case) -> None:
    """The trainer, dvc alone, and the whole group, also while they import, under the real command."""
    counts = {"import": 1200, "write": 40, "rename": 8, "fsync": 8, "sql": 400}  # as in a real process, roughly
    stages = ["train_vae", "train_ae", "train_vae", "download", "train_vae"]
    for number, length in enumerate(chains(case, 24, 3)):
        stage = stages[number % len(stages)]
        repo, hits, where = case.lab.repo(case.name, bare_store=True, unlock=[stage]), 0, ""
        for _ in range(length):
            target = case.random.choice(["dvc", "dvc", "group", "self"])
            plan = case.plan(counts, ("import", "import", "write", "rename", "sql"), match="-m stages.", target=target)
            if stage == "download" and plan["event"] == "sql":
                plan |= {"event": "rename", "at": 1}
            if case.random.random() < 0.2:  # after the stage, before dvc has written that it ran
                plan |= {"match": "dvc repro", "event": "write", "at": 1, "path": "dvc.lock", "target": "group"}
            where = f"{stage}, {plan['target']} at {plan['event']} {plan['at']}"
            job = case.lab.start(repo, "dvc", "repro", "--single-item", stage, plan=plan)
            job.wait()
            hits += case.injected(plan)
            gone(case, job, where)
            if "Traceback" in job.said:
                case.read(job, where)
        case.read(case.lab.start(repo, "dvc", "repro", "--single-item", stage), f"after {where}")
        case.same_bytes(repo, OUTS[stage], where)
        case.store_holds(Store.of(repo / "mlflow.db"), case.wanted(stage), where)
        case.clean(repo, where)
        case.settle(hits)
        if case.over():
            return


@case("kill: sync")
def sync(case: Case) -> None:
    """`latent sync` that rebuilds two runs; what was finished stays so."""
    counts = case.count((*LATENT, "sync"), store="bare")
    for length in chains(case, 30, 4):
        repo, hits, where = case.lab.repo(case.name, bare_store=True), 0, ""
        for _ in range(length):
            plan = case.plan(counts, ("sql", "sql", "write", "rename", "fsync"))
            where = f"{plan['event']} {plan['at']}"
            before = Store.of(repo / "mlflow.db")
            hits += killed(case, case.lab.fork(repo, (*LATENT, "sync"), plan=plan), plan, where)
            later = Store.of(repo / "mlflow.db").runs
            for run, (stage, _, status) in before.runs.items():
                if status == "FINISHED" and later.get(run, ("", "", ""))[2] != "FINISHED":
                    case.find("lost", f"{where}: the finished run of {stage} is {later.get(run)}")
        finish(case, repo, (*LATENT, "sync"), "", where, hits, ("train_ae", "train_vae"))
        if case.over():
            return


@case("kill: sweep")
def sweep(case: Case) -> None:
    """`latent sweep` and one of its trainers."""
    command = (*LATENT, "sweep", "--grid", "beta=2,3")
    paths = [f"models/sweep/beta={beta}.0/vae{suffix}" for beta in (2, 3) for suffix in (".safetensors", "_history.csv")]
    whole = case.lab.repo("whole", bare_store=True)
    case.read(case.lab.fork(whole, command), "undisturbed")
    wanted = Store.of(whole / "mlflow.db").curves()
    counts = {"import": 2000, "write": 150, "rename": 8, "sql": 400}
    for length in chains(case, 10, 3):
        repo, hits, where = case.lab.repo(case.name, bare_store=True), 0, ""
        for _ in range(length):
            target = case.random.choice(["group", "parent", "self"])
            plan = case.plan(counts, ("import", "write", "rename", "sql"), match="spawn_main", target=target)
            where = f"{'sweep' if target == 'parent' else target} at {plan['event']} {plan['at']} of a trainer"
            job = case.lab.fork(repo, command, plan=plan, own={"PYTHONPATH": f"{case.lab.agent}:{case.lab.template}"})
            job.wait()
            hits += case.injected(plan)
            gone(case, job, where)
            if "Traceback" in job.said:
                case.read(job, where)
        case.read(case.lab.fork(repo, command), f"after {where}")
        case.same_bytes(repo, paths, where, whole)
        case.store_holds(Store.of(repo / "mlflow.db"), wanted, where)
        case.clean(repo, where)
        case.settle(hits)
        if case.over():
            return


@case("kill: new store")
def new_store(case: Case) -> None:
    """The first process of a repository, while MLflow makes its tables."""
    stage, command = "train_vae", COMMANDS["train_vae"]
    counts = case.count(command, stage, "none")
    for length in chains(case, 20, 2):
        repo, hits, where = case.lab.repo(case.name, bare_store=True, without=OUTS[stage]), 0, ""
        (repo / "mlflow.db").unlink()
        for _ in range(length):
            plan = case.plan(counts, ("sql",))
            where = f"sql {plan['at']}"
            hits += killed(case, case.lab.fork(repo, command, stage, plan), plan, where)
        finish(case, repo, command, stage, where, hits, (stage,))
        again = case.lab.fork(repo, (*LATENT, "sync"))
        case.read(again, f"sync after {where}")
        if case.over():
            return
