"""Trained models in files: the weights as safetensors, with the configuration of the model; nothing is pickled."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from pipeline.models import LatentModel, ModelConfig
from pipeline.storage import Arrays, Header, Name, check_arrays, load_arrays, refusing, save_arrays


@dataclass(frozen=True)
class Trained:
    """A model, its configuration, the data set and the KL weight it was trained with (None without a KL term)."""

    model: LatentModel
    config: ModelConfig
    dataset: str
    beta: float | None

    def predict(self, images: np.ndarray) -> Arrays:
        """Return ``code`` ``[N, latent_dim]`` and ``reconstruction`` ``[N, C, H, W]`` of images ``[N, C, H, W]`` in [0, 1].

        Raises ValueError for other shapes and values.
        """
        x = np.asarray(images, np.float32)
        if x.ndim != 4 or x.shape[1:] != self.config.image_shape:
            raise ValueError(
                f"images must have the shape [N, {', '.join(map(str, self.config.image_shape))}], not {list(x.shape)}"
            )
        if x.size and not (x.min() >= 0 and x.max() <= 1):  # false for NaN, too
            raise ValueError(f"images must be intensities in [0, 1], not from {x.min():g} to {x.max():g}; divide bytes by 255")
        with torch.no_grad():
            code = self.model.encode(torch.from_numpy(x)).mean
            return {"code": code.numpy(), "reconstruction": self.model.decode_images(code).numpy()}


class _Header(Header):
    config: ModelConfig
    decoder: list[str]
    dataset: Name
    beta: float | None = Field(ge=0)


def _layers(model: LatentModel) -> list[str]:
    return [type(layer).__name__ for layer in model.decoder.children()]


def save_weights(path: str | Path, trained: Trained) -> None:
    """Write the weights and the configuration of a model; equal weights give equal bytes."""
    arrays = {name: tensor.numpy(force=True) for name, tensor in trained.model.state_dict().items()}
    decoder = _layers(trained.model)  # for decoding without torch
    header = {"config": asdict(trained.config), "decoder": decoder, "dataset": trained.dataset, "beta": trained.beta}
    save_arrays(path, arrays, header)


def load_weights(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Read a trained model, in evaluation mode on ``device``.

    Raises IntegrityError naming the file when it is missing, damaged or not a model of this version.
    """
    arrays, header = load_arrays(path)
    with refusing(path, "weights"):
        _Header.check(header)
        values = header["config"]
        sizes = {key: tuple(values[key]) for key in ("image_shape", "hidden_dims")}
        config = ModelConfig(**(values | sizes))
        with torch.device("meta"):  # which allocates nothing, so that a file cannot ask for more than it holds
            expected = config.build()
        state = expected.state_dict()
        if state.keys() != arrays.keys() or header["decoder"] != _layers(expected):
            raise ValueError("it has other layers")
        if expected.is_probabilistic != (header["beta"] is not None):
            raise ValueError(f"beta = {header['beta']} of a model {config.model}")
        check_arrays(arrays, {name: " ".join(["f4", *map(str, tensor.shape)]) for name, tensor in state.items()})
        model = config.build()
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return Trained(model.to(device).eval(), config, header["dataset"], header["beta"])
