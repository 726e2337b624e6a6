"""Decoded samples of every sampler, compared with real images in the features of the reference classifier."""

from typing import Any

import numpy as np

from pipeline.classifier import Classifier
from pipeline.evaluation.context import NO_CLASSIFIER, EvalContext, MetricResult, choose
from pipeline.evaluation.distances import cubic, mmd, nearest, prdc
from pipeline.evaluation.samplers import SAMPLERS
from pipeline.stats import frechet_distance

NEIGHBOURS = 5
SHOWN = 20


def compare(classifier: Classifier, images: np.ndarray, real: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the scores of images ``[N, C, H, W]`` against the features ``[M, 64]`` of real ones, and the images' features.

    ``frechet_distance`` (in the classifier's features, so it is not the FID), ``kid``, :func:`prdc`, ``confidence`` (mean of the
    classifier's top probability) and ``classes`` (share of each predicted class).
    """
    features, probabilities = classifier.predict(images)
    shares = np.bincount(probabilities.argmax(-1), minlength=probabilities.shape[-1]) / len(images)
    numbers: dict[str, Any] = {"frechet_distance": frechet_distance(features, real), "kid": mmd(features, real, cubic)}
    numbers |= prdc(real, features, NEIGHBOURS) | {"confidence": float(probabilities.max(-1).mean())}
    numbers["classes"] = {str(label): float(share) for label, share in enumerate(shares)}
    return numbers, features


def memorised(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Return the share of images ``[N, D]`` nearer to a training image than to any of as many test images; 0.5 is chance."""
    size = min(len(train), len(test))
    to_train, to_test = nearest(images, train[:size]), nearest(images, test[:size])
    return float(np.mean(to_train < to_test) + 0.5 * np.mean(to_train == to_test))


def shuffled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images ``[N, C, H, W]`` with the pixels of each in a random order."""
    return rng.permuted(images.reshape(len(images), -1), axis=1).reshape(images.shape)


def sample_quality(context: EvalContext) -> MetricResult:
    """Compare decoded samples of each sampler with real test images; without a classifier only a note says why not.

    Each of :data:`SAMPLERS` gets the scores of :func:`compare`, ``memorised`` and, if the images have labels, ``class_distance``
    (total variation from the classes of the test images). ``floor`` scores training images, the best possible result;
    ``shuffled`` scores test images with shuffled pixels, the other end of the scale.
    """
    if (classifier := context.classifier) is None:
        return MetricResult({"note": NO_CLASSIFIER})
    # All sets have the same size, because the bias of a Fréchet distance depends on it.
    size = min(context.budget.samples, len(context.test), len(context.train))
    real_images = choose(context.test, size, "real").intensities
    real = classifier.predict(real_images)[0]
    train, test = (images.intensities.reshape(len(images), -1) for images in (context.reference, context.test))
    numbers: dict[str, Any] = {}
    features, shown = [], []
    for name, sampler in SAMPLERS.items():
        images = context.decode(sampler(context.reference_codes.astype(np.float64), size, context.rng(f"samples {name}")))
        numbers[name], found = compare(classifier, images, real)
        numbers[name]["memorised"] = memorised(images[:1000].reshape(-1, train.shape[1]), train, test)
        features.append(found)
        shown.append(images[:SHOWN])
    numbers["floor"] = compare(classifier, choose(context.train, size, "other real").intensities, real)[0]
    numbers["shuffled"] = compare(classifier, shuffled(real_images, context.rng("shuffled")), real)[0]
    if context.test.labels is not None:
        expected = np.bincount(context.test.labels, minlength=classifier.net.num_classes) / len(context.test)
        for section in numbers.values():
            section["class_distance"] = float(0.5 * np.abs(list(section["classes"].values()) - expected).sum())
    *distances, floor = (numbers[name]["frechet_distance"] for name in (*SAMPLERS, "floor"))
    arrays = {"sample_features": np.stack(features), "sample_images": np.stack(shown), "frechet_distances": np.array(distances)}
    return MetricResult(numbers, arrays={"real_features": real, "frechet_distance_real": np.array([floor])} | arrays)
