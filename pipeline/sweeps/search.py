"""Search a space of params: rounds of trials that Optuna proposes from earlier rounds, on a backend, in one MLflow run."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.errors import DivergedError, ParamsError, PipelineError
from pipeline.storage import load_json
from pipeline.sweeps.grid import text
from pipeline.sweeps.pool import Resources
from pipeline.sweeps.search_report import write_report
from pipeline.sweeps.space import Space
from pipeline.sweeps.study import COMPLETE, FAILED, PRUNED, Ended, Study
from pipeline.sweeps.sweep import BACKENDS, Configuration, configurations, train_all
from pipeline.sweeps.trial import Trial, curve_of, first_above, result_of, run_or_prune
from pipeline.tracking import store

METRICS = {"vae": ["val/loss", "val/recon", "val/kl"], "ae": ["val/loss", "val/recon"]}
"""What a search can lower: columns of a model's history. A trial's weights are those with the lowest ``val/loss``."""
OF_VALUES = (ParamsError.exit_code, DivergedError.exit_code)  # what fails again, unlike a full disk or a killed process
Make = Callable[[Mapping[str, Any], Path], Trial]
"""Makes a trial of values and a folder, see :func:`pipeline.sweeps.grid.maker`."""


def check_metric(model: str, metric: str) -> None:
    """Raise ParamsError, naming those that there are, for a metric that the history of a model does not have."""
    if metric not in METRICS[model]:
        elbo = "; val/loss is minus the ELBO" if "elbo" in metric else ""
        raise ParamsError(f"--metric {metric}: allowed are {', '.join(METRICS[model])}{elbo}")


def fingerprint_of(make: Make, space: Space) -> str:
    """Return a hash of what all trials of a space share: params, data and code."""
    return make(
        {key: values[0] if isinstance(values, list) else values["low"] for key, values in space.items()}, Path()
    ).fingerprint


def _ended(number: int, trial: Trial, metric: str, limits: Sequence[float]) -> Ended:
    """Return a trial that was trained or pruned, from its files."""
    curve = curve_of(trial, metric)
    if epoch := first_above(curve, limits, trial.warmup):
        return Ended(number, trial.values, PRUNED, number, curve[:epoch], epoch=epoch)
    trained, result = load_json(trial.folder / f"{trial.model}_train.json"), load_json(trial.folder / "result.json")
    about = {"value": trained[f"best/{metric}"], "epoch": trained["best/epoch"], "md5": result["md5"]}
    return Ended(number, trial.values, COMPLETE, number, curve, **about)


def _say(trial: Ended, study: Study, total: int) -> None:
    found = trial.state if trial.value is None else f"{study.settings.metric} {trial.value:.2f} nats"
    found += f" after epoch {trial.epoch}" if trial.state == PRUNED else ""
    best = [f"best {one.value:.2f} (trial {one.number})" for one in study.best()[:1]]
    click.echo("; ".join([f"trial {trial.number}: {found}", *best, f"{len(study.trials)} of {total} trials have ended"]))


def run_round(study: Study, numbers: range, total: int, make: Make, backend: str, resources: Resources) -> None:
    """Train what Optuna proposes for a round, and add its trials to the study.

    Values that were tried before are not trained again. Raises the PipelineError of a trial unless its values made it fail.
    """
    metric, limits, proposed = study.settings.metric, study.limits(numbers), study.propose(numbers)
    tried = {trial.number: trial.params for trial in study.before(numbers)} | proposed
    source = {number: next(first for first in tried if tried[first] == values) for number, values in proposed.items()}

    def add(trial: Ended) -> None:
        study.add(trial)
        _say(trial, study, total)

    trials: dict[str, tuple[int, Trial]] = {}
    for number in sorted({number for number in source.values() if number in numbers} - study.numbers()):
        trial = make(proposed[number], study.path.parent / "trials" / str(number))
        if result_of(trial):  # the search was killed before it was added
            add(_ended(number, trial, metric, limits))
        else:
            trials[f"trial {number}"] = number, trial
    tasks = {label: partial(run_or_prune, trial, metric=metric, limits=limits) for label, (_, trial) in trials.items()}
    with closing(BACKENDS[backend](tasks, resources)) as outcomes:
        for label, result in outcomes if tasks else ():
            number, trial = trials[label]
            if not isinstance(result, PipelineError):
                add(_ended(number, trial, metric, limits))
            elif result.exit_code in OF_VALUES:
                click.echo(f"failed: {result}", err=True)
                add(Ended(number, trial.values, FAILED, number, error=str(result).removeprefix(f"{label}: ")))
            else:
                raise result
    found = {trial.number: trial for trial in study.trials}
    for number in sorted(set(numbers) - found.keys()):
        add(replace(found[source[number]], number=number))


def _with_seeds(
    study: Study, make: Make, backend: str, resources: Resources, seeds: Sequence[int], best: int
) -> tuple[list[Configuration], dict[str, PipelineError]]:
    found, folder = {}, study.path.parent
    for trial in study.best()[:best]:
        own = make(trial.params, folder / "trials" / str(trial.number))
        for seed in seeds:
            label = f"trial {trial.number}, seed={seed}"
            one = make({**trial.params, "seed": seed}, folder / "seeds" / label)
            found[label] = replace(one, folder=own.folder) if one.fingerprint == own.fingerprint else one
    results, errors = train_all(found, backend, resources._replace(name="seeds"))
    trained = {name: load_json(found[name].folder / f"{found[name].model}_train.json") for name in results}
    return configurations(found, trained, study.settings.metric), errors


def search(
    study: Study, total: int, make: Make, backend: str, resources: Resources, seeds: Sequence[int] = (), best: int = 3
) -> tuple[list[Configuration], dict[str, PipelineError]]:
    """Go on with a study until it has ``total`` trials, write its report, and train its ``best`` settings with ``seeds``.

    Each trial is one MLflow run below that of the search. Trials that have ended are not run again, and those that were stopped
    continue from their checkpoints. Returns the settings that were trained with several seeds, and the errors of these trainings.

    Raises PipelineError when no trial is complete, BusyError when another process runs the same search, and the error of a trial
    that may succeed when it is tried again.
    """
    settings, out = study.settings, study.path.parent
    identity = hashlib.sha256(json.dumps([asdict(settings), str(out.resolve())]).encode()).hexdigest()[:32]
    about = {"role": "grid", store.FINGERPRINT: identity}
    with study.alone(), store.start(f"search {' '.join(settings.space)}", about) as parent:
        parent.log_params({"metric": settings.metric} | {key: text(values) for key, values in settings.space.items()})

        def below(values: Mapping[str, Any], folder: Path) -> Trial:
            return make(values, folder).below(parent.id)

        if study.trials:
            click.echo(f"search: {len(study.trials)} of {total} trials have ended already")
        while numbers := study.next_round(total):
            last = f"-{numbers[-1]}" if len(numbers) > 1 else ""
            named = resources._replace(name=f"trial {numbers[0]}{last} of {total}")
            run_round(study, numbers, total, below, backend, named)
        if not study.best():
            raise PipelineError(f"no trial is complete; the first one {study.trials[0].error or study.trials[0].state}")
        for path in write_report(study):
            parent.log_file(path)
        parent.log_metrics({f"best_{settings.metric.replace('/', '_')}": float(study.best()[0].value or 0)})
        return _with_seeds(study, below, backend, resources, seeds, best) if seeds else ([], {})
