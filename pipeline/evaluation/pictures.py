"""The arrays that figures are drawn from: reconstructions, samples, manifold, walks."""

import numpy as np
from scipy.stats import norm

from pipeline.evaluation.subject import Subject
from pipeline.results import Results

RANGE = 3.0
STEPS = 12
PER_CLASS = 2
NUM_PAIRS = 6
NUM_SAMPLES = 16
MAX_TRAVERSALS = 32


def _examples(labels: np.ndarray) -> np.ndarray:
    """Return the index of the first image of each class, then of the second ones, and so on."""
    firsts = [np.flatnonzero(labels == label)[:PER_CLASS] for label in np.unique(labels)]
    return np.array([indices[turn] for turn in range(PER_CLASS) for indices in firsts if turn < len(indices)])


def grid(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the points ``[len(second), len(first), 2]`` of a picture: the second axis upwards, so from its largest value."""
    return np.stack(np.meshgrid(first, second[::-1]), axis=-1)


def pictures(subject: Subject, *, dataset: str, model: str, manifold_size: int = 20) -> Results:
    """Return what the figures of one model need.

    Args:
        subject: the trained model and its images.
        dataset: name of the data set, for titles.
        model: name of the model, for titles.
        manifold_size: images along each side of the manifold.
    """
    height, width = subject.test.image_shape
    dim = subject.model.latent_dim

    def images(z: np.ndarray) -> np.ndarray:
        return subject.decode(z).reshape(*z.shape[:-1], height, width)

    nothing = np.zeros((0, 0, height, width), np.float32)
    manifold_range = manifold_quantiles = traversals = nothing
    steps = np.linspace(-RANGE, RANGE, STEPS)
    if dim == 2:
        linear = np.linspace(-RANGE, RANGE, manifold_size)
        quantiles = norm.ppf((np.arange(manifold_size) + 0.5) / manifold_size)
        manifold_range, manifold_quantiles = images(grid(linear, linear)), images(grid(quantiles, quantiles))
    if dim > 2:
        axes = min(dim, MAX_TRAVERSALS)
        points = np.tile(subject.codes.mean(0), (axes, STEPS, 1))
        points[np.arange(axes), :, np.arange(axes)] = steps
        traversals = images(points)

    examples = _examples(subject.test.labels)
    firsts = examples[: len(np.unique(subject.test.labels))]
    # The other end is of another class: the one half the classes further on.
    starts, ends = firsts[:NUM_PAIRS], np.roll(firsts, -(len(firsts) // 2))[:NUM_PAIRS]
    share = np.linspace(0, 1, STEPS)[None, :, None]
    interpolations = images((1 - share) * subject.codes[starts][:, None] + share * subject.codes[ends][:, None])
    return Results(
        dataset=dataset,
        model=model,
        beta=subject.beta,
        codes=subject.codes,
        labels=subject.test.labels,
        spread=subject.spread,
        inputs=subject.test.pixels[examples].reshape(-1, height, width),
        reconstructions=images(subject.codes[examples]),
        samples=images(subject.noise(NUM_SAMPLES, dim, purpose="samples").cpu().numpy()),
        manifold_range=manifold_range,
        manifold_quantiles=manifold_quantiles,
        interpolations=interpolations,
        traversals=traversals,
    )
