"""A git and DVC repository with what the pipelines leave in it, made in milliseconds and locked by DVC itself."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.data import load_dataset
from pipeline.params import Params
from pipeline.storage import md5, save_arrays, save_json, save_metrics
from pipeline.tracking import events, store
from pipeline.tracking.pages import role
from tests.tracking.fake_training import train

DATA = Path("data/dataset.safetensors")
METRICS = {"dataset": "blobs", "profile": "full", "test/recon": 30.1, "test/kl": 2.0, "test/elbo": -32.1}
CLAIMS = {"holes": {"verdict": "upheld"}}


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def write(path: str, content: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    return Path(path)


class Repository:
    """The current folder as a repository of the pipeline."""

    def __init__(self, params: Params, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.params, self._monkeypatch = params, monkeypatch
        monkeypatch.setenv("DVC_SITE_CACHE_DIR", f"{data_file.parent}/site")
        git("init", "-q")
        Repo.init().close()
        ignored = (
            "data/",
            "models/",
            "results/",
            "explorer/",
            "site/",
            "cache/",
            "mlflow.db",
            "template.db",
            "mlartifacts/",
            ".pipeline/",
        )
        write(".gitignore", "\n".join(f"/{name}" for name in ignored))
        write(str(DATA), "")
        shutil.move(data_file, DATA)
        images = load_dataset(DATA).train
        channels, height, width = images.shape
        about = {"name": "blobs", "channels": channels, "height": height, "width": width, "train": {"images": len(images)}}
        save_metrics("metrics/data.json", about)
        self.pipelines: dict[str, dict[str, Any]] = {"dvc.yaml": {}, "claims/dvc.yaml": {}}
        self._unlocked: list[str] = []
        self.add("download", "download", [], [DATA], ["metrics/data.json"])

    def add(
        self,
        name: str,
        command: str,
        deps: list[str | Path],
        outs: list[str | Path],
        in_git: list[str] = [],  # noqa: B006 (read only)
        params: list[str] = [],  # noqa: B006
        pipeline: str = "dvc.yaml",
    ) -> None:
        """Add a stage, or replace it."""
        made = [*map(str, outs), *({path: {"cache": False}} for path in in_git)]
        stage = {"cmd": f"python -m stages.{command}", "deps": [*map(str, deps)], "params": params, "outs": made}
        self._unlocked.append(f"{pipeline}:{name}")
        if "@" in name:
            name, _, item = name.partition("@")
            stage = {"foreach": [item], "do": stage}
        self.pipelines[pipeline][name] = stage | ({"wdir": ".."} if pipeline != "dvc.yaml" else {})

    def lock(self) -> None:
        """Let DVC lock the files of the stages that were added, and keep them in its cache."""
        YAML().dump(self.params.model_dump(), Path("params.yaml"))
        for path, stages in self.pipelines.items():
            Path(path).parent.mkdir(exist_ok=True)
            YAML().dump({"stages": stages}, Path(path))
        with Repo() as repo:
            for stage in self._unlocked:
                repo.commit(stage, force=True)
        self._unlocked.clear()

    def relock(self, stage: str, pipeline: str = "dvc.yaml") -> None:
        """Lock the files of a stage as they are now."""
        self._unlocked.append(f"{pipeline}:{stage}")
        self.lock()

    def run(self, stage: str, name: str, params: Params, out: Path, metrics: Path, purpose: str, **environment: str) -> None:
        """Train a model as a stage does."""
        with self._monkeypatch.context() as patch:
            for key, value in {"DVC_STAGE": stage, **environment}.items():
                patch.setenv(key, value)
            train(name, params, DATA, out, metrics, purpose)

    def train(self, name: str, beta: float, **environment: str) -> None:
        """Train one of the pipeline's own models."""
        self.params = self.params.model_copy(update={"beta": beta})
        self.run(f"train_{name}", name, self.params, Path("models"), Path("metrics"), role(), **environment)
        params = ["seed", "data.val_size", "train", name] + (["beta"] if name == "vae" else [])
        in_git = [f"metrics/{name}_history.csv", f"metrics/{name}_train.json"]
        save_arrays(replay := Path(f"models/replay/{name}.safetensors"), {"codes": np.zeros((5, 2), np.float32)}, {})
        self.add(f"train_{name}", f"train {name}", [DATA], [f"models/{name}.safetensors", replay], in_git, params)
        self.lock()

    def evaluate(self) -> None:
        """Leave and log what follows the training of the VAE in both pipelines."""
        for path in ("results/vae.safetensors", "results/vae_images.parquet", "metrics/vae_latent.csv", "explorer/explorer.html"):
            write(path, path)
        for path in ("metrics/figures/overview.png", "metrics/claims/claims.png"):
            write(path, path)
        save_metrics("metrics/vae.json", METRICS)
        save_json("metrics/claims.json", {"models": {}, "claims": CLAIMS})
        found = store.find(md5("models/vae.safetensors"))
        events.log_evaluation(found, METRICS, [Path("results/vae_images.parquet")])
        events.log_figures(found, "figures", [Path("metrics/figures/overview.png"), Path("metrics/vae_latent.csv")])
        found.log_file("explorer/explorer.html")
        events.log_figures(found, "claims", [Path("metrics/claims/claims.png")])
        events.log_claims(found, CLAIMS)
        results: list[str | Path] = ["results/vae.safetensors"]
        weights: list[str | Path] = ["models/vae.safetensors"]
        self.add("evaluate@vae", "evaluate vae", weights, [*results, "results/vae_images.parquet"], ["metrics/vae.json"])
        self.add("figures", "figures", results, [], ["metrics/figures", "metrics/vae_latent.csv"])
        self.add("explorer", "explorer", [*results, *weights], ["explorer/explorer.html"])
        self.add("claims", "claims", results, [], ["metrics/claims", "metrics/claims.json"], pipeline="claims/dvc.yaml")
        self.lock()

    def compare(self, seeds: int = 1, beta: float = 4.0, **environment: str) -> None:
        """Train and evaluate the comparison models of these seeds, test the claims, and log it all."""
        claims = self.params.claims.model_copy(update={"seeds": seeds, "comparison_beta": beta})
        self.params = self.params.model_copy(update={"claims": claims})
        matched = self.params.ae.model_copy(update={"hidden_dims": self.params.vae.hidden_dims})
        folders = [Path("models/comparison"), Path("models/seeds")]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        numbers = {}
        for seed in range(self.params.seed, self.params.seed + seeds):
            here = self.params.model_copy(update={"seed": seed})
            asked = [("ae_depth_matched", "ae", {"ae": matched}), ("vae_larger_beta", "vae", {"beta": beta})]
            asked += [("ae", "ae", {}), ("vae", "vae", {})] if seed != self.params.seed else []
            for name, model, changed in asked:
                stage, folder = ("train_seeds", folders[1]) if name == model else ("train_comparison", folders[0])
                place = folder / f"{name}_{seed}"
                params = here.model_copy(update=changed)
                self.run(f"claims/dvc.yaml:{stage}", model, params, place, place, role(folder.name, name), **environment)
                numbers[place.name] = {"dataset": "blobs", "profile": "full", "test/elbo": -50.0 - seed}
                found = store.find(md5(place / f"{model}.safetensors"))
                events.log_evaluation(found, numbers[place.name], [])
                events.log_claims(found, CLAIMS)
        save_json("metrics/comparison.json", numbers)
        save_json("metrics/claims.json", {"models": {}, "claims": CLAIMS})
        write("results/comparison/all", str(numbers))
        read = ["seed", "beta", "data.val_size", "train", "ae", "vae", "claims.seeds", "claims.comparison_beta"]
        where = {"pipeline": "claims/dvc.yaml"}
        self.add("train_comparison", "train_comparison comparison", [DATA], [folders[0]], params=read, **where)
        self.add("train_seeds", "train_comparison seeds", [DATA], [folders[1]], params=read, **where)
        made = ["metrics/comparison.json"]
        self.add("evaluate_comparison", "evaluate_comparison", [*folders], ["results/comparison"], made, **where)
        self.add("claims", "claims", ["results/comparison"], [], ["metrics/claims.json"], **where)
        self.lock()

    def commit(self) -> str:
        """Commit all that git keeps, and return the commit."""
        git("add", "-A")
        git("commit", "-qm", "results")
        return git("rev-parse", "HEAD")

    def save_experiment(self, name: str, baseline: str) -> None:
        """Keep what there is as DVC keeps an experiment, and go back."""
        git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", self.commit())
        git("reset", "-q", "--hard", baseline)
