"""Two of everything at once: one waits, or says that the other is at work (75); nothing twice, nothing lost."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.torture.checks import Case, case
from tests.torture.lab import COMMANDS, LATENT, OUTS, Job
from tests.torture.store import Store

BUSY = 75


def together(case: Case, jobs: Sequence[Job], where: str, codes: Sequence[int]) -> None:
    """Wait for commands that run at once; at least one must end well."""
    found = [case.read(job, where, codes) for job in jobs]
    if 0 not in found:
        case.find("lost", f"{where}: exit codes {found}")
    case.tally.counts["injected"] += 1


def pair(case: Case, repo: Path, command: Sequence[str], stage: str, where: str, stages: Sequence[str]) -> None:
    """Start a command twice at once, and once more when both have ended."""
    together(case, [case.lab.fork(repo, command, stage) for _ in range(2)], where, (0, BUSY))
    case.read(case.lab.fork(repo, command, stage), f"after {where}")
    case.same_bytes(repo, OUTS.get(stage, ()), where)
    case.store_holds(Store.of(repo / "mlflow.db"), case.wanted(*stages), where)
    case.clean(repo, where)
    case.settle()


@case("two at once")
def two(case: Case) -> None:
    """Trainings, syncs, `dvc repro`s and sweeps."""
    for index in case.quota(12):
        kind = ["training", "sync", "training", "sync without a store", "dvc", "sweep"][index % 6]
        repo = case.lab.repo(case.name, bare_store=True, unlock=["train_vae"] if kind == "dvc" else [])
        if kind == "training":
            for path in OUTS["train_vae"]:
                (repo / path).unlink()
            pair(case, repo, COMMANDS["train_vae"], "train_vae", "two trainings", ("train_vae",))
        elif kind.startswith("sync"):
            if kind != "sync":
                (repo / "mlflow.db").unlink()
            pair(case, repo, (*LATENT, "sync"), "", f"two of {kind}", ("train_ae", "train_vae"))
        elif kind == "dvc":
            command = ("dvc", "repro", "--single-item", "train_vae")
            together(case, [case.lab.start(repo, *command) for _ in range(2)], "two dvc repro", (0, 255, BUSY))
            case.read(case.lab.start(repo, *command), "after two dvc repro")
            case.same_bytes(repo, OUTS["train_vae"], "two dvc repro")
            case.store_holds(Store.of(repo / "mlflow.db"), case.wanted("train_vae"), "two dvc repro")
            case.settle()
        else:
            command = (*LATENT, "sweep", "--grid", "beta=2")
            together(case, [case.lab.fork(repo, command) for _ in range(2)], "two sweeps", (0, BUSY))
            case.read(case.lab.fork(repo, command), "after two sweeps")
            found = Store.of(repo / "mlflow.db")
            if len(found.runs) != 1:
                case.find("surplus", f"two sweeps of one model: {len(found.runs)} runs", abs(len(found.runs) - 1))
            if twice := [key for key, count in found.points.items() if count > 1 and key[2]]:
                case.find("duplicated", f"two sweeps: {len(twice)} points", len(twice))
            case.clean(repo, "two sweeps")
            case.settle()
        if case.over():
            return


@case("eight on a new store")
def eight(case: Case) -> None:
    """Eight trainings of different seeds, the first to use the store."""
    for _ in case.quota(2):
        repo = case.lab.repo(case.name, bare_store=True)
        (repo / "mlflow.db").unlink()
        shutil.rmtree(repo / "mlartifacts", ignore_errors=True)
        text, jobs = (repo / "params.yaml").read_text(), []
        for seed in range(1, 9):
            (repo / f"params{seed}.yaml").write_text(re.sub(r"^seed: \d+", f"seed: {seed}", text, flags=re.MULTILINE))
            options = ("--params", f"params{seed}.yaml", "--out", f"models/{seed}", "--metrics", f"models/{seed}")
            jobs.append(case.lab.fork(repo, (*COMMANDS["train_vae"], *options), "train_vae"))
        codes = [case.read(job, "eight trainings") for job in jobs]
        case.tally.counts["injected"] += 1
        found = Store.of(repo / "mlflow.db")
        seeds = {weights for _, weights, status in found.runs.values() if status == "FINISHED"}
        if len(found.runs) != 8 or len(seeds) != 8:
            case.find("lost", f"eight trainings: {len(found.runs)} runs, {len(seeds)} models finished; exit codes {codes}")
        if twice := [key for key, count in found.points.items() if count > 1 and key[2]]:
            case.find("duplicated", f"eight trainings: {len(twice)} points", len(twice))
        wanted = case.wanted("train_vae")
        own = {key: value for key, value in found.curves().items() if key in wanted}
        if own != wanted:
            case.find("lost", f"eight trainings: {len(wanted) - len(own)} points of seed 1")
        case.clean(repo, "eight trainings")
        case.settle()
        if case.over():
            return
