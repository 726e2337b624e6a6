"""The command ``latent``. Its commands import heavy modules when they run, so that --help and completion are fast."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from pipeline import __version__
from pipeline.errors import PipelineError, one_line
from pipeline.inference.commands import COMMANDS
from pipeline.options import PATH, show
from pipeline.startup import repository_root
from pipeline.sweeps.commands import search, sweep

AGAINST = click.option("--against", default="origin/main", show_default=True, help="The revision to compare with.")
RULES = click.option(
    "--rules", type=PATH, help="Metrics and their tolerances.  [default: gate.yaml of --against, else the one here]"
)


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


def _own_site_cache() -> None:
    """Let DVC keep its site cache, which it unpickles, in a folder of this user alone and not in the world-writable /var/tmp."""
    folder = Path.cwd() / ".dvc/tmp/site_cache"
    if Path(".dvc").is_dir() and "DVC_SITE_CACHE_DIR" not in os.environ:
        with suppress(OSError):  # read-only: DVC has its own words for that
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            os.environ["DVC_SITE_CACHE_DIR"] = str(folder)


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
    """Work with the pipeline's results: use trained models, compare runs and revisions, try params, complete MLflow's runs.

    It works in the root of the repository, also when it is called in a folder below. `dvc repro` runs the pipeline itself.
    """
    if (root := repository_root()) != Path.cwd():
        context.obj = Path.cwd()
        click.echo(f"note: working in {root}", err=True)
        os.chdir(root)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return
    _own_site_cache()


@main.command()
@click.option("--experiment", help="MLflow's experiment.  [default: MLFLOW_EXPERIMENT_NAME or latent-spaces]")
@click.option("--dataset", help="Only runs on this data set.")
@click.option("--model", help="Only runs of this model.")
@click.option("--data", help="Only runs on this version of the data set, the md5 of data/dataset.safetensors; all: on any.")
@click.option("--tag", "tags", multiple=True, callback=_tags, help="Only runs with this tag, key=value; repeatable.")
@click.option(
    "--filter", "wanted", default="", help="Only runs that this filter of MLflow's search finds: \"params.beta = '4'\"."
)
@click.option("--top", type=click.IntRange(1), help="Only this many settings, the best by --metric; a setting is all seeds.")
@click.option(
    "--metric",
    help="The higher the better for an ELBO, log p, accuracy, active units and speed; else the lower.  [default: test/elbo]",
)
@click.option("--out", default="compare", show_default=True, type=PATH, help="Folder for png, csv and html.")
@click.option("--dpi", default=110, show_default=True, type=click.IntRange(50, 600), help="Dots per inch of the png.")
def compare(
    experiment: str | None,
    dataset: str | None,
    model: str | None,
    data: str | None,
    tags: dict[str, str],
    wanted: str,
    top: int | None,
    metric: str | None,
    out: Path,
    dpi: int,
) -> None:
    """Compare MLflow's runs: a table here, figures in --out."""
    from pipeline.reporting.compare import render, select
    from pipeline.reporting.compare_figures import write_comparison
    from pipeline.tracking.store import records

    compared = select(records(experiment, wanted=wanted), dataset, model, tags, data, top, metric)
    show(render(compared))
    figures = write_comparison(compared, out, dpi)
    if not all(run.alive for run in compared.runs):
        raise PipelineError("the MLflow store stopped answering; what is drawn is incomplete")
    click.echo(f"compare: {out / 'compare.html'} with {', '.join(figures)}")


@main.command()
@AGAINST
@RULES
def gate(against: str, rules: Path | None) -> None:
    """Check whether a metric got worse than at another revision.

    The exit code is 1 when a metric got worse than --rules allow, and 2 when the two sides cannot be compared.
    """
    from pipeline.reporting.gate import change_table, changes, check, decision, load_rules
    from pipeline.reporting.revision import metrics

    sides = metrics(against)
    wanted, origin = load_rules(rules, against)
    check(wanted, sides, against)
    found = changes(wanted.metrics, wanted.metrics, sides, against)
    click.echo(f"{change_table(found, against)}\n\n{decision(found)}\n{origin}")
    sys.exit(any(change.verdict == "worse" for change in found))


@main.command()
@AGAINST
@click.option("--out", default="report", show_default=True, type=PATH, help="Folder of report.md, its images and comment.md.")
@RULES
def report(against: str, out: Path, rules: Path | None) -> None:
    """Write what changed since another revision: report.md, and comment.md without images."""
    from pipeline.reporting.report import write_report

    write_report(against, out, rules)
    click.echo(f"wrote {out / 'report.md'} and {out / 'comment.md'}")


@main.command()
@click.option("--metrics", default="metrics", show_default=True, type=PATH, help="Folder of the metrics files.")
def summary(metrics: Path) -> None:
    """Print the result of the last run, what to open and what to try, as `dvc repro` does at its end."""
    from pipeline.storage import load_json, refusing
    from pipeline.summary import closing_lines, notes

    data, numbers = load_json(metrics / "data.json"), load_json(metrics / "summary.json")
    paths = [metrics / "vae.json", metrics / "comparison.json"]
    with refusing(metrics, "metrics of a run"):
        lines = closing_lines(data, numbers, notes(*(load_json(path) if path.exists() else {} for path in paths)))
    click.echo("\n".join(lines))


@main.command()
@click.option("--deleted", is_flag=True, help="Bring back runs that were deleted in MLflow, too.")
def sync(deleted: bool) -> None:
    """Rebuild MLflow's runs from DVC's files, those of experiments, too."""
    from pipeline.errors import redact
    from pipeline.tracking.store import store_uri
    from pipeline.tracking.sync import sync as complete

    known, changed = complete(deleted)
    click.echo(f"sync: {known} trainings in DVC's files, {changed} of them new or incomplete in {redact(store_uri())}")


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="The port on this machine.")
def ui(port: int) -> None:
    """Show the runs in MLflow, after a sync, and print links to its views."""
    from pipeline.tracking.ui import serve

    sys.exit(serve(port))


@main.command()
@click.option("--fix", is_flag=True, help="Repair what can be repaired without a loss.")
def doctor(fix: bool) -> None:
    """Look for what is wrong with disk, settings, locks and versions.

    Each line says what to do. The exit code is 1 when there is a problem.
    """
    from pipeline.maintenance.doctor import doctor as run_checks

    sys.exit(run_checks(fix))


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


for command in (*COMMANDS, search, sweep):
    main.add_command(command)
