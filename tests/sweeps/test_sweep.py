"""Each trial is trained once, whatever stops a sweep, and the winner is the best by the mean over its seeds."""

import csv
import os
import re
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.errors import DivergedError
from pipeline.evaluation import run as evaluation_run
from pipeline.models.weights import load_weights
from pipeline.params import Params
from pipeline.storage import load_json, md5
from pipeline.sweeps import sweep as module
from pipeline.sweeps.pool import Task
from pipeline.sweeps.sweep import Resources, configurations, sweep
from pipeline.sweeps.trial import LOSS, Trial
from pipeline.tracking import store as tracking
from pipeline.training import run as training_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
OUT = Path("out")
GRID = {"beta": [0.5, 4.0], "seed": [1, 2]}


class Here:
    """A backend that runs the trials in this process, one after another, and counts them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stop_after = 99

    def __call__(self, tasks: Mapping[str, Task], resources: Resources) -> Generator[tuple[str, Any], None, None]:
        for label, task in tasks.items():
            if len(self.done) == self.stop_after:
                raise KeyboardInterrupt
            self.done.append(label)
            try:
                yield label, task(lambda said: None)
            except DivergedError as error:
                yield label, error
            finally:
                os.environ.pop(tracking.PARENT, None)  # which a process of its own would take along


@pytest.fixture
def here(data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    (workspace / "data").mkdir()
    data_file.rename(workspace / "data/dataset.safetensors")
    monkeypatch.setitem(module.BACKENDS, "here", found := Here())
    return found


def swept(params: Params, axes: dict[str, list[Any]], backend: str = "here") -> module.Sweep:
    return sweep(params, "vae", axes, backend, 1, 0, None, OUT)


@pytest.mark.usefixtures("store")
def test_a_stopped_sweep_goes_on_with_one_run_for_each_trial_below_its_own(params: Params, here: Here) -> None:
    here.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        swept(params, GRID)
    here.stop_after = 99
    found = swept(params, GRID)
    assert Counter(here.done) == {f"beta={beta},seed={seed}": 1 for beta in (0.5, 4.0) for seed in (1, 2)}
    assert swept(params, GRID) == found
    assert len(here.done) == 4

    (parent,) = [record for record, _ in tracking.records() if record.tags["role"] == "grid"]
    below = [record for record, _ in tracking.records() if record.tags.get("mlflow.parentRunId") == parent.id]
    assert Counter((record.params["beta"], record.params["seed"]) for record in below) == {
        (beta, seed): 1 for beta in ("0.5", "4") for seed in ("1", "2")
    }
    assert {record.status for record in [parent, *below]} == {"FINISHED"}
    assert all("test_elbo" in record.metrics and record.model_id for record in below)
    assert (parent.params, parent.name) == ({"grid": "beta=0.5,4.0 seed=1,2"}, "sweep beta=0.5,4.0 seed=1,2")
    assert [entry.path for entry in MlflowClient(tracking.store_uri()).list_artifacts(parent.id)] == ["sweep.csv"]
    assert parent.metrics["best_val_loss"] == pytest.approx(float(csv_rows()[0]["val/loss"]))


def csv_rows() -> list[dict[str, str]]:
    with open(OUT / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("untracked")
def test_a_result_says_values_loss_and_the_md5_of_the_weights(params: Params, here: Here) -> None:
    swept(params, {"beta": [4.0]})
    folder = OUT / "beta=4.0"
    result, trained = load_json(folder / "result.json"), load_json(folder / "vae_train.json")
    assert (result["params"], result[LOSS], result["epochs"]) == ({"beta": 4.0}, trained[LOSS], 4)
    assert result["md5"] == md5(folder / "vae.safetensors")
    assert load_weights(folder / "vae.safetensors").beta == 4.0
    assert not list(Path(".pipeline").rglob("*.safetensors")), "its checkpoints are cleared"


@pytest.mark.usefixtures("untracked")
def test_a_trial_is_run_again_when_its_files_are_not_its_own(params: Params, here: Here) -> None:
    swept(params, {"beta": [4.0]})
    (OUT / "beta=4.0/vae.safetensors").unlink()
    swept(params, {"beta": [4.0]})
    (OUT / "beta=4.0/result.json").write_text("{")
    swept(params, {"beta": [4.0]})
    assert len(here.done) == 3
    longer = params.model_copy(update={"vae": params.vae.model_copy(update={"epochs": 2})})
    swept(longer, {"beta": [4.0]})
    assert load_json(OUT / "beta=4.0/result.json")["epochs"] == 2


@pytest.mark.usefixtures("untracked")
def test_a_half_trained_trial_continues_from_its_checkpoint(params: Params, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(params, {"beta": [4.0]})
    whole = md5(OUT / "beta=4.0/vae.safetensors")
    (OUT / "beta=4.0/result.json").unlink()

    def stopping(*arguments: object) -> None:
        raise SystemExit(143)

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    for place, name, stop in ((training_run.Run, "log_epoch", stopping), (evaluation_run, "evaluate_and_log", interrupted)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises((SystemExit, KeyboardInterrupt)):
                swept(params, {"beta": [4.0]})
    swept(params, {"beta": [4.0]})
    said = (OUT / "beta=4.0/log.txt").read_text()
    assert re.findall("vae: continuing after epoch (.)", said) == ["1", "4"], "stopped in the training, and in the evaluation"
    assert md5(OUT / "beta=4.0/vae.safetensors") == whole


@pytest.mark.usefixtures("untracked")
def test_a_trial_that_fails_is_told_and_the_others_go_on(params: Params, here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    found = swept(params, {"train.learning_rate": [1e9, 1e-3]})
    (name, error), *others = found.errors.items()
    assert (name, others, error.exit_code) == ("train.learning_rate=1000000000.0", [], 4)
    assert capsys.readouterr().err.startswith("failed: epoch")
    assert [(row["train.learning_rate"], row["failed"]) for row in csv_rows()] == [("0.001", "0"), ("1000000000.0", "1")]
    assert found.command == "dvc exp run -S train.learning_rate=0.001"


@pytest.mark.usefixtures("untracked")
def test_a_process_of_the_pool_writes_what_this_one_writes(params: Params, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    swept(params, {"seed": [2]})
    file = OUT / "seed=2/result.json"
    result = file.read_bytes()
    file.unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the process has a store that is down
    swept(params, {"seed": [2]}, "local")
    assert file.read_bytes() == result


def grouped(losses: Mapping[tuple[float, int], float | None]) -> list[module.Configuration]:
    trials = {f"{key}": Trial("vae", {"beta": key[0], "seed": key[1]}, None, OUT, OUT, "", {}) for key in losses}  # type: ignore[arg-type]
    return configurations(trials, {f"{key}": {LOSS: loss} for key, loss in losses.items() if loss is not None})


def test_the_winner_has_the_lowest_mean_and_no_failed_trial() -> None:
    groups = grouped({(1, 0): 5.0, (1, 1): 1.0, (2, 0): 2.0, (2, 1): 2.0, (3, 0): 0.5, (3, 1): None})
    assert [group.values["beta"] for group in groups] == [2, 1, 3]
    assert [group.is_complete for group in groups] == [True, True, False]
    first, second, third = (group.row() for group in groups)
    assert (first["val/loss"], first["interval"], first["trials"]) == (2.0, 0.0, 2)
    assert second["interval"] == pytest.approx(12.706 * 2, rel=1e-3)  # Student's t with one degree of freedom
    assert (third["val/loss"], third["interval"], third["failed"]) == (0.5, "", 1)
