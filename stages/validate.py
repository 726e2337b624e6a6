"""Check params.yaml before any other stage spends time on it."""

from pathlib import Path

import click

from pipeline.params import load_params
from stages import run


@click.command()
@click.option("--params", default="params.yaml", show_default=True, type=Path)
def main(params: Path) -> None:
    """Refuse a params.yaml that holds anything that is not allowed."""
    load_params(params)


if __name__ == "__main__":
    run(main)
