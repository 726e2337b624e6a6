"""Write the headline numbers of both models, the metrics that DVC lists, and print what to read after a run."""

if __name__ == "__main__":
    from pipeline.startup import begin_stage

    begin_stage()  # before the imports below, during which this process may be stopped or lose its parent

import os
from pathlib import Path

import click

from pipeline.storage import load_json, save_json
from pipeline.summary import MODELS, closing_lines, headline, notes
from stages import run, stage


@stage(__doc__, metrics="metrics", out="metrics/summary.json")
def main(metrics: Path, out: Path) -> None:
    measured = {model: load_json(metrics / f"{model}.json") for model in MODELS}
    numbers, comparison = headline(measured), metrics / "comparison.json"  # of the second pipeline, if that has run
    save_json(out, numbers)
    if "MAKELEVEL" not in os.environ:  # `make` prints them at its own end, also where this stage had nothing to do
        noted = notes(measured["vae"], load_json(comparison) if comparison.exists() else {})
        click.echo("\n".join(closing_lines(load_json(metrics / "data.json"), numbers, noted)))


if __name__ == "__main__":
    run(main)
