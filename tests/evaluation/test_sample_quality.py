"""The comparison of samples with real images, at both ends of its scale."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.classifier import Classifier, ClassifierNet
from pipeline.evaluation.sample_quality import compare, memorised, sample_quality, shuffled
from pipeline.evaluation.samplers import SAMPLERS


def test_real_images_are_near_the_floor_and_shuffled_ones_far_off(contexts):
    result = sample_quality(contexts["vae"])
    numbers, distances = result.numbers, {name: section["frechet_distance"] for name, section in result.numbers.items()}
    assert set(numbers) == {*SAMPLERS, "floor", "shuffled"}
    assert distances["floor"] < 0.05 * distances["shuffled"]
    assert distances["floor"] < distances["kde"] < distances["shuffled"]
    assert numbers["floor"]["coverage"] > 0.8
    assert numbers["shuffled"]["coverage"] < 0.2
    assert result.arrays["frechet_distances"].tolist() == [distances[name] for name in SAMPLERS]
    assert result.arrays["frechet_distance_real"].tolist() == [result.numbers["floor"]["frechet_distance"]]


def test_class_distance_is_the_total_variation_from_the_test_images(contexts):
    numbers = sample_quality(contexts["vae"]).numbers["prior"]
    expected = 0.5 * sum(abs(share - 0.25) for share in numbers["classes"].values())
    assert numbers["class_distance"] == pytest.approx(expected)


def test_class_distance_needs_labels(contexts):
    context = contexts["vae"]
    numbers = sample_quality(replace(context, test=replace(context.test, labels=None))).numbers["prior"]
    assert "class_distance" not in numbers
    assert "frechet_distance" in numbers


def test_memorised_images_are_noticed(train, test):
    train, test = (images.intensities.reshape(len(images), -1) for images in (train, test))
    assert memorised(train[:50], train[:200], test) == 1.0
    assert memorised(test[:50], train[:200], test) == 0.0


class _MeanLevel(Classifier):
    """Its feature is an image's mean intensity."""

    def predict(self, images):
        level = np.asarray(images, np.float32).reshape(len(images), -1).mean(1, keepdims=True)
        return level, np.full((len(level), 2), 0.5, np.float32)


def test_the_ball_of_a_real_image_reaches_to_its_fifth_neighbour(monkeypatch):
    # The outermost of ten real points on a line has its fifth neighbour at a distance of 5.
    monkeypatch.setattr("pipeline.evaluation.sample_quality.frechet_distance", lambda *points: 0.0)  # of one dimension
    real, fake = np.arange(10, dtype=np.float32)[:, None], np.float32([13.5, 14.5])[:, None, None, None]
    numbers, _ = compare(_MeanLevel(ClassifierNet((1, 1, 1), 2), "", 1.0), fake, real)
    assert numbers["precision"] == 0.5


def test_shuffling_keeps_each_images_pixels(test):
    images = shuffled(test.intensities, np.random.default_rng(0))
    assert images.shape == test.pixels.shape
    before, after = (part.reshape(len(test), -1) for part in (test.intensities, images))
    assert not np.array_equal(before, after)
    assert np.array_equal(np.sort(before, axis=1), np.sort(after, axis=1))
