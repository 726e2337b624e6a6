"""What a user is told when MLflow, its database, its server or its disk fails."""

import os
import re
import sys
from typing import cast

from pipeline.errors import PipelineError, reason

SYNC = "`latent sync`"
_EXTRAS = {"boto3": "`make s3`", "psycopg": "`make server`"}  # packages that a store may need
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED")


def causes(error: BaseException) -> list[BaseException]:
    """Return an error and those that led to it."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return chain


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)  # that of requests, or of S3, whose errors need not have all of it
    if isinstance(response, dict):
        return cast(int | None, response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return cast(int | None, getattr(response, "status_code", None))


def is_denied(error: Exception) -> bool:
    """Return whether a server or S3 knows the user and refuses what was asked, or does not know the user."""
    return getattr(error, "error_code", "") in _DENIED or bool({401, 403} & set(map(_http_status, causes(error))))


def answer(error: Exception) -> str:
    """Return the reason in one line: of a refusal the server's own words, of a missing package how to add it.

    >>> answer(OSError("API request to endpoint /api failed with error code 403 != 200. Response body: 'Permission denied'"))
    'Permission denied'
    """
    for cause in causes(error):
        if isinstance(cause, ModuleNotFoundError) and cause.name in _EXTRAS:
            return f"the package {cause.name} is missing; {_EXTRAS[cause.name]} adds it"
    return re.sub(r"^API request to .* Response body: '(.+)'$", r"\1", reason(error))


def warn(error: Exception) -> None:
    """Print that MLflow failed, and what brings back the run, which for one that DVC did not start is nothing."""
    why, when = answer(error), "once this is mended" if isinstance(error, PipelineError) else "later"
    if is_denied(error):
        user = os.environ.get("MLFLOW_TRACKING_USERNAME", "this user")
        why, when = f"it does not let {user} do it: {why}", "once that user may log runs"
    then = f", {SYNC} restores the run {when}" if os.environ.get("DVC_STAGE") else " without it"
    print(f"warning: MLflow failed ({why}); the work goes on{then}", file=sys.stderr)
