"""The curves of many runs are read in few calls."""

from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.utils import rest_utils

from pipeline.tracking import store as tracking
from pipeline.tracking.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy


@pytest.mark.usefixtures("store")
def test_a_database_gives_the_curves_of_all_runs_in_their_order() -> None:
    for number in (1, 2):
        with tracking.start(f"run {number}", {}) as run:
            for epoch in (1, 2):
                run.log_epoch({"epoch": epoch, "val/loss": 10.0 * number + epoch})
    newest_first = [run for _, run in tracking.records()]
    assert tracking.histories(newest_first, "val/loss") == [{1: 21.0, 2: 22.0}, {1: 11.0, 2: 12.0}]
    assert tracking.histories(newest_first, "val/kl") == [{}, {}]
    assert tracking.histories([], "val/loss") == []


class Server:
    """A tracking server and its client: it answers for many runs at once, and for one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int = 200, most: int = 25_000) -> None:
        self.asked: list[int] = []
        self.alone = 0
        self._status, self._most = status, most
        self._tracking_client = SimpleNamespace(store=SimpleNamespace(get_host_creds=str))
        monkeypatch.setattr(rest_utils, "http_request", self.answer)
        monkeypatch.setattr(tracking, "_MOST_POINTS", most)

    def answer(self, credentials: str, place: str, method: str, params: dict[str, Any]) -> Any:
        self.asked.append(len(params["run_id"]))
        rows = [{"run_id": run, "step": step, "value": float(run)} for run in params["run_id"] for step in (1, 2)]
        return SimpleNamespace(status_code=self._status, json=lambda: {"metrics": rows[: self._most]})

    def get_metric_history(self, run: str, key: str) -> list[Any]:
        self.alone += 1
        return [SimpleNamespace(step=step, value=float(run)) for step in (1, 2)]

    def read(self, number: int) -> list[dict[int, float]]:
        runs = [SimpleNamespace(info=SimpleNamespace(run_id=str(run), start_time=0)) for run in range(number)]
        return tracking.histories([Run(self, run, pauses=False) for run in runs], "val/loss")  # type: ignore[arg-type]


def test_a_server_is_asked_for_a_hundred_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    assert server.read(250) == [{1: float(run), 2: float(run)} for run in range(250)]
    assert (server.asked, server.alone) == ([100, 100, 50], 0)


@pytest.mark.parametrize("limits", [{"status": 404}, {"most": 5}])
def test_an_answer_that_is_refused_or_may_be_cut_is_asked_run_by_run(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    server = Server(monkeypatch, **limits)
    assert server.read(3) == [{1: float(run), 2: float(run)} for run in range(3)]
    assert server.alone == 3
