"""The 1,797 handwritten digits, 8 x 8 in 17 greys, that come with scikit-learn, enlarged to MNIST's format: no network.

Source: Optical Recognition of Handwritten Digits (Alpaydin and Kaynak; UCI, CC BY 4.0).
"""

from collections.abc import Sequence

import numpy as np

from pipeline.data import Dataset, Split

SIZE = 28  # pixels
TEST_FRACTION = 0.2
SPLIT_SEED = 0  # not the seed of params.yaml: the test images stay the same whatever is tried


def enlarge(images: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Enlarge ``[N, n, n]`` greys 0..16 bilinearly to ``[N, size, size]`` uint8 0..255.

    In integers, units of 1 / (2 size) of a small pixel, so that every machine gets the same bytes.
    """
    n, unit = images.shape[1], 2 * size
    centre = ((2 * np.arange(size) + 1) * n - size).clip(0, (n - 1) * unit)
    weights = (unit - abs(centre[:, None] - unit * np.arange(n))).clip(0)
    scale = 16 * unit**2
    enlarged: np.ndarray = weights @ images.astype(np.int64) @ weights.T
    return ((enlarged * 255 + scale // 2) // scale).astype(np.uint8)


def digits(mirrors: Sequence[str] = ()) -> Dataset:
    """Return 28 x 28 digits, one in five of each class as the test split; ``mirrors`` are not needed."""
    from sklearn.datasets import load_digits  # two seconds of import that the downloaded data sets do without

    bunch = load_digits()
    split = Split(enlarge(bunch.images), bunch.target.astype(np.int64))
    rng, test = np.random.default_rng(SPLIT_SEED), np.zeros(len(split), bool)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(split.labels == digit))
        test[members[: round(TEST_FRACTION * len(members))]] = True
    return Dataset("digits", split.take(np.flatnonzero(~test)), split.take(np.flatnonzero(test)))
