"""A store that is deleted comes back from DVC's files as it was, but for what they do not hold; syncing twice adds nothing."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from ruamel.yaml import YAML

from pipeline.cli import main
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.params import Params
from pipeline.storage import md5, save_json
from pipeline.tracking import dvc_files, events
from pipeline.tracking import store as tracking
from pipeline.tracking.database import locked
from pipeline.tracking.dvc_lock import Stage
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.run import Run
from tests.tracking.fake_training import history, settings
from tests.tracking.repository import Repository, git, write
from tests.tracking.test_store import killed

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
VOLATILE_TAGS = {"device", "threads", "torch", "source.sha256", "mlflow.loggedImages", "process", "host", "mlflow.user", "sync"}


def contents() -> dict[str, dict[str, Any]]:
    """Return all that the store holds, by the md5 of the weights and the stage, without what is volatile."""
    client, found = MlflowClient(tracking.store_uri()), {}
    for record, run in tracking.records():
        entity = client.get_run(record.id)
        data = [(i.dataset.name, i.dataset.digest, i.dataset.schema, i.dataset.profile) for i in entity.inputs.dataset_inputs]
        files = {path: md5(run.fetch(path, Path()) or "") for path in run.files()}
        points = {key: run.points(key) for key in record.metrics if key != "samples_per_second"}
        tags = {key: value for key, value in record.tags.items() if key not in VOLATILE_TAGS and "mlflow.source" not in key}
        values = {"name": record.name, "status": record.status, "params": record.params, "tags": tags, "points": points}
        key = record.tags.get("model.md5", record.id) + record.tags.get("dvc.stage", "")
        assert key not in found, "one run for each"
        model = client.get_logged_model(record.model_id) if record.model_id else None
        about = (model.name, str(model.status), model.params, model.tags["input"], model.tags[NOTE]) if model else ()
        shown = {metric.key: metric.value for metric in model.metrics or []} if model else {}
        found[key] = values | {"data": data, "files": files, "numbers": shown}
        found[key] |= {"model": [str(part).replace(str(record.model_id), "ID") for part in about]}
    return found


def champion() -> str:
    found = MlflowClient(tracking.store_uri()).get_model_version_by_alias("latent-spaces-blobs", "champion")
    (name,) = [record.name for record, _ in tracking.records() if record.id == found.run_id]
    return name


def synced() -> str:
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def repository(store: Path, params: Params, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    shutil.copy(store, "template.db")
    return Repository(params, data_file, monkeypatch)


def delete_store() -> None:
    shutil.rmtree("mlartifacts")
    shutil.copy("template.db", "mlflow.db")


def test_deleted_store_comes_back(repository: Repository) -> None:
    repository.train("ae", 1.0)
    repository.train("vae", 1.0)
    repository.evaluate()
    baseline = repository.commit()
    repository.train("vae", 4.0, DVC_EXP_NAME="four", DVC_EXP_BASELINE_REV=baseline)
    repository.save_experiment("four", baseline)
    git("update-ref", "refs/exps/stash", "HEAD@{1}")
    shutil.rmtree("models")  # as in a fresh clone: the weights are in the cache alone
    before = contents()
    assert sorted(run["name"] for run in before.values()) == [
        "ae seed=1 16-8-2",
        "β=1 vae seed=1 16-8-2",
        "β=4 vae seed=1 16-8-2",
    ]
    assert "0 of them new or incomplete" in synced()
    assert contents() == before

    delete_store()
    printed = synced()
    store = tracking.store_uri()
    assert [line for line in printed.splitlines() if line.startswith("sync: ")] == [
        "sync: ae seed=1 16-8-2: rebuilt with 4 tags, 19 params, 1 inputs, 12 points, 4 metrics, 2 files, 1 models",
        "sync: β=1 vae seed=1 16-8-2: rebuilt with 7 tags, 21 params, 1 inputs, 16 points, 8 metrics, 9 files, 1 models",
        "sync: β=4 vae seed=1 16-8-2 (four): rebuilt with 6 tags, 21 params, 1 inputs, 16 points, 5 metrics, 2 files, 1 models",
        f"sync: 3 trainings in DVC's files, 3 of them new or incomplete in {store}",
    ]
    after = contents()
    for record, _ in tracking.records():  # DVC's files have no times but that of the commit or the lock file
        client = MlflowClient(store)
        times = client.get_run(record.id).info
        assert times.end_time == times.start_time
        assert {point.timestamp for point in client.get_metric_history(record.id, "val/loss")} == {times.start_time}
    assert after.keys() == before.keys()
    for key in before:
        for what in before[key]:
            assert after[key][what] == before[key][what], what
    assert {record.tags["sync"] for record, _ in tracking.records()} == {"true"}
    assert champion() == "β=1 vae seed=1 16-8-2"
    evaluated = next(run for run in after.values() if run["name"] == "β=1 vae seed=1 16-8-2")
    made = {
        "evaluation.json",
        "claims.json",
        "figures/overview.png",
        "figures/vae_latent.csv",
        "claims/claims.png",
        "explorer.html",
        "vae_images.parquet",
    }
    assert evaluated["files"].keys() >= made
    assert "0 of them new or incomplete" in synced()
    assert contents() == after


def test_comparison_models_come_back(repository: Repository) -> None:
    narrow = repository.params.vae.model_copy(update={"hidden_dims": [12]})
    repository.params = repository.params.model_copy(update={"vae": narrow})
    repository.compare(seeds=2, beta=4.0)
    baseline = repository.commit()
    environment = {"DVC_EXP_NAME": "half", "DVC_EXP_BASELINE_REV": baseline}
    repository.params = repository.params.model_copy(update={"seed": 3})
    repository.compare(seeds=1, beta=0.5, **environment)
    repository.params = repository.params.model_copy(update={"seed": 1})
    repository.train("vae", 4.0, **environment)
    repository.save_experiment("half", baseline)
    shutil.rmtree("models")
    before = contents()
    assert sorted(f"{run['name']} {run['tags']['dvc.stage']}" for run in before.values()) == [
        "ae seed=1 12-2 train_comparison",
        "ae seed=2 12-2 train_comparison",
        "ae seed=2 16-8-2 train_seeds",
        "ae seed=3 12-2 train_comparison",
        "β=0.5 vae seed=3 12-2 train_comparison",
        "β=1 vae seed=2 12-2 train_seeds",
        "β=4 vae seed=1 12-2 train_comparison",
        "β=4 vae seed=1 12-2 train_vae",
        "β=4 vae seed=2 12-2 train_comparison",
    ]
    assert len({run["tags"]["model.md5"] for run in before.values()}) == 8, "two of which are the same model"
    delete_store()
    assert "9 of them new or incomplete" in synced()
    after = contents()
    assert after.keys() == before.keys()
    for key in before:
        for what in before[key]:
            assert after[key][what] == before[key][what], (before[key]["name"], what)
    roles = {(run["params"]["model.name"], run["tags"]["role"]) for run in after.values()}
    assert roles == {("ae", "depth-matched"), ("vae", "comparison"), ("ae", "seed"), ("vae", "seed"), ("vae", "main")}
    evaluated = [run for run in after.values() if run["tags"]["dvc.stage"] != "train_vae"]
    assert all({"test_elbo", "val/loss"} <= run["points"].keys() and "claims.json" in run["files"] for run in evaluated)
    assert "0 of them new or incomplete" in synced()
    assert contents() == after

    for record, _ in tracking.records():
        if record.params.get("beta") == "4":  # as if made without DVC
            MlflowClient(tracking.store_uri()).delete_tag(record.id, "dvc.stage")
    assert "3 of them new or incomplete" in synced()
    assert "0 of them new or incomplete" in synced(), "the two that are the same model have taken a run each"


def test_comparison_models_come_back_only_from_the_locked_folder(repository: Repository) -> None:
    repository.compare()
    repository.commit()
    before = contents()
    write("models/comparison/ae_depth_matched_1/more", "not of this run")
    delete_store()
    assert "2 of them new or incomplete" in synced(), "what DVC does not know is no part of the folder"
    assert contents() == before

    Path("models/comparison/ae_depth_matched_1/more").unlink()
    shutil.rmtree(".dvc")
    delete_store()
    assert "2 of them new or incomplete" in synced(), "without DVC's cache from the folder, as it is the locked one"
    assert contents() == before
    write("models/comparison/ae_depth_matched_1/more", "not of this run")
    assert "0 trainings" in synced()


@pytest.mark.parametrize("where", ["../elsewhere", "absolute"])
def test_weights_come_from_a_cache_elsewhere(
    repository: Repository, where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("cache")) if where == "absolute" else where.replace("elsewhere", "cache")
    write(".dvc/config", f"[cache]\n    dir = {folder}\n")
    repository.train("vae", 4.0)
    baseline = repository.commit()
    repository.compare(DVC_EXP_NAME="more", DVC_EXP_BASELINE_REV=baseline)
    repository.save_experiment("more", baseline)
    before = contents()
    assert not Path(".dvc/cache").exists()
    shutil.rmtree("models")
    delete_store()
    assert "3 of them new or incomplete" in synced()
    assert contents() == before


def test_weights_come_from_the_remote_when_the_cache_is_empty(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    repository.train("vae", 4.0)
    repository.compare()
    baseline = repository.commit()
    repository.train("vae", 2.0, DVC_EXP_NAME="two", DVC_EXP_BASELINE_REV=baseline)
    repository.save_experiment("two", baseline)
    remote = tmp_path_factory.mktemp("remote")
    write(".dvc/config.local", f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {remote}\n")
    with Repo() as repo:
        repo.push(revs=[baseline, "two"])
    before = contents()
    for folder in (".dvc/cache", ".dvc/tmp", "site", "models"):
        shutil.rmtree(folder, ignore_errors=True)
    delete_store()
    assert "4 of them new or incomplete" in synced()
    assert contents() == before
    assert not Path("models").exists()


def test_comparison_models_that_are_nowhere_are_named(repository: Repository) -> None:
    repository.compare()
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("models/comparison/ae_depth_matched_1")
    assert "0 trainings" in synced()


def test_stages_of_others_are_left_alone(repository: Repository) -> None:
    repository.train("vae", 4.0)
    write("script.sh", "true")
    for name in ("several", "shell", "other"):
        write(f"results/{name}.safetensors", name)
        repository.add(name, "train vae", ["script.sh"], [f"results/{name}.safetensors"], params=["seed"])
    stages = repository.pipelines["dvc.yaml"]
    stages["several"]["cmd"] = ["true", "sh script.sh"]
    stages["shell"]["cmd"] = "sh script.sh"
    repository.lock()
    locked = YAML(typ="safe").load(Path("dvc.lock"))
    locked["stages"]["train_vae"]["deps"].append({"path": "s3://bucket/file", "etag": "1"})
    locked["stages"]["evaluate@other"] = {"cmd": "python -m stages.evaluate other", "outs": [{"path": "x.json"}]}
    YAML().dump(locked, Path("dvc.lock"))
    assert "1 trainings in DVC's files, 0 of them new or incomplete" in synced()


def test_metrics_and_claims_of_an_earlier_version_are_left_out(repository: Repository) -> None:
    repository.train("vae", 4.0)
    repository.evaluate()
    save_json("metrics/vae.json", {"profile": "full", "dataset": "blobs", "holes": {"confidence_0.8": 0.5}})
    save_json("metrics/claims.json", {"holes": {"verdict": "upheld"}})
    for stage, pipeline in (("evaluate@vae", "dvc.yaml"), ("claims", "claims/dvc.yaml")):
        repository.relock(stage, pipeline)
    delete_store()
    assert "rebuilt with" in synced()
    ((record, run),) = tracking.records()
    assert not [key for key in [*record.tags, *record.metrics] if key.startswith(("claims", "hull", "test_"))]
    assert "figures/overview.png" in run.files()


def test_comparison_model_has_the_params_that_tell_it_apart(tmp_path: Path) -> None:
    params = {"seed": 1, "beta": 1.0, "data.val_size": 0.1, "train": {"threads": 2}, "pool.threads": 1, "claims.seeds": 2}
    params |= {"ae": {"epochs": 3}, "vae": {"net": "mlp", "latent_dim": 2, "hidden_dims": [8], "epochs": 5}}
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8))
    save_weights(tmp_path / "vae.safetensors", Trained(config.build(), config, "blobs", 4.0))
    folder = "models/comparison/vae_larger_beta_7"
    outs = {"models/comparison": "0.dir", f"{folder}/vae.safetensors": "1", "models/comparison/other_7/ae.safetensors": "2"}
    group = Stage("train_comparison", "train_comparison", params, {"data/dataset.safetensors": "3"}, outs)
    stage = dvc_files.comparison_model(group, f"{folder}/vae.safetensors", tmp_path / "vae.safetensors")
    assert stage.outs == {"models/comparison": "0.dir", f"{folder}/vae.safetensors": "1"}
    expected = {"model.name": "vae", "seed": 7, "beta": 4.0, "data.val_size": 0.1, "train.threads": 1}
    expected |= {"model.net": "mlp", "model.latent_dim": 2, "model.hidden_dims": [16, 8], "model.epochs": 5}
    assert dvc_files.settings(stage) == expected


def test_run_that_lost_its_server_is_completed_and_not_doubled(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    log_batch, asked = MlflowClient.log_batch, 0

    def dying(self: MlflowClient, *args: Any, **others: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 3:  # params and two of the four epochs
            raise ConnectionError("gone")
        log_batch(self, *args, **others)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", dying)
        repository.train("vae", 4.0)
    (lost,) = contents().values()
    assert list(lost["points"]["val/loss"]) == [1, 2]
    assert lost["status"] == "RUNNING"
    assert "sync: β=4 vae seed=1 16-8-2: added" in synced()
    (completed,) = contents().values()
    assert completed["status"] == "FINISHED"
    delete_store()
    repository.train("vae", 4.0)
    assert list(contents().values()) == [completed]


@pytest.mark.parametrize("other", ["history", "params", "data"])
def test_unfinished_run_with_other_history_params_or_data_is_not_completed(repository: Repository, other: str) -> None:
    repository.train("vae", 4.0)
    delete_store()
    first = history("vae", repository.params)[0] | ({"val/loss": 1.0} if other == "history" else {})
    changed = {"train.batch_size": 17} if other == "params" else {}
    with tracking.start("other", {"data.md5": "0" if other == "data" else md5("data/dataset.safetensors")}) as run:
        run.log_params(settings("vae", repository.params) | changed)
        run.log_epoch(first)
    assert "rebuilt with" in synced()
    assert {record.name for record, _ in tracking.records()} == {"other", "β=4 vae seed=1 16-8-2"}


@pytest.mark.parametrize("logs_params", [False, True])
@pytest.mark.parametrize("lives", [False, True])
def test_run_that_stopped_before_its_first_epoch_is_completed(repository: Repository, logs_params: bool, lives: bool) -> None:
    repository.train("vae", 4.0)
    (expected,) = contents().values()
    delete_store()
    run = tracking.start(expected["name"], {"dvc.stage": "train_vae"})
    if logs_params:
        run.log_params(settings("vae", repository.params) | {"beta": 4.0})
    if not lives:
        killed(run.id)
    assert ("rebuilt with" if lives else "added") in synced()
    found = contents()
    assert len(found) == 1 + lives
    (completed,) = (one for one in found.values() if one["model"])
    assert completed == expected


def test_run_of_a_killed_process_is_ended(repository: Repository) -> None:
    repository.train("ae", 1.0)
    with tracking.start("other", {}) as run:
        pass
    killed(run.id)
    assert "sync: other: ended, because its process was killed" in synced()
    assert {record.status for record, _ in tracking.records()} == {"FINISHED", "KILLED"}
    assert "ended" not in synced()


def test_files_that_are_not_those_of_the_lock_file_are_not_logged(repository: Repository) -> None:
    repository.train("vae", 4.0)
    repository.evaluate()
    delete_store()
    shutil.rmtree(".dvc")
    for path in ("metrics/vae.json", "metrics/figures/overview.png", "models/vae.safetensors"):
        with open(path, "a") as file:
            file.write(" ")
    synced()
    ((record, run),) = tracking.records()
    assert "test_recon" not in record.metrics
    assert "figures/overview.png" not in run.files()
    assert "vae.safetensors" not in run.files()
    assert "vae_history.csv" in run.files()


def test_nothing_to_sync_and_no_store(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.lock()
    assert "0 trainings" in synced()
    repository.train("ae", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == 1
    assert "does not answer" in done.output


def stopped(code: int) -> str:
    """Return what a sync that ends with this code prints on stderr."""
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == code, done.output
    return done.stderr


def refusing(message: str, code: int) -> Callable[..., None]:
    """Return a method of the client whose server answers with an error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException(message, code)

    return refuse


def test_second_sync_at_once_is_refused_in_one_line(repository: Repository) -> None:
    repository.lock()
    with locked(Path(".pipeline/sync.lock")):
        said = f"error: another `latent sync` runs as process {os.getpid()}; run it again when that one has ended\n"
        assert stopped(75) == said
    assert "0 of them new or incomplete" in synced()


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_killed_sync_is_continued_in_its_own_run(repository: Repository, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.train("vae", 4.0)
    before = contents()
    delete_store()
    log_batch, asked = MlflowClient.log_batch, 0

    def killed(self: MlflowClient, *args: Any, **others: Any) -> None:
        nonlocal asked
        if (asked := asked + 1) > calls:
            raise KeyboardInterrupt
        log_batch(self, *args, **others)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", killed)
        CliRunner().invoke(main, ["sync"])
    ((half, _),) = tracking.records()
    assert half.status != "FINISHED"
    assert "1 of them new or incomplete" in synced()
    assert contents() == before
    assert {record.tags["sync"] for record, _ in tracking.records()} == {"true"}


def test_complete_runs_are_not_written(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.train("vae", 4.0)
    repository.evaluate()
    synced()
    for name in ("create_run", "log_batch", "log_inputs", "set_terminated", "update_run", "log_artifact"):
        monkeypatch.setattr(MlflowClient, name, refusing("Permission denied", PERMISSION_DENIED))
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", refusing("Permission denied", PERMISSION_DENIED))
    assert "0 of them new or incomplete" in synced()


def test_runs_that_the_user_may_not_write_are_named_and_the_others_completed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.train("ae", 1.0)
    repository.train("vae", 4.0)
    (of_ae,) = [record.id for record, _ in tracking.records() if record.params["model.name"] == "ae"]
    for record, _ in tracking.records():
        MlflowClient(tracking.store_uri()).delete_tag(record.id, "data.md5")
    log_batch = MlflowClient.log_batch

    def denied(self: MlflowClient, run_id: str, *args: Any, **others: Any) -> None:
        if run_id == of_ae:
            refusing("Permission denied", PERMISSION_DENIED)()
        log_batch(self, run_id, *args, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", denied)
    said = stopped(77)
    assert "sync: ae seed=1 16-8-2 is not complete: " in said
    assert "does not let this user do it (Permission denied)" in said
    assert said.endswith("error: 1 of 2 runs could not be completed, see above\n")
    assert "MLflow failed" not in said
    assert {"data.md5" in record.tags for record, _ in tracking.records() if record.id != of_ae} == {True}


@pytest.mark.parametrize(
    ("method", "message", "error", "code", "said"),
    [
        ("create_run", "Permission denied", PERMISSION_DENIED, 77, "does not let this user do it (Permission denied)"),
        ("log_inputs", "Invalid name", INVALID_PARAMETER_VALUE, 3, "MLflow refuses it (Invalid name)"),
        ("log_inputs", "database or disk is full", INTERNAL_ERROR, 74, "mlflow.db: database or disk is full; make room"),
        ("log_inputs", "disk I/O error", INTERNAL_ERROR, 74, "mlflow.db: disk I/O error; make room"),
        ("log_inputs", "attempt to write a readonly database", INTERNAL_ERROR, 74, "mlflow.db: attempt to write"),
        ("log_inputs", "gone", INTERNAL_ERROR, 1, "does not answer (gone)"),
    ],
)
def test_error_of_mlflow_is_told_apart(
    repository: Repository, method: str, message: str, error: int, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "log_model", lambda *_: None)
    repository.train("ae", 1.0)
    delete_store()
    monkeypatch.setattr(MlflowClient, method, refusing(message, error))
    assert said in stopped(code)


def test_artifact_without_space_is_one_line(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.train("ae", 1.0)
    delete_store()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "mlartifacts/history.csv")

    monkeypatch.setattr(MlflowClient, "log_artifact", full)
    assert "error: mlartifacts/history.csv: No space left on device; make room" in stopped(74)


def test_deleted_run_stays_deleted_unless_asked_and_remains_champion(repository: Repository) -> None:
    repository.train("vae", 1.0)
    repository.evaluate()
    repository.train("ae", 1.0)
    before, client = contents(), MlflowClient(tracking.store_uri())
    version = client.get_model_version_by_alias("latent-spaces-blobs", "champion")
    client.delete_run(version.run_id)
    done = CliRunner().invoke(main, ["sync"])
    assert "2 trainings in DVC's files, 0 of them new or incomplete" in done.stdout
    left = "sync: deleted in MLflow and left so: β=1 vae seed=1 16-8-2; `latent sync --deleted` brings them back\n"
    assert done.stderr == left
    assert [record.params["model.name"] for record, _ in tracking.records()] == ["ae"]
    with tracking.start("worse", {"dataset": "blobs"}) as worse:
        worse.log_model(Path("models/vae.safetensors"), "vae", (1, 8, 8), 2)
        events.log_evaluation(worse, {"dataset": "blobs", "profile": "full", "test/elbo": -99.0}, [])
    assert client.get_model_version_by_alias("latent-spaces-blobs", "champion").version == version.version
    client.delete_run(worse.id)
    assert CliRunner().invoke(main, ["sync", "--deleted"]).exit_code == 0
    assert contents() == before


@pytest.mark.parametrize("deleted", ["ae", "vae"])
def test_a_deleted_run_does_not_keep_others_from_being_completed(
    repository: Repository, deleted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "log_model", lambda *_: None)
    repository.train("ae", 1.0)
    repository.train("vae", 1.0)
    client = MlflowClient(tracking.store_uri())
    for record, _ in tracking.records():
        if record.params["model.name"] == deleted:
            client.delete_run(record.id)
        else:
            client.delete_tag(record.id, "data.md5")
    assert "1 of them new or incomplete" in synced()
    ((other, _),) = tracking.records()
    assert "data.md5" in other.tags


def test_images_of_an_earlier_version_have_one_channel(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "log_model", lambda *_: None)
    repository.train("vae", 1.0)
    write(ABOUT, '{"name": "blobs", "height": 8, "width": 8, "train/images": 120}')
    repository.relock("download")
    delete_store()
    assert "rebuilt with" in synced()
    ((record, _),) = tracking.records()
    assert record.data_shape == (120, 1, 8, 8)


def test_run_of_a_renamed_stage_is_kept(repository: Repository) -> None:
    repository.train("vae", 4.0)
    stages = repository.pipelines["dvc.yaml"]
    stages["train_mine"] = stages.pop("train_vae")
    write("dvc.lock", Path("dvc.lock").read_text().replace("train_vae", "train_mine"))
    repository.relock("train_mine")
    assert "1 trainings in DVC's files, 0 of them new or incomplete" in synced()
    assert len(tracking.records()) == 1


HISTORY, SUMMARY, ABOUT = "metrics/vae_history.csv", "metrics/vae_train.json", "metrics/data.json"


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        (HISTORY, "epoch,val/loss\n1,x\n", f"sync: {HISTORY} is left out: not the history of a training"),
        (HISTORY, "epoch,val/loss\n1\n", f"sync: {HISTORY} is left out: not the history of a training"),
        (HISTORY, "val/loss\n1\n", f"sync: {HISTORY} is left out: not the history of a training"),
        (HISTORY, "epoch,val/loss\n1e300,1\n", f"sync: {HISTORY} is left out: not the history of a training"),
        (SUMMARY, "[" * 9000, f"sync: {SUMMARY} is left out"),
        (SUMMARY, f'{{"epochs": 1{"0" * 400}}}', "sync: β=4 vae seed=1 16-8-2 is not complete"),
        (ABOUT, '{"name": "blobs", "height": "8", "width": 8, "train/images": 1}', ""),
        (ABOUT, '{"name": "blobs", "height": 1000000000, "width": 1000000000, "train/images": 1}', ""),
        (ABOUT, '{"name": 1}', ""),
    ],
)
def test_strange_content_of_locked_files_is_named(
    repository: Repository, path: str, content: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "log_model", lambda *_: None)  # which takes seconds
    repository.train("vae", 4.0)
    write(path, content)
    repository.relock("download" if path == ABOUT else "train_vae")
    delete_store()
    done = CliRunner().invoke(main, ["sync"])
    assert done.exit_code == (3 if "complete" in said else 0), done.output
    assert said in done.stderr
    assert len(tracking.records()) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("seed", "x"), ("seed", 10**400), ("vae", {"latent_dim": 2}), ("vae", 1), ("beta", "x"), ("beta", [1])]
)
def test_stage_with_strange_params_is_named_and_left_out(
    repository: Repository, key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "log_model", lambda *_: None)
    repository.train("vae", 4.0)
    locked = YAML(typ="safe").load(Path("dvc.lock"))
    locked["stages"]["train_vae"]["params"]["params.yaml"][key] = value
    YAML().dump(locked, Path("dvc.lock"))
    printed = synced()
    assert "sync: the stage train_vae is left out: its params have " in printed
    assert "sync: 0 trainings" in printed


def test_a_param_that_a_finished_run_lacks_is_named(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "log_model", lambda *_: None)
    repository.train("vae", 4.0)
    synced()
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text().replace("warmup_epochs", "wa2mup_epochs"))  # a flipped bit, which leaves valid YAML
    done = CliRunner().invoke(main, ["sync"])
    said = "sync: β=4 vae seed=1 16-8-2: the finished run lacked model.wa2mup_epochs, which dvc.lock has; `git diff"
    assert (done.exit_code, said in done.stderr) == (0, True), done.output
    assert CliRunner().invoke(main, ["sync"]).stderr == ""
