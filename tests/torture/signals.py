"""SIGTERM, SIGINT and SIGHUP at any moment: the exit code of the signal, no traceback, and the next start goes on."""

from pathlib import Path

from tests.torture.checks import Case, case
from tests.torture.kills import finish
from tests.torture.lab import COMMANDS, HUP, INT, LATENT, OUTS, TERM
from tests.torture.store import Store

CODES = {TERM: (143, -TERM), INT: (130, -INT), HUP: (129, 143, -HUP)}  # negative: before Python could handle it


def interrupted(case: Case, repo: Path, name: str, command: tuple[str, ...], counts: dict[str, int]) -> bool:
    """Send a signal at a random event of a command; it may also have come too late."""
    number = case.random.choice([TERM, TERM, INT, HUP])
    plan = case.plan(counts, ("import", "write", "rename", "fsync", "sql", "step"), number)
    where = f"{name}, {number.name} at {plan['event']} {plan['at']}"
    job = case.lab.fork(repo, command, name if name in OUTS else "", plan)
    case.read(job, where, (*CODES[number], 0), lines=2)
    return case.injected(plan)


@case("signals: stages")
def stages(case: Case) -> None:
    """Training, evaluation, download."""
    names = ["train_vae", "evaluate@vae", "train_vae", "download"]
    for index in case.quota(34):
        name = names[index % len(names)]
        trains, counts = name == "train_vae", case.count(COMMANDS[name], name)
        repo = case.lab.repo(case.name, bare_store=trains, without=OUTS[name])
        hit = interrupted(case, repo, name, COMMANDS[name], counts)
        finish(case, repo, COMMANDS[name], name, f"a signal at {name}", hit, ("train_ae", "train_vae")[trains:])
        if case.over():
            return


@case("signals: sync, compare")
def tools(case: Case) -> None:
    """`latent sync` and `latent compare`."""
    commands = {"sync": (*LATENT, "sync"), "compare": (*LATENT, "compare")}
    for index in case.quota(12):
        name = list(commands)[index % 4 == 3]
        repo = case.lab.repo(case.name, bare_store=name == "sync")
        counts = case.count(commands[name], store="bare" if name == "sync" else "full")
        hit = interrupted(case, repo, name, commands[name], counts)
        finish(case, repo, commands[name], "", f"a signal at {name}", hit, ("train_ae", "train_vae"))
        if case.over():
            return


@case("signals: real commands")
def real(case: Case) -> None:
    """A terminal's Ctrl-C, which reaches all processes, and SIGTERM, during the imports and later."""
    counts = {"import": 1500, "write": 60}
    for index in case.quota(10):
        name = ["dvc", "train", "sweep", "sync", "train"][index % 5]
        number = INT if name == "dvc" else case.random.choice([TERM, INT])
        repo = case.lab.repo(case.name, bare_store=True, unlock=["train_vae"] if name in ("dvc", "train") else [])
        command, match = {
            "dvc": (("dvc", "repro", "--single-item", "train_vae"), "-m stages."),
            "train": (("python", "-m", "stages.train", "vae"), "-m stages."),
            "sweep": (("latent", "sweep", "--grid", "beta=1"), "latent sweep"),
            "sync": (("latent", "sync"), "latent sync"),
        }[name]
        plan = case.plan(counts, ("import", "import", "write"), number, match=match, target="group")
        where = f"{name}, {number.name} at {plan['event']} {plan['at']}"
        own = {} if name == "dvc" else {"DVC_STAGE": "train_vae", "DVC_ROOT": str(repo)} if name == "train" else {}
        job = case.lab.start(repo, *command, plan=plan, **own)
        case.read(job, where, (0, 255, 1, -INT, 130) if name == "dvc" else (0, *CODES[number]))
        hit = case.injected(plan)
        case.read(case.lab.start(repo, *command, **own), f"after {where}")
        if name in ("dvc", "train"):
            case.same_bytes(repo, OUTS["train_vae"], where)
            case.store_holds(Store.of(repo / "mlflow.db"), case.wanted("train_vae"), where)
        case.clean(repo, where)
        case.settle(hit)
        if case.over():
            return
