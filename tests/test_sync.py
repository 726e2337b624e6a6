"""A store that is deleted comes back from DVC's files as it was, but for what they do not hold; syncing twice adds nothing."""

import hashlib
import json
import shutil
import subprocess
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT
from mlflow import MlflowClient
from ruamel.yaml import YAML

from pipeline import runs, sync, tracking
from pipeline.data import load_dataset
from pipeline.experiment import reads, train
from pipeline.files import md5
from pipeline.history import flatten, save_json
from pipeline.laboratory import Laboratory
from pipeline.params import Params
from stages import evaluate_variants, train_variants

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
VOLATILE_TAGS = {"device", "threads", "torch", "source.sha256", "mlflow.loggedImages", "sync"}
NUMBERS = {"dataset": "blobs", "model": "vae", "profile": "full", "test": {"recon": 30.1, "kl": 2.0, "elbo": -32.1}}


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def folder_md5(folder: Path) -> str:
    """Return the md5 that DVC gives a folder."""
    return hashlib.md5(listing(folder)).hexdigest() + ".dir"


def listing(folder: Path) -> bytes:
    """Return what DVC's cache has of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return json.dumps([{"md5": md5(path), "relpath": str(path.relative_to(folder))} for path in files], sort_keys=True).encode()


def entry(command: str, deps: list[str], outs: list[str], params: dict[str, Any] | None = None) -> dict[str, Any]:
    def items(paths: list[str]) -> list[dict[str, str]]:
        return [{"path": path, "md5": folder_md5(Path(path)) if Path(path).is_dir() else md5(path)} for path in paths]

    stage = {"cmd": f"python -m stages.{command}", "deps": items(deps), "outs": items(outs)}
    return stage | ({"params": {"params.yaml": params}} if params else {})


def locked(stage: str, params: Params) -> dict[str, Any]:
    """Return the params that dvc.lock has for a stage."""
    keys = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]["params"]
    return {key: reduce(getitem, key.split("."), params.model_dump()) for key in keys}


class Repository:
    """A git repository with what DVC would have left in it, made by the pipeline's own functions."""

    def __init__(self, params: Params, data_file: Path) -> None:
        self.params = params
        git("init", "-q")
        Path("data").mkdir()
        shutil.move(data_file, "data/dataset.safetensors")
        train_split = load_dataset("data/dataset.safetensors").train
        height, width = train_split.image_shape
        about = {"name": "blobs", "height": height, "width": width, "train": {"images": len(train_split)}}
        Path("metrics").mkdir()
        Path("metrics/data.json").write_text(json.dumps(about))
        Path(".gitignore").write_text(
            "/.dvc/\n/data/\n/models/\n/results/\nmlflow.db\n/mlartifacts/\n/.pipeline/\n/template.db\n"
        )
        self.stages = {"download": entry("download", [], ["data/dataset.safetensors", "metrics/data.json"])}

    def train(self, name: str, beta: float, monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
        monkeypatch.setenv("DVC_STAGE", f"train_{name}")
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        params = self.params.model_copy(update={"beta": beta})
        data = Path("data/dataset.safetensors")
        train(name, params, data, Path("models"), Path("metrics")).clear()
        for key in ("DVC_STAGE", *environment):
            monkeypatch.delenv(key)
        values = params.model_dump()
        locked = {"seed": 1, "data.val_size": params.data.val_size, "train": values["train"], name: values[name]}
        locked |= {"beta": int(beta)} if name == "vae" else {}  # DVC keeps the 4 that was typed where Params has 4.0
        made = [f"models/{name}.safetensors", f"metrics/{name}_history.csv", f"metrics/{name}_train.json"]
        self.stages[f"train_{name}"] = entry(f"train {name}", [str(data)], made, locked)
        self._lock()

    def measure(self) -> None:
        """Leave what evaluate, figures, laboratory, claims and explore leave for the VAE, and log it as they do."""
        for path in ("results/vae.safetensors", "results/vae_images.parquet", "metrics/vae_latent.csv", "results/all.html"):
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_text(path)
        for folder in ("figures", "laboratory"):
            Path(f"metrics/{folder}").mkdir(exist_ok=True)
            Path(f"metrics/{folder}/{folder}.png").write_text(folder)
        save_json("metrics/vae.json", NUMBERS)
        save_json("metrics/claims.json", {"holes": {"verdict": "upheld"}})
        found = tracking.find(md5("models/vae.safetensors"))
        runs.evaluated(found, "full", flatten(NUMBERS), "blobs", [Path("results/vae_images.parquet")])
        runs.drawn(found, "figures", [Path("metrics/figures/figures.png"), Path("metrics/vae_latent.csv")])
        runs.drawn(found, "laboratory", [Path("metrics/laboratory/laboratory.png")])
        runs.judged(found, {"holes": {"verdict": "upheld"}})
        found.log_file("results/all.html")
        results = ["results/vae.safetensors"]
        made = ["metrics/vae.json", *results, "results/vae_images.parquet"]
        self.stages |= {
            "evaluate@vae": entry("evaluate vae", ["models/vae.safetensors"], made),
            "figures": entry("figures", results, ["metrics/figures", "metrics/vae_latent.csv"]),
            "laboratory": entry("laboratory x", results, ["metrics/laboratory"]),
            "claims": entry("claims x", results, ["metrics/claims.json"]),
            "explore": entry("explore", results, ["results/all.html"]),
        }
        self._lock()

    def vary(self, monkeypatch: pytest.MonkeyPatch, *groups: str, **evaluate: float) -> None:
        """Train the variants of these groups and measure all, as the stages do."""
        params = self.params.model_copy(update={"evaluate": self.params.evaluate.model_copy(update=evaluate)})
        YAML().dump(params.model_dump(), Path("params.yaml"))
        data = "data/dataset.safetensors"
        for group in groups:
            monkeypatch.setenv("DVC_STAGE", f"train_{group}")
            train_variants.main([group], standalone_mode=False)
            command, values = f"train_variants {group}", locked(f"train_{group}", params)
            self.stages[f"train_{group}"] = entry(command, [data], [f"models/variants/{group}"], values)
        monkeypatch.delenv("DVC_STAGE")

        def examine(name: str, weights: Path, params: Params, *args: Any) -> SimpleNamespace:
            numbers = {"dataset": "blobs", "model": name, "profile": "full", "test": {"elbo": -50.0 - params.seed}}
            return SimpleNamespace(numbers=numbers, laboratory=Laboratory("blobs", name, None, 1, [], md5(weights), {}))

        monkeypatch.setattr(evaluate_variants, "examine", examine)
        evaluate_variants.main([], standalone_mode=False)
        for file in Path("models/variants").rglob("*.safetensors"):
            runs.judged(tracking.find(md5(file)), {"smooth": {"verdict": "fails"}})
        save_json("metrics/claims.json", {"smooth": {"verdict": "fails"}})
        folders = [f"models/variants/{group}" for group in ("matched", "contrast", "seeds")]
        made = ["laboratory/variants", "metrics/variants.json"]
        self.stages["evaluate_variants"] = entry("evaluate_variants", [path for path in folders if Path(path).exists()], made)
        self.stages["claims"] = entry("claims x", ["laboratory/variants"], ["metrics/claims.json"])
        self._lock()

    def keep(self) -> str:
        """Commit all that git has, and return the commit."""
        git("add", "-A")
        git("commit", "-qm", "results")
        return git("rev-parse", "HEAD")

    def keep_experiment(self, name: str, baseline: str) -> None:
        """Keep what there is as DVC keeps an experiment, and go back."""
        git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", self.keep())
        git("reset", "-q", "--hard", baseline)

    def lock_anew(self) -> None:
        """Lock all files as they are now."""
        for stage in self.stages.values():
            for item in [*stage["deps"], *stage["outs"]]:
                path = Path(item["path"])
                item["md5"] = folder_md5(path) if path.is_dir() else md5(path)
        self._lock()

    def _lock(self) -> None:
        with open("dvc.lock", "w") as file:
            YAML().dump({"schema": "2.0", "stages": self.stages}, file)

        # DVC's cache keeps what git does not have.
        for stage in self.stages.values():
            for out in stage["outs"]:
                path, objects = Path(out["path"]), {}
                if path.is_file():
                    objects = {out["md5"]: path.read_bytes()}
                elif path.parts[0] != "metrics":
                    objects = {md5(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}
                    objects[folder_md5(path)] = listing(path)
                for hashed, content in objects.items():
                    cached = Path(".dvc/cache/files/md5", hashed[:2], hashed[2:])
                    cached.parent.mkdir(parents=True, exist_ok=True)
                    cached.write_bytes(content)


def holdings() -> dict[str, dict[str, Any]]:
    """Return all that the store holds, by the md5 of the weights and the stage, without what is volatile."""
    client, found = MlflowClient(tracking.store_uri()), {}
    for record, run in tracking.records():
        entity = client.get_run(record.id)
        data = [(i.dataset.name, i.dataset.digest, i.dataset.schema, i.dataset.profile) for i in entity.inputs.dataset_inputs]
        files = {path: md5(run.fetch(path, Path()) or "") for path in run.files()}
        points = {key: run.points(key) for key in record.metrics if key != "samples_per_second"}
        tags = {key: value for key, value in record.tags.items() if key not in VOLATILE_TAGS}
        values = {"name": record.name, "status": record.status, "params": record.params, "tags": tags, "points": points}
        key = record.tags.get("model.md5", record.id) + record.tags.get("dvc.stage", "")
        assert key not in found, "one run for each"
        found[key] = values | {"data": data, "files": files, "model": bool(record.model_id)}
    return found


def champion() -> str:
    found = MlflowClient(tracking.store_uri()).get_model_version_by_alias("latent-spaces-blobs", "champion")
    (name,) = [record.name for record, _ in tracking.records() if record.id == found.run_id]
    return name


def synced() -> str:
    said = CliRunner().invoke(sync.main)
    assert said.exit_code == 0, said.output
    return said.output


@pytest.fixture
def repository(store: Path, params: Params, data_file: Path) -> Repository:
    shutil.copy(store, "template.db")
    return Repository(params, data_file)


def lose_the_store() -> None:
    shutil.rmtree("mlartifacts")
    shutil.copy("template.db", "mlflow.db")


def test_a_deleted_store_comes_back(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.train("ae", 1.0, monkeypatch)
    repository.train("vae", 1.0, monkeypatch)
    repository.measure()
    baseline = repository.keep()
    repository.train("vae", 4.0, monkeypatch, DVC_EXP_NAME="four", DVC_EXP_BASELINE_REV=baseline)
    repository.keep_experiment("four", baseline)
    git("update-ref", "refs/exps/stash", "HEAD@{1}")
    shutil.rmtree("models")  # of a fresh clone: the weights are in the cache alone
    before = holdings()
    assert sorted(run["name"] for run in before.values()) == [
        "ae 16-8-2 seed=1",
        "vae 16-8-2 beta=1 seed=1",
        "vae 16-8-2 beta=4 seed=1",
    ]
    assert "0 of them new or incomplete" in synced()
    assert holdings() == before

    lose_the_store()
    said = synced()
    assert "vae 16-8-2 beta=4 seed=1 (four): rebuilt with" in said
    assert "3 of them new or incomplete" in said
    after = holdings()
    assert after.keys() == before.keys()
    for key in before:
        for what in before[key]:
            assert after[key][what] == before[key][what], what
    assert {record.tags["sync"] for record, _ in tracking.records()} == {"true"}
    assert champion() == "vae 16-8-2 beta=1 seed=1"
    measured = next(run for run in after.values() if run["name"] == "vae 16-8-2 beta=1 seed=1")
    assert measured["files"].keys() >= {"figures/figures.png", "figures/vae_latent.csv", "laboratory/laboratory.png", "all.html"}
    assert "0 of them new or incomplete" in synced()
    assert holdings() == after


def test_the_variants_come_back(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = repository.params.vae.model_copy(update={"hidden_dims": [12]})
    repository.params = repository.params.model_copy(update={"vae": narrow})
    repository.vary(monkeypatch, "matched", "contrast", "seeds", seeds=2, contrast_beta=4.0)
    baseline = repository.keep()
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "half")
        patch.setenv("DVC_EXP_BASELINE_REV", baseline)
        repository.vary(patch, "contrast", seeds=2, contrast_beta=0.5)
        repository.train("vae", 4.0, patch)
    repository.keep_experiment("half", baseline)
    shutil.rmtree("models")
    before = holdings()
    names = [f"{run['name']} {run['tags']['dvc.stage']}" for run in before.values()]
    assert sorted(names) == [
        "ae 12-2 seed=1 train_matched",
        "ae 12-2 seed=2 train_matched",
        "ae 16-8-2 seed=2 train_seeds",
        "vae 12-2 beta=0.5 seed=1 train_contrast",
        "vae 12-2 beta=0.5 seed=2 train_contrast",
        "vae 12-2 beta=1 seed=2 train_seeds",
        "vae 12-2 beta=4 seed=1 train_contrast",
        "vae 12-2 beta=4 seed=1 train_vae",
        "vae 12-2 beta=4 seed=2 train_contrast",
    ]
    assert len({run["tags"]["model.md5"] for run in before.values()}) == 8, "two of which are the same model"
    lose_the_store()
    assert "9 of them new or incomplete" in synced()
    after = holdings()
    assert after.keys() == before.keys()
    for key in before:
        for what in before[key]:
            assert after[key][what] == before[key][what], (before[key]["name"], what)
    measured = [run for run in after.values() if run["tags"]["dvc.stage"] != "train_vae"]
    assert all({"test/elbo", "val/loss"} <= run["points"].keys() and "claim.smooth" in run["tags"] for run in measured)
    assert "0 of them new or incomplete" in synced()
    assert holdings() == after

    for record, _ in tracking.records():
        if record.tags["dvc.stage"] in ("train_contrast", "train_vae"):  # as if made by hand, without DVC
            MlflowClient(tracking.store_uri()).delete_tag(record.id, "dvc.stage")
    assert "5 of them new or incomplete" in synced()
    assert "0 of them new or incomplete" in synced(), "the two that are the same model have taken a run each"


def test_variants_come_back_where_their_folder_is_that_of_dvc_lock(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.vary(monkeypatch, "matched", "contrast")
    before, baseline = holdings(), repository.keep()
    git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/none", baseline)
    Path("models/variants/matched/more").write_text("a group that grew")
    repository.lock_anew()
    lose_the_store()
    assert "2 of them new or incomplete" in synced()
    assert holdings() == before, "also what was measured since"

    shutil.rmtree(".dvc")
    lose_the_store()
    assert "2 of them new or incomplete" in synced()
    assert holdings() == before, "from the folder alone"
    Path("models/variants/matched/more").unlink()
    assert "1 trainings" in synced()


def test_a_run_that_lost_its_server_is_completed_and_not_doubled(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    log_batch, asked = MlflowClient.log_batch, 0

    def dying(self: MlflowClient, *args: Any, **others: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 4:  # tags, params and two of the four epochs
            raise ConnectionError("gone")
        log_batch(self, *args, **others)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", dying)
        repository.train("vae", 4.0, monkeypatch)
    (lost,) = holdings().values()
    assert list(lost["points"]["val/loss"]) == [1, 2]
    assert lost["status"] == "RUNNING"
    assert "sync: vae 16-8-2 beta=4 seed=1: added" in synced()
    (completed,) = holdings().values()
    assert completed["status"] == "FINISHED"
    lose_the_store()
    repository.train("vae", 4.0, monkeypatch)
    assert list(holdings().values()) == [completed]


def test_a_run_that_differs_is_not_taken_for_the_same(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.train("vae", 4.0, monkeypatch)
    lose_the_store()
    settings = reads(repository.params.model_copy(update={"beta": 4.0}), "vae")
    with tracking.start("other code", {"data.md5": md5("data/dataset.safetensors")}) as run:
        run.log_params(settings)
        run.log_epoch({"epoch": 1, "val/loss": 1.0})
    assert "rebuilt with" in synced()
    assert {record.name for record, _ in tracking.records()} == {"other code", "vae 16-8-2 beta=4 seed=1"}


def test_files_that_are_not_those_of_dvc_lock_are_not_logged(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.train("vae", 4.0, monkeypatch)
    repository.measure()
    lose_the_store()
    shutil.rmtree(".dvc")
    for path in ("metrics/vae.json", "metrics/figures/figures.png", "models/vae.safetensors"):
        with open(path, "a") as file:
            file.write(" ")
    synced()
    ((record, run),) = tracking.records()
    assert "test/recon" not in record.metrics
    assert "figures/figures.png" not in run.files()
    assert "vae.safetensors" not in run.files()
    assert "vae_history.csv" in run.files()


def test_without_anything_to_sync_and_without_a_store(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 trainings" in synced()
    repository.train("ae", 1.0, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = CliRunner().invoke(sync.main)
    assert said.exit_code == 1
    assert "does not answer" in said.output
