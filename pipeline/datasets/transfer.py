"""Download a file from the first mirror that has it, with bounds on time and size and a checksum."""

import gzip
import hashlib
import io
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, NameResolutionError

from pipeline.errors import IntegrityError, PipelineError, printable, redact

MAX_REDIRECTS = 5
MAX_MEMBERS = 10_000  # parts of a gzip, of which millions take minutes to unpack; bgzip makes one per 64 KB
URLS = ("http", "https")
REPOSITORY = Path(__file__).parents[2]
_CHUNK = _SLACK = 1 << 16  # bytes of a read, and bytes that gzip may add to what it cannot compress


class Unavailable(PipelineError):
    """No mirror has the file, and none served wrong bytes, so a fallback is allowed. ``reasons`` has one line per mirror."""

    exit_code = 3

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = list(reasons)


class _Missing(Unavailable):
    """The mirror answers, but has no such file."""


class _BusyError(Exception):
    """The mirror asks the client to try again later."""


@dataclass(frozen=True)
class File:
    """A file of ``size`` uncompressed bytes that begins with ``header``, and its checksum.

    ``sha256`` is that of the uncompressed bytes, since mirrors recompress. With ``gz_md5`` alone, the md5 of the published
    ``.gz``, no other file is accepted. ``places`` are other paths in a mirror at which it may lie; each may end in ``.gz``.
    """

    name: str
    header: bytes
    size: int
    sha256: str | None = None
    gz_md5: str | None = None
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.sha256 or self.gz_md5):
            raise ValueError(f"{self.name}: needs a sha256 or a gz_md5")

    @property
    def paths(self) -> list[str]:
        """The paths in a mirror to look at, in this order: where the file lies in a folder of its name, that path comes last."""
        return [f"{self.name}.gz", *(place + suffix for place in self.places for suffix in (".gz", "")), self.name]

    def check(self, served: bytes) -> bytes:
        """Return the uncompressed bytes. Raises IntegrityError when they are not this file."""
        zipped = served.startswith(b"\x1f\x8b")
        if not zipped and not self.sha256:
            raise IntegrityError("served uncompressed, but only the .gz has a published checksum")
        if zipped and self.gz_md5 and hashlib.md5(served, usedforsecurity=False).hexdigest() != self.gz_md5:
            raise IntegrityError("md5 of the .gz differs from the published one")
        if zipped and served.count(b"\x1f\x8b\x08") > MAX_MEMBERS:
            raise IntegrityError("a gzip of too many parts")
        try:  # reads at most one byte too many: a small gzip can hold gigabytes
            content = gzip.GzipFile(fileobj=io.BytesIO(served)).read(self.size + 1) if zipped else served
        except (EOFError, OSError, zlib.error):
            raise IntegrityError("truncated or damaged gzip") from None
        if not content.startswith(self.header):
            raise IntegrityError("a web page, not data" if content.lstrip().startswith(b"<") else "not the expected header")
        if len(content) != self.size:
            raise IntegrityError(f"{'more' if len(content) > self.size else 'fewer'} bytes than the {self.size:,} of the header")
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise IntegrityError("sha256 differs from the published one")
        return content


@dataclass(frozen=True)
class Patience:
    """Timeouts of one mirror, in seconds: ``total`` includes retries, and grows by one per ``min_rate`` bytes received."""

    connect: float = 5
    read: float = 10
    total: float = 30
    min_rate: float = 64 * 1024
    backoff: tuple[float, ...] = (0.5, 1.0)
    sleep: Callable[[float], None] = time.sleep


def _scheme(mirror: str) -> str:
    match = re.match(r"([a-z][a-z0-9+.-]*):", mirror, re.IGNORECASE)
    return match[1].lower() if match else ""


def _served(url: str, cap: int, patience: Patience) -> Iterator[bytes | int]:
    """Yield the length that a server states (0: unknown), then its chunks."""
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        # requests reads the whole body of a redirect, however large, unless the response is closed before it looks.
        hooks = {"response": lambda response, **_: response.close() if response.is_redirect else None}
        timeout, headers = (patience.connect, patience.read), {"Accept-Encoding": "identity"}
        with session.get(url, stream=True, timeout=timeout, headers=headers, hooks=hooks) as response:
            if (status := response.status_code) != 200:
                raise (_BusyError if status >= 500 or status == 429 else _Missing)(f"HTTP {status}")
            length = response.headers.get("Content-Length", "")
            yield int(length) if length.isdecimal() else 0
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                yield chunk
                cap -= len(chunk)
                if cap < 0:
                    break


def _stored(path: Path, cap: int) -> Iterator[bytes]:
    """Yield the first ``cap`` bytes of a file and one more."""
    if not path.is_file():  # also refuses a device or pipe, which may never end
        raise _Missing("no such file in the folder")
    with open(path, "rb") as file:
        yield file.read(cap + 1)


def _attempt(items: Iterable[bytes | int], label: str, patience: Patience, started: float) -> bytes:
    # A thread, because no timeout of requests bounds a name server that hangs or a header that arrives byte by byte, and none of
    # Python's a file of a file server that is gone.
    out: SimpleQueue[bytes | int | Exception] = SimpleQueue()
    body = bytearray()

    def receive() -> None:
        try:
            for item in items:
                out.put(item)
            out.put(b"")
        except Exception as error:  # the caller's thread raises it
            out.put(error)

    # Even a disabled progress bar imports multiprocessing, and a signal that arrives during an import can get lost.
    with tqdm(desc=label, unit="B", unit_scale=True, leave=False) if sys.stderr.isatty() else nullcontext() as bar:
        Thread(target=receive, daemon=True).start()
        while True:
            left = started + patience.total + len(body) / patience.min_rate - time.monotonic()
            try:
                item = out.get(timeout=max(left, 0))
            except Empty:
                raise Unavailable(f"gave up after {time.monotonic() - started:.0f} s and {len(body):,} bytes") from None
            if isinstance(item, Exception):
                raise item
            if item == b"":
                return bytes(body)
            if isinstance(item, bytes):
                body += item
                if bar is not None:
                    bar.update(len(item))
            elif bar is not None:
                bar.total = item or None


def _http(url: str, label: str, cap: int, patience: Patience, started: float) -> bytes:
    pauses = iter(patience.backoff)
    while True:
        try:
            return _attempt(_served(url, cap, patience), label, patience, started)
        except (_BusyError, requests.RequestException, HTTPError, OSError, ValueError) as error:
            # The message of requests may hold the whole URL, so only the type of its innermost error is shown.
            cause = getattr(error.args[0] if error.args else None, "reason", None) or error
            kind = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", type(cause).__name__).lower()
            if type(cause) in (ValueError, UnicodeDecodeError):  # the parsers' own, of what the server sent
                kind = "an answer that is not HTTP"
            retry = _BusyError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, HTTPError
            pause = next(pauses, None)
            if pause is None or not isinstance(error, retry) or isinstance(cause, NameResolutionError):
                raise Unavailable(str(error) if isinstance(error, _BusyError) else kind) from None
            patience.sleep(pause)


def _folder(mirror: str) -> Path:
    """Return the folder of a mirror that is a path or a ``file:`` URL; a relative one is relative to the repository."""
    path = mirror
    if _scheme(mirror) == "file":
        path = os.fsdecode(unquote_to_bytes(os.fsencode(mirror.partition(":")[2])))
        if path.startswith("//"):
            host, _, path = path[2:].partition("/")
            if host.lower() not in ("", "localhost"):
                raise Unavailable("refused: a file: URL names no host; write file:///folder")
            path = f"/{path}"
    # `dvc exp run --temp` runs in a copy of the repository, DVC_ROOT, and a notebook in a folder of it.
    candidates = [Path(root, os.path.expanduser(path)) for root in (os.environ.get("DVC_ROOT", ""), "", REPOSITORY)]
    for folder in candidates:
        if folder.is_dir():
            return folder
    is_file = any(candidate.is_file() for candidate in candidates)
    raise Unavailable("a file; name the folder that holds it" if is_file else "no such folder")


def _reader(mirror: str, file: File, patience: Patience) -> Callable[[str], bytes]:
    """Return a function that reads a path in a mirror."""
    scheme, started, cap = _scheme(mirror), time.monotonic(), file.size + _SLACK
    if scheme in URLS:
        parts = urlsplit(mirror)
        base = parts.path.rstrip("/")
        return lambda path: _http(parts._replace(path=f"{base}/{path}").geturl(), file.name, cap, patience, started)
    if scheme not in ("", "file") and "://" in mirror:
        raise Unavailable("refused: a mirror is a folder or a file:, http: or https: URL")
    folder = _folder(mirror)
    return lambda path: _attempt(_stored(folder / path, cap), file.name, patience, started)


def _from(mirror: str, file: File, patience: Patience) -> bytes:
    wrong: IntegrityError | None = None
    reason: Unavailable | None = None
    try:
        read = _reader(mirror, file, patience)
        for path in file.paths:
            try:
                return file.check(read(path))
            except _Missing as error:
                reason = reason or error
            except IntegrityError as error:
                wrong = wrong or IntegrityError(f"{path}: {error}")
                if (
                    _scheme(mirror) in URLS
                ):  # in a folder the file may lie at another place, undamaged; a server gets no second try
                    break
    except Unavailable as error:
        reason = error
    except OSError as error:
        reason = Unavailable(error.strerror or type(error).__name__)
    except ValueError:
        reason = Unavailable("not a valid URL")
    raise wrong or reason or Unavailable("no such file")


def fetch(file: File, mirrors: Sequence[str], patience: Patience | None = None) -> tuple[bytes, str]:
    """Return ``(uncompressed bytes, mirror)`` from the first mirror (folder, ``file:`` or ``http(s):`` URL) that has the file.

    Raises Unavailable when none has it, or IntegrityError when one served other bytes, because a fallback must not hide that.
    """
    reasons, wrong = [], False
    for mirror in mirrors:
        try:
            return _from(mirror, file, patience or Patience()), mirror
        except (Unavailable, IntegrityError) as error:
            reasons.append(f"{printable(redact(mirror))}: {error}")
            wrong = wrong or isinstance(error, IntegrityError)
            print(f"{file.name}: {reasons[-1]}", file=sys.stderr, flush=True)
    message = f"{file.name}: " + ("; ".join(reasons) or "no mirror to ask")
    raise IntegrityError(message) if wrong else Unavailable(message, reasons)
