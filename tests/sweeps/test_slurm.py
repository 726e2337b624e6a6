"""Jobs of SLURM, here processes of submitit's local executor, give the bytes of the other backends."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.errors import DivergedError, ParamsError, PipelineError
from pipeline.params import Params
from pipeline.storage import load_json
from pipeline.sweeps import slurm
from pipeline.sweeps.pool import Resources
from pipeline.sweeps.sweep import sweep
from tests.sweeps.test_sweep import Here, here

__all__ = ["here"]
NEEDS = "the extra slurm is not installed; `make slurm` installs it"


def fail(report: object) -> None:
    raise DivergedError("epoch 3: not finite")


def test_without_submitit_one_line_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ParamsError, match="`make slurm` installs what --backend slurm needs"):
        list(slurm.outcomes({}, Resources(1, 0, None, Path())))


def test_without_slurm_one_line_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason=NEEDS)
    if shutil.which("srun"):
        pytest.skip("this machine has SLURM")
    with pytest.raises(ParamsError, match="--address local runs the jobs on this machine"):
        list(slurm.outcomes({"a": fail}, Resources(1, 0, None, tmp_path)))


def test_a_partition_that_slurm_does_not_have_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason=NEEDS)
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: none' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(PipelineError, match=r"SLURM refuses the jobs \(.*partition specified: none\); --address"):
        list(slurm.outcomes({"a": fail}, Resources(1, 0, "none", tmp_path)))


def test_a_job_that_slurm_ends_is_submitted_again_and_an_error_comes_back() -> None:
    submitit = pytest.importorskip("submitit", reason=NEEDS)
    job = slurm.Job("beta=1", fail)
    assert isinstance(again := job.checkpoint(), submitit.helpers.DelayedSubmission)
    assert again.function is job
    assert (str(error := job()), error.exit_code) == ("beta=1: epoch 3: not finite", 4)


@pytest.mark.usefixtures("untracked")
def test_jobs_write_what_this_process_writes(params: Params, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason=NEEDS)
    axes = {"train.learning_rate": [1e9, 1e-2]}
    sweep(params, "vae", axes, "here", 1, 0, None, Path("here"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the jobs have a store that is down
    found = sweep(params, "vae", axes, "slurm", 1, 0, "local", Path("jobs"))
    ((name, error),) = found.errors.items()
    assert (name, error.exit_code) == ("train.learning_rate=1000000000.0", 4)
    results = [load_json(Path(place, "train.learning_rate=0.01", "result.json")) for place in ("here", "jobs")]
    assert results[0] == results[1]
