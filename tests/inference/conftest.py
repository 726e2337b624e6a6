"""A workspace with untrained models and their data."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.data import Dataset, save_dataset
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights


def latent(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    """Run a command that must succeed."""
    result = latent(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture
def models(workspace: Path, dataset: Dataset) -> dict[str, Trained]:
    """The models in the workspace by name; ``conv`` takes color images of 8 x 8."""
    (workspace / "data").mkdir()
    save_dataset("data/dataset.safetensors", dataset)
    configs = {
        "vae": ModelConfig("vae", "mlp", (1, 8, 8), 2, (16, 8)),
        "ae": ModelConfig("ae", "mlp", (1, 8, 8), 3, (16, 8)),
        "conv": ModelConfig("vae", "conv", (3, 8, 8), 5, (4, 8), "gaussian"),
    }
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, config in configs.items():
            model = config.build().eval()
            for weight in model.parameters():  # so that codes and images differ
                weight.data *= 2
            found[name] = Trained(model, config, dataset.name, 1.0 if model.is_probabilistic else None)
            save_weights(f"models/{name}.safetensors", found[name])
    return found
