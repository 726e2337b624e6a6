"""What DVC runs again after a change, by what both pipelines say each stage reads and writes."""

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

STAGES = {
    name: stage
    for file in ("dvc.yaml", "claims/dvc.yaml")
    for name, stage in YAML(typ="safe").load(ROOT / file)["stages"].items()
}
TRAINING = {name for name in STAGES if name.startswith("train")}
DRAWING = {"figures", "explorer", "betas", "claims", "summary"}  # the summary comes after what it tells to open


def paths(name: str, *keys: str) -> set[str]:
    """Return what a stage lists, for all models of a matrix."""
    stage = STAGES[name]
    listed = [next(iter(entry)) if isinstance(entry, dict) else entry for key in keys for entry in stage.get(key, [])]
    return {path.replace("${item.model}", model) for path in listed for model in stage.get("matrix", {"model": [""]})["model"]}


def reruns(changed: str) -> set[str]:
    """Return the stages that read a file or the folder it is in, those that read what these write, and so on."""
    touched, stages = {changed}, set[str]()
    while new := {
        name
        for name in STAGES.keys() - stages
        if any(path == dep or path.startswith(f"{dep}/") for path in touched for dep in paths(name, "deps"))
    }:
        stages |= new
        touched = touched.union(*(paths(name, "outs", "metrics", "plots") for name in new))
    return stages


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pipeline/evaluation").glob("*.py")))
def test_a_changed_metric_retrains_nothing(path: str) -> None:
    found = reruns(path)
    assert {"evaluate", "figures", "claims"} <= found
    assert not found & (TRAINING | {"download"})


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pipeline/figures").glob("*.py")))
def test_a_changed_figure_only_draws_again(path: str) -> None:
    assert {"figures"} <= reruns(path) <= DRAWING


@pytest.mark.parametrize(
    "path", ["pipeline/tracking/run.py", "pipeline/cli.py", "pipeline/reporting/gate.py", "pipeline/startup.py"]
)
def test_what_only_logs_or_looks_reruns_nothing(path: str) -> None:
    assert reruns(path) == set()


def test_the_trainer_reruns_all_that_is_trained_and_what_follows() -> None:
    assert (TRAINING - {"train_classifier"}) | {"evaluate", "figures", "claims"} <= reruns("pipeline/training/trainer.py")
