"""A training that is stopped or killed at any moment resumes and ends in the same bytes."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import storage
from pipeline.data import holdout, load_dataset
from pipeline.errors import BusyError, DivergedError, IntegrityError, ParamsError
from pipeline.models.weights import load_weights
from pipeline.params import Params
from pipeline.training import batches, checkpoint
from pipeline.training import run as training_run
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.fused_mlp import FusedMLPStep
from pipeline.training.run import logged_params, train
from pipeline.training.trainer import Epoch, State
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("untracked")
NAMES = ("ae", "vae")


def outputs(name: str, folder: Path) -> dict[str, bytes]:
    paths = [folder / f"{name}.safetensors", folder / f"{name}_history.csv", folder / f"{name}_train.json"]
    return {path.name: path.read_bytes() for path in paths}


def run(name: str, params: Params, data: Path, folder: Path) -> dict[str, bytes]:
    train(name, params, data, folder, folder).clear()
    return outputs(name, folder)


def replayed(name: str, params: Params, data: Path, folder: Path) -> dict[str, bytes]:
    """Train as :func:`run`, and return the replay, too."""
    file = folder / "replay.safetensors"
    train(name, params, data, folder, folder, replay=file).clear()
    return outputs(name, folder) | {"replay": file.read_bytes()}


def left_over(workspace: Path) -> list[Path]:
    return [path for path in workspace.rglob("*") if path.is_file() and (path.suffix == ".tmp" or ".pipeline" in path.parts)]


@pytest.mark.parametrize("name", NAMES)
def test_two_trainings_write_the_same_bytes_and_leave_no_checkpoint(
    name: str, params: Params, data_file: Path, workspace: Path
) -> None:
    assert run(name, params, data_file, workspace / "a") == run(name, params, data_file, workspace / "b")
    assert left_over(workspace) == []


@pytest.mark.parametrize("name", NAMES)
def test_replay_is_the_codes_of_the_test_images_before_the_training_and_after_each_epoch(
    name: str, params: Params, data_file: Path, workspace: Path
) -> None:
    dataset, file = load_dataset(data_file), workspace / "replay.safetensors"
    x = torch.from_numpy(dataset.test.intensities)
    train(name, params, data_file, workspace, workspace, replay=file)
    arrays, header = storage.load_arrays(file)
    assert header == {"weights_md5": storage.md5(workspace / f"{name}.safetensors")}
    training, _ = holdout(dataset.train, params.data.val_size, params.seed)
    with torch.no_grad():
        untrained = training_run.new_model(name, params, dataset.name, training).model.encode(x).mean
        trained = load_weights(workspace / f"{name}.safetensors").model.encode(x).mean
    summary = json.loads((workspace / f"{name}_train.json").read_text())
    assert arrays["codes"].shape == (1 + summary["epochs"], len(x), trained.shape[1])
    np.testing.assert_allclose(arrays["codes"][0], untrained, atol=1e-5)
    best = summary["best/epoch"]
    np.testing.assert_allclose(arrays["codes"][best], trained, atol=1e-5)
    assert not np.allclose(arrays["codes"][best], untrained, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_stopped_at_any_step_ends_in_the_same_bytes(
    name: str, params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = replayed(name, params, data_file, workspace / "whole")
    step, taken, stop_at = FusedMLPStep.__call__, 0, 0

    def stopping(*args: object) -> object:
        nonlocal taken
        taken += 1
        if taken == stop_at:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(FusedMLPStep, "__call__", stopping)
    assert replayed(name, params, data_file, workspace / "counted") == expected
    steps = taken
    assert steps == 4 * (96 // 16)
    for stop in range(1, steps + 1):
        taken, stop_at = 0, stop
        folder = workspace / f"stop{stop}"
        with pytest.raises(KeyboardInterrupt):
            train(name, params, data_file, folder, folder)
        stop_at = 0
        assert replayed(name, params, data_file, folder) == expected, f"stopped at step {stop}"
        epochs_kept = (stop - 1) // 6
        assert taken == stop + steps - 6 * epochs_kept, "it goes on from a checkpoint and does not start again"
        assert left_over(workspace) == []


# A training in a process of its own that kills it, with no chance to clean up, at a given moment.
DOOMED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from pipeline.params import Params
from pipeline.tracking import store
from pipeline.tracking.run import Run
from pipeline.training import run as training_run
from pipeline.training.fused_mlp import FusedMLPStep

moment, params, data, folder = sys.argv[1:]
store.start = lambda *args: Run()
step, replace, count = FusedMLPStep.__call__, os.replace, 0

def at(now):
    if now == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def counting(*args):
    global count
    count += 1
    at(f"step {count}")
    return step(*args)

def replacing(source, target):
    at(f"{target.name} written")
    replace(source, target)
    at(f"{target.name} renamed")

FusedMLPStep.__call__ = counting
os.replace = replacing
training_run.CHECKPOINT_SECONDS = 0.0
training_run.train("vae", Params.model_validate_json(params), Path(data), Path(folder), Path(folder))
"""


@pytest.mark.parametrize(
    "moment", ["step 3", "step 11", "1.safetensors written", "1.safetensors renamed", "vae.safetensors renamed"]
)
def test_a_training_killed_by_sigkill_ends_in_the_same_bytes(
    moment: str, params: Params, data_file: Path, workspace: Path
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    command = [sys.executable, "-c", DOOMED, moment, params.model_dump_json(), str(data_file), str(workspace / "out")]
    doomed = subprocess.run(command, cwd=workspace, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=400)
    assert doomed.returncode == -signal.SIGKILL, doomed.stderr
    assert run("vae", params, data_file, workspace / "out") == expected


def test_sigterm_ends_with_143_and_the_next_run_continues(data_file: Path, workspace: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("threads: 2 ", "threads: 1 ").replace("batch_size: 128", "batch_size: 16")
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


def test_a_second_process_of_the_same_training_is_refused_by_name(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Checkpoints] = []

    def busy(*args: object) -> None:
        held.append(args[3])  # type: ignore[arg-type]
        with pytest.raises(BusyError, match=f"process {os.getpid()}") as caught:
            train("ae", params, data_file, workspace / "out", workspace / "out")
        assert caught.value.exit_code == 75
        raise InterruptedError

    monkeypatch.setattr(training_run, "_follow", busy)
    with pytest.raises(InterruptedError):
        train("ae", params, data_file, workspace / "out", workspace / "out")
    assert len(held) == 1
    assert not (workspace / "out").exists()


def test_checkpoints_are_cleared_only_while_no_other_process_holds_them(workspace: Path) -> None:
    ended, other = Checkpoints(workspace, "vae", seed=1), Checkpoints(workspace, "vae", seed=1)
    with ended:
        ended.save({}, {"epoch": 1})
    with other:
        ended.clear()
        assert (other.folder / "0.safetensors").exists()
        with pytest.raises(BusyError), ended:
            pass
    ended.clear()
    assert not ended.folder.exists()
    ended.clear()


def test_the_lock_of_a_cleared_folder_is_not_taken_for_that_of_the_next(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, clearing = Checkpoints(workspace, "vae", seed=1), Checkpoints(workspace, "vae", seed=1)
    flock, cleared = checkpoint.fcntl.flock, False

    def clear_first(*args: object) -> None:
        nonlocal cleared
        if not cleared:
            cleared = True
            clearing.clear()
        flock(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint.fcntl, "flock", clear_first)
    with waiting, pytest.raises(BusyError), clearing:
        pass


def test_trainings_that_differ_have_different_checkpoint_folders(
    params: Params, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(**decides: object) -> Path:
        return Checkpoints(workspace, "vae", **decides).folder

    settings = logged_params(params, "vae")
    base = folder(**settings, data="a", source="b", device="cpu")
    changes = [{"beta": 4.0}, {"seed": 2}, {"data": "x"}, {"source": "x"}, {"device": "cuda"}, {"train.threads": 3}]
    others = [folder(**settings | {"data": "a", "source": "b", "device": "cpu"} | change) for change in changes]
    monkeypatch.setattr(checkpoint.torch, "__version__", "1.0")
    others.append(folder(**settings, data="a", source="b", device="cpu"))
    assert len({base, *others}) == 1 + len(others)


def test_beta_is_a_param_of_the_vae_and_not_of_the_autoencoder(params: Params) -> None:
    changed = params.model_copy(update={"beta": 4.0})
    assert logged_params(params, "ae") == logged_params(changed, "ae")
    assert logged_params(params, "vae") != logged_params(changed, "vae")


def test_a_damaged_checkpoint_is_skipped_for_the_older_one(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    step, taken = FusedMLPStep.__call__, 0

    def stopping(*args: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 3 * 6 + 1:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(FusedMLPStep, "__call__", stopping)
    monkeypatch.setattr(training_run, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train("vae", params, data_file, workspace / "out", workspace / "out")
    (newest,) = workspace.rglob("0.safetensors")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    assert run("vae", params, data_file, workspace / "out") == expected
    said = capsys.readouterr()
    assert "skipping a damaged checkpoint" in said.err
    assert "latent verify" not in said.err, "the checkpoints are not DVC's"
    assert "continuing after epoch 2" in said.out


@pytest.mark.parametrize("name", NAMES)
def test_a_training_in_parts_that_is_stopped_within_an_epoch_continues_there_and_writes_the_same_bytes(
    name: str,
    params: Params,
    data_file: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = replayed(name, params, data_file, workspace / "resident")
    monkeypatch.setattr(batches, "RESIDENT", 0)
    monkeypatch.setattr(batches, "WINDOW", 32 * 64)  # three windows of two batches each an epoch
    monkeypatch.setattr(batches, "BLOCK", 4 * 64)
    whole = replayed(name, params, data_file, workspace / "whole")
    assert expected != whole, "another order"
    step, steps = FusedMLPStep.__call__, []

    def stopping(*args: object) -> object:
        steps.append(None)
        if len(steps) in (4, 18):  # the second step of a window
            raise KeyboardInterrupt
        return step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(FusedMLPStep, "__call__", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(name, params, data_file, workspace / "out", workspace / "out")
    assert replayed(name, params, data_file, workspace / "out") == whole
    assert len(steps) == 4 * 6 + 2 * 2, "a window that is finished is not trained on again"
    said = capsys.readouterr().out
    assert "continuing after epoch 0 and 2 steps" in said
    assert "continuing after epoch 2 and 2 steps" in said


SHAPES = {"weights": (6,), "best_weights": (6,), "exp_avg": (6,), "exp_avg_sq": (6,), "step": (1,), "root.0": (2, 2)}
CHECKPOINT = {
    "epoch": 2,
    "best_epoch": 1,
    "best_loss": 3.5,
    "epochs_waited": 1,
    "rows": [{"epoch": 1}] * 2,
    "elapsed": [1.0, 2.0],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": 5, "rows": [{"epoch": 1}] * 5, "elapsed": [1.0] * 5},
        {"epoch": 0, "rows": [], "elapsed": []},
        {"epoch": "2"},
        {"best_epoch": 3},
        {"best_loss": "low"},
        {"rows": [{"epoch": 1}]},
        {"rows": [{"epoch": "x"}] * 2},
        {"elapsed": [1.0]},
        {"extra": 1},
        {"done": None},
        {"done": {"windows": 0, "steps": 1, "totals": {}, "seconds": 1.0}},
        {"done": {"windows": 1, "steps": 1, "totals": {"loss": "x"}, "seconds": 1.0}},
        {"weights": np.zeros(1, np.float32)},
        {"weights": np.full(6, np.nan, np.float32)},
        {"exp_avg": np.zeros(6)},
        {"root.0": np.zeros((2, 3), np.float32)},
        {"root.1": np.zeros((2, 2), np.float32)},
    ],
    ids=lambda wrong: str({name: np.shape(value) or value for name, value in wrong.items()})[:60],
)
def test_a_crafted_checkpoint_is_skipped(wrong: dict, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    with Checkpoints(workspace, "vae") as saved:
        saved.save(arrays, CHECKPOINT | {"epoch": 1, "rows": [{"epoch": 1}], "elapsed": [1.0], "best_loss": math.inf})
        saved.save(arrays, CHECKPOINT)
        loaded = saved.load(4, SHAPES)
        assert loaded
        assert loaded[1] == CHECKPOINT
        for name, value in wrong.items():
            saved.save(arrays | {name: value}, CHECKPOINT) if isinstance(value, np.ndarray) else None
        if not any(isinstance(value, np.ndarray) for value in wrong.values()):
            saved.save(arrays, CHECKPOINT | wrong)
        capsys.readouterr()
        found = saved.load(4, SHAPES)
    assert found
    assert found[1]["epoch"] == 2
    assert "safetensors: not a checkpoint of this version" in capsys.readouterr().err


def test_the_arrays_of_a_checkpoint_have_the_shapes_that_are_expected(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[dict[str, tuple[int, ...]]] = []
    load = Checkpoints.load
    monkeypatch.setattr(
        Checkpoints, "load", lambda saved, epochs, shapes: (expected.append(dict(shapes)), load(saved, epochs, shapes))[1]
    )
    saved = train("vae", params, data_file, workspace, workspace)
    (file,) = saved.folder.glob("*.safetensors")
    assert [{name: array.shape for name, array in storage.load_arrays(file)[0].items()}] == expected
    assert "covariance.0" in expected[0]


def test_a_training_stopped_while_it_writes_a_checkpoint_keeps_that_epoch(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    sync, calls = os.fsync, 0

    def interrupted(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second checkpoint, after the history of an epoch: each syncs its file, then its folder
            raise KeyboardInterrupt
        sync(file)

    monkeypatch.setattr(training_run, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("vae", params, data_file, workspace / "out", workspace / "out")
    capsys.readouterr()
    assert run("vae", params, data_file, workspace / "out") == expected
    assert "continuing after epoch 2" in capsys.readouterr().out


def test_a_training_that_diverges_writes_its_history_alone_and_keeps_its_checkpoint(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, taken = FusedMLPStep.__call__, 0

    def poisoned(self: FusedMLPStep, x: object, encoder_input: object, noise: object, beta: float) -> object:
        nonlocal taken
        taken += 1
        return step(self, x, encoder_input, noise, float("nan") if taken == 14 else beta)

    monkeypatch.setattr(FusedMLPStep, "__call__", poisoned)
    with pytest.raises(DivergedError, match="epoch 3: the loss") as caught:
        train("vae", params, data_file, workspace / "out", workspace / "out")
    assert caught.value.exit_code == 4
    (history,) = (workspace / "out").iterdir()
    assert [line.partition(",")[0] for line in history.read_text().splitlines()] == ["epoch", "1", "2"]
    (kept,) = workspace.rglob("0.safetensors")
    assert storage.load_arrays(kept)[1]["epoch"] == 2


@pytest.mark.parametrize("seconds", [0.0, math.inf])
def test_the_history_grows_with_the_epochs_and_has_none_of_an_earlier_training(
    seconds: float, params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")["vae_history.csv"].splitlines()
    history, seen = workspace / "out" / "vae_history.csv", list[list[bytes]]()

    def watch(epochs: Iterator[Epoch], *about: object) -> Iterator[Epoch]:
        for epoch in epochs:
            yield epoch
            seen.append(history.read_bytes().splitlines())

    storage.write(history, "epoch,val/loss\n9,1.0\n")
    monkeypatch.setattr(training_run, "HISTORY_SECONDS", seconds)
    train("vae", params, data_file, workspace / "out", workspace / "out", progress=watch)
    assert seen == [expected[: 1 + number] for number in ((1, 2, 3, 4) if seconds == 0 else (1, 1, 1, 4))]


def test_a_training_that_continues_first_takes_back_the_epochs_after_its_checkpoint(
    params: Params, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("vae", params, data_file, workspace / "whole")
    history, begun = workspace / "out" / "vae_history.csv", list[bytes]()

    def stop(epochs: Iterator[Epoch], *about: object) -> Iterator[Epoch]:
        yield next(epochs)
        yield next(epochs)
        raise KeyboardInterrupt

    def watch(epochs: Iterator[Epoch], *about: object) -> Iterator[Epoch]:
        begun.append(history.read_bytes())
        yield from epochs

    out = workspace / "out"
    with pytest.raises(KeyboardInterrupt):
        train("vae", params, data_file, out, out, progress=stop)
    storage.write(history, history.read_text() + "3,1.0\n")  # of an epoch that a SIGKILL took
    train("vae", params, data_file, out, out, progress=watch).clear()
    assert begun[0].splitlines() == expected["vae_history.csv"].splitlines()[:3]
    assert outputs("vae", out) == expected


def test_a_line_of_a_log_tells_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter((100.0, 110.0, 120.0))
    monkeypatch.setattr(training_run, "time", SimpleNamespace(monotonic=lambda: next(now)))
    losses = {"train/loss": 3.0, "val/loss": 4.0}
    epochs = (Epoch(number, losses, 2.0, 100, False, State({}, {})) for number in (3, 4))
    list(training_run.show_progress(epochs, "vae", total=30, done=2))
    assert [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()] == ["04:30 left", "04:20 left"]


def test_the_interval_of_sample_grids_does_not_change_the_training(params: Params) -> None:
    often = params.model_copy(update={"tracking": params.tracking.model_copy(update={"sample_every": 1})})
    assert logged_params(often, "vae") == logged_params(params, "vae")


def test_an_unknown_net_is_refused_in_one_line(params: Params, data_file: Path, workspace: Path) -> None:
    other = params.model_copy(update={"vae": params.vae.model_copy(update={"net": "transformer"})})
    with pytest.raises(ParamsError, match=r"vae\.net: 'transformer' is not allowed; allowed is mlp"):
        train("vae", other, data_file, workspace / "out", workspace / "out")
    assert not (workspace / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_binarized_for_the_bernoulli_likelihood_alone(
    name: str, params: Params, data_file: Path, workspace: Path
) -> None:
    values = params.model_dump()
    values["train"]["binarize"], values["likelihood"] = True, "gaussian"
    message = "train.binarize: black and white pixels go with likelihood bernoulli, not with gaussian"
    with pytest.raises(ParamsError, match=message):
        train(name, Params.model_validate(values), data_file, workspace, workspace)
    values["likelihood"] = "auto"
    assert run(name, Params.model_validate(values), data_file, workspace) != run(name, params, data_file, workspace)


def test_a_damaged_data_file_is_named(params: Params, data_file: Path, workspace: Path) -> None:
    content = bytearray(data_file.read_bytes())
    content[-1] ^= 1
    data_file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"dataset\.safetensors: content does not match") as caught:
        train("ae", params, data_file, workspace / "out", workspace / "out")
    assert caught.value.exit_code == 3
