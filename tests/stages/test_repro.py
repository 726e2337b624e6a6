"""The main job through the real ``dvc``, on the embedded digits, in a copy of the repository."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.storage import md5
from tests.conftest import ROOT

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
BIN = Path(sys.executable).parent


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "PIPELINE_"))}
    kept["DVC_SITE_CACHE_DIR"] = os.environ["DVC_SITE_CACHE_DIR"]
    return kept | {"PATH": f"{BIN}{os.pathsep}{kept['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}


def call(folder: Path, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    # Into files: what waits for a pipe's end would also wait for a queue worker that dvc has left behind.
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        done = subprocess.run(command, cwd=folder, env=environment(), stdout=out, stderr=err, text=True, timeout=400)
        out.seek(0)
        err.seek(0)
        done.stdout, done.stderr = out.read(), err.read()
    assert not ok or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def copy(folder: Path) -> Path:
    """Return a repository with the files git would commit here, small nets and the embedded data set."""
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("metrics/", "notebooks/", "benchmarks/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["data"]["name"] = "digits"
    params["train"]["threads"] = 1
    params["ae"] |= {"hidden_dims": [48], "epochs": 2}  # not the VAE's, or the depth-matched autoencoder were the same model
    params["vae"] |= {"hidden_dims": [64], "epochs": 3}
    params["evaluate"]["profile"] = "fast"
    params["classifier"] |= {"steps": 100, "min_accuracy": 0.5}
    yaml.dump(params, folder / "params.yaml")
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    call(folder, "git", "config", "user.name", "test")
    call(folder, "git", "config", "user.email", "test@localhost")
    commit(folder, "start")
    return folder


def commit(folder: Path, message: str) -> None:
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message", message)


def runs(folder: Path) -> list[Any]:
    """Return the runs of the repository's store, the newest first."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return client.search_runs([e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time DESC"])


def locked(folder: Path, lock: str = "dvc.lock") -> dict[str, str]:
    """Return the md5 of every output in a lock file."""
    stages = YAML(typ="safe").load(folder / lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy(tmp_path_factory.mktemp("project"))
    call(folder, "dvc", "repro")
    commit(folder, "results")
    return folder


def test_one_command_gives_metrics_figures_and_runs_that_agree_by_hash(project: Path) -> None:
    assert json.loads((project / "metrics/data.json").read_text())["name"] == "digits"
    for name in ("ae", "vae"):
        metrics = json.loads((project / f"metrics/{name}.json").read_text())
        assert metrics["dataset"] == "digits"
        rows = list(csv.DictReader((project / f"metrics/{name}_history.csv").read_text().splitlines()))
        (run,) = [run for run in runs(project) if run.data.tags["dvc.stage"] == f"train_{name}"]
        assert run.info.status == "FINISHED"
        assert (
            run.data.tags["model.md5"]
            == locked(project)[f"models/{name}.safetensors"]
            == md5(project / f"models/{name}.safetensors")
        )
        assert run.data.tags["data.md5"] == locked(project)["data/dataset.safetensors"]
        assert run.data.tags["dataset"] == "digits"
        assert run.data.metrics["val/loss"] == pytest.approx(float(rows[-1]["val/loss"]), rel=1e-5)
        assert run.data.metrics["test_recon"] == pytest.approx(metrics["test/recon"], rel=1e-5)
        assert {"test/kl", "test/elbo"} <= metrics.keys() if name == "vae" else "test/kl" not in metrics
    assert (project / "metrics/figures/overview.png").stat().st_size > 10_000


def test_the_logged_model_opens_far_from_the_repository(project: Path, tmp_path: Path) -> None:
    (run,) = [run for run in runs(project) if run.data.tags["dvc.stage"] == "train_vae"]
    code = (
        "import mlflow, numpy, sys\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "out = mlflow.pyfunc.load_model(sys.argv[2]).predict(numpy.zeros((3, 1, 28, 28), numpy.float32))\n"
        "print(out['code'].shape, out['reconstruction'].shape)"
    )
    uri = f"models:/{run.outputs.model_outputs[0].model_id}"
    assert "(3, 2) (3, 1, 28, 28)" in call(tmp_path, "python", "-c", code, f"sqlite:///{project}/mlflow.db", uri).stdout


def test_again_nothing_runs(project: Path) -> None:
    said = call(project, "dvc", "repro").stdout
    assert "Running stage" not in said
    assert "Data and pipelines are up to date" in said
    assert call(project, "git", "status", "--porcelain").stdout == ""


def test_training_and_measuring_do_not_load_torchs_compiler(project: Path, tmp_path: Path) -> None:
    """It takes longer to import than torch itself, and calls that look harmless load it."""
    code = (
        "import sys\n"
        "from stages import evaluate, train\n"
        "train.main(['vae', '--out', sys.argv[1], '--metrics', sys.argv[1]], standalone_mode=False)\n"
        "evaluate.main(['vae'], standalone_mode=False)\n"
        "print({'torch._dynamo', 'sympy'} & sys.modules.keys())"
    )
    store = f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/mlflow.db"
    assert call(project, "env", store, "python", "-c", code, str(tmp_path)).stdout.endswith("set()\n")


def test_the_interval_of_sample_grids_retrains_nothing(project: Path) -> None:
    said = call(project, "dvc", "exp", "run", "-S", "tracking.sample_every=2").stdout
    call(project, "git", "checkout", "--quiet", ".")
    assert "Running stage 'validate'" in said
    assert said.count("Running stage") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [("beta=abc", "beta: 'abc' is not allowed"), ("beta=-4", "beta: -4 is not allowed"), ("+typo=1", "typo: unknown key")],
)
def test_bad_params_stop_an_experiment_before_any_run(change: str, message: str, project: Path) -> None:
    before = len(runs(project))
    done = call(project, "dvc", "exp", "run", "-S", change, ok=False)
    call(project, "git", "checkout", "--quiet", ".")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(runs(project)) == before


def test_another_beta_retrains_the_vae_alone_and_the_former_one_comes_from_the_cache(project: Path) -> None:
    before = len(runs(project))
    said = call(project, "dvc", "exp", "run", "-S", "beta=4", "--name", "beta4").stdout
    assert "Running stage 'train_vae'" in said
    assert "Running stage 'train_ae'" not in said
    assert "Running stage 'download'" not in said
    diff = json.loads(call(project, "dvc", "metrics", "diff", "--json").stdout)
    assert diff["metrics/summary.json"]["vae/kl"]["diff"] < 0
    assert diff.keys() == {"metrics/summary.json"}
    newest, *others = runs(project)
    assert len(others) == before
    assert (newest.data.params["beta"], newest.data.tags["dvc.exp.name"]) == ("4", "beta4")
    assert newest.data.tags["model.md5"] == locked(project)["models/vae.safetensors"]
    assert "test_kl" in newest.data.metrics
    call(project, "git", "checkout", "--quiet", ".")
    said = call(project, "dvc", "repro").stdout
    assert "Running stage 'train_vae'" not in said
    assert call(project, "git", "status", "--porcelain").stdout == ""


def test_two_queued_experiments_with_two_workers_reach_the_one_store(project: Path) -> None:
    before = {run.info.run_id for run in runs(project)}
    call(project, "dvc", "exp", "run", "--queue", "-S", "beta=0.5,2", "evaluate@vae")
    try:
        call(project, "dvc", "exp", "run", "--run-all", "--jobs", "2")
    finally:
        # One that was slow to answer whether it is busy is told to stop while it is, misses the word, and idles for ever.
        for file in (project / ".dvc" / "tmp" / "exps" / "celery").glob("dvc-exp-worker-*.json"):
            worker = json.loads(file.read_text())
            if worker["returncode"] is None:
                with suppress(ProcessLookupError):
                    os.kill(worker["pid"], signal.SIGTERM)
    states = [row["State"] for row in csv.DictReader(call(project, "dvc", "exp", "show", "--csv").stdout.splitlines())]
    assert "Failed" not in states
    new = [run for run in runs(project) if run.info.run_id not in before]
    assert sorted(run.data.params["beta"] for run in new) == ["0.5", "2"]
    assert all(run.info.status == "FINISHED" and "test_elbo" in run.data.metrics for run in new)
    assert all(Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(project) for run in new)


def test_from_scratch_in_another_folder_the_hashes_are_the_same(project: Path, tmp_path: Path) -> None:
    other = copy(tmp_path)
    call(other, "dvc", "repro", "evaluate", "figures")
    again, before = locked(other), locked(project)
    assert {"models/vae.safetensors", "results/ae.safetensors", "metrics/vae.json", "metrics/figures"} <= again.keys()
    assert again == {path: before[path] for path in again}


def test_the_claims_pipeline_adds_comparison_models_and_a_ledger(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "claims"
    shutil.copytree(project, other, symlinks=True)
    said = call(other, "dvc", "repro", "-P").stdout
    assert "Running stage 'train_vae'" not in said
    ledger = json.loads((other / "metrics/claims.json").read_text())
    assert ledger["models"]["vae_1"] == locked(other)["models/vae.safetensors"]
    assert ledger["models"].keys() == {"ae_1", "vae_1", "ae_depth_matched_1", "vae_larger_beta_1"}
    assert {entry["verdict"] for entry in ledger["claims"].values()} <= {"holds", "fails", "inconclusive"}
    assert {run.data.tags["role"] for run in runs(other)} == {"main", "depth-matched", "comparison"}
    assert {"smooth", "smooth/ae_depth_matched", "beta_regularises"} <= ledger["claims"].keys()
    assert "low" in ledger["claims"]["beta_regularises"]
    counts = json.loads((other / "metrics/claims_summary.json").read_text())
    assert counts.keys() == {"claims/held", "claims/failed", "claims/open"}
    assert sum(counts.values()) == len(ledger["claims"])
    metrics = json.loads((other / "metrics/comparison.json").read_text())
    assert {key.split("/")[0] for key in metrics} == {"ae_depth_matched_1", "vae_larger_beta_1"}
    assert (other / "metrics/claims/claims.png").stat().st_size > 10_000
    assert {"models/comparison", "results/comparison"} <= locked(other, "claims/dvc.lock").keys()
    assert "Running stage" not in call(other, "dvc", "repro", "-P").stdout
