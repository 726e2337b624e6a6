"""Holes: where the latent space decodes to nothing the judge knows, or where no code ever lies."""

from typing import Any

import numpy as np
import torch
from scipy.spatial import ConvexHull, Delaunay

from pipeline.evaluation.distances import nearest
from pipeline.evaluation.geometry import frame
from pipeline.evaluation.pictures import grid
from pipeline.evaluation.samplers import covariance, gaussian, prior, scott
from pipeline.evaluation.subject import Findings, Subject

THRESHOLDS = (0.5, 0.8, 0.9)
COVERED = 0.1
QUANTILE = 0.95


def hull(codes: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``size`` points uniformly from the convex hull of codes ``[N, d]``; for few dimensions."""
    corners = codes[ConvexHull(codes).vertices]
    simplices = corners[Delaunay(corners).simplices]
    volumes = np.abs(np.linalg.det(simplices[:, 1:] - simplices[:, :1]))
    chosen = simplices[rng.choice(len(simplices), size=size, p=volumes / volumes.sum())]
    weights = rng.dirichlet(np.ones(codes.shape[1] + 1), size=size)
    return np.einsum("nk,nkd->nd", weights, chosen)


def log_gaussian(z: np.ndarray, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Return the log density ``[N]`` at points ``[N, d]`` of a Gaussian with the Cholesky factor ``[d, d]`` of its covariance."""
    white = np.linalg.solve(root, (z - mean).T)
    return -0.5 * np.square(white).sum(0) - np.log(np.diag(root)).sum() - 0.5 * z.shape[1] * np.log(2 * np.pi)


def log_density(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the log density ``[N]`` at points ``[N, d]`` of a kernel estimate from centres ``[M, d]`` (Scott's bandwidth).

    It moves with the centres under every affine map, so it is as fair to codes of any scale.
    """
    root = np.linalg.cholesky(covariance(centres)) * scott(*centres.shape)
    a, b = (torch.from_numpy(np.linalg.solve(root, points.T).T.astype(np.float32)) for points in (z, centres))
    sums = torch.cat([(-0.5 * torch.cdist(part, b).square()).logsumexp(1) for part in a.split(1000)])
    normaliser = np.log(np.diag(root)).sum() + 0.5 * z.shape[1] * np.log(2 * np.pi) + np.log(len(centres))
    return sums.numpy().astype(np.float64) - normaliser


def measures(subject: Subject) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each reference measure m, draws ``[N, d]`` and log m at them ``[N]``.

    ``prior``: N(0, I), the same draws for every model; ``matched``: the Gaussian with the codes' mean and covariance;
    ``hull``: uniform on the codes' convex hull, where they fill a plane.
    """
    codes, size = subject.reference_codes.astype(np.float64), subject.budget.samples
    dim = codes.shape[1]
    z = prior(codes, size, subject.rng("holes prior"))
    drawn = {"prior": (z, log_gaussian(z, np.zeros(dim), np.eye(dim)))}
    z = gaussian(codes, size, subject.rng("holes matched"))
    drawn["matched"] = (z, log_gaussian(z, codes.mean(0), np.linalg.cholesky(covariance(codes))))
    if dim == 2 and np.linalg.matrix_rank(codes - codes.mean(0)) == 2:
        z = hull(codes, size, subject.rng("holes hull"))
        drawn["hull"] = (z, np.full(size, -np.log(ConvexHull(codes).volume)))
    return drawn


def holes(subject: Subject) -> Findings:
    r"""Measure how much of the latent space is holes, under each of :func:`measures`; nothing without a judge.

    ``confidence_t``: the mass where the judge's top probability of the decoded image is under t; ``off_manifold``: the mass
    where the decoded image is further from all training images, in the judge's features, than 95% of real test images;
    ``coverage`` (two dimensions): the mass where :math:`q(z) / m(z) < 0.1`, q estimated from draws of the aggregate
    posterior. All are shares in [0, 1], so models with codes of any scale compare; their standard error is
    :math:`\sqrt{p (1 - p) / N}`. Reference: 2110.03318.

    In a plane there are maps over the codes' extent: the judge's confidence, and the codes' log density.
    """
    judge = subject.judge
    if judge is None:
        return Findings({})
    train = judge.look(subject.reference.pixels)[0]
    real = nearest(judge.look(subject.test.pixels)[0], train)
    limit = np.quantile(real, QUANTILE)
    numbers: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    centres = subject.reference_draws.astype(np.float64)
    for name, (z, log_measure) in measures(subject).items():
        features, probabilities = judge.look(subject.decode(z))
        top, far = probabilities.max(-1), nearest(features, train) > limit
        numbers[name] = {f"confidence_{threshold}": float((top < threshold).mean()) for threshold in THRESHOLDS}
        numbers[name]["off_manifold"] = float(far.mean())
        if subject.model.latent_dim == 2:
            numbers[name]["coverage"] = float((log_density(z, centres) - log_measure < np.log(COVERED)).mean())
        arrays |= {f"top_{name}": top, f"far_{name}": far}
    if subject.model.latent_dim == 2:
        points = grid(*frame(subject.codes))
        arrays["confidence_map"] = judge.look(subject.decode(points))[1].max(-1)
        arrays["density_map"] = log_density(points.reshape(-1, 2), centres).reshape(points.shape[:2]).astype(np.float32)
    return Findings(numbers, arrays=arrays)
