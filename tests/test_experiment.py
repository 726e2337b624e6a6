"""A training that is killed at any moment goes on where it was and ends in the same bytes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline import checkpoint, experiment, files
from pipeline.checkpoint import Checkpoints
from pipeline.errors import BusyError, DivergedError, IntegrityError
from pipeline.experiment import reads, train
from pipeline.params import Params
from pipeline.step import ExplicitStep

pytestmark = pytest.mark.usefixtures("untracked")
NAMES = ("ae", "vae")


def outputs(name: str, folder: Path) -> dict[str, bytes]:
    paths = [folder / f"{name}.safetensors", folder / f"{name}_history.csv", folder / f"{name}_train.json"]
    return {path.name: path.read_bytes() for path in paths}


def run(name: str, params: Params, data: Path, folder: Path) -> dict[str, bytes]:
    train(name, params, data, folder, folder).clear()
    return outputs(name, folder)


def left_over(workspace: Path) -> list[Path]:
    return [path for path in workspace.rglob("*") if path.is_file() and (path.suffix == ".tmp" or ".pipeline" in path.parts)]


@pytest.mark.parametrize("name", NAMES)
def test_two_trainings_write_the_same_bytes_and_leave_no_checkpoint(
    name: str, params: Params, data_file: Path, workspace: Path
) -> None:
    assert run(name, params, data_file, workspace / "a") == run(name, params, data_file, workspace / "b")
    assert left_over(workspace) == []


@pytest.mark.parametrize("name", NAMES)
def test_stopped_at_every_step_and_continued(
    name: str, params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(name, params, data_file, workspace / "whole")
    step, taken, stop_at = ExplicitStep.__call__, 0, 0

    def stopping(*args: object) -> None:
        nonlocal taken
        taken += 1
        if taken == stop_at:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(ExplicitStep, "__call__", stopping)
    assert run(name, params, data_file, workspace / "counted") == expected
    steps = taken
    assert steps == 4 * (96 // 16)
    for stop in range(1, steps + 1):
        taken, stop_at = 0, stop
        folder = workspace / f"stop{stop}"
        with pytest.raises(KeyboardInterrupt):
            train(name, params, data_file, folder, folder)
        stop_at = 0
        assert run(name, params, data_file, folder) == expected, f"stopped at step {stop}"
        epochs_kept = (stop - 1) // 6
        assert taken == stop + steps - 6 * epochs_kept, "it goes on from a checkpoint and does not start again"
        assert left_over(workspace) == []


# A training in a process of its own that kills it, with no chance to clean up, at a given moment.
DOOMED = """
import os, signal, sys
from pathlib import Path
from pipeline import experiment, tracking
from pipeline.params import Params
from pipeline.step import ExplicitStep

moment, params, data, folder = sys.argv[1:]
tracking.start = lambda *args: tracking.Run()
step, replace, count = ExplicitStep.__call__, os.replace, 0

def at(now):
    if now == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def counting(*args):
    global count
    count += 1
    at(f"step {count}")
    step(*args)

def replacing(source, target):
    at(f"{target.name} written")
    replace(source, target)
    at(f"{target.name} renamed")

ExplicitStep.__call__ = counting
os.replace = replacing
experiment.CHECKPOINT_SECONDS = 0.0
experiment.train("vae", Params.model_validate_json(params), Path(data), Path(folder), Path(folder))
"""


@pytest.mark.parametrize(
    "moment", ["step 3", "step 11", "1.safetensors written", "1.safetensors renamed", "vae.safetensors renamed"]
)
def test_killed_with_sigkill_and_continued(moment: str, params: Params, data_file: Path, workspace: Path) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    command = [sys.executable, "-c", DOOMED, moment, params.model_dump_json(), str(data_file), str(workspace / "out")]
    doomed = subprocess.run(command, cwd=workspace, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=400)
    assert doomed.returncode == -signal.SIGKILL, doomed.stderr
    assert run("vae", params, data_file, workspace / "out") == expected


def test_sigterm_ends_with_143_and_the_next_run_continues(data_file: Path, workspace: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("threads: 2", "threads: 1").replace("batch_size: 128", "batch_size: 16")
    (workspace / "params.yaml").write_text(text.replace("[512, 256]", "[16, 8]"))
    command = [sys.executable, "-u", "-m", "stages.train", "vae", "--data", str(data_file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # a store that is down

    def start(out: str) -> subprocess.Popen[str]:
        options = ["--out", out, "--metrics", out]
        return subprocess.Popen(
            command + options, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole = start("whole")
    log, errors = whole.communicate()
    assert whole.returncode == 0, errors
    assert errors.count("warning: MLflow failed") == 1
    assert "epoch 4/30" in log
    stopped = start("stopped")
    assert stopped.stdout
    for line in stopped.stdout:
        if "epoch 3/30" in line:
            stopped.send_signal(signal.SIGTERM)
            break
    stopped.communicate()
    assert stopped.returncode == 143
    again = start("stopped")
    log, _ = again.communicate()
    assert again.returncode == 0
    assert "continuing after epoch" in log
    assert outputs("vae", workspace / "stopped") == outputs("vae", workspace / "whole")


def test_a_second_trainer_of_the_same_is_refused_and_told_who_has_it(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Checkpoints] = []

    def busy(*args: object) -> None:
        held.append(args[7])  # type: ignore[arg-type]
        with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught:
            train("ae", params, data_file, workspace / "out", workspace / "out")
        assert caught.value.exit_code == 75
        raise InterruptedError

    monkeypatch.setattr(experiment, "_train", busy)
    with pytest.raises(InterruptedError):
        train("ae", params, data_file, workspace / "out", workspace / "out")
    assert len(held) == 1
    assert not (workspace / "out").exists()


def test_no_state_is_shared_by_trainings_that_differ(params: Params, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(**decides: object) -> Path:
        return Checkpoints(workspace, "vae", **decides).folder

    settings = reads(params, "vae")
    base = folder(**settings, data="a", source="b", device="cpu")
    changes = [{"beta": 4.0}, {"seed": 2}, {"data": "x"}, {"source": "x"}, {"device": "cuda"}, {"train.threads": 3}]
    others = [folder(**settings | {"data": "a", "source": "b", "device": "cpu"} | change) for change in changes]
    monkeypatch.setattr(checkpoint.torch, "__version__", "1.0")
    others.append(folder(**settings, data="a", source="b", device="cpu"))
    assert len({base, *others}) == 1 + len(others)


def test_beta_decides_the_vae_and_not_the_autoencoder(params: Params) -> None:
    changed = params.model_copy(update={"beta": 4.0})
    assert reads(params, "ae") == reads(changed, "ae")
    assert reads(params, "vae") != reads(changed, "vae")


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    step, taken = ExplicitStep.__call__, 0

    def stopping(*args: object) -> None:
        nonlocal taken
        taken += 1
        if taken == 3 * 6 + 1:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(ExplicitStep, "__call__", stopping)
    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train("vae", params, data_file, workspace / "out", workspace / "out")
    (newest,) = workspace.rglob("0.safetensors")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    assert run("vae", params, data_file, workspace / "out") == expected
    said = capsys.readouterr()
    assert "skipping a damaged checkpoint" in said.err
    assert "continuing after epoch 2" in said.out


def test_stopped_while_a_checkpoint_is_written_its_epoch_is_kept(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    sync, calls = os.fsync, 0

    def interrupted(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # the second checkpoint: each syncs its file, then its folder
            raise KeyboardInterrupt
        sync(file)

    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("vae", params, data_file, workspace / "out", workspace / "out")
    capsys.readouterr()
    assert run("vae", params, data_file, workspace / "out") == expected
    assert "continuing after epoch 2" in capsys.readouterr().out


def test_a_training_that_diverges_writes_nothing_and_keeps_its_checkpoint(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = ExplicitStep.__call__, 0

    def poisoned(self: ExplicitStep, pixels: object, mask: object, noise: object, beta: float, rate: float) -> None:
        nonlocal taken
        taken += 1
        step(self, pixels, mask, noise, float("nan") if taken == 14 else beta, rate)

    monkeypatch.setattr(ExplicitStep, "__call__", poisoned)
    with pytest.raises(DivergedError, match="epoch 3: the loss") as caught:
        train("vae", params, data_file, workspace / "out", workspace / "out")
    assert caught.value.exit_code == 4
    assert not (workspace / "out").exists()
    (kept,) = workspace.rglob("0.safetensors")
    assert files.load_arrays(kept)[1]["epoch"] == 2


def test_damaged_data_are_named(params: Params, data_file: Path, workspace: Path) -> None:
    content = bytearray(data_file.read_bytes())
    content[-1] ^= 1
    data_file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"dataset\.safetensors: content does not match") as caught:
        train("ae", params, data_file, workspace / "out", workspace / "out")
    assert caught.value.exit_code == 3
