"""Properties of all families of metrics, over models, dimensions and data sets without classes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data import Images
from pipeline.evaluation.context import NO_CLASSIFIER, NO_LABELS, EvalContext, MetricResult
from pipeline.evaluation.geometry import geometry
from pipeline.evaluation.holes import holes
from pipeline.evaluation.interpolation import interpolation
from pipeline.evaluation.latent import latent
from pipeline.evaluation.likelihood import likelihood
from pipeline.evaluation.run import FAMILIES, measure
from pipeline.models import MODELS, LatentModel
from pipeline.storage import flatten, numbers
from tests.evaluation.conftest import SMALL, new_model


def check(result: MetricResult, size: int) -> dict[str, Any]:
    """Assert that all numbers and arrays are finite; return the flat numbers."""
    flat = flatten(result.numbers)
    assert np.isfinite(list(numbers(flat).values())).all()
    for values in {**result.per_image, **result.arrays}.values():
        assert np.isfinite(values).all()
    assert all(len(values) == size for values in result.per_image.values())
    return flat


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_metrics_are_finite_for_every_model_and_dimension(name, dim, train, test, classifier):
    beta = 4.0 if name == "vae" else None
    context = EvalContext(new_model(name, dim), train, test, beta=beta, budget=SMALL, classifier=classifier, manifold_size=4)
    result = measure(context)
    check(result, len(test))
    assert "note" not in result.numbers["latent"]
    absent = {"geometry": "maps", "holes": "hull, coverage and maps"}
    notes = {section: result.numbers[section].get("note") for section in absent}
    assert notes == {
        section: None if dim == 2 else f"no {what}: they need 2 latent dimensions, not {dim}" for section, what in absent.items()
    }
    arrays = result.arrays
    assert arrays["inputs"].shape == arrays["reconstructions"].shape == (8, 1, 8, 8)
    assert ("manifold" in arrays, "traversals" in arrays) == (dim == 2, dim > 2)
    if dim == 2:
        assert arrays["manifold"].shape == (4, 4, 1, 8, 8)
    if dim == 3:
        assert arrays["traversals"].shape == (3, 12, 1, 8, 8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("classes", [0, 1])
def test_images_without_classes_leave_out_what_needs_them(family, classes, train, test):
    one = [replace(part, labels=np.zeros(len(part), np.int64) if classes else None) for part in (train, test)]
    flat = check(FAMILIES[family](EvalContext(new_model("vae"), *one, beta=1.0, budget=SMALL)), len(test))
    assert not {key for key in flat if "accuracy" in key or "silhouette" in key or "cross_class" in key}
    if family in ("holes", "sample_quality"):
        assert flat == {"note": NO_CLASSIFIER}
    if family == "interpolation" and classes:
        assert flat["note"] == "no cross_class: the labels give no such pairs"
    if family == "latent" or (family == "interpolation" and not classes):
        assert "no labels" in flat["note"]
        assert len(flat) > 1


def test_classes_of_one_image_each_are_no_classes(train, test):
    own = replace(test, labels=np.arange(len(test)))
    assert latent(EvalContext(new_model("ae"), train, own, budget=SMALL)).numbers["note"] == NO_LABELS


def test_color_images_and_other_nets_are_measured():
    rng = np.random.default_rng(0)
    train, test = (Images(rng.integers(0, 256, (count, 3, 4, 5), np.uint8), np.arange(count) % 2) for count in (120, 60))
    model = MODELS["vae"](*(torch.nn.Sequential(*layers) for layers in color_layers()), latent_dim=2)
    result = measure(EvalContext(model, train, test, beta=1.0, budget=replace(SMALL, grid=16)))
    check(result, len(test))
    assert result.arrays["inputs"].shape[1:] == (3, 4, 5)


def color_layers() -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
    """Return the layers of an encoder and a decoder of images [3, 4, 5], which are no MLPs of the registry."""
    return [torch.nn.Flatten(), torch.nn.Linear(60, 4)], [torch.nn.Linear(2, 60), torch.nn.Unflatten(1, (3, 4, 5))]


def test_collapsed_codes_are_measured(train, test, classifier):
    model = new_model("vae")
    torch.nn.init.zeros_(model.encoder[-1].weight)
    context = EvalContext(model, train, test, beta=1e6, budget=SMALL, classifier=classifier)
    assert measure(context).numbers["test"]["active_units"] == 0


def turned(model: LatentModel, angle: float, scale: float) -> LatentModel:
    """Return the same autoencoder with its latent plane rotated and rescaled."""
    turn = scale * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    copy = new_model("ae", hidden_dims=(32,))
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.encoder[-1].weight.copy_(turn @ model.encoder[-1].weight)
        copy.encoder[-1].bias.copy_(turn @ model.encoder[-1].bias)
        copy.decoder[0].weight.copy_(model.decoder[0].weight @ torch.linalg.inv(turn))
    return copy


def test_rotating_and_rescaling_the_latent_plane_leaves_invariant_metrics_alone(contexts):
    plain = contexts["ae"]
    other = replace(plain, model=turned(plain.model, angle=0.7, scale=5.0))
    assert likelihood(other).numbers == pytest.approx(likelihood(plain).numbers, rel=1e-4)
    a, b = latent(plain).numbers, latent(other).numbers
    for key in ("knn_accuracy", "probe_accuracy", "silhouette", "trustworthiness"):
        assert b[key] == pytest.approx(a[key], abs=0.011)
    assert b["scale"] == pytest.approx(5 * a["scale"], rel=1e-4)
    a, b = geometry(plain).numbers, geometry(other).numbers
    assert b["log_volume_p99_excess"] == pytest.approx(a["log_volume_p99_excess"], abs=1e-3)
    assert b["log_volume"] == pytest.approx(a["log_volume"] - 2 * np.log(5), abs=1e-3)
    a, b = interpolation(plain).numbers["cross_class"], interpolation(other).numbers["cross_class"]
    assert b == pytest.approx(a, rel=1e-2)
    a, b = holes(plain).numbers, holes(other).numbers
    for measure_name in ("hull", "matched"):
        differences = np.array(list(a[measure_name].values())) - list(b[measure_name].values())
        assert np.abs(differences).max() < 4 * np.sqrt(2 * 0.25 / SMALL.samples)
