"""A search that is killed again and again, and one that is not: `python -m tests.sweeps.search_tasks` in a prepared workspace.

It forks for each search, so that torch is imported once.
"""

import os
import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from pipeline.evaluation import run as _evaluation  # noqa: F401 (each search would import it anew)
from pipeline.params import load_params
from pipeline.sweeps import search as module
from pipeline.sweeps.grid import maker
from pipeline.sweeps.pool import Resources, Task, attempt
from pipeline.sweeps.search import fingerprint_of, search
from pipeline.sweeps.study import Settings, Study, load_optuna
from pipeline.tracking import run as tracking_run
from pipeline.tracking import store
from pipeline.training import run as training_run

TOTAL = 12
SPACE = {
    "train.learning_rate": {"low": 1e-4, "high": 3e-2, "log": True, "step": None},
    "vae.hidden_dims": [[16, 8], [8], []],
    "beta": {"low": 0.5, "high": 4.0, "log": False, "step": 0.5},
}
Fault = Callable[[str, str], None]
"""Is told of a place and a trial, and may end this process."""


def at(*place: str) -> Fault:
    """Return the fault of a place."""

    def fault(*reached: str) -> None:
        if reached == place:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


FAULTS = (  # of the trials of this search 6, 9 and 11 are pruned after epoch 2
    at("start", "trial 1"),  # between two trials of a round
    at("epoch 3/4", "trial 4"),
    at("end", "trial 6"),  # which is pruned, but not yet in the study
    at("write", "after 8"),
    at("epoch 2/4", "trial 9"),
    at("end", "trial 10"),
)


def backend(fault: Fault) -> Any:
    """Return a backend of one process, that of the search."""

    def run(tasks: Mapping[str, Task], resources: Resources) -> Generator[tuple[str, Any], None, None]:
        for label, task in tasks.items():
            fault("start", label)
            yield label, attempt(label, task, lambda said, label=label: fault(said.partition(",")[0], label))

    return run


def searching(out: Path, fault: Fault, total: int = TOTAL, at_once: int = 2) -> None:
    """Run or continue a search in this process."""
    params = load_params()
    make = maker(params, "vae", 1, 0)
    about = "vae", "val/loss", SPACE, True, 1, at_once, 1, 0, fingerprint_of(make, SPACE), load_optuna().__version__
    study = Study.load(out / "study.jsonl") or Study(out / "study.jsonl", Settings(*about))
    add, replace = Study.add, os.replace

    def add_or_end(self: Study, trial: Any) -> None:
        fault("end", f"trial {trial.number}")
        add(self, trial)

    def replace_or_end(source: Any, target: Any) -> None:
        if Path(target).name == "study.jsonl":
            fault("write", f"after {len(study.trials)}")
        replace(source, target)

    Study.add, os.replace = add_or_end, replace_or_end  # type: ignore[method-assign]
    module.BACKENDS["here"] = backend(fault)
    training_run.CHECKPOINT_SECONDS = 0
    training_run.source_sha256 = lambda: "source"  # most of the time of so small a training
    store.start = store.find = lambda *args: tracking_run.Run()  # type: ignore[assignment]
    search(study, total, make, "here", Resources(1, 0, None, out))


def forked(*arguments: Any) -> int:
    """Return how a search in a process of its own ended: its exit code, or minus the signal."""
    if not (child := os.fork()):
        try:
            searching(*arguments)
        finally:
            os._exit(0 if Study.load(arguments[0] / "study.jsonl") else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    load_optuna()
    assert forked(Path("whole"), at()) == 0
    for fault in FAULTS:
        assert forked(Path("killed"), fault) == -signal.SIGKILL
    assert forked(Path("killed"), at()) == 0


if __name__ == "__main__":
    main()
