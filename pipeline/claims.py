"""What tutorials say about latent spaces, as claims with a metric, a threshold, an interval and a computed verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from pipeline.frechet import frechet
from pipeline.laboratory import Laboratory

LEVEL = 0.95
REPLICATES = 2000
REPLICATES_OF_A_DISTANCE = 100

# Gives the estimate and its bootstrap replicates [R]; raises KeyError for what was not measured.
Effect = Callable[[Laboratory, Laboratory, np.random.Generator], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Claim:
    """A statement that holds when ``effect`` is above ``threshold``."""

    says: str
    """What the tutorial says."""
    metric: str
    """What is measured, with its unit."""
    sampler: str
    """Where it is measured: pairs of images, a reference measure, or the samplers of the two models."""
    effect: Effect
    """Of the first laboratory (an autoencoder, or a VAE with a larger beta) against the second (a VAE)."""
    threshold: float = 0.0
    between_betas: bool = False
    """Whether two betas are compared and not two kinds of model."""


def paired(column: str, sign: float = 1.0) -> Effect:
    """Return the effect "mean of the first minus mean of the second" on the same images or pairs, resampled together."""

    def effect(first: Laboratory, second: Laboratory, rng: np.random.Generator) -> tuple[float, np.ndarray]:
        difference = sign * (first.arrays[column].astype(np.float64) - second.arrays[column])
        return float(difference.mean()), _resampled_means(difference, rng)

    return effect


def share(column: str, below: float | None = None, alone: bool = False) -> Effect:
    """Return the effect "share of draws of the first minus that of the second", or the first's alone.

    Args:
        column: true or false at each draw, or a number that counts when it is under ``below``.
        below: the number's threshold.
        alone: leave the second out.
    """

    def counts(laboratory: Laboratory) -> np.ndarray:
        values = laboratory.arrays[column]
        return (values if below is None else values < below).astype(np.float64)

    def effect(first: Laboratory, second: Laboratory, rng: np.random.Generator) -> tuple[float, np.ndarray]:
        a, b = counts(first), counts(second)
        if alone:
            return float(a.mean()), _resampled_means(a, rng)
        return float(a.mean() - b.mean()), _resampled_means(a, rng) - _resampled_means(b, rng)

    return effect


def fcd(first_sampler: str, second_sampler: str) -> Effect:
    """Return the effect "Fréchet distance of the first's samples from real images minus that of the second's"."""

    def features(laboratory: Laboratory, sampler: str) -> np.ndarray:
        return laboratory.arrays["sample_features"][laboratory.samplers.index(sampler)]

    def effect(first: Laboratory, second: Laboratory, rng: np.random.Generator) -> tuple[float, np.ndarray]:
        a, b, real = features(first, first_sampler), features(second, second_sampler), first.arrays["real_features"]

        def difference(*sets: np.ndarray) -> float:
            return frechet(sets[0], sets[2]) - frechet(sets[1], sets[2])

        def again(points: np.ndarray) -> np.ndarray:
            return points[rng.integers(len(points), size=len(points))]

        replicates = [difference(again(a), again(b), again(real)) for _ in range(REPLICATES_OF_A_DISTANCE)]
        return difference(a, b, real), np.array(replicates)

    return effect


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Drawing how often each value is taken needs no matrix of indices.
    counts = (rng.multinomial(len(values), np.full(len(values), 1 / len(values))) for _ in range(REPLICATES))
    return np.array([count @ values for count in counts]) / len(values)


SMOOTH = "A VAE's latent space is continuous and smooth"
HOLES = "An autoencoder's latent space may have holes between clusters"
GENERATES = "Forcing a Gaussian makes a VAE better at generating"
TRADES = "Beta trades reconstruction for regularisation"

CLAIMS: dict[str, Claim] = {
    "smooth": Claim(SMOOTH, "tortuosity, AE - VAE", "pairs of test images", paired("walk_tortuosity")),
    "continuous": Claim(SMOOTH, "longest step's share of the path, AE - VAE", "pairs of test images", paired("walk_jump_share")),
    "holes": Claim(HOLES, "off-manifold mass of the AE (0.05 for real images)", "hull", share("far_hull", alone=True), 0.05),
    "more_holes": Claim(HOLES, "off-manifold mass, AE - VAE", "hull", share("far_hull")),
    "more_unsure": Claim(HOLES, "mass where the judge's confidence is under 0.8, AE - VAE", "hull", share("top_hull", below=0.8)),
    "more_unsure_near_codes": Claim(
        HOLES, "mass where the judge's confidence is under 0.8, AE - VAE", "matched Gaussian", share("top_matched", below=0.8)
    ),
    "generates_from_prior": Claim(GENERATES, "FCD, AE - VAE", "N(0, I) for both", fcd("prior", "prior")),
    "generates_from_fitted": Claim(GENERATES, "FCD, AE - VAE", "GMM-10 for the AE, N(0, I) for the VAE", fcd("gmm10", "prior")),
    "generates_both_fitted": Claim(GENERATES, "FCD, AE - VAE", "GMM-10 for both", fcd("gmm10", "gmm10")),
    "beta_costs_reconstruction": Claim(
        TRADES, "recon, larger - smaller beta (nats)", "test images", paired("image_recon"), between_betas=True
    ),
    "beta_regularises": Claim(
        TRADES, "KL, smaller - larger beta (nats)", "test images", paired("image_kl", sign=-1.0), between_betas=True
    ),
}


def interval(estimates: Sequence[float], replicates: np.ndarray) -> tuple[float, float, str]:
    """Return a 95% interval and what it is over: Student's t over seeds, or for one seed the bootstrap over what was drawn.

    Args:
        estimates: one for each seed.
        replicates: bootstrap replicates ``[R]`` of the first.
    """
    if len(estimates) > 1:
        half = float(stdtrit(len(estimates) - 1, (1 + LEVEL) / 2)) * float(np.std(estimates, ddof=1)) / len(estimates) ** 0.5
        middle = float(np.mean(estimates))
        return middle - half, middle + half, f"t over {len(estimates)} seeds"
    # Resampling biases a Fréchet distance upwards, so the replicates give the width and the estimate the place.
    low, high = np.quantile(replicates - replicates.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return estimates[0] + float(low), estimates[0] + float(high), "bootstrap, one seed"


def verdict(low: float, high: float, threshold: float) -> str:
    """Return ``holds`` when the whole interval is above the threshold, ``fails`` when it is below, else ``inconclusive``.

    >>> verdict(0.1, 0.3, 0.0), verdict(-0.3, -0.1, 0.0), verdict(-0.1, 0.1, 0.0)
    ('holds', 'fails', 'inconclusive')
    """
    return "holds" if low > threshold else "fails" if high < threshold else "inconclusive"


def judge_claim(claim: Claim, contests: Sequence[tuple[Laboratory, Laboratory]]) -> dict[str, Any]:
    """Return one entry of the ledger: metric, sampler, threshold, estimate, interval and verdict.

    Args:
        claim: what is claimed.
        contests: the two laboratories of each seed. None: the verdict is *inconclusive*, with a note why.

    Raises ValueError when two laboratories were not measured on the same images and draws.
    """
    entry: dict[str, Any] = {"claim": claim.says, "metric": claim.metric, "sampler": claim.sampler, "threshold": claim.threshold}
    if not contests:
        return entry | {
            "verdict": "inconclusive",
            "note": "needs VAEs with two betas" if claim.between_betas else "needs both models",
        }
    rng = np.random.default_rng(0)
    try:
        effects = [claim.effect(first, second, rng) for first, second in contests]
    except KeyError as error:
        return entry | {"verdict": "inconclusive", "note": f"not measured: {error.args[0]}"}
    estimates = [estimate for estimate, _ in effects]
    low, high, over = interval(estimates, effects[0][1])
    entry |= {"estimate": float(np.mean(estimates)), "low": low, "high": high, "interval": over}
    return entry | {"verdict": verdict(low, high, claim.threshold)}


def ledger(laboratories: Sequence[Laboratory]) -> dict[str, dict[str, Any]]:
    """Return every claim's entry, for each autoencoder there is (``NAME`` or, beyond the first, ``NAME/AUTOENCODER``).

    Args:
        laboratories: of any seeds. The first VAE's beta is the one compared with autoencoders; a VAE with another beta serves
            the claims about beta. Seeds that lack one side do not count.

    Raises ValueError when they are not of one data set or not measured alike.
    """
    if len({laboratory.dataset for laboratory in laboratories}) > 1:
        raise ValueError("the laboratories are of more than one data set")
    autoencoders = [laboratory for laboratory in laboratories if laboratory.beta is None]
    vaes = [laboratory for laboratory in laboratories if laboratory.beta is not None]
    beta = vaes[0].beta if vaes else None
    main = {vae.seed: vae for vae in vaes if vae.beta == beta}
    others = [vae for vae in vaes if vae.beta != beta]
    names = list(dict.fromkeys(autoencoder.model for autoencoder in autoencoders)) or [""]
    entries: dict[str, dict[str, Any]] = {}
    for key, claim in CLAIMS.items():
        if claim.between_betas:
            ends = [sorted((main[other.seed], other), key=lambda vae: -(vae.beta or 0)) for other in others if other.seed in main]
            entries[key] = judge_claim(claim, [(large, small) for large, small in ends])
            continue
        for name in names:
            ours = [(ae, main[ae.seed]) for ae in autoencoders if ae.model == name and ae.seed in main]
            entries[key if name == names[0] else f"{key}/{name}"] = judge_claim(claim, ours)
    return entries


def markdown(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the ledger as a Markdown table."""
    lines = ["| claim | metric | where | threshold | estimate [95% interval] | verdict |", "|---|---|---|---|---|---|"]
    for key, entry in entries.items():
        number = (
            f"{entry['estimate']:.4g} [{entry['low']:.4g}, {entry['high']:.4g}], {entry['interval']}" if "low" in entry else "-"
        )
        said = f"**{entry['verdict']}**" + (f" ({entry['note']})" if "note" in entry else "")
        cells = [f"{entry['claim']} (`{key}`)", entry["metric"], entry["sampler"], f"> {entry['threshold']:g}", number, said]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
