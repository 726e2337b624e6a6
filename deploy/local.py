"""Start and stop a team server on loopback: PostgreSQL, an S3 stand-in (moto) and MLflow with passwords.

All it keeps is in the folder ``.server`` of the repository, or in ``SERVER_FOLDER``. Ports are free ones, kept from then on, or
those of ``POSTGRES_PORT``, ``S3_PORT`` and ``MLFLOW_PORT``. Passwords are random, each in a file that only this user can read.
"""

import fcntl
import importlib.util
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from string import Template
from urllib.request import ProxyHandler, build_opener

import psutil

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("SERVER_FOLDER") or HERE.parent / ".server").absolute()
HOST, REGION, BUCKETS = "127.0.0.1", "us-east-1", ("mlflow", "dvc")
SERVICES = ("postgres", "s3", "mlflow")  # in the order in which they start
SECONDS = 180  # that a service has to answer, on a busy machine
MODULES = ("psycopg", "boto3", "flask_wtf", "moto")
OTHERS = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "AWS_"))}  # for the services
# PostgreSQL refuses to run as root.
AS_POSTGRES = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def stop(message: str) -> None:
    """End with one line on stderr."""
    sys.exit(f"error: {message}")


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, which Debian keeps out of PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else "")


def check() -> None:
    """End with one line if something is missing."""
    if missing := [name for name in MODULES if not importlib.util.find_spec(name)]:
        stop(f"the Python package {missing[0]} is missing; run `make server`")
    if not program("initdb"):
        stop("PostgreSQL is missing; on Debian and Ubuntu run `apt-get install postgresql`")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if AS_POSTGRES:
        try:
            FOLDER.chmod(0o711)  # the user postgres must pass through
            subprocess.run(["test", "-x", FOLDER], check=True, **AS_POSTGRES)
        except (KeyError, ValueError, LookupError):
            stop("PostgreSQL does not run as root and there is no user postgres; run this as another user")
        except (OSError, subprocess.CalledProcessError):
            stop(
                f"the user postgres, as whom PostgreSQL runs for root, cannot reach {FOLDER}; set SERVER_FOLDER to another folder"
            )
    else:
        FOLDER.chmod(0o700)


def write(path: Path, text: str) -> Path:
    """Write a file that only this user can read."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return new.replace(path)


def password(name: str) -> str:
    """Return the password of this name, a new one the first time."""
    path = FOLDER / "passwords" / name
    return path.read_text() if path.exists() else write(path, secrets.token_urlsafe(24)).read_text()


def port(service: str) -> int:
    """Return the port of a service: that of its variable, else the one it had before, else a free one."""
    path = FOLDER / "run" / f"{service}.port"
    former = path.read_text() if path.exists() else ""
    number = os.environ.get(f"{service.upper()}_PORT") or former
    if number != former and process(service):
        stop(f"{service} runs on port {former}; unset {service.upper()}_PORT, or run `deploy/local.sh down` first")
    if not number:
        with socket.create_server((HOST, 0)) as free:
            number = str(free.getsockname()[1])
    if not number.isdecimal() or not 0 < int(number) < 65536:
        stop(f"{service.upper()}_PORT is {number}; allowed are 1 to 65535")
    write(path, number)
    return int(number)


def process(service: str) -> psutil.Process | None:
    """Return the running process of a service, None where there is none."""
    try:
        number, created = json.loads((FOLDER / "run" / f"{service}.pid").read_text())
        found = psutil.Process(number)
        return found if found.create_time() == created and found.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def start(
    service: str, command: list[str | Path], environment: dict[str, str], ready: Callable[[], bool], **options: object
) -> None:
    """Start a service, unless it runs, and wait until it is ready."""
    if not process(service):
        with socket.socket() as client:
            if client.connect_ex((HOST, port(service))) == 0:
                stop(f"another program uses port {port(service)}; set {service.upper()}_PORT to a free one")
        log = FOLDER / "run" / f"{service}.log"
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            made = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **options,
            )
        write(FOLDER / "run" / f"{service}.pid", json.dumps([made.pid, psutil.Process(made.pid).create_time()]))
    until = time.monotonic() + SECONDS
    while not ready():
        if not process(service) or time.monotonic() > until:
            halt(service)
            stop(f"{service} has not started; {FOLDER}/run/{service}.log says why")
        time.sleep(0.1)


def halt(service: str) -> None:
    """Stop a service and all processes it has started; PostgreSQL ends its connections first."""
    if found := process(service):
        children = found.children(recursive=True)
        found.send_signal(2 if service == "postgres" else 15)  # SIGINT: a "fast" shutdown
        _, alive = psutil.wait_procs([found, *children], timeout=600 if service == "s3" else 60)  # S3 writes its objects
        for left in alive:
            left.kill()
    (FOLDER / "run" / f"{service}.pid").unlink(missing_ok=True)


def answers(path: str) -> Callable[[], bool]:
    """Return a function that asks whether a server answers with success."""

    def ask() -> bool:
        opener = build_opener(ProxyHandler({}))  # without a proxy, whose 127.0.0.1 is another machine
        with suppress(OSError), opener.open(path, timeout=5):
            return True
        return False

    return ask


def start_postgres() -> None:
    """Start PostgreSQL, which makes its files the first time; its only user is `mlflow`."""
    import psycopg

    data, new = FOLDER / "postgres", FOLDER / "postgres.new"
    if not data.exists():
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        new.mkdir(mode=0o700)
        given = write(FOLDER / "given" / "password", password("postgres"))  # initdb reads it as its own user
        if AS_POSTGRES:
            for path in (new, given.parent, given):
                shutil.chown(path, "postgres", "postgres")
        command = [program("initdb"), "--pgdata", new, "--username", "mlflow", "--pwfile", given]
        command += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **AS_POSTGRES)
        shutil.rmtree(given.parent)
        if done.returncode:
            stop(f"initdb: {done.stderr.strip().splitlines()[-1]}")
        new.rename(data)
    # No socket in /tmp, and no other address than loopback.
    settings = {"port": port("postgres"), "listen_addresses": HOST, "unix_socket_directories": ""}
    command = [program("postgres"), "-D", data, *(part for key, value in settings.items() for part in ("-c", f"{key}={value}"))]

    def ready() -> bool:
        try:
            psycopg.connect(database("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    start("postgres", command, OTHERS, ready, cwd="/", **AS_POSTGRES)
    with psycopg.connect(database("postgres"), autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'mlflow'").fetchone():
            connection.execute("CREATE DATABASE mlflow")


def database(name: str) -> str:
    """Return the address of a database, which has the password."""
    return f"postgresql://mlflow:{password('postgres')}@{HOST}:{port('postgres')}/{name}"


def s3_settings() -> dict[str, str]:
    """Return the variables by which MLflow, boto3 and DVC find the S3 stand-in and its keys."""
    keys = f"[default]\naws_access_key_id = team\naws_secret_access_key = {password('s3')}\n"
    config = f"[default]\nregion = {REGION}\nendpoint_url = http://{HOST}:{port('s3')}\n"
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(write(FOLDER / "passwords" / "aws_credentials", keys)),
        "AWS_CONFIG_FILE": str(write(FOLDER / "passwords" / "aws_config", config)),
    }


def start_mlflow() -> None:
    """Start MLflow's server with basic auth, its runs in PostgreSQL and its artifacts in S3."""
    auth = Template((HERE / "basic_auth.ini").read_text()).substitute(database=database("mlflow"))
    secret = {  # in the environment and not in the command, which all users of the machine see
        "MLFLOW_BACKEND_STORE_URI": database("mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(write(FOLDER / "passwords" / "basic_auth.ini", auth)),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password("admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": password("secret_key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    address = f"http://{HOST}:{port('mlflow')}"
    server = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port("mlflow")), "--workers", "2"]
    # Clients with keys write to S3 themselves: a model of 20 files would be 20 calls to this server.
    artifacts = ["--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKETS[0]}"]
    environment, ready = OTHERS | secret | s3_settings(), answers(f"{address}/health")
    start("mlflow", [*server, "--app-name", "basic-auth", *artifacts], environment, ready, cwd=FOLDER)
    print(f"export MLFLOW_TRACKING_URI={address} MLFLOW_TRACKING_USERNAME=admin")
    print(f'export MLFLOW_TRACKING_PASSWORD="$(cat {shlex.quote(str(FOLDER / "passwords" / "admin"))})"')
    for key, value in s3_settings().items():
        print(f"export {key}={shlex.quote(value)}")


def main(action: str = "") -> None:
    """Do what the command line asks."""
    if action not in ("up", "down"):
        stop("say `deploy/local.sh up` or `deploy/local.sh down`")
    if action == "up":
        check()
    elif not FOLDER.exists():
        return
    os.umask(0o077)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if action == "down":
            for service in reversed(SERVICES):
                halt(service)
            return
        start_postgres()
        command = [sys.executable, HERE / "s3.py", FOLDER / "s3", str(port("s3")), *BUCKETS]
        start("s3", command, OTHERS, answers(f"http://{HOST}:{port('s3')}/ready"))
        start_mlflow()


if __name__ == "__main__":
    main(*sys.argv[1:2])
