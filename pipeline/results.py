"""What figures need of a trained model, as frozen arrays: written by ``evaluate``, read without torch."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import IntegrityError
from pipeline.files import load_arrays, save_arrays


@dataclass(frozen=True)
class Results:
    """One model seen through test images. Images are intensities in [0, 1]; d is the latent dimension.

    ``beta`` is None for a model without a KL term. ``manifold_range`` and ``manifold_quantiles`` are empty unless d = 2,
    ``traversals`` unless d > 2.
    """

    dataset: str
    model: str
    beta: float | None
    codes: np.ndarray  # [N, d] latent points of the test images
    labels: np.ndarray  # [N]
    spread: np.ndarray  # [N, d] standard deviation of the posterior; zeros where the model has none
    inputs: np.ndarray  # [K, height, width] test images, one of each class and more
    reconstructions: np.ndarray  # [K, height, width] their reconstructions, decoded at the code
    samples: np.ndarray  # [16, height, width] decoded draws from N(0, I), the same draws for every model
    manifold_range: np.ndarray  # [M, M, height, width] decoded linear grid over [-3, 3]^2, the second axis upwards
    manifold_quantiles: np.ndarray  # [M, M, height, width] decoded grid at quantiles of the standard normal
    interpolations: np.ndarray  # [P, S, height, width] decoded straight lines between the codes of pairs of test images
    traversals: np.ndarray  # [d, S, height, width] decoded moves along one axis from -3 to 3, the others at the mean code
    weights_md5: str = ""  # which weights made them, as dvc.lock names them: the way to the MLflow run

    @property
    def title(self) -> str:
        """The model as people name it, with data set and beta, for a figure's title."""
        name = self.model.replace("_", " ").upper() if len(self.model) < 4 else self.model.replace("_", " ")
        return f"{name} on {self.dataset}" + ("" if self.beta is None else f", β = {self.beta:g}")


def save_results(path: str | Path, results: Results) -> None:
    """Write results to one file; equal results give equal bytes."""
    values = {field.name: getattr(results, field.name) for field in fields(results)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    save_arrays(path, arrays, {name: value for name, value in values.items() if name not in arrays})


def load_results(path: str | Path) -> Results:
    """Read results. Raises IntegrityError naming the file when it is missing or damaged."""
    arrays, header = load_arrays(path)
    try:
        values: dict[str, Any] = {**header, **arrays}
        return Results(**values)
    except TypeError as error:
        raise IntegrityError(f"{path}: not results of this version ({error}); run `dvc repro evaluate`") from None
