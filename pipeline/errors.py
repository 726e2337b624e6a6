"""Errors that a user can act on: a message of one line and an exit code, the same for stages and commands."""

import errno
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, quote_plus

OUT_OF_MEMORY, NO_SPACE, INTERRUPTED, CLOSED_PIPE = 5, 74, 130, 141
DAMAGED = "run `latent verify --fix`, then `dvc repro`"
"""The advice for a damaged file of DVC's, whose cache may hold the damaged bytes, too."""

NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EIO}
# What libraries say that raise errors of their own.
_MEMORY_WORDS = re.compile(
    "out of memory|(can't|cannot|unable to|failed to) allocate|bad_alloc|not enough memory|alloc_failed|invalid buffer size"
    "|storage size calculation overflowed|failed to map segment|can't start new thread|thread creation failed",
    re.IGNORECASE,
)
SPACE_WORDS = re.compile(
    "no space left|disk is full|disk i/o error|file too large|quota exceeded|read-only file system|readonly database",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile("PASSWORD|SECRET|TOKEN|CREDENTIAL|ACCESS_KEY")
# A password may hold any character, so what stands before the last @ of a word is hidden. Paths may hold @, ? and # as well.
_IN_URLS = [
    (re.compile(r"((?<!sqlite)(?<!file):|(?<![:/\w]))//\S*@"), r"\1//"),
    (re.compile(r"://[^/\s]*@"), "://"),
    (re.compile(r"((?<!sqlite)(?<!file)://[^\s?#]*)[?#]\S+"), r"\1?***"),
    (re.compile(r"([?&][^\s=&]*(?:token|key|secret|pass|sig|cred)[^\s=&]*=)[^\s&]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(https?:)(?!//)\S+"), r"\1***"),
    (re.compile(r"^[^\s/:]+:(?!//)\S*@(?=\S*$)"), ""),
]


class PipelineError(Exception):
    """A mistake or a state that the user can act on. Its message is one line; ``exit_code`` is that of the process."""

    exit_code = 1


class ParamsError(PipelineError):
    """params.yaml or an option has a value that is not allowed."""

    exit_code = 2


class IntegrityError(PipelineError):
    """A file or a download is missing, damaged, or of another kind than expected."""

    exit_code = 3


class DivergedError(PipelineError):
    """The loss or a gradient is not finite."""

    exit_code = 4


class PrunedError(PipelineError):
    """A training was given up after this ``epoch``, because others were better by then."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"pruned after epoch {epoch}")
        self.epoch = epoch


STOPPED = SystemExit, KeyboardInterrupt, PrunedError
"""What ends a training that has not failed."""


class SpaceError(PipelineError):
    """A place is full, or may not be read or written."""

    exit_code = NO_SPACE


class BusyError(PipelineError):
    """Another process uses what this one needs; a later try can succeed."""

    exit_code = 75


class AccessError(PipelineError):
    """The server does not let this user read or write what is needed."""

    exit_code = 77


def redact(text: str) -> str:
    """Return a text without user, password, query and fragment of its URLs, and without secrets of the environment.

    >>> redact("no answer from https://me:secret@host/mnist?key=secret")
    'no answer from https://host/mnist?***'
    """
    for name, value in os.environ.items():
        if len(value) > 3 and _SECRET_NAME.search(name):
            text, octets = text.replace(value, "***"), os.fsencode(value)
            for form in (quote(octets), quote(octets, safe=""), quote_plus(octets)):
                text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE)  # %2F is also written as %2f
    for pattern, shown in _IN_URLS:
        text = pattern.sub(shown, text)
    return text


def reason(error: Exception) -> str:
    """Return the message of an exception as one line, without credentials: its cause if it names one, and no SQL statement.

    >>> reason(OSError("Max retries exceeded (Caused by ResponseError('too many 503 error responses'))"))
    "ResponseError('too many 503 error responses')"
    >>> reason(ValueError("unmatched )"))
    'unmatched )'
    """
    _, caused, text = str(error).rpartition("(Caused by ")
    message = re.split(r"\s*\[SQL:|\s*\(Background on this error", text)[0]
    if caused:
        message = message.removesuffix(")" * (message.count(")") - message.count("(")))  # those around the cause
    return redact(" ".join(message.split()))[:300] or type(error).__name__


def printable(text: str) -> str:
    """Return a text as one line that a terminal shows as it is, with escapes for letters that it would not.

    >>> printable("a\\nb \\x1b[1m")
    'a b \\\\x1b[1m'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(text.split()))


def describe(error: Exception) -> tuple[str, int] | None:
    """Return the message, in one line and without secrets, and the exit code of an error that the user can act on, else None."""
    known = _known(error)
    return known and (printable(redact(known[0])), known[1])


def _known(error: Exception) -> tuple[str, int] | None:
    import click

    says = str(error).strip()
    text = says.split("\n")[0][:300]
    match error:
        case PipelineError():
            return str(error), error.exit_code
        case click.ClickException():
            return f"{error.format_message()} (see --help)", error.exit_code
        case FileNotFoundError(filename=name) if name:
            return f"{name}: no such file or folder; run `dvc repro`", IntegrityError.exit_code
        case MemoryError() | OSError(errno=errno.ENOMEM):
            return _out_of_memory(text)
        case OSError(errno=number, filename=name) if number in NO_SPACE_ERRNOS:
            return f"{name or 'standard output'}: {error.strerror}; make room or make it writable, then run again", NO_SPACE
        case OSError(errno=int(), filename=name) if name:
            return f"{name}: {error.strerror}; move it out of the way or give another path", IntegrityError.exit_code
        case EOFError() | ValueError() | TypeError() if "marshal data" in text or "EOF read where" in text:
            cure = f"run `find {shlex.quote(sys.prefix)} -name '*.pyc' -delete`, then run again"
            return f"a compiled file of Python is damaged, as after a full disk ({text}); {cure}", IntegrityError.exit_code
    if _MEMORY_WORDS.search(says):
        return _out_of_memory(text)
    if SPACE_WORDS.search(says):
        return f"{text}; make room or make it writable, then run again", NO_SPACE
    return None


def _out_of_memory(text: str) -> tuple[str, int]:
    return (
        f"out of memory ({text or 'no details'}); end other programs, or lower train.batch_size or the hidden_dims",
        OUT_OF_MEMORY,
    )


def _flush_output() -> None:
    """Write what is left for standard output; if that fails, drop it, so that Python does not try again at its end."""
    try:
        if sys.stdout:  # None where it was closed at the start
            sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


@contextmanager
def one_line() -> Iterator[None]:
    """End the process with a line on stderr and an exit code for an error that :func:`describe` knows; raise any other.

    Ctrl-C, and a reader of standard output that has gone, as in ``latent compare | head``, end it in silence.
    """
    import click

    try:
        try:
            yield
        finally:
            _flush_output()
            if "PacifyFlush" in type(sys.stdout).__name__:  # by which click hides a closed pipe
                sys.exit(CLOSED_PIPE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(CLOSED_PIPE)
    except Exception as error:
        if not (known := describe(error)):
            raise
        with suppress(OSError):
            print(f"error: {known[0]}", file=sys.stderr, flush=True)
        sys.exit(known[1])
