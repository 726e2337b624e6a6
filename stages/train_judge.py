"""Train the judge, the small classifier that measures what decoders draw."""

from pathlib import Path

import click

from pipeline import runtime
from pipeline.data import load_dataset
from pipeline.history import save_json
from pipeline.judge import learn, save_judge
from pipeline.params import load_params
from stages import run


@click.command()
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path)
@click.option("--out", default="models/judge.safetensors", show_default=True, type=Path)
@click.option("--metrics", default="metrics/judge.json", show_default=True, type=Path)
def main(params: Path, data: Path, out: Path, metrics: Path) -> None:
    """Train the judge on the data set; its accuracy decides whether `evaluate` listens to it."""
    settings, dataset = load_params(params), load_dataset(data)
    options = settings.evaluate
    with runtime.use(settings.train.device, settings.train.threads) as rt:
        click.echo(f"judge on {dataset.name}: {options.judge_steps:,} steps; {rt}")
        judge = learn(
            dataset.name, dataset.train, dataset.test, num_steps=options.judge_steps, seed=options.judge_seed, device=rt.device
        )
        save_judge(out, judge)
    save_json(metrics, {"dataset": dataset.name, "accuracy": judge.accuracy})
    click.echo(f"{out}: {judge.accuracy:.2%} of the test images named rightly")


if __name__ == "__main__":
    run(main)
