"""The 1,797 handwritten digits, 8 x 8 in 17 gray levels, of scikit-learn, enlarged to MNIST's format; they need no network.

Source: Optical Recognition of Handwritten Digits (Alpaydin and Kaynak; UCI, CC BY 4.0).
"""

from collections.abc import Sequence

import numpy as np

from pipeline.data import Dataset, Images

TEST_FRACTION = 0.2
SPLIT_SEED = 0  # not the seed of params.yaml, so that the test images are always the same


def enlarge(images: np.ndarray, size: int = 28) -> np.ndarray:
    """Enlarge ``[N, n, n]`` gray levels 0..16 bilinearly to ``[N, size, size]`` uint8 0..255, the same bytes on every machine."""
    n, unit = images.shape[1], 2 * size  # integer coordinates, in units of 1 / (2 size) of a small pixel
    center = ((2 * np.arange(size) + 1) * n - size).clip(0, (n - 1) * unit)
    weights = (unit - abs(center[:, None] - unit * np.arange(n))).clip(0)
    scale = 16 * unit**2
    enlarged: np.ndarray = weights @ images.astype(np.int64) @ weights.T
    return ((enlarged * 255 + scale // 2) // scale).astype(np.uint8)


def digits(mirrors: Sequence[str] = ()) -> Dataset:
    """Return 28 x 28 digits, one in five of each class as the test split; ``mirrors`` are not needed."""
    from sklearn.datasets import load_digits  # takes two seconds to import, which the other data sets do not need

    bunch = load_digits()
    images = Images(enlarge(bunch.images)[:, None], bunch.target.astype(np.int64))
    rng, test = np.random.default_rng(SPLIT_SEED), np.zeros(len(images), bool)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(bunch.target == digit))
        test[members[: round(TEST_FRACTION * len(members))]] = True
    return Dataset("digits", images.take(~test), images.take(test))
