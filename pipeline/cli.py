"""The command ``latent``. Its commands import heavy modules when they run, so that --help and completion are fast."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline import __version__
from pipeline.errors import PipelineError, one_line

AGAINST = click.option("--against", default="origin/main", show_default=True, help="The revision to compare with.")
RULES = click.option("--rules", default="gate.yaml", show_default=True, type=Path, help="The metrics and their tolerances.")


class CommandLine(click.Group):
    """A group whose errors are one line and an exit code, like those of the stages."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and end the process."""
        with one_line():
            sys.exit(super().main(*args, **options | {"standalone_mode": False}))


def _tags(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    if bad := [value for value in values if "=" not in value]:
        raise click.BadParameter(f"{bad[0]!r}; allowed is key=value, as in dvc.exp.name=four")
    return dict(value.split("=", 1) for value in values)


def _numbers(kind: Callable[[str], float]) -> Callable[[click.Context, click.Parameter, str], list[float]]:
    def parse(context: click.Context, option: click.Parameter, value: str) -> list[float]:
        try:
            return list(dict.fromkeys(kind(part) for part in value.split(",")))
        except ValueError:
            raise click.BadParameter(f"{value!r}; allowed are numbers between commas, as in the default") from None

    return parse


@click.group(
    cls=CommandLine,
    invoke_without_command=True,
    epilog="""\b
    Shell completion, a line for ~/.bashrc (zsh_source, fish_source for other shells):
      eval "$(_LATENT_COMPLETE=bash_source latent)"
    """,
)
@click.version_option(__version__, prog_name="latent")
@click.pass_context
def main(context: click.Context) -> None:
    """Work with the pipeline's results: compare runs and revisions, sweep beta, complete MLflow's runs.

    Run it from the root of the repository. `dvc repro` runs the pipeline itself.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command()
@click.option("--experiment", help="MLflow's experiment.  [default: MLFLOW_EXPERIMENT_NAME or latent-spaces]")
@click.option("--dataset", help="Only runs on this data set.")
@click.option("--model", help="Only runs of this model.")
@click.option("--tag", "tags", multiple=True, callback=_tags, help="Only runs with this tag, key=value; repeatable.")
@click.option("--out", default="compare", show_default=True, type=Path, help="Folder for png, csv and html.")
@click.option("--dpi", default=110, show_default=True, type=click.IntRange(50, 600), help="Dots per inch of the png.")
def compare(experiment: str | None, dataset: str | None, model: str | None, tags: dict[str, str], out: Path, dpi: int) -> None:
    """Compare MLflow's runs: a table here, figures in --out."""
    from rich.console import Console

    from pipeline.reporting.compare import render, select
    from pipeline.reporting.compare_figures import write_comparison
    from pipeline.tracking.store import records

    compared = select(records(experiment), dataset, model, tags)
    Console(width=None if sys.stdout.isatty() else 120).print(render(compared))
    figures = write_comparison(compared, out, dpi)
    if not all(run.alive for run in compared.runs):
        raise PipelineError("the MLflow store stopped answering; what is drawn is incomplete")
    click.echo(f"compare: {out / 'compare.html'} with {', '.join(figures)}")


@main.command()
@AGAINST
@RULES
def gate(against: str, rules: Path) -> None:
    """Check whether a metric got worse than at another revision.

    The exit code is 1 when a metric got worse than --rules allow, and 2 when the two sides cannot be compared.
    """
    from pipeline.params import load_yaml
    from pipeline.reporting.gate import Gate, summary, verdicts
    from pipeline.reporting.revision import metrics

    found = verdicts(load_yaml(rules, Gate), metrics(against), against)
    click.echo(summary(found, against))
    sys.exit(any(verdict.worse for verdict in found))


@main.command()
@AGAINST
@click.option("--out", default="report", show_default=True, type=Path, help="Folder of report.md, its images and comment.md.")
@RULES
def report(against: str, out: Path, rules: Path) -> None:
    """Write what changed since another revision: report.md, and comment.md without images."""
    from pipeline.reporting.report import write_report

    write_report(against, out, rules)
    click.echo(f"wrote {out / 'report.md'} and {out / 'comment.md'}")


@main.command()
@click.option("--betas", default="0.5,1,2,4,8", show_default=True, callback=_numbers(float), help="Weights of the KL term.")
@click.option("--seeds", default="1", show_default=True, callback=_numbers(int), help="Seeds; each with every beta.")
@click.option("--params", default="params.yaml", show_default=True, type=Path, help="All other params.")
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path, help="The prepared data set.")
@click.option("--classifier", default="models/classifier.safetensors", show_default=True, type=Path, help="The classifier.")
@click.option("--out", default="models/sweep", show_default=True, type=Path, help="Folder for weights and histories.")
def sweep(betas: list[float], seeds: list[int], params: Path, data: Path, classifier: Path, out: Path) -> None:
    """Train a VAE for each of --betas and --seeds."""
    from pipeline.params import load_params
    from pipeline.sweeps.grid import sweep as train_all

    for path in train_all(load_params(params), betas, seeds, data, classifier, out):
        click.echo(f"sweep: {path}")


@main.command()
def sync() -> None:
    """Rebuild MLflow's runs from DVC's files, those of experiments, too."""
    from pipeline.errors import redact
    from pipeline.tracking.store import end_stale_runs, store_uri
    from pipeline.tracking.sync import sync as complete

    known, changed = complete()
    for ended in end_stale_runs() if known else []:
        click.echo(f"sync: {ended.name}: ended, because its process was killed")
    click.echo(f"sync: {known} trainings in DVC's files, {changed} of them new or incomplete in {redact(store_uri())}")


@main.command()
@click.option("--fix", is_flag=True, help="Repair what can be repaired without a loss.")
def doctor(fix: bool) -> None:
    """Look for what is wrong with disk, settings, locks and versions.

    Each line says what is to be done. The exit code is 1 when there is a problem.
    """
    from pipeline.maintenance.doctor import doctor as examine

    sys.exit(examine(fix))


@main.command()
@click.option("--all", "everything", is_flag=True, help="Also read the files in DVC's cache that dvc.lock does not name.")
@click.option("--fix", is_flag=True, help="Remove what is damaged; `dvc repro` makes it again.")
def verify(everything: bool, fix: bool) -> None:
    """Check that all files that dvc.lock names are whole.

    Reads them here and in DVC's cache, and compares the numbers of MLflow's runs with them. The exit code is 3 when
    something is damaged.
    """
    from pipeline.maintenance.verify import verify as check

    sys.exit(check(everything, fix))
