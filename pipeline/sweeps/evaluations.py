"""Several evaluations at once, apart from the trainings so that a changed metric does not rerun the stages that train."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.params import Params
from pipeline.sweeps.pool import Report, run_all, workers


def _evaluate(arguments: Sequence[Any], options: Mapping[str, Any], report: Report) -> dict[str, Any]:
    from pipeline.evaluation.run import evaluate_and_log

    metrics = evaluate_and_log(*arguments, **options)
    report("evaluated")
    return metrics


def run_evaluations(jobs: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]], params: Params) -> dict[str, dict[str, Any]]:
    """Evaluate models at once and return the flat metrics of each by label.

    ``jobs`` holds positional and keyword arguments of :func:`pipeline.evaluation.run.evaluate_and_log`; what that raises is
    raised here. ``pool.threads`` and ``train.device`` limit the number of processes.
    """
    tasks = {label: partial(_evaluate, *job) for label, job in jobs.items()}
    return run_all(tasks, "evaluating", workers(params.pool.threads, params.train.device), len(tasks))
