"""Trained models in files, over every registered model."""

import pytest
import torch

from pipeline.errors import IntegrityError
from pipeline.files import load_arrays, save_arrays
from pipeline.models import MODELS
from pipeline.weights import Trained, load_weights, save_weights


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_model_and_the_same_bytes(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("weights")
    trained = Trained(MODELS[name](20, 3, [8]), name, "blobs", (4, 5), 4.0)
    save_weights(folder / "a", trained)
    loaded = load_weights(folder / "a")
    save_weights(folder / "b", loaded)
    x = torch.rand(6, 20)
    assert torch.equal(trained.model.embed(x), loaded.model.embed(x))
    assert (loaded.name, loaded.dataset, loaded.image_shape, loaded.beta) == (name, "blobs", (4, 5), 4.0)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_weights_of_an_unknown_model_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("weights") / "x"
    save_weights(path, Trained(MODELS["ae"](20, 3, [8]), "ae", "blobs", (4, 5), None))
    arrays, header = load_arrays(path)
    for wrong in ({"model": "gan"}, {"config": {"input_dim": 21, "latent_dim": 3, "hidden_dims": [8]}}):
        save_arrays(path, arrays, header | wrong)
        with pytest.raises(IntegrityError, match="not weights of this version"):
            load_weights(path)
