"""A team server on this machine, made by deploy/local.sh."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT


def missing() -> str:
    """Return what the team server lacks here, empty where that is nothing."""
    lacking = [name for name in ("boto3", "flask_wtf", "moto", "psycopg") if not find_spec(name)]
    if lacking:
        return f"the extra server ({', '.join(lacking)})"
    return "" if any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) else "PostgreSQL from Debian's packages"


class TeamServer:
    """The server, and the variables by which its users reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run deploy/local.py as deploy/local.sh does."""
        command = [sys.executable, str(ROOT / "deploy/local.py"), *arguments]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_", "COVERAGE_"))}
        environment = kept | variables | {"SERVER_FOLDER": str(self.folder)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def up(self, **variables: str) -> dict[str, str]:
        """Start what does not run, and return what it prints, as a shell sets it."""
        done = self.run("up", **variables)
        assert done.returncode == 0, done.stderr
        pairs = (word.split("=", 1) for line in done.stdout.splitlines() for word in shlex.split(line)[1:])
        return {key: Path(value[6:-1]).read_text() if value.startswith("$(cat ") else value for key, value in pairs}

    def add_user(self, name: str, kind: str, environment: dict[str, str]) -> dict[str, str]:
        """Make a user, and return the variables for it."""
        command = [sys.executable, str(ROOT / "deploy/user.py"), name, kind]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return environment | {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": done.stdout.strip()}


@pytest.fixture(scope="session")
def team_server() -> Iterator[TeamServer]:
    """A team server that runs; PostgreSQL's user must reach its folder, which pytest's own folders do not allow."""
    if missing():
        pytest.skip(f"needs {missing()}")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="team-server-") as folder:
        server = TeamServer(Path(folder))
        try:
            server.up(AWS_PROFILE="absent", MLFLOW_TRACKING_USERNAME="of another server")
            yield server
        finally:
            done = server.run("down")
            assert done.returncode == 0, done.stderr
