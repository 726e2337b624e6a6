"""The weights of a model in the MLflow store, by its address."""

import re
from pathlib import Path

from pipeline.errors import IntegrityError, ParamsError, reason, redact
from pipeline.tracking.database import load_mlflow
from pipeline.tracking.store import connected, store_uri


def fetch_weights(address: str, folder: Path) -> Path:
    """Return the file of weights of a model, copied to a folder; the code that was logged with it is not run.

    ``address`` is ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or ``models:/ID`` of a model that is not registered.

    Raises ParamsError when there is no such model, IntegrityError when it is not one of this project.
    """
    if not address.isprintable() or not re.fullmatch(r"models:/(m-\w+|[^/@\s][^/@]*[/@][^/@\s]+)", address):
        raise ParamsError(f"{address}: allowed are models:/NAME@ALIAS, models:/NAME/VERSION and models:/ID")
    with connected(create=False) as (client, _):
        mlflow = load_mlflow()
        try:
            place = Path(mlflow.artifacts.download_artifacts(address, dst_path=str(folder)))
        except mlflow.exceptions.MlflowException as error:
            if error.get_http_status_code() not in (400, 404):
                raise
            listed = [f"models:/{model.name}@{alias}" for model in client.search_registered_models() for alias in model.aliases]
            there = f"there are {', '.join(listed)}" if listed else "`latent sync` registers the best model"
            raise ParamsError(f"{address}: no such model in {redact(store_uri())} ({reason(error)}); {there}") from None
        try:
            return place / str(mlflow.models.Model.load(str(place)).flavors["python_function"]["data"])
        except (KeyError, TypeError, mlflow.exceptions.MlflowException):
            raise IntegrityError(f"{address}: a model of another program; allowed is one that a training has logged") from None
