"""Print the models' metrics over seeds, means with 95% intervals: ``python -m benchmarks.seeds``, the table of docs/results.md.

``dvc exp run -P -S claims.seeds=5`` makes the metrics; with one seed there are no intervals.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.tools import table
from pipeline.errors import one_line
from pipeline.stats import t_interval
from pipeline.storage import load_json

ROWS = {
    "reconstruction, sampled": "test/recon",
    "reconstruction at the mean": "test/recon_at_mean",
    "mean squared error per pixel": "test/mse",
    "KL": "test/kl",
    "ELBO at beta 1": "test/elbo",
    "path length over chord, pairs of two classes": "interpolation/cross_class/tortuosity",
    "longest of 32 steps, share of the path": "interpolation/cross_class/jump_share",
    "off-manifold mass on the hull of the codes": "holes/hull/off_manifold",
    "share of points near the codes where the classifier's confidence is below 0.8": "holes/matched/confidence_below_80",
    "Fréchet distance of samples from N(0, I)": "sample_quality/prior/frechet_distance",
    "... from a Gaussian fitted to the codes": "sample_quality/gaussian/frechet_distance",
    "... from a mixture of ten": "sample_quality/gmm10/frechet_distance",
    "... from a kernel density": "sample_quality/kde/frechet_distance",
}
MODELS = {"ae": "AE", "ae_depth_matched": "AE with the VAE's layers", "vae": "VAE", "vae_larger_beta": "VAE, larger beta"}


def cell(values: Sequence[float]) -> str:
    """Return mean and half of a 95% interval, Student's t over the seeds.

    >>> cell([1.0, 2.0, 3.0]), cell([0.5]), cell([])
    ('2.00 ± 2.48', '0.5000', '')
    """
    if not values:
        return ""
    mean, half_width = t_interval(values) if len(values) > 1 else (values[0], None)
    digits = 4 if abs(mean) < 1 else 2
    return f"{mean:.{digits}f}" + (f" ± {half_width:.{digits}f}" if half_width is not None else "")


@click.command()
@click.option("--metrics", default="metrics", show_default=True, type=Path)
def main(metrics: Path) -> None:
    """Print the table."""
    models = {name: [load_json(metrics / f"{name}.json")] if name in {"ae", "vae"} else [] for name in MODELS}
    comparison: dict[str, dict[str, Any]] = {}
    for name, value in load_json(metrics / "comparison.json").items():
        label, _, key = name.partition("/")
        comparison.setdefault(label, {})[key] = value
    for label, found in comparison.items():
        models.setdefault(label.rpartition("_")[0], []).append(found)
    rows = [[row, *(cell([one[key] for one in found if key in one]) for found in models.values())] for row, key in ROWS.items()]
    names = (f"{MODELS.get(name, name)} ({len(found)})" for name, found in models.items())
    table(("nats per image unless said (seeds)", *names), rows)


if __name__ == "__main__":
    with one_line():
        main()
