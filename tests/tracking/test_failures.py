"""What a user is told when MLflow fails never fails itself, whatever the error is."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.tracking.failures import warn


class StorageError(Exception):
    """An error as those of S3, whose response is a mapping, of which botocore fills in as much as there is."""

    def __init__(self, response: dict[str, Any]) -> None:
        super().__init__("upload failed")
        self.response = response


@pytest.mark.parametrize(
    ("response", "is_refused"),
    [
        ({"ResponseMetadata": {"HTTPStatusCode": 403}}, True),
        ({"ResponseMetadata": {}}, False),
        ({"Error": {}}, False),
        ({}, False),
    ],
)
def test_an_error_of_s3_is_told_in_one_line(
    response: dict[str, Any], is_refused: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "rita")
    warn(StorageError(response))
    said = capsys.readouterr().err
    assert said.startswith("warning: MLflow failed (")
    assert said.count("\n") == 1
    assert ("it does not let rita do it" in said) == is_refused


def answered(status: int) -> Exception:
    """Return the error of an HTTP request."""
    error = OSError("refused")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def coded(code: str) -> Exception:
    """Return an error as MLflow's, which has a code."""
    error = OSError("no")
    error.error_code = code  # type: ignore[attr-defined]
    return error


def caused(cause: Exception) -> Exception:
    error = OSError("failed")
    error.__cause__ = cause
    return error


MAY_NOT, LATER = "it does not let this user do it: ", "once that user may log runs"


@pytest.mark.parametrize(
    ("error", "why", "when"),
    [
        (OSError("gone"), "gone", "later"),
        (PipelineError("a folder"), "a folder", "once this is mended"),
        (answered(401), f"{MAY_NOT}refused", LATER),
        (answered(403), f"{MAY_NOT}refused", LATER),
        (answered(404), "refused", "later"),
        (caused(answered(403)), f"{MAY_NOT}failed", LATER),
        (coded("PERMISSION_DENIED"), f"{MAY_NOT}no", LATER),
        (coded("UNAUTHENTICATED"), f"{MAY_NOT}no", LATER),
        (coded("INTERNAL_ERROR"), "no", "later"),
        (ModuleNotFoundError("No module", name="boto3"), "the package boto3 is missing; `make s3` adds it", "later"),
        (caused(ModuleNotFoundError(name="psycopg")), "the package psycopg is missing; `make server` adds it", "later"),
        (ModuleNotFoundError("No module", name="other"), "No module", "later"),
        (OSError("API request to endpoint /api failed with 500. Response body: 'full'"), "full", "later"),
    ],
)
def test_the_warning_says_why_and_what_restores_the_run(
    error: Exception, why: str, when: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warn(error)
    monkeypatch.setenv("DVC_STAGE", "train_vae")
    warn(error)
    start = f"warning: MLflow failed ({why}); the work goes on"
    assert capsys.readouterr().err == f"{start} without it\n{start}, `latent sync` restores the run {when}\n"
