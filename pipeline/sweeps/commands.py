"""The commands of ``latent`` that train many models. They import heavy modules when they run, so that --help is fast."""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import ParamsError, PipelineError
from pipeline.options import PATH, show

if TYPE_CHECKING:
    from pipeline.sweeps.sweep import Configuration

_OPTIONS = [
    click.option("--model", default="vae", show_default=True, type=click.Choice(["vae", "ae"]), help="What to train."),
    click.option(
        "--backend", default="local", show_default=True, type=click.Choice(["local", "ray", "slurm"]), help="Where to train."
    ),
    click.option("--address", help="Of the Ray cluster; with SLURM a partition, or `local`: on this machine."),
    click.option("--cpus", type=click.IntRange(1, 1024), help="Threads of each trial.  [default: pool.threads]"),
    click.option("--gpus", default=0, show_default=True, type=click.IntRange(0, 1), help="GPUs of each trial; 0: on the CPU."),
    click.option("--save", type=PATH, help="File to write the winner's `dvc exp run` command to."),
]


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both commands have."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def _check_address(address: str | None, backend: str) -> None:
    if address and backend == "local":
        raise click.BadParameter("allowed with --backend ray and slurm", param_hint="'--address'")


def _end(command: str | None, save: Path | None, groups: "list[Configuration]", errors: Mapping[str, PipelineError]) -> None:
    """Print and save the winner's command. Raises PipelineError when trials have failed."""
    from pipeline.storage import write

    if command:
        click.echo(f"the best, trained again under DVC with the same bytes:\n  {command}")
        if save:
            write(save, f"{command}\n")
    if errors:
        total = sum(len(group.trials) for group in groups)
        error = PipelineError(f"{len(errors)} of {total} trials failed, see above; the same command tries these again")
        error.exit_code = next(iter(errors.values())).exit_code
        raise error


@click.command()
@click.option("--grid", multiple=True, required=True, metavar="KEY=V1,V2...", help="Values of a key of params.yaml; repeatable.")
@click.argument("more", nargs=-1, metavar="[KEY=V1,V2]...")
@click.option("--out", default="models/sweep", show_default=True, type=PATH, help="Folder for sweep.csv and the trials' folders.")
@_with_options
def sweep(
    grid: tuple[str, ...],
    more: tuple[str, ...],
    model: str,
    backend: str,
    address: str | None,
    cpus: int | None,
    gpus: int,
    out: Path,
    save: Path | None,
) -> None:
    """Train a model for each combination of some values, and find the best by its validation loss.

    A sweep that was stopped goes on where it was. The command that is printed trains the winner under DVC, with the same bytes.

    \b
    Example:
      latent sweep --grid beta=0.5,1,2,4 seed=0,1,2
    """
    from pipeline.params import load_params
    from pipeline.sweeps.grid import parse_axes
    from pipeline.sweeps.sweep import sweep as run_all
    from pipeline.sweeps.sweep import table

    _check_address(address, backend)
    params = load_params()
    axes = parse_axes(params, model, [*grid, *more])
    found = run_all(params, model, axes, backend, cpus or params.pool.threads, gpus, address, out)
    show(table(found.configurations))
    click.echo(f"sweep: {out / 'sweep.csv'}, and result.json of each trial in {out}")
    _end(found.command, save, found.configurations, found.errors)


def _seeds(context: click.Context, option: click.Parameter, value: str | None) -> list[int]:
    words = value.split(",") if value else []
    if not all(word.isdecimal() and int(word) < 2**31 for word in words):
        raise click.BadParameter(f"{value!r}; allowed are whole numbers between commas, as in 0,1,2")
    return list(dict.fromkeys(map(int, words)))


@click.command()
@click.option("--space", type=PATH, help="YAML file of what to try, see above.")
@click.option("--metric", default="val/loss", show_default=True, help="What to lower: val/loss, val/recon or val/kl.")
@click.option("--trials", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Trials in all.")
@click.option("--prune", is_flag=True, help="Stop a trial once its metric is above the median of the earlier ones.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of what is proposed.  [default: seed in params.yaml]")
@click.option(
    "--at-once",
    type=click.IntRange(1, 1000),
    help="Trials of a round, see above.  [default: as --cpus fits this machine's cores]",
)
@click.option(
    "--seeds", callback=_seeds, metavar="S1,S2...", help="At the end, train the best settings with each of these seeds."
)
@click.option("--best", default=3, show_default=True, type=click.IntRange(1, 100), help="How many settings --seeds trains.")
@click.option("--out", default="models/search", show_default=True, type=PATH, help="Folder for the study, report and trials.")
@click.option("--report", is_flag=True, help="Show what the search in --out has found so far, and train nothing.")
@_with_options
def search(
    space: Path | None,
    metric: str,
    trials: int,
    prune: bool,
    seed: int | None,
    at_once: int | None,
    seeds: list[int],
    best: int,
    out: Path,
    report: bool,
    model: str,
    backend: str,
    address: str | None,
    cpus: int | None,
    gpus: int,
    save: Path | None,
) -> None:
    """Look for good values of params: each trial trains a model with values that Optuna proposes from the trials before.

    --space names a file with the keys of params.yaml to vary, each with a list of values or with a range:

    \b
      beta: {low: 0.5, high: 8, log: true}      # log: equal factors are equally likely
      vae.latent_dim: {low: 2, high: 16, step: 2}
      vae.hidden_dims: [[512, 256], [256, 128]]

    A trial counts with the metric of the validation images at its best epoch. Trials run in rounds of --at-once: those of a round
    are proposed, and pruned, by what earlier rounds found. So the same seed and --at-once give the same trials, however long each
    takes. A search that was stopped goes on with the same trials when you type the same command; more --trials make it longer.

    The command that is printed at the end trains the winner under DVC, with the same bytes. `make search` installs Optuna.

    \b
    Example:
      latent search --space space.yaml --trials 50 --prune --seeds 0,1,2
    """
    from pipeline.params import load_params
    from pipeline.sweeps.grid import maker
    from pipeline.sweeps.pool import Resources, workers
    from pipeline.sweeps.search import check_metric, fingerprint_of
    from pipeline.sweeps.search import search as run_all
    from pipeline.sweeps.search_report import summary, write_report
    from pipeline.sweeps.search_report import table as trials_table
    from pipeline.sweeps.space import load_space
    from pipeline.sweeps.study import Settings, Study, load_optuna
    from pipeline.sweeps.sweep import Configuration, command, table
    from pipeline.tracking.store import root

    _check_address(address, backend)
    params, study = load_params(), Study.load(out / "study.jsonl")
    groups, errors = list[Configuration](), dict[str, PipelineError]()
    if report:
        if not study or not study.best():
            raise ParamsError(f"--report: no complete trial in {out}; a search with --space makes trials")
        make = maker(params, study.settings.model, study.settings.cpus, study.settings.gpus)
        if fingerprint_of(make, study.settings.space) != study.settings.fingerprint:
            click.echo(
                "note: params.yaml, data or code are no longer those of the search; the command gives other bytes", err=True
            )
        write_report(study)
    else:
        if not space:
            raise click.UsageError("Missing option '--space'.")
        check_metric(model, metric)
        values, optuna = load_space(space, params, model), load_optuna()
        cpus = cpus or (study.settings.cpus if study else params.pool.threads)
        at_once = at_once or (study.settings.at_once if study else workers(cpus, "auto" if gpus else "cpu"))
        make, seed = maker(params, model, cpus, gpus), params.seed if seed is None else seed
        given = model, metric, values, prune, seed, at_once, cpus, gpus, fingerprint_of(make, values), optuna.__version__
        settings = Settings(*given)
        study = study or Study(out / "study.jsonl", settings)
        study.check(settings)
        groups, errors = run_all(study, trials, make, backend, Resources(cpus, gpus, address, root() / out), seeds, best)
    show(trials_table(study))
    click.echo("\n".join(summary(study)))
    click.echo(f"search: {out / 'search.png'}, {out / 'search.csv'}, and the trials in {out / 'trials'}")
    if groups:
        click.echo("with several seeds:")
        show(table(groups))
    is_sure = groups and groups[0].is_complete
    winner = groups[0].trials[0] if is_sure else make(study.best()[0].params, Path())
    _end(command(winner, params), save, groups, errors)
