"""The S3 stand-in keeps its objects, and a DVC remote on it gives a fresh clone all that the pipeline made."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from pipeline.params import Params
from tests.conftest import ROOT
from tests.tracking.repository import Repository, git

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),  # botocore's own
]
KEYS = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def stand_in(folder: Path) -> Iterator[str]:
    """Run deploy/s3.py with the bucket ``dvc``; yield its address."""
    pytest.importorskip("moto", reason="needs the extra server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, ROOT / "deploy/s3.py", folder, str(port), "dvc"], stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None:
                with suppress(URLError):
                    urlopen(f"{address}/ready").close()  # noqa: S310 (an address of this test)
                    break
                time.sleep(0.05)
            yield address
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0


def client(address: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "team", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=address, **keys)


def test_objects_outlive_the_stand_in_and_deleted_ones_do_not_come_back(tmp_path: Path) -> None:
    with stand_in(tmp_path) as address:
        for key in ("a/b", "c"):
            client(address).put_object(Bucket="dvc", Key=key, Body=key.encode())
    with stand_in(tmp_path) as address:
        assert client(address).get_object(Bucket="dvc", Key="a/b")["Body"].read() == b"a/b"
        client(address).delete_object(Bucket="dvc", Key="c")
    assert [path.name for path in (tmp_path / "dvc").rglob("*") if path.is_file()] == ["b"]


@pytest.mark.torture
def test_a_clone_gets_all_from_a_remote_on_s3_and_has_nothing_to_run(
    store: Path, params: Params, data_file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dvc_s3", reason="needs the extra s3")
    shutil.copy(store, "template.db")
    repository = Repository(params, data_file, monkeypatch)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DVC_"))} | KEYS

    def run(folder: Path, *command: str) -> str:
        environment = kept | {"PYTHONPATH": str(ROOT), "DVC_SITE_CACHE_DIR": str(elsewhere / folder.name / "site")}
        done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with stand_in(elsewhere / "s3") as address:
        here, bare, clone = Path.cwd(), elsewhere / "bare.git", elsewhere / "clone"
        repository.train("ae", 1.0)
        repository.train("vae", 1.0)
        repository.evaluate()
        for words in (["add", "--default", "storage", "s3://dvc/latent"], ["modify", "storage", "endpointurl", address]):
            run(here, "dvc", "remote", *words)
        baseline = repository.commit()
        repository.train("vae", 4.0, DVC_EXP_NAME="four", DVC_EXP_BASELINE_REV=baseline)
        repository.save_experiment("four", baseline)
        git("init", "-q", "--bare", str(bare))
        git("remote", "add", "origin", str(bare))
        git("push", "-q", "origin", "HEAD:refs/heads/main")
        git("--git-dir", str(bare), "symbolic-ref", "HEAD", "refs/heads/main")
        run(here, "dvc", "push")
        run(here, "dvc", "exp", "push", "origin", "four")

        git("clone", "-q", str(bare), str(clone))
        run(clone, "dvc", "pull")
        assert "Running stage" not in run(clone, "dvc", "repro")
        run(clone, "dvc", "exp", "pull", "origin", "four")
        assert "four" in run(clone, "dvc", "exp", "list")
        shutil.copy("template.db", clone / "mlflow.db")
        assert "3 of them new or incomplete" in run(clone, "pipeline", "sync")
        assert "β=4 vae" in run(clone, "pipeline", "compare")
