"""A search has the same trials whatever stops it, and trains no values twice."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.errors import BusyError, ParamsError, PipelineError, PrunedError
from pipeline.params import Params
from pipeline.storage import load_json, md5, save_csv
from pipeline.sweeps import search as module
from pipeline.sweeps.grid import maker
from pipeline.sweeps.pool import Resources
from pipeline.sweeps.search import METRICS, check_metric, fingerprint_of, search
from pipeline.sweeps.space import Space
from pipeline.sweeps.study import PRUNED, Settings, Study
from pipeline.sweeps.sweep import command
from pipeline.sweeps.trial import curve_of, pruning, run
from pipeline.tracking import store as tracking
from pipeline.training import run as training_run
from pipeline.training.trainer import Epoch, State
from tests.conftest import ROOT
from tests.sweeps.test_sweep import Here, here

__all__ = ["here"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
pytest.importorskip("optuna", reason="the extra search is not installed; `make search` installs it")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """To hash the source is most of the time of so small a training."""
    monkeypatch.setattr(training_run, "source_sha256", lambda: "source")


@pytest.fixture
def prepared(params: Params, here: Here) -> None:
    """A workspace with params.yaml and the prepared data set."""
    with open("params.yaml", "w") as file:
        YAML().dump(params.model_dump(), file)


@pytest.mark.usefixtures("prepared")
def test_a_search_that_is_killed_anywhere_goes_on_with_the_trials_of_one_that_is_not() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.sweeps.search_tasks"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for file in ("study.jsonl", "search.csv", "search.png"):
        assert Path("killed", file).read_bytes() == Path("whole", file).read_bytes()
    study = Study.load(Path("whole/study.jsonl"))
    assert study
    assert [trial.number for trial in study.of(PRUNED)] == [6, 9, 11]
    assert len(list(Path("whole/trials").glob("*/vae.safetensors"))) == 9, "a pruned trial leaves no model"
    said = {number: Path(f"killed/trials/{number}/log.txt").read_text() for number in range(12)}
    assert {number: text.count("continuing after epoch") for number, text in said.items() if "continuing" in text} == {4: 1, 9: 1}
    assert "pruned after epoch 2: the lowest val/loss is" in said[9]
    assert not list(Path(".pipeline").rglob("*.safetensors")), "nor checkpoints"


def searched(params: Params, space: Space, total: int, backend: str = "here", address: str | None = None, **options: Any) -> Any:
    """Return the study of a search in this process, and what was found with several seeds."""
    make = maker(params, "vae", 1, 0)
    settings = Settings("vae", "val/recon", space, False, 1, 2, 1, 0, fingerprint_of(make, space), "any")
    study = Study.load(Path("out/study.jsonl")) or Study(Path("out/study.jsonl"), settings)
    return study, search(study, total, make, backend, Resources(1, 0, address, Path("out")), **options)


@pytest.mark.usefixtures("store")
def test_each_trial_is_a_run_below_that_of_its_search_and_values_are_trained_once(params: Params, here: Here) -> None:
    study, _ = searched(params, {"beta": [0.5, 4.0]}, 7)
    assert [trial.number for trial in study.trials] == [*range(7)]
    assert len(here.done) == 2, "of seven trials"
    first = {trial.params["beta"]: trial for trial in reversed(study.trials)}
    assert all(replace(first[trial.params["beta"]], number=trial.number) == trial for trial in study.trials)
    best = study.best()[0]
    trained = load_json(f"out/trials/{best.number}/vae_train.json")
    assert (best.value, best.epoch) == (trained["best/val/recon"], trained["best/epoch"])
    assert best.curve[best.epoch - 1] == best.value
    assert best.md5 == md5(Path(f"out/trials/{best.number}/vae.safetensors"))

    assert searched(params, {"beta": [0.5, 4.0]}, 7)[0].trials == study.trials
    records = [record for record, _ in tracking.records()]
    (parent,) = [record for record in records if record.tags["role"] == "grid"]
    below = [record for record in records if record.tags.get("mlflow.parentRunId") == parent.id]
    assert sorted(record.params["beta"] for record in below) == ["0.5", "4"]
    assert {record.status for record in records} == {"FINISHED"}
    assert (parent.name, parent.params) == ("search beta", {"metric": "val/recon", "beta": "[0.5,4.0]"})
    listed = MlflowClient(tracking.store_uri()).list_artifacts(parent.id)
    assert [entry.path for entry in listed] == ["search.csv", "search.png"]
    assert parent.metrics == {"best_val_recon": pytest.approx(best.value)}


@pytest.mark.usefixtures("untracked")
def test_a_trial_whose_values_fail_is_told_and_the_search_goes_on(
    params: Params, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    study, _ = searched(params, {"train.learning_rate": [1e9, 1e-2]}, 4)
    states = {trial.params["train.learning_rate"]: trial.state for trial in study.trials}
    assert states == {1e9: "failed", 1e-2: "complete"}
    said = capsys.readouterr()
    assert said.err.startswith("failed: epoch 1: the loss or a gradient is not finite")
    assert "4 of 4 trials have ended" in said.out
    Path("out/study.jsonl").unlink()
    with pytest.raises(PipelineError, match="no trial is complete; the first one epoch 1: the loss or a gradient"):
        searched(params, {"train.learning_rate": [1e9]}, 1)


@pytest.mark.usefixtures("untracked")
def test_a_trial_that_may_succeed_later_ends_the_search(params: Params, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(tasks: Mapping[str, Any], resources: Resources) -> Iterator[tuple[str, Any]]:
        yield next(iter(tasks)), BusyError("trial 0: the same training already runs")

    with monkeypatch.context() as patch:
        patch.setitem(module.BACKENDS, "here", busy)
        with pytest.raises(BusyError, match="trial 0: the same"):
            searched(params, {"beta": [1.0, 2.0]}, 2)
    assert not Path("out/study.jsonl").exists()
    assert len(searched(params, {"beta": [1.0, 2.0]}, 2)[0].trials) == 2


@pytest.mark.usefixtures("untracked")
def test_the_best_settings_are_trained_with_several_seeds_and_what_was_trained_is_not_again(params: Params, here: Here) -> None:
    space = {"beta": {"low": 0.5, "high": 4.0, "log": False, "step": None}}
    study, (groups, errors) = searched(params, space, 3, seeds=[1, 2], best=2)
    assert not errors
    labels = [f"trial {trial.number}, seed=2" for trial in study.best()[:2]]
    assert sorted(here.done) == sorted([*(f"trial {number}" for number in range(3)), *labels]), "seed 1 is that of params.yaml"
    assert {group.values["beta"] for group in groups} == {trial.params["beta"] for trial in study.best()[:2]}
    own = study.best()[0]
    (group,) = [group for group in groups if group.values == own.params]
    other = load_json(Path(group.trials[1].folder, "vae_train.json"))["best/val/recon"]
    assert group.losses == [own.value, other]
    assert group.row()["val/recon"] == pytest.approx((own.value + other) / 2)
    assert [trial.values["seed"] for trial in group.trials] == [1, 2]
    assert command(group.trials[0], params) == f"dvc exp run -S beta={own.params['beta']} -S seed=1"


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize("model", METRICS)
def test_the_metrics_are_columns_of_the_history(model: str, params: Params, here: Here) -> None:
    trial = maker(params, model, 1, 0)({}, Path("one"))
    run(trial, lambda said: None)
    for metric in METRICS[model]:
        assert len(curve_of(trial, metric)) == 4
        check_metric(model, metric)
    with pytest.raises(ParamsError, match=r"--metric val/elbo: allowed are val/loss, val/recon.*; val/loss is minus the ELBO"):
        check_metric(model, "val/elbo")


def epoch(number: int, loss: float) -> Epoch:
    return Epoch(number, {"val/loss": loss}, 0.0, 0, False, State({}, {}))


def test_a_continued_trial_is_pruned_at_the_epoch_of_one_that_was_not_stopped(params: Params, here: Here) -> None:
    trial = maker(params, "vae", 1, 0)({"vae.warmup_epochs": 0}, Path("one"))
    losses, limits = [9.0000001, 5.0, 6.0, 4.0], [9.0, 8.0, 4.5, 5.0]
    for done in range(4):
        save_csv(
            trial.folder / "vae_history.csv",
            [{"epoch": n, "val/loss": loss} for n, loss in enumerate(losses[:done], 1)] or [{"epoch": 0}],
        )
        seen = []
        with pytest.raises(PrunedError) as caught:
            seen += pruning((epoch(n, loss) for n, loss in enumerate(losses, 1) if n > done), trial, "val/loss", limits, done)
        assert caught.value.epoch == 3
    assert list(pruning(iter([]), trial, "val/loss", limits[:2], 3)) == []


@pytest.mark.usefixtures("prepared", "untracked")
def test_the_command_searches_reports_and_names_the_winner(params: Params, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*options: str) -> Result:
        return CliRunner().invoke(main, ["search", "--space", "space.yaml", "--out", "out", *options])

    monkeypatch.setitem(module.BACKENDS, "local", here)
    Path("space.yaml").write_text("beta: {low: 1, high: 4}")
    refused = {
        "error: --metric val/elbo: allowed are val/loss, val/recon, val/kl; val/loss is minus the ELBO\n": call(
            "--metric", "val/elbo"
        ),
        "error: --report: no complete trial in out; a search with --space makes trials\n": call("--report"),
    }
    assert all((result.exit_code, result.stderr) == (2, said) for said, result in refused.items())
    assert not Path("out").exists()

    found = call("--trials", "6", "--at-once", "2", "--save", "best.sh")
    assert found.exit_code == 0, found.output
    study = Study.load(Path("out/study.jsonl"))
    assert study
    best, last = study.best()[0], found.stdout.splitlines()[-1]
    assert last == f"  dvc exp run -S beta={best.params['beta']}"
    assert Path("best.sh").read_text() == last.strip() + "\n"
    rows = [line.split() for line in found.stdout.splitlines() if len(line.split()) == 4 and "." in line]
    assert rows == [[str(t.number), str(t.params["beta"]), f"{t.value:.3f}", str(t.epoch)] for t in study.best()]
    assert "\n6 trials: 6 complete\nimportance, the share of the variance of val/loss: beta 100%\n" in found.stdout

    png = Path("out/search.png").read_bytes()
    Path("out/search.png").unlink()
    shown = call("--report")
    assert shown.stdout == found.stdout[found.stdout.index("\n  trial ") - shown.stdout.index("\n  trial ") :]
    assert Path("out/search.png").read_bytes() == png
    assert len(here.done) == 6
    other = call("--trials", "6", "--at-once", "3")
    assert (other.exit_code, other.stderr) == (
        2,
        "error: out/study.jsonl: its search has another --at-once; give this one another folder by --out\n",
    )
    assert call("--trials", "6").stdout.startswith("search: 6 of 6 trials have ended already\n"), "--at-once is that of the study"
    changed = params.model_dump() | {"seed": 5}
    with open("params.yaml", "w") as file:
        YAML().dump(changed, file)
    assert call("--report").stderr.startswith("note: params.yaml, data or code are no longer those of the search")


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize("backend", ["local", "slurm", pytest.param("ray", marks=pytest.mark.torture)])
def test_a_search_finds_the_same_on_each_backend(
    backend: str, params: Params, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package := {"slurm": "submitit", "ray": "ray"}.get(backend):
        pytest.importorskip(package, reason=f"the extra {backend} is not installed; `make {backend}` installs it")
    space = {"train.learning_rate": [1e9, 1e-2]}
    searched(params, space, 4)
    found = Path("out/study.jsonl").rename("here.jsonl").read_bytes()
    shutil.rmtree("out")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the processes have a store that is down
    searched(params, space, 4, backend=backend, address="local" if backend == "slurm" else None)
    assert Path("out/study.jsonl").read_bytes() == found
