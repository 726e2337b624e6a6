"""Change the code of each room a little, many times, and print the changes that the room's own tests do not notice.

mutmut makes the changes (mutants) and runs the tests, in a copy of the repository for each room, mutants/ROOM. A room is a folder
of pipeline/ or a module beside them that has tests of its own. In the copy this file is a plugin of pytest, which notes what
test failed with which mutant.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import chdir
from pathlib import Path

import click
import pytest
from mutmut.configuration import reset_config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.mutation.trampoline import get_mutant_under_test
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
ROOMS = ("claims", "stats", "storage", "data", "models", "evaluation", "training")
# These start processes, which mutmut cannot follow, or take longer than all other tests of the room.
LEFT_OUT = (
    "tests/claims/test_comparison_models.py::test_the_stages",
    "tests/models/test_own_net.py",
    "tests/tracking/test_database.py::test_a_database_is_whole_or_absent",
    "tests/tracking/test_logged_model.py::test_a_champion_is_served_from_another_folder_and_environment",
    "tests/tracking/test_logged_model.py::test_model_loads_in_another_environment",
    "tests/tracking/test_logged_model.py::test_requirements_are_what_the_logged_code_imports",
    "tests/tracking/test_store.py::test_deleted_experiment_comes_back_with_the_command_that_is_printed",
    "tests/tracking/test_store.py::test_full_disk_is_one_warning",
    "tests/tracking/test_store.py::test_importing_tracking",
    "tests/tracking/test_sync.py::test_comparison_models_come_back",
    "tests/tracking/test_sync.py::test_weights_come_from_the_remote",
    "tests/tracking/test_ui.py",
    "tests/evaluation/test_results.py::test_results_and_ledger_do_not_load_torch",
    "tests/training/test_ranks.py",
    "tests/training/test_resumed_runs.py",
    "tests/training/test_run.py::test_a_training_stopped_at_any_step",
    "tests/training/test_run.py::test_a_training_killed_by_sigkill",
    "tests/training/test_run.py::test_sigterm",
)
# Tests that run into the time limit, mostly by an endless loop, have noticed the change, too.
OUTCOMES = {"killed": "killed", "timeout": "killed", "survived": "survived", "no tests": "not covered"}
OPTIONS = ("-p", "no:cacheprovider", "-p", "tests.mutants", "-W", "ignore::pytest.PytestAssertRewriteWarning")
PRELOADED = ("dvc.api", "matplotlib.pyplot", "mlflow", "pandas", "torch")  # once for all mutants
TRIED_AGAIN = 8  # killed mutants of each room that are tried a second time
FAILURES, DURATIONS = ROOT / "failures.jsonl", ROOT / "mutmut-stats.json"  # in the copy
COLUMNS = ("room", "mutants", "tried", "killed", "survived", "not covered", "share killed", "95% interval", "seconds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that take the least time first, as far as it is known."""
    if DURATIONS.exists():
        seconds = json.loads(DURATIONS.read_text())["duration_by_test"]
        items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the mutant, the test that failed with it, and the error."""
    if report.failed:
        error = str(getattr(report.longrepr, "reprcrash", "")).splitlines() or [report.when]
        with open(FAILURES, "a") as file:
            file.write(json.dumps([get_mutant_under_test(), report.nodeid, error[0]]) + "\n")


def files(room: str) -> list[str]:
    """Return a room's Python files, relative to the repository."""
    found = sorted(ROOT.glob(f"pipeline/{room}/*.py")) or [ROOT / f"pipeline/{room}.py"]
    return [str(file.relative_to(ROOT)) for file in found if file.exists()]


def own_tests(room: str) -> str:
    """Return the file or folder of a room's tests, relative to the repository."""
    return f"tests/{room}" if (ROOT / "tests" / room).is_dir() else f"tests/test_{room}.py"


def rooms() -> list[str]:
    """Return the rooms that have tests of their own."""
    return sorted(path.stem for path in ROOT.glob("pipeline/[a-z]*") if (ROOT / own_tests(path.stem)).exists())


def copy(room: str) -> Path:
    """Return a copy of the repository in which mutmut changes this room and runs its tests."""
    folder = ROOT / "mutants" / room
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in filter(os.path.isfile, listed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, folder / name)
    settings = {
        "source_paths": ["pipeline"],
        "only_mutate": files(room),
        "also_copy": sorted(path.name for path in folder.iterdir() if path.name != "pipeline"),
        "pytest_add_cli_args": [*OPTIONS, *(f"--deselect={test}" for test in LEFT_OUT)],
        "pytest_add_cli_args_test_selection": [own_tests(room)],
        "debug": True,  # writes what pytest says to the log
        "process_isolation": "forkserver",  # the threads of torch do not survive a fork
        # By itself mutmut collects the tests before it forks, and DVC keeps the output of that time, which is closed when a test
        # makes a repository: that test would fail with every mutant.
        "forkserver_warmup": "import",
        "preload_modules_file": "preload.txt",
        "timeout_multiplier": 10.0,  # of the time of the unchanged code and the constant, in seconds
        "timeout_constant": 10.0,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "preload.txt").write_text("\n".join(PRELOADED))
    with open(folder / "pyproject.toml", "a") as file:
        file.write("\n".join(["", "[tool.mutmut]", *lines, ""]))
    return folder


def check_again(killed: dict[str, str], draw: random.Random) -> None:
    """Run the tests that failed without a mutant, and some of them with their mutant again, both outside mutmut.

    ``killed`` has the test for each mutant. Raises ClickException when a test fails without a mutant or passes with one.
    """

    def passes(mutant: str, tests: list[str]) -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"MUTANT_UNDER_TEST": mutant, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd="mutants", env=environment, capture_output=True, text=True)
        if done.returncode > 1 or (done.returncode and not mutant):
            raise click.ClickException(f"tests fail in {Path.cwd()}/mutants without a mutant, too: {done.stdout}{done.stderr}")
        return not done.returncode

    passes("", sorted(set(killed.values())))
    for mutant in draw.sample(sorted(killed), min(TRIED_AGAIN, len(killed))):
        if passes(mutant, [killed[mutant]]):
            raise click.ClickException(f"{killed[mutant]} failed with {mutant}, but not a second time")
        click.echo(f"killed again: {mutant} by {killed[mutant]}")


def run(room: str, sample: int, seed: int, jobs: int) -> tuple[int, Counter[str]]:
    """Return the number of a room's mutants and the outcomes of a random sample; print who survived."""
    with chdir(copy(room)):
        reset_config()
        mutants = [
            (get_mutant_name(Path(file), mutant), file)
            for file in files(room)
            for mutant in mutate_file_contents(file, Path(file).read_text()).mutant_names
        ]
        draw = random.Random(f"{seed} {room}")  # noqa: S311 (no secret)
        tried = dict(sorted(draw.sample(mutants, min(sample or len(mutants), len(mutants)))))
        command = [Path(sys.executable).with_name("mutmut"), "run", "--max-children", str(jobs), *tried]
        with open("mutmut.log", "wb") as log:
            done = subprocess.run(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise click.ClickException(f"mutmut failed in {Path.cwd()}; see its mutmut.log")
        codes: dict[str, int | None] = {}
        for file in files(room):
            data = SourceFileMutationData(path=file)
            data.load()
            codes |= data.exit_code_by_key
        outcomes, killed = Counter[str](), dict[str, str]()
        failures = Path("mutants", FAILURES.name)
        failed = {name: test for name, test, _ in map(json.loads, failures.read_text().splitlines())} if failures.exists() else {}
        for name, file in tried.items():
            if codes[name] == 255:
                raise click.ClickException(f"pytest could not run the tests of {name}; has one an id with a line break?")
            status = status_by_exit_code[codes[name]]
            if status not in OUTCOMES or (status == "killed" and name not in failed):
                raise click.ClickException(f"the tests of {name} ended with {codes[name]}, but none failed")
            outcomes[OUTCOMES[status]] += 1
            if status == "killed":
                killed[name] = failed[name]
            if status != "killed":
                diff = get_diff_for_mutant(name, path=file).splitlines()
                changed = [line for line in diff if line[:1] in "+-" and line[:3] not in ("---", "+++")]
                click.echo("\n".join([f"{status}: {name}", *(f"    {line}" for line in changed)]))
        check_again(killed, draw)
        return len(mutants), outcomes


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    found = binomtest(killed, tried).proportion_ci(method="wilson")
    return found.low, found.high


@click.command(help=__doc__)
@click.option("--room", "chosen", multiple=True, type=click.Choice(rooms()), help="Only this one; repeatable.")
@click.option("--sample", default=0, help="Try a random sample of this size of each room, rather than all.")
@click.option("--seed", default=1, show_default=True, help="Of the sample.")
@click.option("--jobs", default=1, show_default=True, help="Mutants that are tried at once.")
def main(chosen: tuple[str, ...], sample: int, seed: int, jobs: int) -> None:
    os.chdir(ROOT)
    rows, failed = [], []
    for room in chosen or ROOMS:
        started = time.monotonic()
        try:
            mutants, outcomes = run(room, sample, seed, jobs)
        except click.ClickException as error:
            failed.append(f"{room}: {error.message}")
            continue
        killed, tried = outcomes["killed"], outcomes.total()
        low, high = interval(killed, tried)
        seconds = round(time.monotonic() - started)
        counts = (mutants, tried, killed, outcomes["survived"], outcomes["not covered"])
        rows.append((room, *counts, f"{killed / tried:.0%}", f"{low:.0%} to {high:.0%}", seconds))
        click.echo(dict(zip(COLUMNS, rows[-1], strict=True)))
    click.echo("\n".join(f"| {' | '.join(map(str, row))} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)))
    if failed:
        raise click.ClickException("\n".join(failed))


if __name__ == "__main__":
    main()
