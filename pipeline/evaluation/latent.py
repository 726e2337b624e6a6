"""The latent space against the prior and against the classes, which training never saw."""

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import chi
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluation.subject import Findings, Subject

NEIGHBOURS = 5
KERNEL_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    r"""Return the squared maximum mean discrepancy between two sets of points, unbiased, so around 0 for equal distributions.

    .. math:: \mathrm{MMD}^2 = E k(x, x') + E k(y, y') - 2 E k(x, y), \quad
       k(x, y) = \sum_s \frac{2 d s}{2 d s + \|x - y\|^2}

    Reference: Wasserstein Auto-Encoders, 1711.01558, section 4, the kernels for a standard normal prior.

    Args:
        x, y: points ``[N, d]`` and ``[M, d]``.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = cdist(a, b, "sqeuclidean")
        constants = [2 * a.shape[1] * scale for scale in KERNEL_SCALES]
        return sum((constant / (constant + squared) for constant in constants), np.zeros_like(squared))

    def within(a: np.ndarray) -> float:
        matrix = kernel(a, a)
        return float((matrix.sum() - np.trace(matrix)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def gaussian_fit_kl(z: np.ndarray) -> float:
    r"""Return how far the Gaussian fitted to points ``[N, d]`` is from the prior (nats).

    .. math:: \mathrm{KL}(N(m, S) \| N(0, I)) = \tfrac12 (\mathrm{tr} S + m^T m - d - \ln \det S)
    """
    mean, eigenvalues = z.mean(0), np.maximum(np.linalg.eigvalsh(np.atleast_2d(np.cov(z.T))), 1e-12)
    return float(0.5 * (eigenvalues.sum() + mean @ mean - z.shape[1] - np.log(eigenvalues).sum()))


def classes(codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """Return how well classes can be told apart by codes, fitted on the first and measured on the second.

    ``knn_accuracy``: the majority of the 5 nearest; ``probe_accuracy``: logistic regression. Neither changes when all codes
    are rotated or rescaled: the probe sees them with unit mean square.

    Args:
        codes, test_codes: ``[M, d]`` and ``[N, d]``.
        labels, test_labels: ``[M]`` and ``[N]``.
    """
    neighbours = KNeighborsClassifier(NEIGHBOURS).fit(codes, labels)
    centre, scale = codes.mean(0), max(float(codes.std()), 1e-12)
    probe = LogisticRegression(max_iter=1000).fit((codes - centre) / scale, labels)
    return {
        "knn_accuracy": float(neighbours.score(test_codes, test_labels)),
        "probe_accuracy": float(probe.score((test_codes - centre) / scale, test_labels)),
    }


def structure(pixels: np.ndarray, codes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the ``silhouette`` of the classes in the codes and the ``trustworthiness`` of the codes' neighbourhoods.

    Trustworthiness is 1 when the 5 nearest codes of every image are among its 5 nearest in pixels. Rotation and scale of the
    codes do not matter.

    Args:
        pixels: images ``[N, D]``.
        codes: ``[N, d]``.
        labels: ``[N]``.
    """
    return {
        "silhouette": float(silhouette_score(codes, labels)),
        "trustworthiness": float(trustworthiness(pixels, codes, n_neighbors=min(NEIGHBOURS, (len(codes) - 1) // 2))),
    }


def latent(subject: Subject) -> Findings:
    """Measure the latent space against the prior and against the classes, beside what pixels and PCA give.

    Against N(0, I), at draws from the aggregate posterior (codes, where there is no posterior): ``mmd``,
    ``gaussian_fit_kl`` (nats), ``scale`` (root mean variance of the codes), ``radius_95`` (95% of the codes lie within;
    ``radius_95_prior`` for the prior). An autoencoder's codes have no unit scale: read these before any word about holes.
    Classes: :func:`classes` and :func:`structure`; ``pca`` the same for principal components of as many dimensions,
    ``pixels`` for the images themselves, without which the accuracies cannot be read.
    """
    few = subject.budget.plots
    dim = subject.model.latent_dim
    z = subject.reference_draws.astype(np.float64)
    prior = subject.noise(few, dim, purpose="mmd").cpu().numpy()
    codes = subject.codes.astype(np.float64)
    numbers: dict[str, Any] = {
        "scale": float(np.sqrt(codes.var(0).mean())),
        "radius_95": float(np.quantile(np.linalg.norm(z, axis=1), 0.95)),
        "radius_95_prior": float(chi(dim).ppf(0.95)),
        "mmd": mmd(z[:few], prior),
        "gaussian_fit_kl": gaussian_fit_kl(z),
    }
    labels, test_labels = subject.reference.labels, subject.test.labels
    pixels, test_pixels = subject.reference.pixels, subject.test.pixels
    part = slice(few)
    numbers |= classes(subject.reference_codes, labels, subject.codes, test_labels)
    numbers |= structure(test_pixels[part], codes[part], test_labels[part])
    pca = PCA(min(dim, pixels.shape[1]), svd_solver="covariance_eigh").fit(pixels)
    test_components = pca.transform(test_pixels)
    numbers["pca"] = classes(pca.transform(pixels), labels, test_components, test_labels)
    numbers["pca"] |= structure(test_pixels[part], test_components[part], test_labels[part])
    numbers["pixels"] = {
        "knn_accuracy": float(KNeighborsClassifier(NEIGHBOURS).fit(pixels, labels).score(test_pixels, test_labels)),
        "silhouette": float(silhouette_score(test_pixels[part], test_labels[part])),
    }
    return Findings(numbers)
