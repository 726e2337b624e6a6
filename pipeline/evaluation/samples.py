"""A fair contest of samples: every model decodes what every sampler draws, and one judge compares all with real images."""

from typing import Any

import numpy as np

from pipeline.evaluation.distances import kid, nearest, prdc
from pipeline.evaluation.samplers import SAMPLERS
from pipeline.evaluation.subject import Findings, Subject, choose
from pipeline.frechet import frechet
from pipeline.judge import Judge

NEIGHBOURS = 5
SHOWN = 20


def compare(judge: Judge, images: np.ndarray, real: np.ndarray, class_shares: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Return the scores of images ``[N, D]`` against the features ``[M, 64]`` of real ones, and the images' features.

    ``fcd`` (Fréchet distance in the judge's features, no FID), ``kid``, :func:`prdc`, ``confidence`` (mean of the judge's top
    probability), ``classes`` (share of each class, as the judge sees it) and ``class_distance`` (total variation from
    ``class_shares`` ``[C]``).
    """
    features, probabilities = judge.look(images)
    shares = np.bincount(probabilities.argmax(-1), minlength=len(class_shares)) / len(images)
    numbers: dict[str, Any] = {"fcd": frechet(features, real), "kid": kid(features, real)}
    numbers |= prdc(real, features, NEIGHBOURS)
    numbers |= {
        "confidence": float(probabilities.max(-1).mean()),
        "class_distance": float(0.5 * np.abs(shares - class_shares).sum()),
        "classes": {str(label): float(share) for label, share in enumerate(shares)},
    }
    return numbers, features


def memorised(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Return the share of images nearer, in pixels, to a training image than to any of as many test images; 0.5 is none."""
    size = min(len(train), len(test))
    to_train, to_test = nearest(images, train[:size]), nearest(images, test[:size])
    return float(np.mean(to_train < to_test) + 0.5 * np.mean(to_train == to_test))


def shuffled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the images ``[N, D]``, the pixels of each in an order of its own."""
    return rng.permuted(images, axis=1)


def samples(subject: Subject) -> Findings:
    """Compare what the model decodes from each sampler with real test images; nothing without a judge.

    The samplers: N(0, I), a Gaussian, a mixture of ten and a kernel density, the last three fitted to training codes. Each
    gets the scores of :func:`compare` and ``memorised``. ``floor``: training images as if they were samples, the best that
    can be reached; ``shuffled``: test images with their pixels shuffled, the other end.
    """
    judge = subject.judge
    if judge is None:
        return Findings({})
    # As many of each kind: a Fréchet distance has a bias that depends on the numbers.
    size = min(subject.budget.samples, len(subject.test), len(subject.train))
    real_split = choose(subject.test, size, "real")
    other = choose(subject.train, size, "other real")
    shares = np.bincount(subject.test.labels, minlength=judge.net.head.out_features) / len(subject.test)
    real = judge.look(real_split.pixels)[0]
    train, test = subject.reference.pixels, subject.test.pixels
    numbers: dict[str, Any] = {}
    features, shown = [], []
    for name, sampler in SAMPLERS.items():
        z = sampler(subject.reference_codes.astype(np.float64), size, subject.rng(f"samples {name}"))
        images = subject.decode(z)
        numbers[name], seen = compare(judge, images, real, shares)
        numbers[name]["memorised"] = memorised(images[:1000], train, test)
        features.append(seen)
        shown.append(images[:SHOWN].reshape(-1, *subject.test.image_shape))
    numbers["floor"] = compare(judge, other.pixels, real, shares)[0]
    numbers["shuffled"] = compare(judge, shuffled(real_split.pixels, subject.rng("shuffled")), real, shares)[0]
    arrays = {"real_features": real, "sample_features": np.stack(features), "sample_images": np.stack(shown)}
    return Findings(numbers, arrays=arrays)
