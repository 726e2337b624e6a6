"""Training K VAEs together against one after the other: ``python -m benchmarks.sweep``. Tiny by default, for a quick look."""

import statistics
import time
from pathlib import Path

import click
import numpy as np

from pipeline import runtime
from pipeline.data import Dataset, Split
from pipeline.params import Params, load_params
from pipeline.sweep import assemble, fit_together, options
from pipeline.trainer import fit


def images(count: int) -> Split:
    """Return noise in MNIST's format; what is in the images does not change how long a step takes."""
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (count, 28, 28)).astype(np.uint8), np.zeros(count, np.int64))


def measure(params: Params, dataset: Dataset, betas: list[float], together: bool) -> float:
    """Return the seconds that the training of one model for each beta takes."""
    members, splits = assemble(dataset, params, betas, [params.seed])
    with runtime.use(params.train.device, params.train.threads) as rt:
        begun = time.perf_counter()
        if together:
            list(fit_together(members, splits, runtime=rt, **options(params)))  # type: ignore[arg-type]
        else:
            for member in members:
                list(fit(member.model, *splits[params.seed], runtime=rt, seed=params.seed, beta=member.beta, **options(params)))  # type: ignore[arg-type]
        return time.perf_counter() - begun


@click.command()
@click.option("--count", default=2560, show_default=True, help="Training images.")
@click.option("--models", default="1,2,4,8", show_default=True, help="How many models.")
@click.option("--rounds", default=3, show_default=True, help="Of both ways, one after the other; medians are reported.")
@click.option("--device", default="auto", show_default=True)
def main(count: int, models: str, rounds: int, device: str) -> None:
    """Print, for each number of models, the medians of both ways and their ratio."""
    values = load_params(Path(__file__).parents[1] / "params.yaml").model_dump()
    values["train"] |= {"device": device, "patience": 0}
    values["vae"] |= {"epochs": 1}
    params, dataset = Params.model_validate(values), Dataset("noise", images(count), images(10))
    measure(params, dataset, [1.0], together=True)  # what starts once starts here
    click.echo("| models | one by one, s | together, s | ratio |\n|--:|--:|--:|--:|")
    for number in map(int, models.split(",")):
        betas = [1 + 0.1 * k for k in range(number)]
        times = [[measure(params, dataset, betas, together) for together in (False, True)] for _ in range(rounds)]
        alone, together = (statistics.median(column) for column in zip(*times, strict=True))
        click.echo(f"| {number} | {alone:.2f} | {together:.2f} | {alone / together:.2f} |")


if __name__ == "__main__":
    main()
