"""The models over seeds: ``python -m benchmarks.seeds`` prints README's table from metrics/, means with 95% intervals.

``dvc exp run -S evaluate.seeds=5`` makes the metrics; with one seed there are no intervals.
"""

import json
import math
from functools import reduce
from pathlib import Path
from typing import Any

import click
from scipy.special import stdtrit

ROWS = {
    "reconstruction, sampled": "test.recon",
    "reconstruction at the mean": "test.recon_at_mean",
    "mean squared error per pixel": "test.mse",
    "KL": "test.kl",
    "ELBO at beta 1": "test.elbo",
    "path length over chord, pairs of two classes": "smoothness.cross_class.tortuosity",
    "longest of 32 steps, share of the path": "smoothness.cross_class.jump_share",
    "off-manifold mass on the hull of the codes": "holes.hull.off_manifold",
    "judge unsure near the codes": "holes.matched.confidence_0.8",
    "FCD of samples from N(0, I)": "samples.prior.fcd",
    "... from a Gaussian fitted to the codes": "samples.gaussian.fcd",
    "... from a mixture of ten": "samples.gmm10.fcd",
    "... from a kernel density": "samples.kde.fcd",
}
MODELS = {"ae": "AE", "ae_matched": "AE with the VAE's layers", "vae": "VAE", "vae_contrast": "VAE, larger beta"}


def lookup(metrics: dict[str, Any], key: str) -> float | None:
    """Return a number of a metrics file by its dotted key (a number's own dot included), or None where it does not apply."""
    head, _, last = key.partition(".confidence_")
    path = [*head.split("."), f"confidence_{last}"] if last else key.split(".")
    return reduce(lambda found, name: found.get(name) if isinstance(found, dict) else None, path, metrics)  # type: ignore


def cell(values: list[float]) -> str:
    """Return mean and half of a 95% interval, Student's t over the seeds.

    >>> cell([1.0, 2.0, 3.0]), cell([])
    ('2.00 ± 2.48', '')
    """
    if not values:
        return ""
    mean = math.fsum(values) / len(values)
    digits = 4 if abs(mean) < 1 else 2
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.{digits}f} ± {stdtrit(len(values) - 1, 0.975) * deviation / math.sqrt(len(values)):.{digits}f}"


@click.command()
@click.option("--metrics", default="metrics", show_default=True, type=Path)
def main(metrics: Path) -> None:
    """Print the table."""
    models: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    for name in ("ae", "vae"):
        models[name].append(json.loads((metrics / f"{name}.json").read_text()))
    for name, found in json.loads((metrics / "variants.json").read_text()).items():
        models[name.rpartition("_")[0]].append(found)
    header = [f"{MODELS[name]} ({len(found)})" for name, found in models.items()]
    click.echo(f"| nats per image unless said (seeds) | {' | '.join(header)} |\n|---|{'---|' * len(header)}")
    for row, key in ROWS.items():
        cells = [cell([value for one in found if (value := lookup(one, key)) is not None]) for found in models.values()]
        click.echo(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
