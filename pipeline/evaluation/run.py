"""Evaluate a saved model on the test images, after checking that model, data and classifier match."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import torch
from pyarrow import parquet
from tqdm import tqdm

from pipeline import runtime
from pipeline.classifier import accept_classifier, load_classifier
from pipeline.data import Dataset, load_dataset
from pipeline.errors import IntegrityError
from pipeline.evaluation.context import PROFILES, EvalContext, MetricResult
from pipeline.evaluation.geometry import geometry
from pipeline.evaluation.holes import holes
from pipeline.evaluation.interpolation import interpolation
from pipeline.evaluation.latent import latent
from pipeline.evaluation.likelihood import likelihood, log_likelihood
from pipeline.evaluation.plot_data import per_image, plot_data
from pipeline.evaluation.results import Results, save_results
from pipeline.evaluation.sample_quality import sample_quality
from pipeline.evaluation.samplers import SAMPLERS
from pipeline.models.weights import load_weights
from pipeline.params import Params
from pipeline.storage import flatten, md5, rounded, save_json, write

# The families of metrics by section of the metrics file; a new one is a function in a file of this folder and a line here.
FAMILIES: dict[str, Callable[[EvalContext], MetricResult]] = {
    "test": likelihood,
    "log_likelihood": log_likelihood,
    "latent": latent,
    "geometry": geometry,
    "interpolation": interpolation,
    "holes": holes,
    "sample_quality": sample_quality,
    "per_image": per_image,  # columns and arrays, no numbers
    "plot_data": plot_data,  # arrays alone
}


def measure(context: EvalContext, families: Iterable[str] = FAMILIES) -> MetricResult:
    """Return the results of the named families as one: numbers by section (without empty ones), columns, arrays."""
    found = {name: FAMILIES[name](context) for name in families}
    numbers = {name: result.numbers for name, result in found.items() if result.numbers}
    columns = {name: column for result in found.values() for name, column in result.per_image.items()}
    arrays = {name: array for result in found.values() for name, array in result.arrays.items()}
    return MetricResult(numbers, columns, arrays | {f"image_{name}": column for name, column in columns.items()})


def _check(path: Path, seen: tuple[object, ...], data: Path, dataset: Dataset) -> None:
    if seen != (given := (dataset.name, dataset.test.shape)):
        raise IntegrityError(f"{path}: trained on {seen}, but {data} holds {given}; run `dvc repro` to train on this data")


def _progress(name: str, families: Iterable[str]) -> Iterator[str]:
    """Yield the families and show the current one: in a bar on a terminal, else as a line."""
    bar = tqdm(list(families), f"evaluate {name}", unit="section", disable=None)
    for family in bar:
        bar.set_postfix_str(family)
        if bar.disable:
            click.echo(f"evaluate {name}: {family}")
        yield family


def evaluate_and_log(
    name: str,
    weights: Path,
    params: Params,
    data: Path,
    classifier: Path,
    *,
    results: Path | None = None,
    metrics: Path | None = None,
    table: Path | None = None,
    families: Iterable[str] = FAMILIES,
) -> dict[str, Any]:
    """Evaluate a trained model in float32, write files, log to the model's MLflow run, and return the flat, rounded metrics.

    Args:
        name: the model's name in files and figures.
        params: it uses ``seed``, ``evaluate``, ``classifier.min_accuracy``, ``train`` and ``figures.manifold_size``.
        classifier: if there is no such file, the metrics that need a classifier are left out, with a note.
        results, metrics, table: files to write: arrays, metrics, and a parquet table of the test images.

    Raises IntegrityError when a file is missing or damaged, or when weights or classifier were trained on other data.
    """
    from pipeline.tracking import events, store

    dataset, options = load_dataset(data), params.evaluate
    with runtime.use(params.train.device, params.train.threads) as rt:
        device = torch.device("cpu") if rt.device.type == "mps" else rt.device  # MPS has no float64 for sums
        trained = load_weights(weights, device)
        _check(weights, (trained.dataset, trained.config.image_shape), data, dataset)
        accepted, about = None, {"note": f"{classifier}: no such file; the metrics that need a classifier are left out"}
        if classifier.exists():
            found = load_classifier(classifier, device)
            if found:
                _check(classifier, (found.dataset, found.net.image_shape), data, dataset)
            accepted, about = accept_classifier(found, params.classifier.min_accuracy)
        context = EvalContext(
            trained.model,
            dataset.train,
            dataset.test,
            seed=params.seed,
            beta=trained.beta,
            num_samples=options.num_samples,
            budget=PROFILES[options.profile],
            classifier=accepted,
            manifold_size=params.figures.manifold_size,
        )
        click.echo(f"evaluate {name}: {rt}; {len(context.test):,} test images; classifier: {about.get('note', 'accepted')}")
        measured = measure(context, _progress(name, families))
    numbers = {"dataset": dataset.name, "model": name, "likelihood": trained.config.likelihood, "profile": options.profile}
    numbers |= {"classifier": about} | measured.numbers
    flat: dict[str, Any] = rounded(flatten(numbers))
    about_model = dataset.name, name, trained.beta, params.seed, list(SAMPLERS), md5(weights)
    evaluated = Results(*about_model, measured.arrays, dataset.classes)
    if results:
        save_results(results, evaluated)
    if table:
        labels, stream = {} if context.test.labels is None else {"label": context.test.labels}, io.BytesIO()
        parquet.write_table(pa.table(labels | measured.per_image), stream)
        write(table, stream.getvalue())
    if metrics:
        save_json(metrics, flat)
    events.log_evaluation(store.find(evaluated.weights_md5), flat, [table] if table else [])
    return flat
