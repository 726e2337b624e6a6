"""Statements of tutorials about latent spaces, each with a metric, a threshold, an interval and a computed verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.evaluation.results import Results
from pipeline.stats import bootstrap_means, frechet_distance, t_interval

LEVEL = 0.95
FRECHET_REPLICATES = 100

Estimate = tuple[float, np.ndarray]  # with its bootstrap replicates [R]
# Compares the first results (an autoencoder's, or a VAE's with a larger beta) with the second (a VAE's). It raises KeyError for
# arrays that were not measured.
Effect = Callable[[Results, Results, np.random.Generator], Estimate]


@dataclass(frozen=True)
class Claim:
    """A statement that holds when ``effect`` is above ``threshold``."""

    statement: str  # of the tutorial
    metric: str  # with its unit
    sampler: str  # where it is measured: pairs of images, a reference measure, or the samplers of the two models
    effect: Effect
    threshold: float = 0.0
    between_betas: bool = False  # whether it compares two betas rather than two kinds of model


def paired(first: Results, second: Results, rng: np.random.Generator, *, name: str, sign: float = 1.0) -> Estimate:
    """Return the mean difference, first minus second, over the same images or pairs, which are resampled together."""
    difference = sign * (first[name].astype(np.float64) - second[name])
    return float(difference.mean()), bootstrap_means(difference, rng)


def share(first: Results, second: Results, rng: np.random.Generator, *, name: str, below: float | None = None) -> Estimate:
    """Return the share of points of the first minus that of the second: true points or, with ``below``, values below it."""
    a, b = (results[name] if below is None else results[name] < below for results in (first, second))
    return float(a.mean() - b.mean()), bootstrap_means(a.astype(float), rng) - bootstrap_means(b.astype(float), rng)


def share_of_first(first: Results, _: Results, rng: np.random.Generator, *, name: str) -> Estimate:
    """Return the share of true points of the first."""
    return float(first[name].mean()), bootstrap_means(first[name].astype(float), rng)


def samples(first: Results, second: Results, rng: np.random.Generator, *, samplers: tuple[str, str]) -> Estimate:
    """Return the Fréchet distance of the first's samples from real images minus that of the second's."""
    both = zip((first, second), samplers, strict=True)
    a, b = (results["sample_features"][results.samplers.index(sampler)] for results, sampler in both)

    def difference(a: np.ndarray, b: np.ndarray, real: np.ndarray) -> float:
        return frechet_distance(a, real) - frechet_distance(b, real)

    def resampled(points: np.ndarray) -> np.ndarray:
        return points[rng.integers(len(points), size=len(points))]

    sets = (a, b, first["real_features"])
    return difference(*sets), np.array([difference(*map(resampled, sets)) for _ in range(FRECHET_REPLICATES)])


SMOOTH = "A VAE's latent space is continuous and smooth"
HOLES = "An autoencoder's latent space may have holes between clusters"
GENERATES = "Forcing a Gaussian makes a VAE better at generating"
TRADES = "Beta trades reconstruction for regularisation"
PAIRS = "pairs of test images"
UNSURE = "mass where the classifier's confidence is under 0.8, AE - VAE"
OFF_MANIFOLD = "off-manifold mass of the AE (0.05 for real images)"
FRECHET = "Fréchet distance, AE - VAE"
RECON = "recon, larger - smaller beta (nats)"
KL = "KL, smaller - larger beta (nats)"
MIXED = "GMM-10 for the AE, N(0, I) for the VAE"
JUMP = "longest step's share of the path, AE - VAE"

CLAIMS: dict[str, Claim] = {
    "smooth": Claim(SMOOTH, "tortuosity, AE - VAE", PAIRS, partial(paired, name="pair_tortuosity")),
    "continuous": Claim(SMOOTH, JUMP, PAIRS, partial(paired, name="pair_jump_share")),
    "holes": Claim(HOLES, OFF_MANIFOLD, "hull", partial(share_of_first, name="off_manifold_hull"), threshold=0.05),
    "more_holes": Claim(HOLES, "off-manifold mass, AE - VAE", "hull", partial(share, name="off_manifold_hull")),
    "more_unsure": Claim(HOLES, UNSURE, "hull", partial(share, name="confidence_hull", below=0.8)),
    "more_unsure_near_codes": Claim(HOLES, UNSURE, "matched Gaussian", partial(share, name="confidence_matched", below=0.8)),
    "generates_from_prior": Claim(GENERATES, FRECHET, "N(0, I) for both", partial(samples, samplers=("prior", "prior"))),
    "generates_from_fitted": Claim(GENERATES, FRECHET, MIXED, partial(samples, samplers=("gmm10", "prior"))),
    "generates_both_fitted": Claim(GENERATES, FRECHET, "GMM-10 for both", partial(samples, samplers=("gmm10", "gmm10"))),
    "beta_costs_reconstruction": Claim(TRADES, RECON, "test images", partial(paired, name="image_recon"), between_betas=True),
    "beta_regularises": Claim(TRADES, KL, "test images", partial(paired, name="image_kl", sign=-1.0), between_betas=True),
}


def interval(estimates: Sequence[float], replicates: np.ndarray) -> tuple[float, float, str]:
    """Return a 95% interval and its kind: Student's t over the seeds' estimates or, for one seed, that of the replicates."""
    if len(estimates) > 1:
        middle, half_width = t_interval(estimates, LEVEL)
        return middle - half_width, middle + half_width, f"t over {len(estimates)} seeds"
    # Resampling biases a Fréchet distance upwards, so the interval has the replicates' width but surrounds the estimate.
    low, high = np.quantile(replicates - replicates.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return estimates[0] + float(low), estimates[0] + float(high), "bootstrap, one seed"


def verdict(low: float, high: float, threshold: float) -> str:
    """Return ``holds`` when the whole interval is above the threshold, ``fails`` when it is below, else ``inconclusive``.

    >>> verdict(0.1, 0.3, 0.0), verdict(-0.3, -0.1, 0.0), verdict(-0.1, 0.1, 0.0)
    ('holds', 'fails', 'inconclusive')
    """
    return "holds" if low > threshold else "fails" if high < threshold else "inconclusive"


def evaluate_claim(claim: Claim, pairs: Sequence[tuple[Results, Results]]) -> dict[str, Any]:
    """Return the ledger's entry of a claim from the two models' results of each seed.

    The verdict is ``inconclusive``, with a note, without pairs or if a metric was not measured.
    """
    entry = {"claim": claim.statement, "metric": claim.metric, "sampler": claim.sampler, "threshold": claim.threshold}
    if not pairs:
        note = "needs VAEs with two betas" if claim.between_betas else "needs both models"
        return entry | {"verdict": "inconclusive", "note": note}
    rng = np.random.default_rng(0)
    try:
        estimates, replicates = zip(*(claim.effect(first, second, rng) for first, second in pairs), strict=True)
    except KeyError as error:
        return entry | {"verdict": "inconclusive", "note": f"not measured: {error.args[0]}"}
    low, high, kind = interval(estimates, replicates[0])
    entry |= {"estimate": float(np.mean(estimates)), "low": low, "high": high, "interval": kind}
    return entry | {"verdict": verdict(low, high, claim.threshold)}


def ledger(results: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """Return the entries of all claims for each autoencoder: ``NAME`` for the first, ``NAME/AUTOENCODER`` for the others.

    The first VAE's beta is the one compared with autoencoders; VAEs with another beta serve the claims about beta. Seeds
    without one of the two models do not count. Raises ValueError for results of different data sets, images or points.
    """
    if len({one.dataset for one in results}) > 1:
        raise ValueError("the results are of more than one data set")
    autoencoders, vaes = ([one for one in results if one.has_prior == has_prior] for has_prior in (False, True))
    main = {vae.seed: vae for vae in vaes if vae.beta == vaes[0].beta}
    others = [(main[vae.seed], vae) for vae in vaes if vae.beta != vaes[0].beta and vae.seed in main]
    betas = [(large, small) for small, large in (sorted(pair, key=lambda vae: vae.beta or 0) for pair in others)]
    names = list(dict.fromkeys(autoencoder.model for autoencoder in autoencoders)) or [""]
    entries: dict[str, dict[str, Any]] = {}
    for key, claim in CLAIMS.items():
        if claim.between_betas:
            entries[key] = evaluate_claim(claim, betas)
            continue
        for name in names:
            pairs = [(ae, main[ae.seed]) for ae in autoencoders if ae.model == name and ae.seed in main]
            entries[key if name == names[0] else f"{key}/{name}"] = evaluate_claim(claim, pairs)
    return entries


def markdown(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ledger as a Markdown table."""
    lines = ["| claim | metric | where | threshold | estimate [95% interval] | verdict |", "|---|---|---|---|---|---|"]
    for key, entry in entries.items():
        number = "-"
        if "low" in entry:
            number = f"{entry['estimate']:.4g} [{entry['low']:.4g}, {entry['high']:.4g}], {entry['interval']}"
        result = f"**{entry['verdict']}**" + (f" ({entry['note']})" if "note" in entry else "")
        cells = [f"{entry['claim']} (`{key}`)", entry["metric"], entry["sampler"], f"> {entry['threshold']:g}", number, result]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
