"""The files for Docker: pinned images of locked versions, no secret, one port on loopback. No container is started."""

import re
import shutil
import stat
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
SERVICES = YAML(typ="safe").load(DEPLOY / "compose.yaml")["services"]


def test_images_are_pinned_and_the_versions_of_packages_are_those_of_the_locks() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    images = [service["image"] for service in SERVICES.values()] + re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert all(re.search(r":.*\d+[.-]\d+", image) for image in images)
    locks = (ROOT / "requirements.lock").read_text() + (ROOT / ".ci/requirements-server.txt").read_text()
    packages = re.findall(r"([a-z\d-]+)(?:\[\w+\])?==([\d.]+)", dockerfile)
    assert {"mlflow", "psycopg", "boto3", "flask-wtf"} == {name for name, _ in packages}
    assert all(f"\n{name}=={version} " in locks for name, version in packages)
    assert dict(packages)["mlflow"] in SERVICES["mlflow"]["image"]


def test_no_secret_is_in_the_file_and_the_proxy_alone_has_ports_on_loopback() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY$", name):
                assert re.fullmatch(r"\$\{\w+(:\?[^}]+)?\}", value), name
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    assert all(port.startswith("${BIND:-127.0.0.1}:") for port in SERVICES["proxy"]["ports"])


def test_secrets_are_random_private_ignored_by_git_and_never_replaced(tmp_path: Path) -> None:
    script = Path(shutil.copy(DEPLOY / "secrets.sh", tmp_path))
    subprocess.run([script, "mlflow.example.org"], check=True, capture_output=True)
    made = (tmp_path / ".env").read_text()
    values = dict(line.split("=", 1) for line in made.splitlines())
    assert values.pop("TEAM_HOST") == "mlflow.example.org"
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text())) - {"TEAM_HOST"}
    assert values.keys() == wanted
    assert len(set(values.values())) == len(wanted)
    assert all(re.fullmatch(r"[\w-]{32}", value) for value in values.values())
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    for arguments in (["other.example.org"], []):
        done = subprocess.run([script, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (tmp_path / ".env").read_text() == made
    subprocess.run(["git", "check-ignore", "deploy/.env", ".server/"], cwd=ROOT, check=True, capture_output=True)


def test_the_configuration_of_users_gets_its_database(tmp_path: Path) -> None:
    command = SERVICES["mlflow"]["command"][0].replace("$$", "$")
    (line,) = [line for line in command.splitlines() if "database" in line]
    line = line.replace("/tmp/", f"{tmp_path}/").replace("/etc/", f"{DEPLOY}/")  # noqa: S108 (in this order, as a clone may be in /tmp)
    address = "postgresql://mlflow:a_-9@postgres/mlflow"
    subprocess.run(["sh", "-euc", line], env={"MLFLOW_BACKEND_STORE_URI": address, "PATH": "/usr/bin:/bin"}, check=True)
    assert f"\ndatabase_uri = {address}\n" in (tmp_path / "basic_auth.ini").read_text()
