"""A small repository of real revisions with hand-written metrics."""

import shutil
from pathlib import Path

import pytest

from pipeline.reporting.revision import dvc
from tests.reporting.revisions import DVC_YAML, ELBO, RULES, commit, run, write, write_images, write_metrics, write_picture


@pytest.fixture(scope="session")
def base_revision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose branch ``team/base`` has a mean ELBO of -140, its values per image in DVC's cache, plots and figures."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("git", "init", "--quiet", "--initial-branch", "team/base")
        dvc("init", "--quiet")
        dvc("config", "core.analytics", "false")
        write("gate.yaml", RULES)
        write("dvc.yaml", DVC_YAML)
        write("params.yaml", "beta: 1.0\n")
        write("metrics/data.json", {"name": "blobs", "train": {"sha256": "aa"}})
        write("metrics/vae_history.csv", "epoch,train/loss,val/loss\n1,150,151\n2,143,144\n3,140,141\n")
        write_metrics(elbo_se=0.4, gone=1.5, kl=6.5)
        write_picture("same", "blue")
        write_picture("changed", "red")
        write_images(ELBO)
        dvc("add", "--quiet", "results/vae_images.parquet")
        commit("base")
    return folder


@pytest.fixture
def repository(base_revision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder, without its values per image."""
    shutil.copytree(base_revision, tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(tmp_path / "repo")
    Path("results/vae_images.parquet").unlink()
    return tmp_path / "repo"
