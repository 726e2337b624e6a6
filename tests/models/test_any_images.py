"""Images of any size, channels and classes, and codes of any length, go through the whole pipeline after the download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.classifier import save_classifier, train_classifier
from pipeline.data import Dataset, Images, Shape, save_dataset
from pipeline.evaluation.context import PROFILES, Budget
from pipeline.evaluation.run import evaluate_and_log
from pipeline.params import Params
from pipeline.storage import load_json, numbers
from pipeline.training.run import train
from stages import claims, explorer, figures
from tests.conftest import ROOT

SMALL = Budget(60, 60, importance_images=1, exact_images=2, grid=8, plots=60, samples=20, pairs=3)
NAMES = ("Ankle boot", "Bag", "Coat", "T-shirt/top, with a very long name")


@dataclass(frozen=True)
class Case:
    """A data set and the nets of both models."""

    shape: Shape
    latent_dim: int
    hidden_dims: tuple[int, ...]
    net: str = "conv"
    classes: int = 4  # 0 for images without labels
    names: tuple[str, ...] = ()
    learnable: bool = True  # whether the labels have to do with the images

    def images(self, count: int, seed: int) -> Images:
        """Return images of one bright stripe a class, with noise."""
        random, labels = np.random.default_rng(seed), np.arange(count) % (self.classes or 4)
        pixels = random.integers(0, 40, (count, *self.shape))
        for image, label in zip(pixels, labels, strict=True):
            image[label % self.shape[0], label % self.shape[1] :: 8] += 200
        shown = labels if self.learnable else random.permutation(labels)
        return Images(pixels.astype(np.uint8), shown.astype(np.int64) if self.classes else None)


CASES = {
    "gray 28, no labels": Case((1, 28, 28), 2, (4, 8), classes=0),
    "color 32, named classes": Case((3, 32, 32), 2, (4, 8), names=NAMES),
    "color 64, 26 classes, 20 dimensions": Case((3, 64, 64), 20, (4, 4, 8), classes=26),
    "gray 8 x 12, labels that cannot be learned, 64 dimensions": Case((1, 8, 12), 64, (16,), net="mlp", learnable=False),
    "color 32, one dimension": Case((3, 32, 32), 1, (4, 8), classes=2),
}


@pytest.mark.usefixtures("untracked")
@pytest.mark.parametrize("name", CASES)
def test_any_images_are_trained_measured_and_shown(
    name: str, params: Params, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROFILES, "full", SMALL)
    monkeypatch.setattr("pipeline.claims.ledger.FRECHET_REPLICATES", 2)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text().replace("dpi: 110", "dpi: 50"))
    case, file, written = CASES[name], Path("data/dataset.safetensors"), dict[str, dict[str, Any]]()
    dataset = Dataset("things", case.images(80, 0), case.images(60, 1), case.names)
    save_dataset(file, dataset)
    net = {"net": case.net, "hidden_dims": [*case.hidden_dims], "latent_dim": case.latent_dim, "epochs": 1}
    net["hidden_optimizer"] = "adam"
    threshold = {"classifier": params.classifier.model_copy(update={"min_accuracy": 0.0 if case.learnable else 0.9})}
    params = params.model_copy(update=threshold | {one: getattr(params, one).model_copy(update=net) for one in ("ae", "vae")})
    save_classifier("models/classifier.safetensors", train_classifier(dataset, num_steps=1, seed=0))
    for model in ("ae", "vae"):
        train(model, params, file, Path("models"), Path("metrics")).clear()
        weights, classifier = Path(f"models/{model}.safetensors"), Path("models/classifier.safetensors")
        results, metrics = Path(f"results/{model}.safetensors"), Path(f"metrics/{model}.json")
        written[model] = evaluate_and_log(model, weights, params, file, classifier, results=results, metrics=metrics)
        assert load_json(metrics) == written[model]
    assert_absences_are_named(case, written["vae"])
    drawn = run(figures.main, "--only", "overview", "--only", "manifold")
    assert ("no manifold for these models (needs 2 latent dimensions)" in drawn) == (case.latent_dim != 2)
    run(explorer.main)
    page = Path("explorer/explorer.html").read_text()
    assert "No explorer" not in page
    assert all(one in page for one in case.names)
    said = run(claims.main, "results")
    assert ("not measured: off_manifold_hull, which needs" in said) == ("holes/hull/off_manifold" not in written["vae"])


def run(stage: click.Command, *options: str) -> str:
    """Return what a stage prints."""
    done = CliRunner().invoke(stage, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def assert_absences_are_named(case: Case, metrics: dict[str, Any]) -> None:
    """Assert that the sections of a metric that is not there say so, and those of metrics that are there do not."""
    has_classifier, is_plane = case.learnable and case.classes > 0, case.latent_dim == 2
    assert ("latent/knn_accuracy" in metrics) == (case.classes > 0) == ("latent/note" not in metrics)
    assert ("classifier/note" in metrics) == (not has_classifier)
    assert ("sample_quality/prior/frechet_distance" in metrics) == has_classifier == ("sample_quality/note" not in metrics)
    assert ("holes/hull/off_manifold" in metrics) == (has_classifier and is_plane) == ("holes/note" not in metrics)
    assert ("log_likelihood/log_p" in metrics) == ("log_likelihood/note" not in metrics)
    assert ("geometry/note" in metrics) == (not is_plane)
    assert all(np.isfinite(list(numbers(metrics).values())))
