"""The arrays that figures are drawn from: reconstructions, samples, manifold, interpolations, the worst test images."""

import numpy as np
from scipy.stats import norm

from pipeline.evaluation.context import EvalContext, MetricResult

RANGE = 3.0
STEPS = 12
PER_CLASS = 2
NUM_PAIRS = 6
NUM_SAMPLES = 16
NUM_UNLABELED = 20  # inputs shown when the images have no labels
NUM_WORST = 10
MAX_TRAVERSALS = 32


def examples(labels: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Return the index of the first image of each class (without labels, of any image), of the second ones, and the class count.

    >>> examples(np.array([0, 0, 0, 1, 1]))
    (array([0, 3, 1, 4]), 2)
    """
    if labels is None:
        return np.arange(NUM_UNLABELED), NUM_UNLABELED // PER_CLASS
    firsts = [np.flatnonzero(labels == label)[:PER_CLASS] for label in np.unique(labels)]
    return np.array([indices[turn] for turn in range(PER_CLASS) for indices in firsts if turn < len(indices)]), len(firsts)


def grid(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the points ``[len(second), len(first), 2]`` of a map; its rows start at the largest value of the second axis."""
    return np.stack(np.meshgrid(first, second[::-1]), axis=-1)


def plot_data(context: EvalContext) -> MetricResult:
    """Return the arrays for figures and explorer, as :class:`~pipeline.evaluation.results.Results` describes them."""
    codes, dim, test = context.codes, context.model.latent_dim, context.test
    indices, num_classes = examples(test.labels)
    indices = indices[indices < len(test)]
    firsts = indices[:num_classes]
    # Each interpolation ends in another class, half of the classes further on.
    starts, ends = firsts[:NUM_PAIRS], np.roll(firsts, -(len(firsts) // 2))[:NUM_PAIRS]
    share = np.linspace(0, 1, STEPS)[None, :, None]
    arrays = {
        "codes": codes,
        "spread": context.spread,
        "test_indices": context.test_indices.astype(np.int32),
        "inputs": test.intensities[indices],
        "reconstructions": context.decode(codes[indices]),
        "prior_samples": context.decode(context.noise(NUM_SAMPLES, dim, purpose="samples")),
        "interpolation_ends": np.stack([test.intensities[starts], test.intensities[ends]], axis=1),
        "interpolations": context.decode((1 - share) * codes[starts][:, None] + share * codes[ends][:, None]),
    }
    if test.labels is not None:
        arrays["labels"] = test.labels
    if dim == 2:
        linear = np.linspace(-RANGE, RANGE, context.manifold_size)
        quantiles = norm.ppf((np.arange(context.manifold_size) + 0.5) / context.manifold_size)
        arrays["manifold"] = context.decode(grid(linear, linear))
        arrays["manifold_quantiles"] = context.decode(grid(quantiles, quantiles))
    if dim > 2:
        axes = min(dim, MAX_TRAVERSALS)
        points = np.tile(codes.mean(0), (axes, STEPS, 1))
        points[np.arange(axes), :, np.arange(axes)] = np.linspace(-RANGE, RANGE, STEPS)
        arrays["traversals"] = context.decode(points)
    return MetricResult({}, arrays=arrays)


def per_image(context: EvalContext) -> MetricResult:
    """Return what the classifier sees in each test image's reconstruction at its code, and the worst reconstructions.

    Columns ``predicted_class`` and ``confidence`` need a classifier; of the arrays ``worst`` (largest mean squared error) and
    ``misclassified`` (highest confidence in a wrong class) the latter needs labels, too.
    """
    decoded, pixels, labels = context.decode(context.codes), context.test.intensities, context.test.labels
    error = np.square(decoded - pixels).reshape(len(pixels), -1).mean(1)
    worst = {"worst": np.argsort(-error, kind="stable")[:NUM_WORST]}
    columns: dict[str, np.ndarray] = {}
    if context.classifier:
        probabilities = context.classifier.predict(decoded)[1]
        predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
        columns = {"predicted_class": predicted, "confidence": confidence}
        if labels is not None:
            order = np.argsort(-confidence, kind="stable")
            wrong = order[(predicted != labels)[order]]
            # First the surest of each class that images are taken for: most of the surest are taken for the same one.
            earlier = [np.count_nonzero(predicted[wrong[:i]] == predicted[index]) for i, index in enumerate(wrong)]
            worst["misclassified"] = wrong[np.argsort(earlier, kind="stable")][:NUM_WORST]
    return MetricResult({}, columns, {name: np.stack([pixels[rows], decoded[rows]]) for name, rows in worst.items()})
