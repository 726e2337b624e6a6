"""Trained models in files, over every registered model."""

from pathlib import Path

import pytest
import torch

from pipeline.errors import IntegrityError
from pipeline.models import MODELS, ModelConfig
from pipeline.models.weights import Trained, load_weights, save_weights
from pipeline.storage import load_arrays, save_arrays


def trained(name: str, beta: float | None = None) -> Trained:
    config = ModelConfig(name, "mlp", (1, 4, 5), 3, (8,))
    return Trained(config.build(), config, "blobs", beta)


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_model_and_the_same_bytes(name: str, tmp_path: Path) -> None:
    saved = trained(name, beta=4.0)
    save_weights(tmp_path / "a", saved)
    loaded = load_weights(tmp_path / "a")
    save_weights(tmp_path / "b", loaded)
    x = torch.rand(6, 1, 4, 5)
    assert torch.equal(saved.model.encode(x).mean, loaded.model.encode(x).mean)
    assert (loaded.config, loaded.dataset, loaded.beta) == (saved.config, "blobs", 4.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_predict_encodes_and_reconstructs_images() -> None:
    found = trained("vae").predict(torch.rand(6, 1, 4, 5).numpy())
    assert found["code"].shape == (6, 3)
    assert found["reconstruction"].shape == (6, 1, 4, 5)
    assert 0 <= found["reconstruction"].min() <= found["reconstruction"].max() <= 1


@pytest.mark.parametrize("wrong", [{"model": "gan"}, {"net": "unknown"}, {"image_shape": [1, 4, 6]}, {"hidden_dims": None}])
def test_weights_of_another_model_are_refused(wrong: dict, tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_weights(path, trained("ae"))
    arrays, header = load_arrays(path)
    save_arrays(path, arrays, header | {"config": header["config"] | wrong})
    with pytest.raises(IntegrityError, match="not weights of this version"):
        load_weights(path)
