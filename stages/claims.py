"""Weigh the tutorial's claims against what was measured."""

from pathlib import Path

import click

from pipeline import runs, tracking
from pipeline.claims import ledger, markdown
from pipeline.errors import IntegrityError
from pipeline.files import write
from pipeline.history import save_json
from pipeline.laboratory import load_laboratory
from stages import run


def files(path: Path) -> list[Path]:
    """Return the file, or those in a folder in the order of their names."""
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


@click.command()
@click.argument("laboratories", nargs=-1, required=True, type=Path)
@click.option("--metrics", default="metrics/claims.json", show_default=True, type=Path)
@click.option("--table", default="laboratory/claims.md", show_default=True, type=Path)
def main(laboratories: tuple[Path, ...], metrics: Path, table: Path) -> None:
    """Write the ledger over LABORATORIES: files of `evaluate`, folders of `evaluate_variants`, of one seed or of several."""
    try:
        measured = [load_laboratory(file) for path in laboratories for file in files(path)]
        entries = ledger(measured)
    except ValueError as error:
        raise IntegrityError(f"{', '.join(map(str, laboratories))}: {error}; run `dvc repro` to measure them alike") from None
    save_json(metrics, entries)
    write(table, markdown(entries))
    for name, entry in entries.items():
        click.echo(f"{name}: {entry['verdict']}")
    for laboratory in measured:
        runs.judged(tracking.find(laboratory.weights_md5), entries)


if __name__ == "__main__":
    run(main)
