"""The gap between ELBO and log p(x) on training, validation and test images: ``python -m benchmarks.inference``.

The gap is what the encoder's inference loses. log p(x) is integrated over the latent plane; grids of several sizes show how
accurate the integral is.
"""

from pathlib import Path

import click

from benchmarks.tools import table
from pipeline import startup
from pipeline.data import holdout, load_dataset
from pipeline.errors import one_line
from pipeline.params import load_params


@click.command()
@click.option("--weights", default="models/vae.safetensors", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--images", default=300, show_default=True, type=click.IntRange(min=10), help="Of each kind.")
@click.option("--grids", default="256,384,512,768", show_default=True, help="Points along each side of the plane.")
def main(weights: Path, data: Path, images: int, grids: str) -> None:
    """Print, for training, validation and test images, the ELBO, IWAE-500 and the exact log p(x) (nats per image)."""
    params = load_params()
    startup.choose_waiting(params.train.threads)
    import numpy as np

    from pipeline import runtime
    from pipeline.evaluation.context import EvalContext
    from pipeline.evaluation.likelihood import exact, importance, spread_over
    from pipeline.models.weights import load_weights

    dataset, sizes, rows = load_dataset(data), [int(size) for size in grids.split(",")], []
    train, val = holdout(dataset.train, params.data.val_size, params.seed)
    with runtime.use("cpu", params.train.threads):
        trained = load_weights(weights)
        for name, part in {"training": train, "validation": val, "test": dataset.test}.items():
            context = EvalContext(trained.model, train, part.take(spread_over(len(part), images)), seed=params.seed)
            x = context.pixels(context.test)
            found = context.terms
            weighted = importance(context, x, name)[0][500]
            log_p = [exact(context, x, size)[0] for size in sizes]
            rows.append([name, *(f"{values.mean():.2f}" for values in (-(found["recon"] + found["kl"]), weighted, *log_p))])
            missed = np.quantile(log_p[-1] - weighted, [0.5, 0.99])
            click.echo(f"{name}: log p over IWAE-500, median {missed[0]:.2f}, 99th percentile {missed[1]:.1f}", err=True)
    table((f"{images} images", "ELBO", "IWAE-500", *(f"log p, grid {size}" for size in sizes)), rows)


if __name__ == "__main__":
    with one_line():
        main()
