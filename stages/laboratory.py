"""Draw what the laboratory found."""

import json
from pathlib import Path

import click

from pipeline import runs, tracking
from pipeline.errors import IntegrityError
from pipeline.figures.laboratory import draw_laboratory
from pipeline.figures.style import png
from pipeline.files import write
from pipeline.laboratory import load_laboratory
from pipeline.params import load_params
from stages import run


@click.command()
@click.argument("laboratories", nargs=-1, required=True, type=Path)
@click.option("--params", default="params.yaml", show_default=True, type=Path)
@click.option("--claims", default="metrics/claims.json", show_default=True, type=Path)
@click.option("--out", default="metrics/laboratory", show_default=True, type=Path)
def main(laboratories: tuple[Path, ...], params: Path, claims: Path, out: Path) -> None:
    """Draw the figures of LABORATORIES, what `evaluate` wrote of each model, and of the claims ledger."""
    dpi = load_params(params).figures.dpi
    measured = [load_laboratory(path) for path in laboratories]
    try:
        entries = json.loads(claims.read_text())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{claims}: no readable ledger ({error}); run `dvc repro` to make it") from None
    figures = draw_laboratory(measured, entries)
    for old in out.glob("*.png"):
        old.unlink()  # one of an earlier run would tell of other models
    for name, figure in figures.items():
        write(out / f"{name}.png", png(figure, dpi))
        click.echo(f"laboratory: {out / name}.png")
    for laboratory in measured:
        runs.drawn(tracking.find(laboratory.weights_md5), "laboratory", [out / f"{name}.png" for name in figures])


if __name__ == "__main__":
    run(main)
