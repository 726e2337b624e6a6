"""What MLflow's runs hold is compared with the files that dvc.lock names."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.params import Params
from pipeline.storage import load_arrays, md5, save_arrays
from pipeline.tracking import store as tracking
from tests.conftest import flip
from tests.tracking.repository import Repository

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
WEIGHTS = "models/vae.safetensors"


@pytest.fixture
def repository(store: Path, params: Params, data_file: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with an evaluated model."""
    shutil.copy(store, "template.db")
    made = Repository(params, data_file, monkeypatch)
    made.train("vae", 1.0)
    made.evaluate()
    return made


def verify(*options: str) -> Result:
    return CliRunner().invoke(main, ["verify", *options])


def about_runs() -> str:
    return "".join(line for line in verify().stdout.splitlines(keepends=True) if " MLflow: " in line)


def alter(statement: str) -> None:
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.execute(statement)


@pytest.mark.usefixtures("repository")
def test_a_run_with_the_numbers_of_the_files_is_right() -> None:
    assert about_runs() == ""


@pytest.mark.usefixtures("repository")
def test_a_run_with_another_number_is_named_and_corrected() -> None:
    alter("UPDATE latest_metrics SET value = value + 0.01 WHERE key = 'test_elbo'")
    ((record, _),) = tracking.records()
    found = verify()
    assert found.exit_code == 3
    assert f"run {record.id} has other numbers than the files of {WEIGHTS}: test/elbo is -32.1, there -32.09" in found.stdout
    verify("--fix")
    assert about_runs() == ""


@pytest.mark.usefixtures("repository")
def test_a_difference_beyond_six_digits_is_none() -> None:
    alter("UPDATE latest_metrics SET value = value + 1e-7 WHERE key = 'test_elbo'")
    assert about_runs() == ""


@pytest.mark.usefixtures("repository")
def test_a_run_without_numbers_or_without_a_run() -> None:
    alter("DELETE FROM latest_metrics WHERE key LIKE 'test_%'")
    assert "warning  MLflow: run" in about_runs()
    assert f"of {WEIGHTS} lacks 3 numbers; `latent sync` adds them" in about_runs()
    shutil.copy("template.db", "mlflow.db")
    assert f"no run has the weights of {WEIGHTS} (md5 {md5(WEIGHTS)}); `latent sync` rebuilds it" in about_runs()
    assert CliRunner().invoke(main, ["sync"]).exit_code == 0
    assert about_runs() == ""


@pytest.mark.usefixtures("repository")
def test_comparison_models_are_found_by_their_folders(repository: Repository) -> None:
    repository.compare()
    assert about_runs() == ""
    alter("UPDATE latest_metrics SET value = -1 WHERE key = 'test_elbo'")
    assert about_runs().count("problem") == 3


@pytest.mark.usefixtures("repository")
def test_no_store_is_made() -> None:
    Path("mlflow.db").unlink()
    assert "; `latent sync` makes it" in about_runs()
    assert not Path("mlflow.db").exists()


@pytest.mark.usefixtures("repository")
def test_a_store_that_does_not_answer_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert about_runs().startswith("warning  MLflow: ")


@pytest.mark.usefixtures("repository")
def test_weights_of_a_training_that_dvc_did_not_lock_are_kept() -> None:
    arrays, header = load_arrays(WEIGHTS)
    before = Path(WEIGHTS).stat()
    save_arrays(WEIGHTS, {name: array + 1 for name, array in arrays.items()}, header)
    os.utime(WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert f"problem  {WEIGHTS}: is another file than dvc.lock names" in verify().stdout
    assert f"fixed    {WEIGHTS}" in verify("--fix").stdout
    assert Path(WEIGHTS).stat().st_mtime_ns != before.st_mtime_ns  # so that DVC reads it again
    assert load_arrays(WEIGHTS)


def test_weights_that_were_locked_damaged_are_removed_with_their_object(repository: Repository) -> None:
    flip(Path(WEIGHTS))
    os.utime(WEIGHTS)
    repository.relock("train_vae")
    place = Path(".dvc/cache/files/md5", md5(WEIGHTS)[:2], md5(WEIGHTS)[2:])
    assert place.exists()
    found = verify()
    assert found.exit_code == 3
    assert f"problem  {WEIGHTS}: is what dvc.lock names, yet content does not match its sha256" in found.stdout
    assert f"fixed    {WEIGHTS}" in verify("--fix").stdout
    assert not place.exists()
    assert not Path(WEIGHTS).exists()
