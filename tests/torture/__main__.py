"""Inject faults into the commands, and print what survived. `python -m tests.torture --help`."""

import os
import platform
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import click

from pipeline.startup import cores
from tests.torture import disk, inputs, kills, parallel, server, signals
from tests.torture.checks import CASES, COLUMNS, Case, Tally
from tests.torture.lab import Lab

assert all((disk, inputs, kills, parallel, server, signals))  # which register their cases

FIGURES = 10  # minutes from which the stage that draws is in it, which takes as long as all others


def table(tallies: dict[str, Tally]) -> str:
    """Return the tallies as a Markdown table with a row of totals."""
    rows = [(name, *tally.row(), round(tally.seconds), tally.note) for name, tally in tallies.items()]
    sums = [sum(column) for column in zip(*(row[1:-1] for row in rows), strict=True)]
    head = ("case", *COLUMNS, "seconds", "")
    lines = [tuple(map(str, row)) for row in (head, *rows, ("total", *sums, ""))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * (width - 1) + (":" if 0 < index < len(head) - 1 else "-") for index, width in enumerate(widths)))
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def machine() -> str:
    """Return the processor, its cores and the versions that count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow", "dvc"))
    return f"{model}, {len(cores())} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {packages}"


def run(lab: Lab, name: str, tally: Tally) -> None:
    """Run a case; an error of its own is a finding."""
    started = time.monotonic()
    try:
        CASES[name](Case(lab, name, tally))
    except Exception as error:
        Case(lab, name, tally).find("", f"the case itself failed: {type(error).__name__}: {error}")
    tally.seconds += time.monotonic() - started
    for finding in tally.findings:
        print(f"{name}: {finding}", flush=True)
    print(f"{name}: {dict(tally.counts)}, {tally.seconds:.0f} s {tally.note}", flush=True)


@click.command(help=__doc__)
@click.option("--minutes", default=15.0, show_default=True, help="How long it may take; the number of injections follows.")
@click.option("--hours", default=0.0, help="The same in hours.")
@click.option("--seed", default=1, show_default=True, help="The same seed and time inject the same faults at the same places.")
@click.option("--only", multiple=True, help="Only the cases whose name holds this; repeatable.")
@click.option("--at-once", default=2, show_default=True, help="Cases that run at the same time.")
@click.option("--keep", is_flag=True, help="Keep the folder of repositories and logs.")
def main(minutes: float, hours: float, seed: int, only: tuple[str, ...], at_once: int, keep: bool) -> None:
    minutes = 60 * hours or minutes
    names = [name for name in CASES if not only or any(part in name for part in only)]
    if not names:
        raise click.BadParameter(f"no case; there are {', '.join(CASES)}", param_hint="--only")
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    lab = Lab(folder / "lab", seed, minutes / 15, minutes, figures=minutes >= FIGURES)
    lab.keep, prepared = keep, lab.cpu()
    tallies = {name: Tally() for name in names}
    try:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda name: run(lab, name, tallies[name]), names))
        used = f"{prepared:.0f} CPU seconds to prepare, {lab.cpu() - prepared:.0f} for the cases"
    finally:
        lab.close()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    findings = [f"- {name}: {finding}" for name, tally in tallies.items() for finding in tally.findings]
    click.echo("\n" + "\n".join(findings))
    click.echo(f"\n{machine()}; seed {seed}, {minutes:g} minutes, {used}" + (f", kept in {folder}" if keep else ""))
    click.echo(f"\n{table(tallies)}")
    sys.exit(any(tally.findings or tally.counts["survived"] < tally.counts["injected"] for tally in tallies.values()))


if __name__ == "__main__":
    main()
