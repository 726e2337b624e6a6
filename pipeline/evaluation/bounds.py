"""How close the evidence lower bound is to log p(x): importance weighting, and exact integration over a latent plane."""

import hashlib
import math
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data import Split
from pipeline.evaluation.likelihood import standard_error, terms
from pipeline.evaluation.subject import BATCH, Findings, Subject
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise
from pipeline.runtime import generator

NUM_WEIGHTS = (1, 10, 100, 500)
EXTENT = 4.5  # the standard normal has 7e-6 of its mass outside of this square
AGGREGATE_GRID = 1024  # points along each side, over which the aggregate posterior is integrated


def binarise(split: Split) -> np.ndarray:
    """Return the images ``[N, D]`` as black and white (bool), each pixel white with its intensity's probability, always the same.

    The draw depends on nothing but the images, so its sha256 names a test set that others can compare with.
    """
    draws = torch.rand(len(split), split.images[0].size, generator=generator("binarised test images"))
    return (draws < torch.from_numpy(split.pixels)).numpy()


@torch.no_grad()
def importance(subject: Subject, x: Tensor, purpose: str) -> tuple[dict[int, np.ndarray], np.ndarray]:
    r"""Return the importance-weighted bound of each image for each number of weights, and the effective sample size.

    .. math:: L_k = E \log \frac1k \sum_{i=1}^k w_i, \quad w_i = \frac{p(x \mid z_i) p(z_i)}{q(z_i \mid x)}, \quad z_i \sim q

    All k share the same 500 draws, cut into groups of k whose bounds are averaged, so that :math:`L_k` rises with k for
    each image. The effective sample size :math:`(\sum w)^2 / \sum w^2` says how many of the 500 count.

    Reference: Importance Weighted Autoencoders, 1509.00519.

    Args:
        subject: a model with a posterior.
        x: images ``[N, D]`` in [0, 1].
        purpose: names the draws.

    Returns:
        ``{k: nats [N]}`` and the effective sample size ``[N]``, float64.
    """
    most = max(NUM_WEIGHTS)
    rows = []
    for index, image in enumerate(x.split(8)):
        mean, logvar = subject.posterior(image)
        noise = subject.noise(most, *mean.shape, purpose=f"importance {purpose} {index}")
        z = reparameterise(mean, logvar, noise)
        # log p(z) - log q(z | x), where the normalising constants cancel
        ratio = 0.5 * (noise.double().square() + logvar.double() - z.double().square()).sum(-1)
        rows.append(ratio - bernoulli_nll(subject.model.decode(z), image).double())
    weights = torch.cat(rows, dim=1)
    bounds = {}
    for k in NUM_WEIGHTS:
        groups = weights.reshape(most // k, k, -1)
        bounds[k] = (groups.logsumexp(1) - math.log(k)).mean(0).cpu().numpy()
    ess = torch.exp(2 * weights.logsumexp(0) - (2 * weights).logsumexp(0))
    return bounds, ess.cpu().numpy()


@torch.no_grad()
def exact(subject: Subject, x: Tensor, grid: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Return log p(x) of each image under a model with two latent dimensions, integrated by the trapezoid rule.

    .. math:: \log p(x) = \log \int p(x \mid z) N(z; 0, I) dz

    The grid spans [-4.5, 4.5] in both directions, or more where codes lie further out. It is decoded once; since
    :math:`\log p(x \mid z) = x \cdot l(z) - \sum \mathrm{softplus}(l(z))`, the rest is one matrix product.

    Args:
        subject: a model with two latent dimensions.
        x: images ``[N, D]`` in [0, 1].
        grid: points along each side.

    Returns:
        log p(x) ``[N]`` on the grid and on every second point of it, float64 nats; how much the two differ tells the error.

    Raises ValueError unless the latent space is a plane.
    """
    if subject.model.latent_dim != 2:
        raise ValueError(f"exact integration needs 2 latent dimensions, not {subject.model.latent_dim}")
    extent = max(EXTENT, 1.1 * float(np.abs(subject.codes).max()))
    axis = torch.linspace(-extent, extent, grid, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    logits = torch.cat([subject.model.decode(part.float().to(subject.device)) for part in points.split(8 * BATCH)])
    normaliser = torch.cat([functional.softplus(part).double().sum(-1) for part in logits.split(8 * BATCH)])
    edge = torch.ones(grid, dtype=torch.float64)
    edge[[0, -1]] = 0.5
    log_edge = (edge[:, None] * edge).log().flatten()
    log_prior = -0.5 * points.square().sum(-1) - math.log(2 * math.pi) + 2 * (axis[1] - axis[0]).log()
    fixed = (log_prior + log_edge).to(subject.device) - normaliser
    half = torch.zeros(grid, grid, dtype=torch.bool)
    half[::2, ::2] = True
    every_second = half.flatten().nonzero().squeeze(1).to(subject.device)
    full_values, half_values = [], []
    for part in x.split(64):
        joint = part @ logits.T + fixed.float()  # float32 errs by 1e-5 nats here; the sum below is in float64
        full_values.append(_logsumexp(joint))
        half_values.append(_logsumexp(joint[:, every_second]) + math.log(4))
    return torch.cat(full_values).cpu().numpy(), torch.cat(half_values).cpu().numpy()


def _logsumexp(values: Tensor) -> Tensor:
    top = values.max(1, keepdim=True).values
    return (values - top).exp().sum(1, dtype=torch.float64).log() + top.squeeze(1).double()


def aggregate_kl(codes: np.ndarray, spread: np.ndarray) -> float:
    r"""Return the divergence of the aggregate posterior from the prior, for two latent dimensions, by integration.

    .. math:: \mathrm{KL}(q(z) \| N(0, I)), \quad q(z) = \frac1N \sum_n N(z; \mu_n, \sigma_n^2)

    Diagonal Gaussians are products, so the density on the whole grid is one matrix product.

    Args:
        codes, spread: means and standard deviations ``[N, 2]`` of the posteriors.

    Raises ValueError when the posteriors are too narrow for the grid, which then does not hold their mass.
    """
    densities, axes = [], []
    for mean, std in zip(codes.T.astype(np.float64), spread.T.astype(np.float64), strict=True):
        axis = np.linspace((mean - 6 * std).min(), (mean + 6 * std).max(), AGGREGATE_GRID)
        densities.append(np.exp(-0.5 * ((axis[:, None] - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)))
        axes.append(axis)
    q = densities[0] @ densities[1].T / len(codes)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    if abs(q.sum() * cell - 1) > 0.01:
        raise ValueError(f"the grid holds {q.sum() * cell:.3f} of the posteriors' mass")
    log_prior = -0.5 * (axes[0][:, None] ** 2 + axes[1] ** 2) - math.log(2 * math.pi)
    return float((q * (np.log(np.maximum(q, 1e-300)) - log_prior)).sum() * cell)


def spread_over(length: int, size: int) -> np.ndarray:
    """Return at most ``size`` indices, evenly spread: files of images are often sorted by who wrote them.

    >>> spread_over(10, 3).tolist(), spread_over(2, 3).tolist()
    ([0, 4, 9], [0, 1])
    """
    return np.linspace(0, length - 1, min(length, size)).astype(np.int64)


def bounds(subject: Subject) -> Findings:
    r"""Measure how tight the ELBO is, where there is a posterior; an autoencoder has no such section.

    ``iwae_k`` for k = 1, 10, 100, 500, as the ELBO of all images and what the bound adds to it on some of them
    (``iwae_gain_se``: the standard error of that, for the largest k), and the effective sample size ``ess``; for two latent
    dimensions ``log_p`` (exact), ``log_p_grid_error`` (mean absolute difference to half the grid), ``gap`` = log p - ELBO
    with its standard error, and the two parts of the KL term (ELBO surgery, Hoffman and Johnson, 2016):
    ``mutual_information`` :math:`I_q(x; z)` and ``aggregate_kl`` :math:`\mathrm{KL}(q(z) \| p(z))`. ``binarised``: the same
    for one fixed black-and-white test set, as in the literature.

    Nats per image. Bounds on grey pixels compare with dynamically binarised images (the term is linear in the target);
    they are no density on [0, 1]^D.
    """
    if not subject.probabilistic:
        return Findings({})
    rows = terms(subject)
    black_and_white = binarise(subject.test)
    sets = {"grey": subject.pixels(subject.test), "binarised": torch.from_numpy(black_and_white).to(subject.device).float()}
    sections: dict[str, dict[str, Any]] = {}
    per_image: dict[str, np.ndarray] = {}
    for name, x in sets.items():
        numbers: dict[str, Any] = {}
        if name == "grey":
            elbo = -(rows["recon"] + rows["kl"])
        else:
            numbers["sha256"] = hashlib.sha256(np.packbits(black_and_white).tobytes()).hexdigest()
            elbo = _elbo(subject, x)
            numbers["elbo"] = float(elbo.mean())
        # What a bound adds to the ELBO is measured on some images; the ELBO of all of them makes it comparable with the rest.
        some = spread_over(len(x), subject.budget.importance_images)
        weighted, ess = importance(subject, x[some], name)
        gains = {k: values - elbo[some] for k, values in weighted.items()}
        numbers |= {f"iwae_{k}": float(elbo.mean() + gain.mean()) for k, gain in gains.items()}
        numbers |= {"iwae_gain_se": standard_error(gains[max(NUM_WEIGHTS)]), "ess": float(ess.mean())}
        if subject.model.latent_dim == 2:
            some = spread_over(len(x), subject.budget.exact_images)
            log_p, coarse = exact(subject, x[some], subject.budget.grid)
            gap = log_p - elbo[some]
            numbers |= {"log_p": float(elbo.mean() + gap.mean()), "gap": float(gap.mean()), "gap_se": standard_error(gap)}
            numbers["log_p_grid_error"] = float(np.abs(log_p - coarse).mean())
            if name == "grey" and len(log_p) == len(subject.test):
                per_image |= {"log_p": log_p, "gap": gap}
        sections[name] = numbers
    if subject.model.latent_dim == 2:
        with suppress(ValueError):  # posteriors too narrow to integrate: no number is better than a wrong one
            divergence = aggregate_kl(subject.codes, subject.spread)
            sections["grey"] |= {"aggregate_kl": divergence, "mutual_information": float(rows["kl"].mean()) - divergence}
    return Findings(sections["grey"] | {"binarised": sections["binarised"]}, per_image)


@torch.no_grad()
def _elbo(subject: Subject, x: Tensor) -> np.ndarray:
    values = []
    for index, part in enumerate(x.split(BATCH)):
        mean, logvar = subject.posterior(part)
        z = reparameterise(mean, logvar, subject.noise(*mean.shape, purpose=f"binarised {index}"))
        values.append(-(bernoulli_nll(subject.model.decode(z), part) + gaussian_kl(mean, logvar).sum(-1)).double())
    return torch.cat(values).cpu().numpy()
