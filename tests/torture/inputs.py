"""Damaged and hostile files, params and mirrors: one line and an exit code, or the same result as before."""

import json
import random
from pathlib import Path

from tests.torture.checks import Case, case
from tests.torture.inside import damage
from tests.torture.lab import COMMANDS, LATENT, OUTS
from tests.torture.store import Store


def inside(case: Case, name: str, number: int) -> None:
    """Run trials of :mod:`tests.torture.inside` in a fork and count them."""
    arguments = (
        name,
        str(case.lab.template),
        f"{case.lab.seed} {case.name} {case.random.random()}",
        str(len(case.quota(number))),
    )
    job = case.lab.fork(case.lab.folder, ("tests.torture.inside", *arguments))
    case.read(job, name)
    for line in job.out.splitlines():
        found = json.loads(line) if line.startswith("{") else None
        if found:
            case.tally.counts["injected"] += 1
            if found["what"]:
                case.find(found["column"], f"{found['where']}: {found['what']}")
            case.settle()


@case("files: loaders")
def loaders(case: Case) -> None:
    """Every kind of file with a loader, damaged."""
    inside(case, "damaged_files", 200)


@case("files: crafted")
def crafted(case: Case) -> None:
    """A right checksum and a hostile content."""
    inside(case, "hostile_files", 300)


@case("params")
def params(case: Case) -> None:
    """Hostile params.yaml."""
    inside(case, "hostile_params", 80)


@case("mirrors")
def mirrors(case: Case) -> None:
    """Hostile mirrors."""
    inside(case, "hostile_mirrors", 60)


# Command by file: what reads it. The last says whether the command must notice a change (exit 3) or give the same as before.
READERS: dict[str, tuple[tuple[str, ...], str]] = {
    "models/vae.safetensors": (COMMANDS["evaluate@vae"], "evaluate@vae"),
    "data/dataset.safetensors": (COMMANDS["train_vae"], "train_vae"),
    "models/classifier.safetensors": (COMMANDS["evaluate@vae"], "evaluate@vae"),
    "results/vae.safetensors": (COMMANDS["explorer"], "explorer"),
    "results/vae_images.parquet": ((*LATENT, "gate", "--against", "HEAD"), ""),
    "metrics/vae.json": ((*LATENT, "gate", "--against", "HEAD"), ""),
    "gate.yaml": ((*LATENT, "gate", "--against", "HEAD"), ""),
    "metrics/vae_history.csv": ((*LATENT, "sync"), ""),
    "dvc.lock": ((*LATENT, "sync"), ""),
    "mlflow.db": ((*LATENT, "compare"), ""),
    "params.yaml": (("stages.validate",), ""),
}
EDITED = {"gate.yaml": 2, "params.yaml": 2}  # by people: another value that is allowed is no damage
WEIGHTED = [*READERS, "results/vae_images.parquet", "metrics/vae.json", "dvc.lock", "dvc.lock", "mlflow.db"]


@case("files: commands")
def commands(case: Case) -> None:
    """The same through the commands, with the files that several of them read."""
    before: dict[tuple[str, ...], str] = {}
    for index in case.quota(64):
        path = WEIGHTED[index % len(WEIGHTED)]
        command, stage = READERS[path]
        if command not in before and not stage:
            whole = case.lab.fork(case.lab.repo("whole", bare_store=False), command)
            case.read(whole, "undisturbed")
            before[command] = whole.out
        repo = case.lab.repo(case.name, bare_store=path == "metrics/vae_history.csv", without=OUTS.get(stage, ()))
        done, content = damage((repo / path).read_bytes(), random.Random(case.random.random()))  # noqa: S311
        (repo / path).write_bytes(content)
        where = f"{path}, {done}"
        case.tally.counts["injected"] += 1
        job = case.lab.fork(repo, command, stage)
        # The gate says with 2 that a metric is not there; a damaged store does not answer, which is 1.
        other = {"metrics/vae.json": (2, 3), "mlflow.db": (1, 3)}.get(path, (EDITED.get(path, 3),))
        code = case.read(job, where, (0, *other), lines=3)
        if code == 0:
            silently(case, path, job.out, before.get(command, ""), repo, where, stage, job.err)
        case.clean(repo, where)
        case.settle()
        if case.over():
            return


def silently(case: Case, path: str, said: str, before: str, repo: Path, where: str, stage: str, err: str) -> None:
    """Check that a command that accepted a damaged file gave the same as before, or said that something is amiss."""
    if stage:
        case.same_bytes(repo, OUTS[stage], where)
    elif path == "metrics/vae_history.csv":
        case.store_holds(Store.of(repo / "mlflow.db"), case.wanted("train_ae", "train_vae"), where)
    elif path not in EDITED and path != "mlflow.db" and not err and said.replace(str(repo), "") != before_of(before):
        case.find("lost", f"{where}: exit 0, and another answer without a word: {said.strip()[-160:]}")


def before_of(said: str) -> str:
    """Return an answer without the path of the repository that it names."""
    return said[: said.rfind("/tmp")] + said[said.rfind("/mlflow.db") :] if "/mlflow.db" in said else said  # noqa: S108
