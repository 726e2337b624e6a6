"""Holes: regions of the latent space that decode to images unlike the data, or that contain no codes."""

from typing import Any

import numpy as np
import torch
from scipy.spatial import ConvexHull, Delaunay
from scipy.stats import multivariate_normal

from pipeline.evaluation.context import NO_CLASSIFIER, EvalContext, MetricResult
from pipeline.evaluation.distances import nearest
from pipeline.evaluation.geometry import frame
from pipeline.evaluation.plot_data import grid
from pipeline.evaluation.samplers import covariance, gaussian, prior, scott

PERCENTS = (50, 80, 90)  # thresholds of the confidence


def hull(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``size`` points uniformly from the convex hull of codes ``[N, d]``; for few dimensions."""
    corners = codes[ConvexHull(codes).vertices]
    simplices = corners[Delaunay(corners).simplices]
    volumes = np.abs(np.linalg.det(simplices[:, 1:] - simplices[:, :1]))
    chosen = simplices[rng.choice(len(simplices), size=size, p=volumes / volumes.sum())]
    weights = rng.dirichlet(np.ones(codes.shape[1] + 1), size=size)
    return np.asarray(np.einsum("nk,nkd->nd", weights, chosen))


def log_density(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the log density ``[N]`` at points ``[N, d]`` of a kernel estimate from centres ``[M, d]`` (Scott's bandwidth).

    Affine maps of points and centres only add a constant, so codes of any scale compare.
    """
    root = np.linalg.cholesky(covariance(centres)) * scott(*centres.shape)
    a, b = (torch.from_numpy(np.linalg.solve(root, points.T).T.astype(np.float32)) for points in (z, centres))
    sums = torch.cat([(-0.5 * torch.cdist(part, b).square()).logsumexp(1) for part in torch.split(a, 200)])
    normaliser = np.log(np.diag(root)).sum() + 0.5 * z.shape[1] * np.log(2 * np.pi) + np.log(len(centres))
    return np.asarray(sums.double().numpy() - normaliser)


def measures(context: EvalContext) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each reference measure m, points ``[N, d]`` drawn from it and log m at them ``[N]``.

    ``prior``: N(0, I), the same points for every model; ``matched``: the Gaussian with the codes' mean and covariance;
    ``hull``: uniform on the codes' convex hull, in two dimensions unless the codes lie on a line.
    """
    codes, size = context.reference_codes.astype(np.float64), context.budget.samples
    z = prior(codes, size, context.rng("holes prior"))
    drawn = {"prior": (z, multivariate_normal(np.zeros(codes.shape[1])).logpdf(z))}
    z = gaussian(codes, size, context.rng("holes matched"))
    drawn["matched"] = (z, multivariate_normal(codes.mean(0), covariance(codes)).logpdf(z))
    if codes.shape[1] == 2 and np.linalg.matrix_rank(codes - codes.mean(0)) == 2:
        z = hull(codes, size, context.rng("holes hull"))
        drawn["hull"] = (z, np.full(size, -np.log(ConvexHull(codes).volume)))
    return drawn


def holes(context: EvalContext) -> MetricResult:
    r"""Measure the share of holes in the latent space under each of :func:`measures`; a note names what is left out.

    ``confidence_below_80`` (and 50, 90): the mass where the classifier's top probability of the decoded image is below 0.8;
    ``off_manifold``: the mass where the decoded image is further from all training images, in the classifier's features, than
    95% of the real test images; ``coverage`` (two dimensions): the mass where :math:`q(z) / m(z) < 0.1`, with q estimated from
    samples of the aggregate posterior. All are shares in [0, 1], so models with codes of any scale compare; their standard error
    is :math:`\sqrt{p (1 - p) / N}`. Reference: 2110.03318. In a plane, there are maps of confidence and log density.
    """
    if (classifier := context.classifier) is None:
        return MetricResult({"note": NO_CLASSIFIER})
    is_plane = context.model.latent_dim == 2
    train = classifier.predict(context.reference.intensities)[0]
    limit = np.quantile(nearest(classifier.predict(context.test.intensities)[0], train), 0.95)
    numbers: dict[str, Any] = context.needs_plane("hull, coverage and maps")
    arrays: dict[str, np.ndarray] = {}
    centres = context.reference_samples.astype(np.float64)
    reference = measures(context)
    if is_plane and "hull" not in reference:
        numbers["note"] = "no hull: the codes lie on a line"
    for name, (z, log_measure) in reference.items():
        features, probabilities = classifier.predict(context.decode(z))
        confidence, off_manifold = probabilities.max(-1), nearest(features, train) > limit
        numbers[name] = {f"confidence_below_{percent}": float((confidence < percent / 100).mean()) for percent in PERCENTS}
        numbers[name]["off_manifold"] = float(off_manifold.mean())
        if is_plane:
            numbers[name]["coverage"] = float((log_density(z, centres) - log_measure < np.log(0.1)).mean())
        arrays |= {f"confidence_{name}": confidence, f"off_manifold_{name}": off_manifold}
    if is_plane:
        points = grid(*frame(context.codes))
        confidence = classifier.predict(decoded := context.decode(points))[1].max(-1)
        density = log_density(points.reshape(-1, 2), centres).reshape(points.shape[:2]).astype(np.float32)
        among_codes = np.where(density < np.median(density), 1, confidence)
        lowest = np.unravel_index(among_codes.argmin(), density.shape)
        arrays |= {"confidence_map": confidence, "density_map": density}
        arrays |= {"hole_code": points[lowest], "hole_image": decoded[lowest]}
    return MetricResult(numbers, arrays=arrays)
