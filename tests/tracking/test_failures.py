"""What a user is told when MLflow fails never fails itself, whatever the error is."""

from typing import Any

import pytest

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
