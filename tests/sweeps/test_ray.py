"""Ray runs every trial once, whatever is lost, with the bytes of the other backends."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import DivergedError, ParamsError
from pipeline.params import Params
from pipeline.storage import load_json
from pipeline.sweeps import ray
from pipeline.sweeps.pool import Resources
from pipeline.sweeps.sweep import sweep
from pipeline.tracking import store as tracking
from tests.conftest import ROOT
from tests.sweeps.test_sweep import Here, here

__all__ = ["here"]
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy
ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")  # a network of loopback alone


def test_without_ray_one_line_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParamsError, match=r"`make ray` installs what --backend ray needs"):
        list(ray.outcomes({}, Resources(1, 0, None, Path())))


def test_an_error_that_the_user_can_act_on_comes_back_as_one() -> None:
    def fail(report: object) -> None:
        raise DivergedError("epoch 3: not finite")

    def crash(report: object) -> None:
        raise ZeroDivisionError

    error = ray.patient("beta=1", fail)
    assert (str(error), error.exit_code) == ("beta=1: epoch 3: not finite", 4)
    with pytest.raises(ZeroDivisionError):
        ray.patient("beta=1", crash)


@pytest.mark.torture
@pytest.mark.usefixtures("store")
def test_a_killed_worker_and_a_lost_node_change_no_bit(params: Params, here: Here, workspace: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed; `make ray` installs it")
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("a network namespace needs root, unshare and ip")
    with open("params.yaml", "w") as file:
        YAML().dump(params.model_dump(), file)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [*ALONE, sys.executable, "-m", "tests.sweeps.ray_tasks", "on_ray"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["dvc exp run -S seed=1"], done.stderr
    assert Path("killed").exists()
    assert Path("lost").exists()
    said = {seed: (workspace / f"on_ray/seed={seed}/log.txt").read_text() for seed in (1, 2, 3)}
    assert {seed: text.count("continuing after epoch 1\n") for seed, text in said.items()} == {1: 1, 2: 1, 3: 0}

    records = [record for record, _ in tracking.records()]
    assert Counter(record.params["seed"] for record in records if record.tags["role"] == "sweep") == {"1": 1, "2": 1, "3": 1}
    assert len({record.tags["mlflow.parentRunId"] for record in records if record.tags["role"] == "sweep"}) == 1
    assert {record.status for record in records} == {"FINISHED"}

    sweep(params, "vae", {"seed": [1, 2, 3]}, "here", 1, 0, None, Path("here"))
    for seed in (1, 2, 3):
        assert load_json(f"on_ray/seed={seed}/result.json") == load_json(f"here/seed={seed}/result.json")
