"""Tasks in processes of their own give what they give one after another, and none outlives the pool."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline import runtime
from pipeline.errors import DivergedError, PipelineError
from pipeline.params import Params
from pipeline.sweeps.pool import run_all, workers
from pipeline.sweeps.trainings import Training, run_trainings
from pipeline.training.run import train
from tests.conftest import ROOT
from tests.sweeps.pool_tasks import die, fail, read, square, wait, write


def test_results_come_back_by_label_and_progress_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {f"task {number}": partial(square, number) for number in range(3)}
    assert run_all(tasks, "squares", at_once=2, units=3) == {"task 0": 0, "task 1": 1, "task 2": 4}
    assert sorted(capsys.readouterr().out.splitlines()) == [f"task {number}: squaring {number}" for number in range(3)]


def test_results_are_in_the_order_of_the_tasks_whichever_ends_first(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    # The first task waits for the third, which begins once the second has ended.
    tasks = {"first": partial(read, pipe), "second": partial(square, 2), "third": partial(write, pipe)}
    assert list(run_all(tasks, "work", at_once=2, units=1).items()) == [("first", "at last"), ("second", 4), ("third", 7)]


def test_a_failing_task_raises_its_error_and_stops_the_others(tmp_path: Path) -> None:
    tasks = {"long": partial(wait, tmp_path), "failing": partial(fail, DivergedError("epoch 3: the loss is not finite"))}
    with pytest.raises(PipelineError, match="failing: epoch 3") as caught:
        run_all(tasks, "work", at_once=2, units=1)
    assert caught.value.exit_code == DivergedError.exit_code
    for started in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.name), 0)


def test_a_killed_process_is_named() -> None:
    with pytest.raises(PipelineError, match=r"doomed: its process ended with exit code -6; see above or run again"):
        run_all({"doomed": partial(die, signal.SIGABRT)}, "work", at_once=1, units=1)


def test_a_process_that_the_system_has_killed_ran_out_of_memory() -> None:
    with pytest.raises(PipelineError, match=r"doomed: its process was killed, as the system does when memory runs out") as caught:
        run_all({"doomed": partial(die, signal.SIGKILL)}, "work", at_once=1, units=1)
    assert caught.value.exit_code == 5


PARENT = """
import sys
from functools import partial
from pathlib import Path
from pipeline.sweeps.pool import run_all
from tests.sweeps.pool_tasks import wait
if __name__ == "__main__":
    run_all({"a": partial(wait, Path(sys.argv[1])), "b": partial(wait, Path(sys.argv[1]))}, "work", at_once=2, units=2)
"""


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    script, folder = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text(PARENT)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    parent = subprocess.Popen([sys.executable, script, folder], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    lines = [parent.stdout.readline() for _ in range(2)]
    assert sorted(lines) == ["a: waiting\n", "b: waiting\n"]
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == ""  # its end comes when the children, who hold the pipe, have ended too
    parent.stdout.close()


def test_a_process_that_has_lost_its_signal_ends_in_silence_at_its_next_report(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    imports = "from pipeline.sweeps.pool import run_all\nfrom tests.sweeps.pool_tasks import go_on\n"
    script.write_text(f"{imports}if __name__ == '__main__':\n    run_all({{'a': go_on}}, 'work', at_once=1, units=1)\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stderr
        assert parent.stdout.readline() == "a: working\n"
        parent.kill()
        parent.stdout.close()
        assert parent.stderr.read() == ""  # its end comes when the child, who holds the pipe, has ended too


def test_ctrl_c_reaches_the_processes_through_their_parent_alone(tmp_path: Path) -> None:
    """A terminal sends it to all; a process that still imports would print a traceback."""
    script, folder = tmp_path / "parent.py", tmp_path / "pids"
    script.write_text("from pipeline.startup import begin\nif __name__ == '__main__':\n    begin()\n" + PARENT)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, script, folder]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout
        assert parent.stderr
        assert {parent.stdout.readline() for _ in range(2)} == {"a: waiting\n", "b: waiting\n"}
        for child in folder.iterdir():
            os.kill(int(child.name), signal.SIGINT)  # not seen
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait() == 130
        assert (parent.stdout.read(), parent.stderr.read()) == ("", "")


def test_a_process_whose_parent_has_ended_does_no_work(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    orphan = "from pipeline.startup import die_with_parent; die_with_parent(999999999); print('works')"
    done = subprocess.run([sys.executable, "-c", orphan], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


def test_workers_fill_the_cores_of_a_cpu_and_share_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    assert workers(1, "cpu") == cores
    assert workers(cores, "cpu") == 1
    for found in ("cpu", "cuda"):
        monkeypatch.setattr(runtime, "choose_device", lambda device, found=found: (torch.device(found), ""))
        assert workers(1, "auto") == (cores if found == "cpu" else 1)


@pytest.mark.usefixtures("untracked")
def test_trainings_at_once_write_the_bytes_of_trainings_one_by_one(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # children have a store that is down
    jobs = {f"vae_{seed}": ("vae", params.model_copy(update={"seed": seed})) for seed in (1, 2)}
    for label, (name, own) in jobs.items():
        train(name, own, data_file, workspace / "single" / label, workspace / "single" / label).clear()
    folders = {label: workspace / "pool" / label for label in jobs}
    done = run_trainings({label: Training(*jobs[label], data_file, folders[label]) for label in jobs}, params)
    for label in jobs:
        for file in (workspace / "single" / label).iterdir():
            assert (folders[label] / file.name).read_bytes() == file.read_bytes()
    for checkpoints in done:
        checkpoints.clear()
    assert not list((workspace / ".pipeline").rglob("*.safetensors"))
