"""Reconstruction, KL and the ELBO at beta = 1, and how close the ELBO is to log p(x) by importance weighting and integration."""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor

from pipeline.data import Images
from pipeline.evaluation.context import BATCH, EvalContext, MetricResult
from pipeline.models.likelihoods import Bernoulli, LinearLikelihood
from pipeline.runtime import generator
from pipeline.stats import standard_error

ACTIVE_VARIANCE = 0.01  # 1509.00519, section 3.3
MAX_DIMENSIONS = 32  # up to here the metrics file lists the KL of each dimension
NUM_WEIGHTS = (1, 10, 100, 500)
EXTENT = 4.5  # the standard normal has 7e-6 of its mass outside of this square
AGGREGATE_GRID = 1024  # points along each side of the grid over which the aggregate posterior is integrated
CHUNK = 1024  # points of the grid at once, times BATCH images, so that a block of the joint stays in the cache


def gray_floor(images: Images) -> float:
    r"""Return the lowest reconstruction term, that of a decoder that returns the image itself: its entropy (nats per image).

    .. math:: \frac1N \sum_n \sum_i -x \ln x - (1 - x) \ln (1 - x)

    >>> gray_floor(Images(np.zeros((1, 1, 2, 2), np.uint8)))  # black and white pixels have no entropy
    0.0
    """
    x = np.arange(256) / 255
    return float(np.bincount(images.pixels[:].reshape(-1), minlength=256) @ (entr(x) + entr(1 - x))) / len(images)


def likelihood(context: EvalContext) -> MetricResult:
    r"""Measure reconstruction and, unless the posterior is a point, the evidence lower bound at beta = 1.

    .. math:: \mathrm{ELBO} = -(D + R), \quad D = E_{q(z \mid x)}[-\log p(x \mid z)], \quad R = \mathrm{KL}(q(z \mid x) \| p(z))

    Nats per image; ``mse`` per pixel; ``bits_per_dim`` of the negative ELBO, see
    :meth:`~pipeline.models.likelihoods.Likelihood.bits_per_dim`; ``recon_excess`` over :func:`gray_floor`, for Bernoulli pixels.
    ``objective`` is what training minimised, ``D + beta R``. ``recon_at_mean`` compares a VAE with an autoencoder;
    ``recon - recon_at_mean`` is the cost of the noise.

    References: 1312.6114 (ELBO), 1509.00519 (active units: :math:`\mathrm{Var}_x(E_q[z]) > 0.01`).
    """
    rows, model = dict(context.terms), context.model
    numbers: dict[str, Any] = {name: float(rows[name].mean()) for name in ("recon", "recon_at_mean", "mse")}
    if has_floor := isinstance(model.likelihood, Bernoulli):
        floor = gray_floor(context.test)
        numbers |= {f"recon_excess{at}": numbers[f"recon{at}"] - floor for at in ("", "_at_mean")}
    numbers["recon_se"] = standard_error(rows["recon"])
    if has_floor:
        numbers["gray_floor"] = floor
    if model.is_probabilistic:
        kl_per_dim = rows.pop("kl_per_dim").mean(0)
        rows["elbo"] = -(rows["recon"] + rows["kl"])
        elbo = float(rows["elbo"].mean())
        numbers |= {
            "kl": float(kl_per_dim.sum()),
            "elbo": elbo,
            "elbo_se": standard_error(rows["elbo"]),
            "bits_per_dim": model.likelihood.bits_per_dim(-elbo, math.prod(context.test.shape)),
            "active_units": int((context.codes.astype(np.float64).var(0) > ACTIVE_VARIANCE).sum()),
        }
        if context.beta is not None:
            numbers["objective"] = numbers["recon"] + context.beta * numbers["kl"]
        if len(kl_per_dim) <= MAX_DIMENSIONS:
            numbers["kl_per_dim"] = {str(index): float(value) for index, value in enumerate(kl_per_dim)}
    return MetricResult(numbers, rows)


def binarise(images: Images) -> np.ndarray:
    """Return black-and-white images (bool), each pixel white with its intensity as probability, always by the same noise."""
    thresholds = torch.rand(len(images), math.prod(images.shape), generator=generator("binarised test images"))
    return (thresholds.view(-1, *images.shape) < torch.from_numpy(images.intensities)).numpy()


@torch.no_grad()
def importance(context: EvalContext, x: Tensor, purpose: str) -> tuple[dict[int, np.ndarray], np.ndarray]:
    r"""Return importance-weighted bounds ``{k: nats [N]}`` of images ``[N, C, H, W]``, and effective sample sizes ``[N]``.

    .. math:: L_k = E \log \frac1k \sum_{i=1}^k w_i, \quad w_i = \frac{p(x \mid z_i) p(z_i)}{q(z_i \mid x)}, \quad z_i \sim q

    All k share the same 500 samples, cut into groups of k whose bounds are averaged, so :math:`L_k` rises with k for each
    image. The effective sample size is :math:`(\sum w)^2 / \sum w^2`. Reference: Importance Weighted Autoencoders, 1509.00519.
    """
    rows, most = [], max(NUM_WEIGHTS)
    for index, images in enumerate(torch.split(x, 8)):
        posterior = context.model.encode(images)
        assert posterior.logvar is not None, "a point has no importance weights"
        noise = context.noise(most, *posterior.mean.shape, purpose=f"importance {purpose} {index}")
        z = posterior.sample(noise)
        # log p(z) - log q(z | x), where the normalising constants cancel
        ratio = 0.5 * (noise.double().square() + posterior.logvar.double() - z.double().square()).sum(-1)
        rows.append(ratio - context.model.likelihood.nll(context.model.decode(z), images).double())
    weights = torch.cat(rows, dim=1)
    groups = {k: weights.reshape(most // k, k, -1) for k in NUM_WEIGHTS}
    bounds = {k: (group.logsumexp(1) - math.log(k)).mean(0).cpu().numpy() for k, group in groups.items()}
    return bounds, torch.exp(2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).cpu().numpy()


def no_exact(context: EvalContext) -> str:
    """Return why log p(x) is not integrated exactly for this model, or nothing."""
    if context.model.latent_dim != 2:
        return f"exact integration needs 2 latent dimensions, not {context.model.latent_dim}"
    is_linear = isinstance(context.model.likelihood, LinearLikelihood)
    return "" if is_linear else "exact integration needs a log likelihood that is linear in the pixels"


@torch.no_grad()
def exact(context: EvalContext, x: Tensor, grid: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Return log p(x) of images ``[N, C, H, W]`` under a model with two latent dimensions, by the trapezoid rule.

    .. math:: \log p(x) = \log \int p(x \mid z) N(z; 0, I) dz

    The grid, of ``grid`` points along each side, spans [-4.5, 4.5]^2, or more if codes lie further out. The results are float64
    nats ``[N]`` on the grid and on every second point of it; their difference indicates the error.
    Since :math:`\log p(x \mid z) = x \cdot l(z) + \log p(0 \mid z)`, images times grid is one matmul, done in blocks.

    Raises ValueError unless the latent space is a plane and the log likelihood is linear in the pixels.
    """
    likelihood = context.model.likelihood
    if (why := no_exact(context)) or not isinstance(likelihood, LinearLikelihood):
        raise ValueError(why)
    extent = max(EXTENT, 1.1 * float(np.abs(context.codes).max()))
    axis = torch.linspace(-extent, extent, grid, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    edge = torch.ones(grid, dtype=torch.float64)
    edge[[0, -1]] = 0.5
    log_prior = -0.5 * points.square().sum(-1) - math.log(2 * math.pi) + 2 * (axis[1] - axis[0]).log()
    log_mass = log_prior + (edge[:, None] * edge).log().flatten()
    half = torch.zeros(grid, grid, dtype=torch.bool)
    half[::2, ::2] = True
    used = x.flatten(1).any(0)  # a pixel that is black in all images adds nothing
    images = x.flatten(1)[:, used]

    def integrate(chosen: Tensor) -> Tensor:
        parts = []
        for chunk in torch.split(chosen.flatten().nonzero().squeeze(1), CHUNK):
            logits = context.model.decode(points[chunk].float().to(context.device))
            # float32 errs by 1e-5 nats here; the sum over the chunks is in float64
            log_p_black = likelihood.log_normalizer(logits).flatten(1).double().sum(-1)
            fixed = (log_mass[chunk].to(context.device) + log_p_black).float()
            rows, blocks = logits.flatten(1)[:, used].T, torch.split(images, BATCH)
            parts.append(torch.cat([torch.addmm(fixed, block, rows).logsumexp(1) for block in blocks]))
        return torch.stack(parts).double().logsumexp(0)

    every_second = integrate(half)
    full = torch.logaddexp(every_second, integrate(~half))
    return full.cpu().numpy(), (every_second + math.log(4)).cpu().numpy()


def aggregate_kl(codes: np.ndarray, spread: np.ndarray) -> float:
    r"""Return the KL divergence of the aggregate posterior from the prior in two latent dimensions, by integration.

    .. math:: \mathrm{KL}(q(z) \| N(0, I)), \quad q(z) = \frac1N \sum_n N(z; \mu_n, \sigma_n^2)

    ``spread`` ``[N, 2]`` holds the posteriors' standard deviations. Raises ValueError for another number of dimensions, and when
    they are too narrow for the grid.
    """
    if codes.shape[1] != 2:
        raise ValueError(f"the integral over the latent space needs 2 dimensions, not {codes.shape[1]}")
    densities, axes = [], []
    for mean, std in zip(codes.T.astype(np.float64), spread.T.astype(np.float64), strict=True):
        axis = np.linspace((mean - 6 * std).min(), (mean + 6 * std).max(), AGGREGATE_GRID)
        densities.append(np.exp(-0.5 * ((axis[:, None] - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)))
        axes.append(axis)
    q = densities[0] @ densities[1].T / len(codes)  # a diagonal Gaussian is a product of its densities along the axes
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    if abs(q.sum() * cell - 1) > 0.01:
        raise ValueError(f"the grid holds {q.sum() * cell:.3f} of the posteriors' mass")
    log_prior = -0.5 * (axes[0][:, None] ** 2 + axes[1] ** 2) - math.log(2 * math.pi)
    return float((q * (np.log(np.maximum(q, 1e-300)) - log_prior)).sum() * cell)


def spread_over(length: int, size: int) -> np.ndarray:
    """Return at most ``size`` indices, evenly spread, because image files are often sorted by writer or class."""
    return np.linspace(0, length - 1, min(length, size)).astype(np.int64)


def log_likelihood(context: EvalContext) -> MetricResult:
    r"""Measure how tight the ELBO is; the section is empty if the posterior is a point.

    Nats per image. ``iwae_k`` for k = 1, 10, 100, 500: the ELBO of all images plus the bound's mean gain over it on some of them
    (``iwae_gain_se``: standard error for the largest k); ``ess``: the effective sample size. For two latent dimensions: ``log_p``
    (exact), ``log_p_grid_error`` (mean absolute difference to half the grid), ``gap`` = log p - ELBO with its standard error,
    and the two parts of the KL term (ELBO surgery, Hoffman and Johnson, 2016): ``mutual_information`` :math:`I_q(x; z)` and
    ``aggregate_kl`` :math:`\mathrm{KL}(q(z) \| p(z))`. ``binarised``, for Bernoulli pixels: the same for one fixed black and
    white test set. Their bounds on gray pixels compare with dynamically binarised images (the term is linear in the target), not
    with densities on [0, 1]^D. ``note`` names what is left out, and why.
    """
    if not context.model.is_probabilistic:
        return MetricResult({})
    recon, kl = context.terms["recon"], context.terms["kl"]
    # The purpose "grey" seeds the noise, so the word stays.
    numbers, columns, _ = _tightness(context, context.pixels(context.test), -(recon + kl), "grey")
    notes = [f"no log_p and gap: {why}"] if (why := no_exact(context)) else []
    try:
        divergence = aggregate_kl(context.codes, context.spread)
        numbers |= {"aggregate_kl": divergence, "mutual_information": float(kl.mean()) - divergence}
    except ValueError as error:  # no number is better than a wrong one
        notes.append(f"no aggregate_kl and mutual_information: {error}")
    numbers |= {"note": "; ".join(notes)} if notes else {}
    if not isinstance(context.model.likelihood, Bernoulli):
        return MetricResult(numbers, columns)
    black_and_white = binarise(context.test)
    x = torch.from_numpy(black_and_white).to(context.device).float()
    terms = context.terms_of(x, 1, "binarised")
    elbo = -(terms["recon"] + terms["kl"])
    binarised = {"sha256": hashlib.sha256(np.packbits(black_and_white).tobytes()).hexdigest(), "elbo": float(elbo.mean())}
    return MetricResult(numbers | {"binarised": binarised | _tightness(context, x, elbo, "binarised").numbers}, columns)


def _tightness(context: EvalContext, x: Tensor, elbo: np.ndarray, purpose: str) -> MetricResult:
    # A bound's gain over the ELBO of some images is added to the ELBO of all, so that it compares with other metrics.
    some = spread_over(len(x), context.budget.importance_images)
    weighted, ess = importance(context, x[some], purpose)
    gains = {k: values - elbo[some] for k, values in weighted.items()}
    numbers = {f"iwae_{k}": float(elbo.mean() + gain.mean()) for k, gain in gains.items()}
    numbers |= {"iwae_gain_se": standard_error(gains[max(NUM_WEIGHTS)]), "ess": float(ess.mean())}
    if no_exact(context):
        return MetricResult(numbers)
    some = spread_over(len(x), context.budget.exact_images)
    log_p, coarse = exact(context, x[some], context.budget.grid)
    gap = log_p - elbo[some]
    numbers |= {"log_p": float(elbo.mean() + gap.mean()), "gap": float(gap.mean()), "gap_se": standard_error(gap)}
    numbers["log_p_grid_error"] = float(np.abs(log_p - coarse).mean())
    return MetricResult(numbers, {"log_p": log_p, "gap": gap} if len(log_p) == len(x) else {})
