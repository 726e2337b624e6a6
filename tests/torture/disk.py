"""A disk without room, and a limit on the size of files: exit 74 or a warning, the old files stay, and it goes on with room."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

from tests.torture.checks import Case, case
from tests.torture.kills import finish
from tests.torture.lab import COMMANDS, LATENT, OUTS

NO_SPACE = 74
OPTIONS = {"train_vae": {"checkpoint_seconds": 0}}
TOOLS = {"sync": (*LATENT, "sync"), "compare": (*LATENT, "compare"), "report": (*LATENT, "report", "--against", "HEAD~1")}


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """Mount a file system in memory, or yield False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "torture", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def size(folder: Path) -> int:
    """Return the kilobytes that a folder takes in pages of 4 KB."""
    return sum(-(-path.lstat().st_size // 4096) * 4 + 4 for path in folder.rglob("*")) + 64


def commands(index: int) -> tuple[str, tuple[str, ...]]:
    name = ["train_vae", "sync", "evaluate@vae", "compare", "train_vae", "report", "download"][index % 7]
    return name, COMMANDS.get(name) or TOOLS[name]


def check(case: Case, repo: Path, name: str, command: tuple[str, ...], where: str, **limit: int) -> None:
    """Run a command without room: exit 74 in one line, or 0 with a warning at most."""
    job = case.lab.fork(repo, command, name if name in OUTS else "", **limit, **OPTIONS.get(name, {}))
    code = case.read(job, where, (0, NO_SPACE))
    if code == NO_SPACE and sum(line.startswith("error:") for line in job.err.splitlines()) != 1:
        case.find("", f"{where}: exit 74 without one line that begins with error: {job.err.strip()[-200:]}")
    if code == 0 and name in OUTS:
        case.same_bytes(repo, OUTS[name], where)
    case.tally.counts["injected"] += 1


def stages_of(name: str) -> tuple[str, ...]:
    return ("train_vae",) if name == "train_vae" else ("train_ae", "train_vae")


@case("disk: full")
def full(case: Case) -> None:
    """A disk that is full after some kilobytes, and later has room."""
    for index in case.quota(21):
        name, command = commands(index)
        source = case.lab.repo(case.name, bare_store=name in ("train_vae", "sync"), without=OUTS.get(name, ()))
        folder, room = case.lab.folder / "disks" / source.name, case.random.choice([0, 8, 40, 100, 200, 400, 800])
        with small_disk(folder, size(source) + room) as mounted:
            if not mounted:
                case.tally.note = "no mount allowed: see the limit on the size of files"
                return
            repo = copytree(source, folder, symlinks=True, dirs_exist_ok=True)
            case.lab.relocate(repo, source)
            where = f"{name}, {room} KB left"
            check(case, repo, name, command, where)
            subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
            finish(case, repo, command, name if name in OUTS else "", where, 1, stages_of(name))
        if case.over():
            return


@case("disk: file size limit")
def limited(case: Case) -> None:
    """`ulimit -f`."""
    for index in case.quota(14):
        name, command = commands(index)
        repo = case.lab.repo(case.name, bare_store=name in ("train_vae", "sync"), without=OUTS.get(name, ()))
        limit = 1024 * case.random.choice([1, 16, 64, 128, 256])
        where = f"{name}, files of {limit // 1024} KB"
        check(case, repo, name, command, where, largest_file=limit)
        finish(case, repo, command, name if name in OUTS else "", where, 1, stages_of(name))
        if case.over():
            return
