"""Errors that a user can act on are one line and an exit code."""

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import click
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from pipeline import errors
from pipeline.errors import PipelineError, describe, one_line, redact

SECRET = "hunter2-canary"


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (errors.ParamsError("beta: -1 is not allowed"), "beta: -1 is not allowed", 2),
        (errors.IntegrityError("damaged"), "damaged", 3),
        (errors.DivergedError("not finite"), "not finite", 4),
        (errors.BusyError("busy"), "busy", 75),
        (PipelineError("other"), "other", 1),
        (click.BadParameter("no number", param_hint="--dpi"), "Invalid value for --dpi: no number (see --help)", 2),
        (FileNotFoundError(2, "No such file", "models/ae.safetensors"), "models/ae.safetensors: no such file or folder", 3),
        (OSError(errno.ENOSPC, "No space left on device", "out"), "out: No space left on device; make room", 74),
        (OSError(errno.EROFS, "Read-only file system"), "standard output: Read-only file system; make room", 74),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: Permission denied; make room", 74),
        (OSError(errno.EFBIG, "File too large", "out"), "out: File too large; make room", 74),
        (OSError(errno.EIO, "Input/output error", "out"), "out: Input/output error; make room", 74),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out"), "out: Is a directory; move it out of the way", 3),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "I/O error: No space left on device", 74),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full; make room", 74),
        (sqlite3.OperationalError("attempt to write a readonly database"), "attempt to write a readonly database", 74),
        (MemoryError("9 GiB"), "out of memory (9 GiB); end other programs, or lower train.batch_size", 5),
        (MemoryError(), "out of memory (no details)", 5),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory ([Errno 12] Cannot allocate memory)", 5),
        (RuntimeError("CUDA out of memory."), "out of memory (CUDA out of memory.); end", 5),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes.\nframe #0"),
            "out of memory ([enforce",
            5,
        ),
        (ImportError("IMPORTANT\n\nOriginal error: failed to map segment from shared object"), "out of memory (IMPORTANT)", 5),
        (RuntimeError("std::bad_alloc"), "out of memory (std::bad_alloc)", 5),
        (RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"), "out of memory (Storage size", 5),
        (RuntimeError("can't start new thread"), "out of memory (can't start new thread)", 5),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory (libtorch_cpu.so", 5),
        (EOFError("marshal data too short"), "a compiled file of Python is damaged", 3),
        (EOFError("EOF read where object expected"), "a compiled file of Python is damaged", 3),
        (ValueError("bad marshal data (unknown type code)"), "a compiled file of Python is damaged", 3),
    ],
)
def test_each_error_has_a_message_and_an_exit_code(error: Exception, message: str, code: int) -> None:
    known = describe(error)
    assert known is not None
    assert known[0].startswith(message)
    assert known[1] == code


def test_what_is_described_has_no_secret_and_no_second_line() -> None:
    assert describe(PipelineError("no answer\nfrom https://me:secret@host")) == ("no answer from https://host", 1)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("marshal"), KeyError("a"), EOFError()])
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


@pytest.mark.parametrize(
    "mirror",
    [
        f"https://user:{SECRET}@host/path",
        f"https://{SECRET}@host/",
        f"https://host/path?token={SECRET}",
        f"https://host/path#{SECRET}",
        f"https://user:a/{SECRET}@host/",
        f"https://user:a?{SECRET}@host/",
        f"https://user:a@{SECRET}/b@host/",
        f"https:{SECRET}",
        f"user:{SECRET}@host/path",
        f"//user:{SECRET}@host/path",
    ],
)
def test_no_credential_survives_redaction(mirror: str) -> None:
    assert SECRET not in redact(mirror)
    if "//" in mirror:
        assert SECRET not in redact(f"the store {mirror} does not answer")


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg2://me:{SECRET}@host:5432/mlflow is down",
        f"Max retries exceeded with url: /api?experiment=1&X-Amz-Signature={SECRET} (refused)",
        f"file://me:{SECRET}@host/x",
        f"header Basic {SECRET}",
    ],
)
def test_no_credential_survives_in_a_sentence(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "Basic" in text:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    with pytest.raises(SystemExit), one_line():
        raise PipelineError(text)
    assert SECRET not in capsys.readouterr().err


def test_a_secret_of_the_environment_is_hidden_in_a_url_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_TOKEN", secret := "a/b+c d@é\udcff")
    escaped = [quote(os.fsencode(secret)), quote(os.fsencode(secret), safe=""), quote_plus(os.fsencode(secret))]
    for form in (secret, *escaped, *map(str.lower, escaped)):
        assert redact(f"no answer from {form} here") == "no answer from *** here"


@pytest.mark.parametrize(
    "text",
    [
        "/data/mnist",
        "mnist",
        "file:///data",
        "https://host:8443/path/",
        "sqlite:////home/me@work/a#b/mlflow.db",
        "dvc.yaml: stage evaluate@vae: beta: -1 is not allowed",
        "[Errno 2] no such file: 'a//b@c'",
    ],
)
def test_a_text_without_credentials_is_shown_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_the_libraries_say_what_is_expected_when_memory_runs_out() -> None:
    huge = 1 << 55
    for allocate in (lambda: torch.empty(huge), lambda: np.empty(huge), lambda: torch.empty(huge, huge), lambda: bytearray(huge)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        known = describe(caught.value)
        assert known
        assert known[1] == 5


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_ends_the_process_in_silence(interrupt: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, one_line():
        raise interrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_message_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line():
        raise errors.ParamsError("\x1b[2J key 'β'\x00")
    assert capsys.readouterr().err == "error: \\x1b[2J key 'β'\\x00\n"


PRINTING = """
import sys, click
from pipeline.errors import one_line
from pipeline.startup import begin
begin()
@click.command()
def main(): click.echo("text" * 50_000) if sys.argv[1:] == ["click"] else print("text")
with one_line():
    sys.exit(main.main([], standalone_mode=False))
"""


@pytest.mark.parametrize("arguments", [[], ["click"]])
@pytest.mark.parametrize(
    ("output", "code", "says"), [("full", 74, "error: standard output: No space left"), ("pipe", 141, ""), ("closed", 0, "")]
)
def test_output_that_nobody_takes(output: str, code: int, says: str, arguments: list[str]) -> None:
    if output == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = [sys.executable, "-c", PRINTING, *arguments]
    if output == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full" if output == "full" else os.devnull, os.O_WRONLY)
    if output == "closed":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == code
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == bool(says)
