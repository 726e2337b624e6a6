"""However often a training is killed, it is one run, with each point, grid and model once."""

from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.params import Params
from pipeline.tracking import store
from pipeline.training import run as training_run
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.fused_mlp import FusedMLPStep
from pipeline.training.run import train
from tests.tracking.test_store import killed

pytestmark = [
    pytest.mark.usefixtures("store"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]


class Power:
    """What is lost when a process is killed at a step: all after the last checkpoint, and the end of the run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps, self.stop_at = 0, 0
        step, save, finish = FusedMLPStep.__call__, Checkpoints.save, store.Run.finish

        def stepping(*args: object) -> object:
            self.steps += 1
            if self.steps == self.stop_at:
                raise KeyboardInterrupt
            return step(*args)

        def saving(saved: Checkpoints, arrays: object, header: dict[str, int]) -> None:
            if self.steps != self.stop_at:
                save(saved, arrays, header)  # type: ignore[arg-type]

        def finishing(run: store.Run, status: str = "FINISHED") -> None:
            if status == "KILLED":
                killed(run.id)
            else:
                finish(run, status)

        monkeypatch.setattr(FusedMLPStep, "__call__", stepping)
        monkeypatch.setattr(Checkpoints, "save", saving)
        monkeypatch.setattr(store.Run, "finish", finishing)
        self._monkeypatch = monkeypatch

    def cut(self, step: int, seconds: float, *training: object) -> None:
        """Kill a training at a step of all from now on; it saves a checkpoint when so many seconds have passed."""
        self._monkeypatch.setattr(training_run, "CHECKPOINT_SECONDS", seconds)
        self.stop_at = self.steps + step
        with pytest.raises(KeyboardInterrupt):
            train(*training)  # type: ignore[arg-type]


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Power:
    return Power(monkeypatch)


def held() -> tuple[str, Counter[tuple[str, int]], Counter[str], int]:
    """Return status, points, grids and number of models of the only run."""
    client = MlflowClient(store.store_uri())
    ((record, _),) = store.records()
    points = Counter((key, point.step) for key in record.metrics for point in client.get_metric_history(record.id, key))
    images = [entry.path for entry in client.list_artifacts(record.id, "images") if entry.path.endswith(".png")]
    experiment = client.get_run(record.id).info.experiment_id
    models = len(client.search_logged_models([experiment]))
    return record.status, points, Counter(path.split("timestamp")[0] for path in images), models


def test_killed_training_is_one_run_with_each_point_once(
    params: Params, data_file: Path, workspace: Path, power: Power, capsys: pytest.CaptureFixture[str]
) -> None:
    training = ("vae", params, data_file, workspace / "out", workspace / "out")
    power.cut(6 * 3 + 2, 0.0, *training)  # in the fourth epoch, after checkpoints of three
    power.cut(3, 1e9, *training)  # in the fourth epoch again
    assert held()[0] == "RUNNING"
    train(*training)
    status, points, grids, models = held()
    assert (status, models) == ("FINISHED", 1)
    assert set(points.values()) == set(grids.values()) == {1}
    assert {step for key, step in points if key == "val/loss"} == {step for key, step in points if key == "samples_per_second"}
    assert len(grids) == 6, "two of the untrained net"

    train(*training).clear()  # DVC was killed before it noted the outputs: complete in its checkpoint
    assert "continuing after epoch 4" in capsys.readouterr().out
    assert held() == ("FINISHED", points, grids, models)
    power.cut(8, 1e9, *training)  # without checkpoints, from the first epoch on
    assert [record.status for record in store.end_stale_runs()] == ["FINISHED"], "it holds a trained model"
    train(*training)
    assert held() == ("FINISHED", points, grids, models)


def test_points_that_a_killed_process_did_not_send_are_added(
    params: Params, data_file: Path, workspace: Path, power: Power, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = ("vae", params, data_file, workspace / "out", workspace / "out")
    with monkeypatch.context() as patch:
        patch.setattr(store.Run, "flush", lambda run: None)  # as in a pause
        power.cut(6 * 3 + 2, 0.0, *training)
    train(*training)
    status, points, _, _ = held()
    assert {step for key, step in points if key == "val/loss"} == {1, 2, 3, 4}
    assert (status, set(points.values())) == ("FINISHED", {1})
