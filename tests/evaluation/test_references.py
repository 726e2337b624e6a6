"""Metrics and arrays against direct computations, and the random draws of an evaluation."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy, sem
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluation import context as evaluation_context
from pipeline.evaluation import likelihood as evaluation_likelihood
from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.distances import mmd, multiquadric, nearest
from pipeline.evaluation.geometry import geometry, log_volume
from pipeline.evaluation.holes import holes, log_density
from pipeline.evaluation.interpolation import along
from pipeline.evaluation.latent import gaussian_fit_kl, latent
from pipeline.evaluation.likelihood import binarise, exact, gray_floor, importance, likelihood, log_likelihood
from pipeline.evaluation.plot_data import per_image, plot_data
from pipeline.evaluation.run import measure
from pipeline.evaluation.sample_quality import compare, memorised
from tests.evaluation.conftest import SMALL, new_model


@pytest.fixture
def vae(contexts: dict[str, EvalContext]) -> EvalContext:
    return contexts["vae"]


def test_maps_hold_the_values_at_their_axes(vae):
    maps = geometry(vae).arrays | holes(vae).arrays
    first, second = maps["map_axes"]
    points = np.array([[(x, y) for x in first] for y in reversed(second)])
    assert maps["volume_map"] == pytest.approx(log_volume(vae, points), abs=1e-4)
    assert maps["confidence_map"] == pytest.approx(vae.classifier.predict(vae.decode(points))[1].max(-1), abs=1e-6)
    density = log_density(points.reshape(-1, 2), vae.reference_samples.astype(np.float64)).reshape(64, 64)
    assert maps["density_map"] == pytest.approx(density, rel=1e-5)
    assert np.array_equal(maps["map_codes"], vae.codes)
    assert {maps[name].dtype for name in ("volume_map", "density_map", "confidence_map")} == {np.dtype(np.float32)}


def test_latent_metrics_are_those_of_scikit_learn(vae):
    numbers, size = latent(vae).numbers, SMALL.plots
    labels, test_labels = vae.reference.labels, vae.test.labels
    pixels, test_pixels = (images.intensities.reshape(len(images), -1) for images in (vae.reference, vae.test))
    pca = PCA(2, svd_solver="full").fit(pixels)
    spaces = {"codes": (vae.reference_codes, vae.codes), "pca": (pca.transform(pixels), pca.transform(test_pixels))}
    for name, (train, test) in spaces.items():
        found = numbers if name == "codes" else numbers[name]
        centre, scale = train.mean(0), train.std()
        probe = LogisticRegression(max_iter=1000).fit((train - centre) / scale, labels)
        expected = {
            "knn_accuracy": KNeighborsClassifier(5).fit(train, labels).score(test, test_labels),
            "probe_accuracy": probe.score((test - centre) / scale, test_labels),
            "silhouette": silhouette_score(test[:size], test_labels[:size]),
            "trustworthiness": trustworthiness(test_pixels[:size], test[:size], n_neighbors=5),
        }
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-4)
    assert numbers["pixels"] == pytest.approx({"knn_accuracy": 1.0, "silhouette": silhouette_score(test_pixels, test_labels)})
    z = vae.reference_samples.astype(np.float64)
    assert numbers["gaussian_fit_kl"] == gaussian_fit_kl(z)
    assert numbers["mmd"] == mmd(z[:size], vae.noise(size, 2, purpose="mmd").numpy(), multiquadric)


def test_a_line_between_codes_is_measured_at_33_points(vae):
    indices = np.array([[0, 1], [2, 3], [4, 8], *[[5, 6]] * 100])  # more than one batch
    rows = along(vae, indices)
    for row, (start, end) in enumerate(indices[:4]):
        path = vae.decode(np.linspace(vae.codes[start], vae.codes[end], 33))
        steps = np.linalg.norm(np.diff(path.reshape(33, -1), axis=0), axis=1)
        probabilities = vae.classifier.predict(path)[1]
        expected = {
            "tortuosity": steps.sum() / np.linalg.norm(path[-1] - path[0]),
            "jump_share": steps.max() / steps.sum(),
            "class_switches": np.count_nonzero(np.diff(probabilities.argmax(1))),
            "entropy": entropy(probabilities.astype(np.float64), axis=1).mean(),
        }
        assert {name: values[row] for name, values in rows.items()} == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert all(len(values) == len(indices) for values in rows.values())
    assert rows["class_switches"][:2].min() >= 1


@pytest.mark.parametrize("classes", [3, 4])
def test_interpolations_end_in_a_class_half_of_the_classes_further_on(classes, vae):
    some = replace(vae, test=vae.test.take(vae.test.labels < classes))
    firsts = [int(np.flatnonzero(some.test.labels == label)[0]) for label in range(classes)]
    found = plot_data(some).arrays["interpolations"]
    for row, start in enumerate(firsts):
        line = np.linspace(some.codes[start], some.codes[firsts[(row + classes // 2) % classes]], 12)
        assert found[row] == pytest.approx(some.decode(line), abs=1e-5)


def test_a_traversal_changes_one_dimension_of_the_mean_code(train, test):
    context = EvalContext(new_model("ae", latent_dim=3), train, test, budget=SMALL)
    found = plot_data(context).arrays["traversals"]
    for axis in range(3):
        for step, value in enumerate(np.linspace(-3, 3, 12)):
            point = np.where(np.arange(3) == axis, value, context.codes.mean(0))
            assert found[axis, step] == pytest.approx(context.decode(point), abs=1e-5)


def test_what_the_classifier_sees_is_in_the_columns(vae):
    probabilities = vae.classifier.predict(vae.decode(vae.codes))[1]
    columns = per_image(vae).per_image
    assert np.array_equal(columns["predicted_class"], probabilities.argmax(1))
    assert np.array_equal(columns["confidence"], probabilities.max(1))


def test_test_metrics_are_means_over_the_images_with_their_standard_errors(vae):
    numbers, rows, terms = *likelihood(vae)[:2], vae.terms
    elbo = -(terms["recon"] + terms["kl"])
    with torch.no_grad():
        decoded = vae.decode(vae.codes)
    expected = {
        **{name: terms[name].mean() for name in ("recon", "recon_at_mean", "mse", "kl")},
        "elbo": elbo.mean(),
        "recon_se": sem(terms["recon"]),
        "elbo_se": sem(elbo),
        "gray_floor": gray_floor(vae.test),
        "recon_excess": terms["recon"].mean() - gray_floor(vae.test),
        "recon_excess_at_mean": terms["recon_at_mean"].mean() - gray_floor(vae.test),
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected)
    assert numbers["mse"] == pytest.approx(np.square(decoded - vae.test.intensities).mean())
    assert list(numbers["kl_per_dim"]) == ["0", "1"]
    assert rows.keys() == {"recon", "recon_at_mean", "mse", "kl", "elbo"}
    assert rows["elbo"] == pytest.approx(elbo)


def test_a_bound_on_all_images_is_its_mean_and_its_gain_has_a_standard_error(vae):
    context = replace(vae, test=vae.test.take(slice(40)))
    numbers, columns, _ = log_likelihood(context)
    white = binarise(context.test)
    for x, purpose, found in (
        (context.pixels(context.test), "grey", numbers),
        (torch.from_numpy(white).float(), "binarised", numbers["binarised"]),
    ):
        terms = context.terms if purpose == "grey" else context.terms_of(x, 1, purpose)
        elbo = -(terms["recon"] + terms["kl"])
        (bounds, ess), (log_p, coarse) = importance(context, x, purpose), exact(context, x, SMALL.grid)
        expected = {f"iwae_{k}": bound.mean() for k, bound in bounds.items()}
        expected |= {"ess": ess.mean(), "iwae_gain_se": sem(bounds[500] - elbo), "log_p": log_p.mean()}
        expected |= {"gap": (log_p - elbo).mean(), "gap_se": sem(log_p - elbo), "log_p_grid_error": np.abs(log_p - coarse).mean()}
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        if purpose == "grey":
            assert columns.keys() == {"log_p", "gap"}
            assert columns["gap"] == pytest.approx(columns["log_p"] - elbo)
        else:
            assert found["elbo"] == pytest.approx(elbo.mean())
    assert numbers["binarised"]["sha256"] == hashlib.sha256(np.packbits(white).tobytes()).hexdigest()


def test_samples_are_scored_by_what_the_classifier_says(vae):
    images = vae.test.intensities[:150]
    features, probabilities = vae.classifier.predict(images)
    numbers, found = compare(vae.classifier, images, vae.classifier.predict(vae.train.intensities)[0])
    assert np.array_equal(found, features)
    assert numbers["confidence"] == pytest.approx(probabilities.max(1).mean())
    assert numbers["classes"] == {str(label): (probabilities.argmax(1) == label).mean() for label in range(4)}


def test_an_image_as_far_from_training_as_from_test_images_counts_half():
    train, test = np.array([[1.0], [5.0], [50.0]]), np.array([[3.0], [5.0]])
    assert memorised(np.array([[1.0], [2.0], [3.0], [5.0], [50.0]]), train, test) == (1 + 0.5 + 0 + 0.5 + 0.5) / 5


def test_the_furthest_point_stands_in_for_neighbours_that_are_not_there():
    assert nearest(np.array([[0.0]]), np.array([[3.0], [-4.0]], np.float32), k=5).tolist() == [4.0]


def test_the_draws_of_a_purpose_are_those_of_earlier_versions(vae):
    assert replace(vae, seed=7).rng("test").integers(1000, size=4).tolist() == [246, 730, 865, 999]
    assert replace(vae, seed=7).noise(3, purpose="test").tolist() == pytest.approx([1.1964, -0.8931, -0.7374], abs=1e-4)


def test_every_draw_has_a_purpose_of_its_own_that_stays(vae, monkeypatch):
    seen: list[tuple[Any, ...]] = []

    def recording(draw: Callable[..., torch.Generator]) -> Callable[..., torch.Generator]:
        def recorded(*key: Any) -> torch.Generator:
            seen.append(key)
            return draw(*key)

        return recorded

    for module in (evaluation_context, evaluation_likelihood):
        monkeypatch.setattr(module, "generator", recording(module.generator))
    few = replace(SMALL, test_images=100, train_codes=150, importance_images=9, exact_images=9, grid=8, samples=50, pairs=4)
    measure(EvalContext(vae.model, vae.train, vae.test, seed=7, beta=1.0, budget=few, classifier=vae.classifier))
    images = {("binarised test images",), *(("choose", part) for part in ("test", "train", "real", "other real"))}
    batches = {f"importance {kind} {batch}" for kind in ("grey", "binarised") for batch in (0, 1)}
    points = {"recon 0", "binarised 0", "reference", "mmd", "samples", "shuffled"}
    points |= {f"samples {name}" for name in ("prior", "gaussian", "gmm10", "kde")}
    points |= {f"holes {name}" for name in ("prior", "matched", "hull")}
    assert set(seen) == images | {(7, purpose) for purpose in points | batches}
    assert len(seen) == len(set(seen))
