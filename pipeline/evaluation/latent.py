"""The latent space compared with the prior and with the class labels, which training does not use."""

from typing import Any

import numpy as np
from scipy.stats import chi
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluation.context import NO_LABELS, EvalContext, MetricResult
from pipeline.evaluation.distances import mmd, multiquadric

NEIGHBOURS = 5
MAX_COVARIANCE = 1024  # pixels of an image, times channels


def gaussian_fit_kl(z: np.ndarray) -> float:
    r"""Return the KL divergence of the Gaussian fitted to points ``[N, d]`` from the prior (nats).

    .. math:: \mathrm{KL}(N(m, S) \| N(0, I)) = \tfrac12 (\mathrm{tr} S + m^T m - d - \ln \det S)
    """
    mean, eigenvalues = z.mean(0), np.maximum(np.linalg.eigvalsh(np.atleast_2d(np.cov(z.T))), 1e-12)
    return float(0.5 * (eigenvalues.sum() + mean @ mean - z.shape[1] - np.log(eigenvalues).sum()))


def latent(context: EvalContext) -> MetricResult:
    """Measure the latent space against the prior and against the classes, beside what pixels and PCA give.

    Against N(0, I), at samples of the aggregate posterior: ``mmd``, ``gaussian_fit_kl`` (nats), ``scale`` (root mean variance of
    the codes), ``radius_95`` (of a ball with 95% of the codes; ``radius_95_prior`` for the prior).
    Against the classes, if there are two or more: accuracy of the majority of the 5 nearest codes (``knn_accuracy``) and of
    logistic regression on codes of unit mean square (``probe_accuracy``), and ``silhouette``. None of them changes when all codes
    are rotated or rescaled. ``trustworthiness`` is 1 if the 5 nearest codes of every image are among its 5 nearest in pixels.
    Baselines: ``pca``, the same for as many principal components; ``pixels``, for the images themselves.
    """
    few, dim = slice(context.budget.plots), context.model.latent_dim
    z = context.reference_samples.astype(np.float64)
    prior = context.noise(context.budget.plots, dim, purpose="mmd").cpu().numpy()
    numbers: dict[str, Any] = {
        "scale": float(np.sqrt(context.codes.astype(np.float64).var(0).mean())),
        "radius_95": float(np.quantile(np.linalg.norm(z, axis=1), 0.95)),
        "radius_95_prior": float(chi(dim).ppf(0.95)),
        "mmd": mmd(z[few], prior, multiquadric),
        "gaussian_fit_kl": gaussian_fit_kl(z),
    }
    pixels, test_pixels = (images.intensities.reshape(len(images), -1) for images in (context.reference, context.test))
    # The covariance of many pixels is large, and its eigenvectors take minutes.
    solver = "covariance_eigh" if pixels.shape[1] <= MAX_COVARIANCE else "randomized"
    pca = PCA(min(dim, *pixels.shape), svd_solver=solver, random_state=0).fit(pixels)
    spaces = {"codes": (context.reference_codes, context.codes), "pca": (pca.transform(pixels), pca.transform(test_pixels))}
    for name, (train_codes, test_codes) in spaces.items():
        part = test_codes[few].astype(np.float64) if name == "codes" else test_codes[few]
        section = {}
        if context.labels:
            labels, test_labels = context.labels
            section["knn_accuracy"] = KNeighborsClassifier(NEIGHBOURS).fit(train_codes, labels).score(test_codes, test_labels)
            centre, scale = train_codes.mean(0), max(float(train_codes.std()), 1e-12)
            probe = LogisticRegression(max_iter=1000).fit((train_codes - centre) / scale, labels)
            section["probe_accuracy"] = probe.score((test_codes - centre) / scale, test_labels)
            section["silhouette"] = float(silhouette_score(part, test_labels[few]))
        k = min(NEIGHBOURS, (len(part) - 1) // 2)  # the most that scikit-learn allows
        section["trustworthiness"] = float(trustworthiness(test_pixels[few], part, n_neighbors=k))
        numbers |= section if name == "codes" else {name: section}
    if not context.labels:
        return MetricResult(numbers | {"note": NO_LABELS})
    numbers["pixels"] = {
        "knn_accuracy": KNeighborsClassifier(NEIGHBOURS).fit(pixels, labels).score(test_pixels, test_labels),
        "silhouette": float(silhouette_score(test_pixels[few], test_labels[few])),
    }
    return MetricResult(numbers)
