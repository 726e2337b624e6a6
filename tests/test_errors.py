"""Errors that a user can act on are one line and an exit code."""

import errno
from pathlib import Path

import click
import pytest

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
