"""The distances between sets of features against well-kept packages: ``prdc`` by its authors, and ``torchmetrics``.

Both get the very features that the project measures. The definitions are the same, but that KID is an average over subsets
in the package.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from pipeline.classifier import Classifier
from pipeline.evaluation.distances import prdc
from pipeline.evaluation.sample_quality import NEIGHBOURS, compare, shuffled
from pipeline.stats import frechet_distance
from tests.conftest import blobs

SIZE = 700  # more than one chunk of rows


class Features(NamedTuple):
    """Features ``[N, d]`` of real and of other images, and what the project reports of them."""

    real: np.ndarray
    fake: np.ndarray
    numbers: dict[str, float]


@pytest.fixture(scope="module", params=["real", "noisy", "shuffled"])
def features(request: pytest.FixtureRequest, classifier: Classifier) -> Features:
    """The classifier's features of real images and of as many other real ones, of those with noise, and of shuffled ones."""
    rng = np.random.default_rng(0)
    real, other = blobs(SIZE, seed=2), blobs(SIZE, seed=3)
    images = {
        "real": other.intensities,
        "noisy": (other.intensities + rng.normal(0, 0.1, other.pixels.shape)).clip(0, 1),
        "shuffled": shuffled(other.intensities, rng),
    }[request.param]
    seen = classifier.predict(real.intensities)[0]
    numbers, fake = compare(classifier, images, seen)
    return Features(seen, fake, numbers)


class _Given(torch.nn.Identity):
    """Stands in for the Inception net: features pass as they are."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def fed(metric: Metric, real: np.ndarray, fake: np.ndarray) -> Metric:
    """Give a metric both sets, in float64 as the project counts."""
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(fake).double(), real=False)
    return metric


def torchmetrics_kid(real: np.ndarray, fake: np.ndarray, degree: int = 3) -> float:
    # By default the package averages over 100 random subsets of 1,000; the project takes all points at once, which is one
    # subset of all of them. The rest of the kernel, gamma = 1 / d and the constant 1, is the default.
    metric = KernelInceptionDistance(_Given(real.shape[1]), subsets=1, subset_size=len(real), degree=degree)
    return float(fed(metric, real, fake).compute()[0])


def torchmetrics_frechet(real: np.ndarray, fake: np.ndarray) -> float:
    return float(fed(FrechetInceptionDistance(_Given(real.shape[1])), real, fake).compute())


class TestPrdc:
    def test_parity(self, features: Features):
        # Both compare strictly, and the k-th neighbour is not the point itself. The package has distances in float64 and the
        # project in float32, so a point at the very edge of a ball may fall on the other side: two at most.
        expected = compute_prdc(features.real, features.fake, nearest_k=NEIGHBOURS)
        assert NEIGHBOURS == 5
        for name, value in expected.items():
            assert features.numbers[name] == pytest.approx(float(value), abs=2 / SIZE), name

    @pytest.mark.parametrize("k", [1, 5, 10])
    def test_parity_for_sets_of_different_sizes_and_no_other_k_passes(self, k: int):
        rng = np.random.default_rng(1)
        real = rng.normal(size=(600, 8)).astype(np.float32)
        fake = (0.8 * rng.normal(size=(450, 8)) + 0.2).astype(np.float32)
        expected = {name: float(value) for name, value in compute_prdc(real, fake, nearest_k=k).items()}
        assert all(0.05 < value < 1.5 for value in expected.values())
        near = pytest.approx(expected, abs=2 / 450)
        assert prdc(real, fake, k) == near
        assert prdc(real, fake, k + 1) != near
        assert k == 1 or prdc(real, fake, k - 1) != near


# torchmetrics says that it keeps all features in memory.
@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
class TestKid:
    def test_parity(self, features: Features):
        assert features.numbers["kid"] == pytest.approx(torchmetrics_kid(features.real, features.fake), rel=1e-9, abs=1e-9)

    def test_another_degree_is_noticed(self, features: Features):
        other = torchmetrics_kid(features.real, features.fake, degree=2)
        assert features.numbers["kid"] != pytest.approx(other, rel=1e-3, abs=1e-6)

    def test_mean_over_subsets_of_the_package_is_near_the_value_of_all_points(self, features: Features):
        metric = fed(KernelInceptionDistance(_Given(64), subsets=20, subset_size=200), features.real, features.fake)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mean, spread = metric.compute()
        assert abs(float(mean) - features.numbers["kid"]) < float(spread)


class TestFrechet:
    def test_parity(self, features: Features):
        expected = torchmetrics_frechet(features.real, features.fake)
        assert features.numbers["frechet_distance"] == pytest.approx(expected, rel=1e-6, abs=1e-8)

    def test_parity_for_few_points(self):
        # At 50 points a covariance divided by N, not N - 1, would be off by 2%.
        rng = np.random.default_rng(2)
        x, y = rng.normal(size=(50, 4)), 3 * rng.normal(size=(60, 4)) + 1
        assert frechet_distance(x, y) == pytest.approx(torchmetrics_frechet(x, y), rel=1e-9)
