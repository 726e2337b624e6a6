"""One evaluation as its users see it: files in, numbers and arrays out, nothing measured on the wrong data or judge."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from tqdm import tqdm

from pipeline import runtime
from pipeline.data import load_dataset
from pipeline.errors import IntegrityError
from pipeline.evaluation import METRICS, PROFILES, SAMPLERS, Subject, measure, pictures, table
from pipeline.files import md5
from pipeline.judge import Judge, load_judge
from pipeline.laboratory import Laboratory
from pipeline.params import Params
from pipeline.results import Results
from pipeline.weights import load_weights


@dataclass(frozen=True)
class Examination:
    """What is known of a model after it was measured."""

    numbers: dict[str, Any]
    """The metrics file: what was measured by what, and a section for each family of metrics."""
    results: Results
    """Arrays for the figures."""
    laboratory: Laboratory
    """Arrays for the claims ledger and its figures."""
    table: bytes
    """One row for each test image, as a parquet file."""


def check(path: Path, seen: tuple[object, ...], data: Path, given: tuple[object, ...]) -> None:
    """Raise IntegrityError unless what was trained saw the kind of data that is given."""
    if seen != given:
        raise IntegrityError(f"{path}: trained on {seen}, but {data} holds {given}; run `dvc repro` to train on this data")


def hear(judge: Judge, required: float) -> tuple[Judge | None, dict[str, Any]]:
    """Return the judge, or None when it names too few test images rightly to be trusted, and what the metrics file says."""
    known = {"accuracy": judge.accuracy, "md5": judge.md5}
    if judge.accuracy >= required:
        return judge, known
    note = f"below evaluate.judge_accuracy = {required:g}; the metrics that need a judge are left out"
    return None, known | {"note": note}


def progress(name: str, sections: Iterable[str]) -> Iterator[str]:
    """Yield the sections of the metrics file, showing which one is being measured: a bar on a terminal, else a line each."""
    bar = tqdm(list(sections), f"evaluate {name}", unit="section", disable=None)
    for section in bar:
        bar.set_postfix_str(section)
        if bar.disable:
            click.echo(f"evaluate {name}: {section}")
        yield section


def examine(
    name: str, weights: Path, params: Params, data: Path, judge_file: Path, sections: Iterable[str] = METRICS
) -> Examination:
    """Measure a trained model on the test images, always in float32.

    Args:
        name: what the model is called in files and figures.
        weights: the trained model.
        params: all of params.yaml; of it ``seed``, ``evaluate``, ``train.device``, ``train.threads`` and
            ``figures.manifold_size`` count.
        data: the prepared data set.
        judge_file: the trained judge; where there is none, the metrics that need it are left out, with a note.
        sections: families of metrics to measure, in :data:`pipeline.evaluation.METRICS`.

    Raises:
        IntegrityError: a file is missing or damaged, or weights or judge saw another data set.
    """
    dataset, options = load_dataset(data), params.evaluate
    given = (dataset.name, dataset.test.image_shape)
    with runtime.use(params.train.device, params.train.threads) as rt:
        device = torch.device("cpu") if rt.device.type == "mps" else rt.device  # MPS has no float64 to add up in
        trained = load_weights(weights, device)
        check(weights, (trained.dataset, trained.image_shape), data, given)
        judge: Judge | None = None
        said: dict[str, Any] = {"note": f"{judge_file}: no such file; the metrics that need a judge are left out"}
        if judge_file.exists():
            found = load_judge(judge_file, device)
            check(judge_file, (found.dataset, found.net.image_shape), data, given)
            judge, said = hear(found, options.judge_accuracy)
        subject = Subject(
            trained.model,
            dataset.train,
            dataset.test,
            seed=params.seed,
            beta=trained.beta,
            num_samples=options.num_samples,
            budget=PROFILES[options.profile],
            judge=judge,
        )
        click.echo(f"evaluate {name}: {rt}; {len(subject.test):,} test images; judge {said}")
        findings = measure(subject, progress(name, sections))
        pictured = pictures(subject, dataset=dataset.name, model=name, manifold_size=params.figures.manifold_size)
    hash_of_weights = md5(weights)
    about = {"dataset": dataset.name, "model": name, "profile": options.profile, "judge": said}
    return Examination(
        about | findings.numbers,
        replace(pictured, weights_md5=hash_of_weights),
        Laboratory(dataset.name, name, trained.beta, params.seed, list(SAMPLERS), hash_of_weights, findings.arrays),
        table(subject.test.labels, findings.per_image),
    )
