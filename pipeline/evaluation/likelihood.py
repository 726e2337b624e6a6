"""How well images are explained: reconstruction, KL and the evidence lower bound, on test images at beta = 1."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from pipeline.data import Split
from pipeline.evaluation.subject import BATCH, Findings, Subject
from pipeline.objectives import bernoulli_nll, gaussian_kl, reparameterise

ACTIVE_VARIANCE = 0.01  # 1509.00519, section 3.3
MAX_DIMENSIONS = 32  # a metrics file lists the KL of each dimension up to here


def grey_floor(split: Split) -> float:
    r"""Return the least reconstruction term grey pixels allow, their own entropy (nats per image).

    .. math:: \frac1N \sum_n \sum_i -x \ln x - (1 - x) \ln (1 - x)

    It is reached by a decoder that returns the image itself; what a model pays beyond it is its excess.

    >>> grey_floor(Split(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.int64)))  # black and white cost nothing
    0.0
    """
    x = np.arange(256) / 255
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(x * np.log(x)) - np.nan_to_num((1 - x) * np.log1p(-x))
    return abs(float(np.bincount(split.images.reshape(-1), minlength=256) @ entropy)) / len(split)


@lru_cache(maxsize=1)
@torch.no_grad()
def terms(subject: Subject) -> dict[str, np.ndarray]:
    """Return the terms of each test image, float64 ``[N]``, nats unless said otherwise.

    ``recon`` at posterior draws (mean over ``num_samples``), ``recon_at_mean``, ``mse`` (per pixel, at the mean) and, where
    there is a posterior, ``kl`` and ``kl_per_dim`` ``[N, d]``.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for batch, start in enumerate(range(0, len(subject.test), BATCH)):
        x = subject.pixels(subject.test.take(slice(start, start + BATCH)))
        mean, logvar = subject.posterior(x)
        logits = subject.model.decode(mean)
        parts = {"recon_at_mean": bernoulli_nll(logits, x), "mse": (torch.sigmoid(logits) - x).square().mean(-1)}
        parts["recon"] = parts["recon_at_mean"]
        if subject.probabilistic:
            noise = subject.noise(subject.num_samples, *mean.shape, purpose=f"recon {batch}")
            # One draw at a time keeps the memory that of a batch, however many draws are asked for.
            draws = [bernoulli_nll(subject.model.decode(reparameterise(mean, logvar, eps)), x).double() for eps in noise]
            parts["recon"] = torch.stack(draws).mean(0)
            parts["kl_per_dim"] = gaussian_kl(mean, logvar)
            parts["kl"] = parts["kl_per_dim"].double().sum(-1)
        for name, values in parts.items():
            columns.setdefault(name, []).append(values.double().cpu().numpy())
    return {name: np.concatenate(values) for name, values in columns.items()}


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of ``[N]`` values."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def likelihood(subject: Subject) -> Findings:
    r"""Measure reconstruction and, where there is a posterior, the evidence lower bound at beta = 1.

    .. math:: \mathrm{ELBO} = -(D + R), \quad D = E_{q(z \mid x)}[-\log p(x \mid z)], \quad R = \mathrm{KL}(q(z \mid x) \| p(z))

    Nats per image; ``recon_excess`` is over :func:`grey_floor`, ``mse`` per pixel, ``bits_per_dim`` of the ELBO is
    ``nats / (D ln 2)``. ``objective`` is what training minimised, ``D + beta R``. ``recon_at_mean`` is the row in which
    a VAE and an autoencoder compare; what ``recon`` adds to it is the price of the noise.

    References: 1312.6114 (ELBO), 1509.00519 (active units: :math:`\mathrm{Var}_x(E_q[z]) > 0.01`).
    """
    rows = dict(terms(subject))
    floor = grey_floor(subject.test)
    numbers: dict[str, Any] = {name: float(rows[name].mean()) for name in ("recon", "recon_at_mean", "mse")}
    numbers |= {
        "recon_excess": numbers["recon"] - floor,
        "recon_excess_at_mean": numbers["recon_at_mean"] - floor,
        "recon_se": standard_error(rows["recon"]),
        "grey_floor": floor,
    }
    if subject.probabilistic:
        kl_per_dim = rows.pop("kl_per_dim").mean(0)
        rows["elbo"] = -(rows["recon"] + rows["kl"])
        elbo = float(rows["elbo"].mean())
        numbers |= {
            "kl": float(kl_per_dim.sum()),
            "elbo": elbo,
            "elbo_se": standard_error(rows["elbo"]),
            "bits_per_dim": -elbo / (subject.test.images[0].size * np.log(2)),
            "active_units": int((subject.codes.astype(np.float64).var(0) > ACTIVE_VARIANCE).sum()),
        }
        if subject.beta is not None:
            numbers["objective"] = numbers["recon"] + subject.beta * numbers["kl"]
        if len(kl_per_dim) <= MAX_DIMENSIONS:
            numbers["kl_per_dim"] = {str(index): float(value) for index, value in enumerate(kl_per_dim)}
    return Findings(numbers, rows)
