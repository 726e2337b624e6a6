"""Errors that a user can act on are one line and an exit code."""

import errno
from pathlib import Path

import click
import pytest

from pipeline import errors
from pipeline.errors import PipelineError, describe, one_line


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (errors.ParamsError("beta: -1 is not allowed"), "beta: -1 is not allowed", 2),
        (errors.IntegrityError("damaged"), "damaged", 3),
        (errors.DivergedError("not finite"), "not finite", 4),
        (errors.BusyError("busy"), "busy", 75),
        (PipelineError("other"), "other", 1),
        (click.BadParameter("no number", param_hint="--dpi"), "Invalid value for --dpi: no number (see --help)", 2),
        (click.Abort(), "interrupted", 130),
        (FileNotFoundError(2, "No such file", "models/ae.safetensors"), "models/ae.safetensors: no such file or folder", 3),
        (OSError(errno.ENOSPC, "No space left on device", "out"), "out: No space left on device; make room", 74),
        (OSError(errno.EROFS, "Read-only file system"), "output: Read-only file system; make room", 74),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: Permission denied; make room", 74),
        (MemoryError("9 GiB"), "out of memory (9 GiB); lower train.batch_size", 5),
        (RuntimeError("CUDA out of memory."), "out of memory (CUDA out of memory.); lower", 5),
    ],
)
def test_each_error_has_a_message_and_an_exit_code(error: Exception, message: str, code: int) -> None:
    known = describe(error)
    assert known is not None
    assert known[0].startswith(message)
    assert known[1] == code


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.EIO, "I/O error"), KeyError("a")])
def test_an_error_of_the_program_is_not_described(error: Exception) -> None:
    assert describe(error) is None
    with pytest.raises(type(error)) as caught, one_line():
        raise error
    assert caught.value is error


def test_an_error_ends_the_process_with_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught, one_line():
        raise errors.IntegrityError("a:\n  two lines")
    assert caught.value.code == 3
    assert capsys.readouterr().err == "error: a: two lines\n"
