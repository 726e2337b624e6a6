"""How far the encoder is from the best: ``python -m benchmarks.inference`` integrates log p(x) on images it has and has not seen.

The gap between log p(x) and the ELBO is what inference loses; grids of several sizes say how far the integral can be trusted.
"""

from pathlib import Path

import click
import numpy as np
import torch

from pipeline import runtime
from pipeline.data import holdout, load_dataset
from pipeline.evaluation import Subject
from pipeline.evaluation.bounds import exact, importance, spread_over
from pipeline.evaluation.likelihood import terms
from pipeline.params import load_params
from pipeline.weights import load_weights


@click.command()
@click.option("--weights", default="models/vae.safetensors", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--images", default=300, show_default=True, type=click.IntRange(min=10), help="Of each kind.")
@click.option("--grids", default="256,384,512,768", show_default=True, help="Points along each side of the plane.")
def main(weights: Path, data: Path, images: int, grids: str) -> None:
    """Print, for training, validation and test images, the ELBO, IWAE-500 and the exact log p(x) (nats per image)."""
    params, dataset = load_params(), load_dataset(data)
    train, val = holdout(dataset.train, params.data.val_size, params.seed)
    sizes = [int(size) for size in grids.split(",")]
    click.echo(f"| {images} images | ELBO | IWAE-500 | {' | '.join(f'log p, grid {size}' for size in sizes)} |")
    click.echo(f"|---|{'---|' * (2 + len(sizes))}")
    with runtime.use("cpu", params.train.threads):
        trained = load_weights(weights)
        for name, split in {"training": train, "validation": val, "test": dataset.test}.items():
            subject = Subject(trained.model, train, split.take(spread_over(len(split), images)), seed=params.seed)
            x = torch.from_numpy(subject.test.pixels)
            rows = terms(subject)
            elbo = -(rows["recon"] + rows["kl"])
            weighted = importance(subject, x, name)[0][500]
            log_p = [exact(subject, x, size)[0] for size in sizes]
            cells = [f"{values.mean():.2f}" for values in (elbo, weighted, *log_p)]
            click.echo(f"| {name} | {' | '.join(cells)} |")
            missed = np.quantile(log_p[-1] - weighted, [0.5, 0.99])
            click.echo(f"{name}: log p over IWAE-500, median {missed[0]:.2f}, 99th percentile {missed[1]:.1f}", err=True)


if __name__ == "__main__":
    main()
