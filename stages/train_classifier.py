"""Train the reference classifier, whose features and confidence measure the quality of decoded images."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

from pathlib import Path

import click

from pipeline import startup
from pipeline.params import Params
from stages import run, stage

NOTHING_TO_LEARN = "no classifier: the images have no labels, or all the same"


@stage(__doc__, "params", "data", out="models/classifier.safetensors", metrics="metrics/classifier.json")
def main(params: Params, data: Path, out: Path, metrics: Path) -> None:
    startup.choose_waiting(params.train.threads)
    from pipeline import runtime
    from pipeline.classifier import save_classifier, train_classifier
    from pipeline.data import load_dataset
    from pipeline.storage import save_metrics

    dataset, options = load_dataset(data), params.classifier
    with runtime.use(params.train.device, params.train.threads) as rt:
        click.echo(f"classifier on {dataset.name}: {options.steps:,} steps; {rt}")
        classifier = train_classifier(dataset, num_steps=options.steps, seed=options.seed, device=rt.device)
        save_classifier(out, classifier)
    if classifier is None:
        save_metrics(metrics, {"dataset": dataset.name, "note": NOTHING_TO_LEARN})
        click.echo(f"{out}: {NOTHING_TO_LEARN}")
        return
    save_metrics(metrics, {"dataset": dataset.name, "accuracy": classifier.accuracy})
    click.echo(f"{out}: test accuracy {classifier.accuracy:.2%}")


if __name__ == "__main__":
    run(main)
