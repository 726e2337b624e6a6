"""Errors that a user can act on: a message of one line and an exit code, the same for stages and commands."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OUT_OF_MEMORY, NO_SPACE, INTERRUPTED = 5, 74, 130
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
NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM}


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
            text = text.replace(value, "***")
    for pattern, shown in _IN_URLS:
        text = pattern.sub(shown, text)
    return text


def describe(error: Exception) -> tuple[str, int] | None:
    """Return the message and the exit code of an error that the user can act on, None for any other."""
    import click

    if isinstance(error, PipelineError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        return f"{error.format_message()} (see --help)", error.exit_code
    if isinstance(error, click.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: no such file or folder; run `dvc repro`", IntegrityError.exit_code
    if isinstance(error, OSError) and error.errno in NO_SPACE_ERRNOS:
        return f"{error.filename or 'output'}: {error.strerror}; make room or make it writable, then run again", NO_SPACE
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error)):
        return f"out of memory ({error}); lower train.batch_size or the hidden_dims", OUT_OF_MEMORY
    return None


@contextmanager
def one_line() -> Iterator[None]:
    """End the process with a line on stderr and an exit code for an error that :func:`describe` knows; raise any other."""
    try:
        yield
    except Exception as error:
        if not (known := describe(error)):
            raise
        print(f"error: {' '.join(redact(known[0]).split())}", file=sys.stderr)
        sys.exit(known[1])
