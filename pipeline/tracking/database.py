"""MLflow's database: its address, and what must hold before MLflow opens it, which tries a bad one for minutes."""

import fcntl
import importlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import ModuleType
from urllib.request import url2pathname

from pipeline.errors import BusyError, IntegrityError, ParamsError, PipelineError, SpaceError, reason, redact

PATIENCE = 5.0  # seconds that a database server has to answer
_LOCKED = 15.0  # seconds to wait for another process that writes to a file
_SERVERS = ("postgresql", "mysql", "mssql", "oracle")
_SQLITE_FILES = ("-journal", "-wal", "-shm")  # what sqlite keeps beside a database, by its name
_LOCATIONS = {  # the columns with absolute places of artifacts
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}
_CLIENT_DEFAULTS = {  # telemetry and logging level are read when mlflow is imported, the others at each call
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # with MLflow's own defaults a server that is down costs four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it prints a server's address with user and password
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # below it, MLflow prints the traceback of an error that it raises as well
}


def load_mlflow() -> ModuleType:
    """Import and return mlflow, which takes seconds, with defaults for environment variables that the user has not set."""
    for name, value in _CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)  # below it, a signal in the middle of a query prints a traceback
    return importlib.import_module("mlflow")


def address(file: Path, of: str = "sqlite://") -> str:
    """Return the URL ``of`` a database with another file, whatever its folder is called.

    >>> address(Path("/a b/mlflow.db")), address(Path("/100%/mlflow.db"))
    ('sqlite:////a b/mlflow.db', 'sqlite+pysqlite:////100%25/mlflow.db')
    """
    import sqlalchemy

    url = sqlalchemy.make_url(of).set(database=str(file))
    if str(file) not in url.render_as_string():
        # MLflow makes the folder of a URL without a driver, and does not decode it.
        url = url.set(drivername="sqlite+pysqlite")
    return url.render_as_string(hide_password=False)


def file_of(uri: str) -> Path | None:
    """Return the file of a sqlite URL, None for any other store. Raises ParamsError for a URL that cannot be read."""
    import sqlalchemy

    if not uri.startswith("sqlite"):
        return None
    try:
        name = sqlalchemy.make_url(uri).database or ":memory:"
    except sqlalchemy.exc.ArgumentError:
        message = f"MLFLOW_TRACKING_URI: {redact(uri)} is not a URL; allowed is one like sqlite:///mlflow.db"
        raise ParamsError(message) from None
    return None if name == ":memory:" or name.startswith("file:") else Path(name)


def is_absent(uri: str) -> bool:
    """Return whether a store is a database or a folder that does not exist."""
    folder = Path(url2pathname(uri.removeprefix("file://"))) if uri.startswith(("/", "file:///")) else None
    place = file_of(uri) or folder
    return place is not None and not place.exists()


def artifacts(uri: str, root: Path) -> Path | None:
    """Return the folder for a database's artifacts: in the repository, or beside a file elsewhere; None for other stores."""
    if file := file_of(uri):
        folder = file.parent.resolve()
        return (root if folder.is_relative_to(root) else folder) / "mlartifacts"
    return root / "mlartifacts" if uri.startswith(_SERVERS) else None


def prepare(uri: str, root: Path) -> None:
    """Make the database if there is none, and lead its artifacts to the repository ``root`` if it has come from another folder.

    A file is made under another name and renamed, so that it is whole or absent, whenever the process is killed.
    Raises PipelineError when it cannot be used.
    """
    if uri.startswith(_SERVERS):
        _ask(uri)
    if not (file := file_of(uri)):
        return
    try:
        if _is_whole(file) and not _former_roots(file, root):
            return
        with locked(file.parent / ".pipeline" / "mlflow.lock"):
            if not _is_whole(file):
                _make(file.resolve(), uri, root)
            _relocate(file, root)
    except (OSError, sqlite3.OperationalError) as error:
        if not file.exists() or os.access(file, os.W_OK):  # what may only be read is read as it is
            raise SpaceError(f"{file}: cannot be written ({reason(error)}); make room or make it writable") from None


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{file.absolute().as_uri()}?mode=rw"  # which does not make a file
    with closing(sqlite3.connect(uri, uri=True, timeout=_LOCKED)) as database, database:
        yield database


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _is_whole(file: Path) -> bool:
    """Return whether a file has MLflow's tables with an experiment, which MLflow adds last; False for one to be made."""
    cure = "move it away, and `latent sync` makes a new one from DVC's files"
    if os.environ.get("MLFLOW_TRACKING_URI"):
        cure = f"correct MLFLOW_TRACKING_URI, or {cure}"
    try:
        if file.is_dir():
            raise IntegrityError(f"{file} is a folder, not MLflow's database; {cure}")
        if file.exists() and not file.is_file():
            raise IntegrityError(f"{file} is a device or a pipe, not MLflow's database; {cure}")
        if not file.exists() or not file.stat().st_size:
            return False
        with open(file, "rb") as opened:
            if opened.read(16) != b"SQLite format 3\0":
                raise IntegrityError(f"{file} is not a database; {cure}")
        with _opened(file) as database:
            tables = _tables(database)
            if "experiments" in tables and database.execute("SELECT 1 FROM experiments").fetchone():
                return True
    except OSError as error:
        raise SpaceError(f"{file} cannot be read ({error.strerror}); make it readable or set MLFLOW_TRACKING_URI") from None
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            text = f"{file} is locked by another process for {_LOCKED:.0f} s; run again once that has ended"
            raise BusyError(text) from None
        raise IntegrityError(f"{file} is damaged ({error}); {cure}") from None
    # A process that makes the tables in place, as MLflow does by itself, was killed.
    if tables and not tables & {"experiments", "_alembic_tmp_experiments"}:
        raise IntegrityError(f"{file} is the database of another program; {cure}")
    return False


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Hold a lock file, which names this process. Waits for another holder, or raises BusyError, which begins with ``busy``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(f"{busy} as process {lock.read() or '?'}; run it again when that one has ended") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _make(file: Path, uri: str, root: Path) -> None:
    load_mlflow()
    mlflow_store = importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    new = file.parent / ".pipeline" / f"{file.name}.new"
    new.unlink(missing_ok=True)
    for path in (new, file):  # the journal of a half-made database would damage a new one of its name
        for suffix in _SQLITE_FILES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        mlflow_store.SqlAlchemyStore(address(new, uri), str(artifacts(uri, root))).engine.dispose()
        os.replace(new, file)
    except Exception as error:  # MLflow wraps what sqlite raises
        new.unlink(missing_ok=True)
        raise OSError(reason(error)) from None


def _former_roots(file: Path, root: Path) -> set[str]:
    """Return the folders, other than ``root``, in whose ``mlartifacts`` experiments keep their artifacts.

    Only a database in the repository is asked: it holds artifacts of the repository, so another folder is one from which the
    repository was moved or copied, or its name in a container.
    """
    if not file.parent.resolve().is_relative_to(root):
        return set()
    with _opened(file) as database:
        rows = database.execute("SELECT experiment_id, name, coalesce(artifact_location, '') FROM experiments").fetchall()
    found = set()
    for number, name, location in rows:
        path = url2pathname(location.removeprefix("file://")) if location.startswith("file:///") else location
        found |= {path.removesuffix(end) for end in (f"/mlartifacts/{name}", f"/mlartifacts/{number}") if path.endswith(end)}
    return {path for path in found if path.startswith("/")} - {str(root)}


def damage(file: Path) -> str:
    """Return what sqlite finds wrong in a database when it reads all of it, empty where that is nothing."""
    try:
        with _opened(file) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[-1]


def _relocate(file: Path, root: Path) -> None:
    folders = ("/mlartifacts/", "/mlruns/")  # the second is MLflow's own name
    formers = _former_roots(file, root)
    with _opened(file) as database:
        tables = _tables(database)
        columns = [(table, column) for table in _LOCATIONS if table in tables for column in _LOCATIONS[table]]
        for former, folder, (table, column) in product(formers, folders, columns):
            for old, new in ((former, str(root)), (Path(former).as_uri(), root.as_uri())):
                start = old + folder
                update = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"  # noqa: S608
                database.execute(update, (new + folder, len(start) + 1, len(start), start))


def _ask(uri: str) -> None:
    """Connect to a database server once. Raises PipelineError when it does not answer in time."""
    import sqlalchemy

    answer: SimpleQueue[Exception | None] = SimpleQueue()

    def connect() -> None:
        try:
            sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()
            answer.put(None)
        except Exception as error:  # a missing driver, or whatever a driver raises
            answer.put(error)

    Thread(target=connect, daemon=True).start()  # no timeout of a driver covers all of a connection
    try:
        error = answer.get(timeout=PATIENCE)
    except Empty:
        raise PipelineError(f"the MLflow store {redact(uri)} does not answer within {PATIENCE:.0f} s") from None
    if error:
        raise PipelineError(f"the MLflow store {redact(uri)} does not answer ({reason(error)})")
