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
ONE_SEED = "bootstrap, one seed"
# What the arrays of some measurements need, by the end of their names; without it they are absent.
NEEDS = {"hull": "2 latent dimensions and the classifier", "matched": "the classifier", "features": "the classifier"}
MIN_TEST_IMAGES = 1000  # fewer give verdicts that another choice of test images may change

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
    below: str  # what an estimate below the threshold says, in the words of the statement
    above: str
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
TRADES = "Beta trades reconstruction for regularization"
PAIRS, TEST, HULL, NEAR = "pairs of test images", "test images", "hull of the codes", "near the codes"
MIXED, MIXTURES = "mixture of 10 for the AE, N(0, I) for the VAE", "mixture of 10 for both"
PATHS = "path length over chord, AE - VAE"
JUMP = "longest step's share of the path, AE - VAE"
OFF_MANIFOLD = "share of points off the manifold"
UNSURE = "share of points with a confidence below 0.8, AE - VAE"
FRECHET = "Fréchet distance of samples, AE - VAE"
RECON = "reconstruction, larger - smaller beta (nats)"
KL = "KL, smaller - larger beta (nats)"
# What an estimate below or above the threshold says.
SMOOTHER, STEADIER = ("AE is smoother", "VAE is smoother"), ("AE is more continuous", "VAE is more continuous")
HAS, MORE = ("AE has no holes", "AE has holes"), ("VAE has more holes", "AE has more holes")
BETTER = "AE generates better", "VAE generates better"
COSTS, REGULARIZES = ("reconstructs better", "reconstructs worse"), ("regularizes less", "regularizes more")

CLAIMS: dict[str, Claim] = {
    "smooth": Claim(SMOOTH, PATHS, PAIRS, *SMOOTHER, partial(paired, name="pair_tortuosity")),
    "continuous": Claim(SMOOTH, JUMP, PAIRS, *STEADIER, partial(paired, name="pair_jump_share")),
    "holes": Claim(HOLES, OFF_MANIFOLD, HULL, *HAS, partial(share_of_first, name="off_manifold_hull"), threshold=0.05),
    "more_holes": Claim(HOLES, f"{OFF_MANIFOLD}, AE - VAE", HULL, *MORE, partial(share, name="off_manifold_hull")),
    "more_unsure": Claim(HOLES, UNSURE, HULL, *MORE, partial(share, name="confidence_hull", below=0.8)),
    "more_unsure_near_codes": Claim(HOLES, UNSURE, NEAR, *MORE, partial(share, name="confidence_matched", below=0.8)),
    "generates_from_prior": Claim(GENERATES, FRECHET, "N(0, I) for both", *BETTER, partial(samples, samplers=("prior", "prior"))),
    "generates_from_fitted": Claim(GENERATES, FRECHET, MIXED, *BETTER, partial(samples, samplers=("gmm10", "prior"))),
    "generates_both_fitted": Claim(GENERATES, FRECHET, MIXTURES, *BETTER, partial(samples, samplers=("gmm10", "gmm10"))),
    "beta_costs_reconstruction": Claim(TRADES, RECON, TEST, *COSTS, partial(paired, name="image_recon"), between_betas=True),
    "beta_regularises": Claim(TRADES, KL, TEST, *REGULARIZES, partial(paired, name="image_kl", sign=-1.0), between_betas=True),
}


def interval(estimates: Sequence[float], replicates: np.ndarray) -> tuple[float, float, str]:
    """Return a 95% interval and its kind: Student's t over the seeds' estimates or, for one seed, that of the replicates."""
    if len(estimates) > 1:
        middle, half_width = t_interval(estimates, LEVEL)
        return middle - half_width, middle + half_width, f"t over {len(estimates)} seeds"
    # Resampling biases a Fréchet distance upwards, so the interval has the replicates' width but surrounds the estimate.
    low, high = np.quantile(replicates - replicates.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return estimates[0] + float(low), estimates[0] + float(high), ONE_SEED


def verdict(low: float, high: float, threshold: float) -> str:
    """Return ``holds`` when the whole interval is above the threshold, ``fails`` when it is below, else ``inconclusive``.

    >>> verdict(0.1, 0.3, 0.0), verdict(-0.3, -0.1, 0.0), verdict(-0.1, 0.1, 0.0)
    ('holds', 'fails', 'inconclusive')
    """
    return "holds" if low > threshold else "fails" if high < threshold else "inconclusive"


def evaluate_claim(claim: Claim, pairs: Sequence[tuple[Results, Results]]) -> dict[str, Any]:
    """Return the ledger's entry of a claim from the two models' results of each seed.

    The verdict is ``inconclusive``, with a note, without pairs or if a metric was not measured. ``says`` is the verdict as it is
    to be read: of one seed, it is about this training. A note warns of fewer than :data:`MIN_TEST_IMAGES` test images.
    """
    entry: dict[str, Any] = {"claim": claim.statement, "metric": claim.metric, "sampler": claim.sampler}
    entry |= {"threshold": claim.threshold, "below": claim.below, "above": claim.above}
    if not pairs:
        note = "needs VAEs with two betas; change claims.comparison_beta" if claim.between_betas else "needs both models"
        return entry | {"verdict": "inconclusive", "says": "inconclusive", "note": note}
    rng = np.random.default_rng(0)
    try:
        estimates, replicates = zip(*(claim.effect(first, second, rng) for first, second in pairs), strict=True)
    except KeyError as error:
        absent = error.args[0]
        needs = next((f", which needs {what}" for end, what in NEEDS.items() if absent.endswith(end)), "")
        return entry | {"verdict": "inconclusive", "says": "inconclusive", "note": f"not measured: {absent}{needs}"}
    low, high, kind = interval(estimates, replicates[0])
    found = verdict(low, high, claim.threshold)
    entry |= {"estimate": float(np.mean(estimates)), "low": low, "high": high, "interval": kind, "verdict": found}
    entry["says"] = found if len(pairs) > 1 else f"{found} in this training"
    images = [len(one["image_recon"]) for pair in pairs for one in pair if "image_recon" in one]
    return entry | ({"note": f"only {min(images)} test images"} if images and min(images) < MIN_TEST_IMAGES else {})


def ledger(results: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """Return the entries of all claims for each autoencoder: ``NAME`` for the first, ``NAME/AUTOENCODER`` for the others.

    The first VAE is the one compared with autoencoders; those with another beta serve the claims about beta. Seeds without one
    of the two models do not count. Raises ValueError for results of different data sets, images or points.
    """
    if len({one.dataset for one in results}) > 1:
        raise ValueError("the results are of more than one data set")
    autoencoders, vaes = ([one for one in results if one.has_prior == has_prior] for has_prior in (False, True))
    main = {vae.seed: vae for vae in vaes if vae.model == vaes[0].model}
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


def remarks(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the ledger must know: that one seed is one training, and that few test images decide little."""
    found = []
    if any(entry.get("interval") == ONE_SEED for entry in entries.values()):
        found.append(
            "With one seed a verdict is about this training; its interval leaves out the spread between trainings. "
            "`dvc exp run -P -S claims.seeds=5` trains the models of five seeds and tests the claims over them."
        )
    if few := next((entry["note"] for entry in entries.values() if "low" in entry and "note" in entry), None):
        found.append(f"Warning: {few}. Other test images may change these verdicts; take them as an example, not as a result.")
    return found


def line(entry: Mapping[str, Any]) -> str:
    """Return the verdict of an entry as it is to be read, with its note."""
    return f"{entry['says']} ({entry['note']})" if "note" in entry else str(entry["says"])


def markdown(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ledger as a Markdown table, with the remarks before it."""
    lines = [part for remark in remarks(entries) for part in (remark, "")]
    lines += ["| claim | metric | where | threshold | estimate [95% interval] | verdict |", "|---|---|---|---|---|---|"]
    for key, entry in entries.items():
        number = "-"
        if "low" in entry:
            number = f"{entry['estimate']:.4g} [{entry['low']:.4g}, {entry['high']:.4g}], {entry['interval']}"
        claim = f"{entry['claim']} (`{key}`)"
        cells = [claim, entry["metric"], entry["sampler"], f"> {entry['threshold']:g}", number, f"**{line(entry)}**"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
