"""What MLflow runs of a logged model: its loader, and a prediction whose errors are one line, also from MLflow's server."""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.models.weights import Trained, load_weights


class RefusedImages(MlflowException):
    """Images that the model does not take; MLflow's server answers with status 400 and this message."""

    def __init__(self, message: str) -> None:
        super().__init__(message, INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The message; MLflow's server would put all of the data before it, so it cannot be assigned."""
        return str(self.args[0]) if self.args else ""

    @message.setter
    def message(self, value: str) -> None:
        pass


class Served:
    """A trained model as MLflow calls it."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Return ``code`` and ``reconstruction`` of images; see :meth:`Trained.predict`. Raises RefusedImages for others."""
        try:
            return self.trained.predict(images)
        except ValueError as error:
            raise RefusedImages(str(error)) from None


def _load_pyfunc(path: str | Path) -> Served:
    """Load the weights; MLflow calls this function of a loader module."""
    return Served(load_weights(path))
