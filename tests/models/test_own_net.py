"""The worked example of CONTRIBUTING.md: a residual net is one file and one line, and goes through the whole pipeline."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.classifier import save_classifier, train_classifier
from pipeline.data import Dataset
from pipeline.evaluation.context import PROFILES, Budget
from pipeline.evaluation.run import evaluate_and_log
from pipeline.models import NETS
from pipeline.models.weights import load_weights
from pipeline.params import Params
from pipeline.storage import load_json
from pipeline.training.run import train
from stages import figures
from tests.conftest import ROOT

SMALL = Budget(100, 100, importance_images=5, exact_images=5, grid=8, plots=30, samples=30, pairs=10)


def example() -> dict[str, Any]:
    """Return what the file of the example defines."""
    code = re.search(
        r"One file, `pipeline/models/residual.py`:\n\n```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    assert code
    namespace: dict[str, Any] = {}
    exec(code[1], namespace)  # noqa: S102 (the project's own text)
    return namespace


@pytest.mark.usefixtures("untracked")
def test_the_example_trains_evaluates_and_draws(
    params: Params, dataset: Dataset, data_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETS, "residual", example()["residual"])
    monkeypatch.setitem(PROFILES, "full", SMALL)
    net = {"net": "residual", "hidden_dims": [8, 8], "hidden_optimizer": "shampoo"}
    params = params.model_copy(update={name: getattr(params, name).model_copy(update=net) for name in ("ae", "vae")})
    save_classifier(Path("classifier"), train_classifier(dataset, num_steps=20, seed=0))
    for name in ("ae", "vae"):
        train(name, params, data_file, Path("models"), Path("metrics")).clear()
        results, metrics = Path(f"results/{name}.safetensors"), Path(f"metrics/{name}.json")
        weights = Path(f"models/{name}.safetensors")
        assert load_weights(weights).config.net == "residual"
        accepting = params.model_copy(update={"classifier": params.classifier.model_copy(update={"min_accuracy": 0.0})})
        evaluate_and_log(name, weights, accepting, data_file, Path("classifier"), results=results, metrics=metrics)
        assert load_json(metrics)["test/recon"] > 0
    done = CliRunner().invoke(figures.main, ["--params", str(ROOT / "params.yaml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {"overview", "latent", "reconstructions", "samplers"} <= {path.stem for path in Path("metrics/figures").glob("*.png")}
