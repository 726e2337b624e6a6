"""An exported model computes what the model does, for any number of images, and its files say nothing about this machine."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.weights import Trained
from tests.inference.conftest import done, latent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's exporter
NEEDS = "the extra onnx is not installed; `make onnx` installs it"


@pytest.fixture
def runtime() -> Any:
    pytest.importorskip("onnxscript", reason=NEEDS)
    return pytest.importorskip("onnxruntime", reason=NEEDS)


@pytest.mark.parametrize("name", ["ae", "conv"])
def test_onnx_runtime_gives_what_torch_gives(name: str, models: dict[str, Trained], runtime: Any) -> None:
    said = done("export", "--onnx", "out", "--model", name).stdout.splitlines()  # which takes seconds
    assert [line.split(",")[0] for line in said] == ["export: out/encoder.onnx", "export: out/decoder.onnx"]
    encoder, decoder = (runtime.InferenceSession(f"out/{part}.onnx") for part in ("encoder", "decoder"))
    model, config = models[name].model, models[name].config
    assert [output.name for output in encoder.get_outputs()] == (["mean", "std"] if model.is_probabilistic else ["mean"])
    assert encoder.get_modelmeta().custom_metadata_map == decoder.get_modelmeta().custom_metadata_map
    assert encoder.get_modelmeta().custom_metadata_map["dataset"] == "blobs"
    for number in (1, 7):
        images = np.random.default_rng(number).random((number, *config.image_shape)).astype(np.float32)
        mean, *std = encoder.run(None, {"images": images})
        (decoded,) = decoder.run(["images"], {"z": mean})
        with torch.no_grad():
            posterior = model.encode(torch.from_numpy(images))
            expected = model.decode_images(torch.from_numpy(mean)).numpy()
        np.testing.assert_allclose(mean, posterior.mean, rtol=0, atol=1e-5)
        np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-5)
        if std:
            np.testing.assert_allclose(std[0], posterior.std, rtol=0, atol=1e-5)
    contents = [Path(f"out/{part}.onnx").read_bytes() for part in ("encoder", "decoder")]
    assert not any(b".py" in content for content in contents), "a line of code, with its path on this machine"
    if name == "ae":
        done("export", "--onnx", "again", "--model", name)
        assert [Path(f"again/{part}.onnx").read_bytes() for part in ("encoder", "decoder")] == contents


@pytest.mark.usefixtures("models")
def test_an_export_without_its_packages_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = latent("export", "--onnx", "out")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    assert "`make onnx` installs what an export needs" in line
    assert not Path("out").exists()
