"""A trained model in a file: its weights as safetensors with what is needed to build it around them; nothing is pickled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import IntegrityError
from pipeline.files import Arrays, load_arrays, save_arrays
from pipeline.models import MODELS, Model


@dataclass(frozen=True)
class Trained:
    """A model with what must be known to use it."""

    model: Model
    name: str
    """Its name in the registry."""
    dataset: str
    """The data set it was trained on."""
    image_shape: tuple[int, int]
    """Height and width in pixels."""
    beta: float | None
    """Weight of the KL term in training; None for a model without one."""

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> Arrays:
        """Return ``code`` ``[N, latent_dim]`` and ``reconstruction`` ``[N, D]`` of images ``[N, D]`` in [0, 1].

        This is what MLflow calls on a model it has loaded (``mlflow.pyfunc``).
        """
        with torch.no_grad():
            code = self.model.embed(torch.as_tensor(np.asarray(images), dtype=torch.float32))
            return {"code": code.numpy(), "reconstruction": torch.sigmoid(self.model.decode(code)).numpy()}


def save_weights(path: str | Path, trained: Trained) -> None:
    """Write the weights and what is needed to build the model around them; equal weights give equal bytes."""
    arrays = {name: tensor.numpy(force=True) for name, tensor in trained.model.state_dict().items()}
    decoder = [type(layer).__name__ for layer in trained.model.decoder]  # what decodes without torch must know
    header = {"model": trained.name, "config": trained.model.config, "decoder": decoder, "dataset": trained.dataset}
    save_arrays(path, arrays, header | {"image_shape": list(trained.image_shape), "beta": trained.beta})


def load_weights(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Read a trained model, in evaluation mode on ``device``.

    Raises IntegrityError naming the file when it is missing, damaged or of a model this version does not have.
    """
    arrays, header = load_arrays(path)
    try:
        model: Any = MODELS[header["model"]](**header["config"])
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        height, width = header["image_shape"]
        return Trained(model.to(device).eval(), header["model"], header["dataset"], (height, width), header["beta"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{path}: not weights of this version ({error}); delete it and run `dvc repro`") from None


_load_pyfunc = load_weights  # the name by which MLflow asks a loader module for its model
