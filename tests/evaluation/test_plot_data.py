"""Arrays for the figures: which images, and in which order; the worst reconstructions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import norm

from pipeline.classifier import Classifier, ClassifierNet
from pipeline.evaluation.context import EvalContext
from pipeline.evaluation.plot_data import NUM_UNLABELED, grid, per_image, plot_data
from tests.evaluation.conftest import SMALL, CodeTable, numbered


def test_second_axis_of_a_grid_goes_upwards():
    points = grid(np.array([1.0, 2.0]), np.array([10.0, 20.0]))
    assert points.tolist() == [[[1.0, 20.0], [2.0, 20.0]], [[1.0, 10.0], [2.0, 10.0]]]


def test_inputs_show_every_class_before_a_second_image_of_one(contexts):
    context = contexts["vae"]
    arrays = plot_data(context).arrays
    indices = [np.flatnonzero((context.test.intensities == image).all((1, 2, 3)))[0] for image in arrays["inputs"]]
    assert context.test.labels[indices].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert np.array_equal(arrays["reconstructions"], context.decode(context.codes[indices]))


def test_interpolations_lead_from_one_real_image_to_one_of_another_class(contexts):
    context = contexts["ae"]
    arrays = plot_data(context).arrays
    ends = arrays["interpolation_ends"]
    indices = [[np.flatnonzero((context.test.intensities == image).all((1, 2, 3)))[0] for image in pair] for pair in ends]
    assert all(context.test.labels[first] != context.test.labels[last] for first, last in indices)
    codes = context.codes[np.array(indices)]
    np.testing.assert_allclose(arrays["interpolations"][:, [0, -1]], context.decode(codes), atol=1e-6)


def test_images_without_labels_are_shown_in_their_order(contexts):
    context = replace(contexts["vae"], test=replace(contexts["vae"].test, labels=None))
    arrays = plot_data(context).arrays
    assert np.array_equal(arrays["inputs"], context.test.intensities[:NUM_UNLABELED])
    assert "labels" not in arrays


def test_prior_samples_are_at_the_same_latent_points_for_every_model(contexts):
    ae, vae = (replace(contexts[name], model=contexts["ae"].model) for name in ("ae", "vae"))
    assert np.array_equal(plot_data(ae).arrays["prior_samples"], plot_data(vae).arrays["prior_samples"])


def test_worst_reconstructions_come_first(contexts):
    context = contexts["ae"]
    worst = per_image(context).arrays["worst"]
    assert worst.shape == (2, 10, 1, 8, 8)
    errors = np.square(worst[0] - worst[1]).reshape(10, -1).mean(1)
    assert (np.diff(errors) <= 0).all()
    np.testing.assert_allclose(errors[0], context.terms["mse"].max(), rtol=1e-5)


def test_misclassified_images_need_a_classifier_and_labels(contexts):
    context = contexts["ae"]
    unlabeled = replace(context, test=replace(context.test, labels=None))
    assert "misclassified" in per_image(context).arrays
    assert per_image(unlabeled).arrays.keys() == {"worst"}
    assert per_image(unlabeled).per_image.keys() == {"predicted_class", "confidence"}
    assert per_image(replace(context, classifier=None)).per_image == {}


def test_the_decoded_plane_spans_three_standard_deviations_and_equal_shares_of_the_prior():
    context = EvalContext(CodeTable(np.eye(2)), numbered([0, 1]), numbered([0, 1]), budget=SMALL, manifold_size=5)
    points = {name: logit(plot_data(context).arrays[name][:, :, 0, 0]) for name in ("manifold", "manifold_quantiles")}
    assert points["manifold"][-1, :, 0] == pytest.approx([-3, -1.5, 0, 1.5, 3], abs=1e-4)
    assert norm.cdf(points["manifold_quantiles"][::-1, 0, 1]) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9], abs=1e-4)


class _SureAndWrong(Classifier):
    """Takes images 0 to 7 for class 0, most surely, then two for class 1, and the others for class 2."""

    def predict(self, images):
        order = np.arange(len(images))
        classes = np.where(order < 8, 0, np.where(order < 10, 1, 2))
        top = 0.99 - 0.4 * order / len(images)
        probabilities = np.full((len(images), 3), 0.0) + ((1 - top) / 2)[:, None]
        probabilities[order, classes] = top
        return np.zeros((len(images), 1), np.float32), probabilities.astype(np.float32)


def test_misclassified_images_show_each_class_that_they_are_taken_for_before_one_again(contexts):
    context = contexts["ae"]
    wrong = replace(context.test, labels=np.full(len(context.test), 3))
    classifier = _SureAndWrong(ClassifierNet((1, 8, 8), 4), "wrong", 1.0)
    shown = per_image(replace(context, test=wrong, classifier=classifier)).arrays["misclassified"][0]
    expected = context.test.intensities[[0, 8, 10, 1, 9, 11, 2, 12, 3, 13]]
    np.testing.assert_array_equal(shown, expected)
