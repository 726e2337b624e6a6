"""Trained models in files, over every registered model."""

from pathlib import Path

import numpy as np
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
    beta = 4.0 if MODELS[name].is_probabilistic else None
    saved = trained(name, beta)
    save_weights(tmp_path / "a", saved)
    loaded = load_weights(tmp_path / "a")
    save_weights(tmp_path / "b", loaded)
    x = torch.rand(6, 1, 4, 5)
    assert torch.equal(saved.model.encode(x).mean, loaded.model.encode(x).mean)
    assert (loaded.config, loaded.dataset, loaded.beta) == (saved.config, "blobs", beta)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("count", [0, 6])
def test_predict_encodes_and_reconstructs_images_of_any_type(count: int) -> None:
    one, x = trained("vae"), torch.linspace(0, 1, count * 20).view(count, 1, 4, 5)
    for images in (x.numpy(), x.numpy().astype(np.float64), x.tolist() if count else x.numpy()):
        found = one.predict(images)
        with torch.no_grad():
            code = one.model.encode(x).mean
            np.testing.assert_allclose(found["code"], code, rtol=1e-6)
            np.testing.assert_allclose(found["reconstruction"], torch.sigmoid(one.model.decode(code)), rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"model": "gan"}, {"net": "unknown"}, {"image_shape": [1, 4, 6]}, {"hidden_dims": None}])
def test_weights_of_another_model_are_refused(wrong: dict, tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_weights(path, trained("ae"))
    arrays, header = load_arrays(path)
    save_arrays(path, arrays, header | {"config": header["config"] | wrong})
    with pytest.raises(IntegrityError, match="not weights of this version"):
        load_weights(path)


@pytest.mark.parametrize("value", [255.0, 1.001, -0.001, float("nan"), float("inf")])
def test_images_that_are_no_intensities_are_refused(value: float) -> None:
    config = ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8))
    images = np.full((2, 1, 8, 8), 0.5, np.float32)
    trained = Trained(config.build(), config, "blobs", 1.0)
    assert trained.predict(images)["code"].shape == (2, 2)
    images[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match=rf"must be intensities in \[0, 1\], not from .*{value:g}.*; divide bytes by 255$"):
        trained.predict(images)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9), (2, 64)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    config = ModelConfig("ae", "mlp", (1, 8, 8), 2, (16, 8))
    with pytest.raises(ValueError, match=r"must have the shape \[N, 1, 8, 8\]"):
        Trained(config.build(), config, "blobs", None).predict(np.zeros(shape, np.float32))


HUGE = [10**9, 2**16 + 1, [1] * 100_000]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"beta": beta} for beta in ("x", float("nan"), float("inf"), -1.0, True, None)),
        *({"config": {"latent_dim": size}} for size in (HUGE[0], 0, 2.5, "2", None)),
        *({"config": {"hidden_dims": sizes}} for sizes in ([HUGE[0]], [HUGE[1]], HUGE[2], [0], "8")),
        *({"config": {"image_shape": shape}} for shape in ([1, 4], [65536, 65536, 65536], [1, 4, -5])),
        {"config": {"extra": 1}},
        {"config": []},
        {"extra": 1},
        {"dataset": 3},
        {"decoder": ["Linear"]},
        {"decoder": [1]},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
def test_a_crafted_header_is_refused_before_anything_is_allocated(wrong: dict, tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_weights(path, trained("vae", beta=1.0))
    arrays, header = load_arrays(path)
    for key, value in wrong.items():
        header[key] = header[key] | value if isinstance(value, dict) else value
    save_arrays(path, arrays, header)
    with pytest.raises(IntegrityError, match="x: not weights of this version"):
        load_weights(path)


@pytest.mark.parametrize("change", ["int8", "float64", "shape", "nan", "inf", "missing", "extra"])
def test_crafted_weights_are_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_weights(path, trained("vae", beta=1.0))
    arrays, header = load_arrays(path)
    name = "decoder.0.weight"
    array = arrays.pop(name).copy()
    if change in {"nan", "inf"}:
        array[0, 0] = float(change)
    if change in {"int8", "float64"}:
        array = array.astype(change)
    if change != "missing":
        arrays[f"{name}s" if change == "extra" else name] = array[:1] if change == "shape" else array
    save_arrays(path, arrays, header)
    why = "it has other layers" if change in {"missing", "extra"} else name
    with pytest.raises(IntegrityError, match=rf"x: not weights of this version \({why}"):
        load_weights(path)
