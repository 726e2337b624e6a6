"""Whether MLflow's runs hold the headline numbers of the metrics files that dvc.lock names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from pipeline.errors import IntegrityError, PipelineError
from pipeline.maintenance.findings import Finding
from pipeline.storage import flatten, load_json, numbers, rounded
from pipeline.tracking import database, store
from pipeline.tracking.dvc_lock import Stage
from pipeline.tracking.failures import SYNC
from pipeline.tracking.run import MODEL_MD5, STAGE
from pipeline.tracking.sync import sync
from pipeline.tracking.values import HEADLINE

ABOUT = "MLflow"


def _metrics(stage: Stage, whole: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers of a stage's metrics file, none where there is none that dvc.lock names."""
    path = stage.out(".json")
    try:
        return numbers(flatten(load_json(path))) if path in whole else {}
    except (ValueError, IntegrityError):
        return {}


def _models(stages: Sequence[Stage], whole: Mapping[str, str]) -> Iterator[tuple[Stage, str, dict[str, float]]]:
    """Yield stage, path and numbers of each trained model that is whole: those of its training and of its evaluation."""
    for stage in stages:
        readers = [other for other in stages if other.deps.items() & stage.outs.items()]
        measured = [_metrics(other, whole) for other in readers if other.module in ("evaluate", "evaluate_comparison")]
        if stage.module == "train" and stage.weights in whole:
            yield stage, stage.weights, {k: v for values in [_metrics(stage, whole), *measured] for k, v in values.items()}
        elif stage.module == "train_comparison":
            for path in (path for path in whole if path.endswith(".safetensors") and path.startswith(tuple(stage.outs))):
                start = f"{PurePosixPath(path).parent.name}/"  # one file for all models, by their folders
                flat = {k: v for values in measured for k, v in values.items() if k.startswith(start)}
                yield stage, path, {k.removeprefix(start): v for k, v in flat.items()}


def compare(stages: Sequence[Stage], whole: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the models whose run MLflow lacks or holds with other numbers.

    ``whole`` has the md5 of the files in the workspace that are those of dvc.lock; others were named already.
    """
    models = list(_models(stages, whole))
    if not models:
        return
    try:
        if (file := database.file_of(store.store_uri())) and not file.exists():
            yield Finding("warning", ABOUT, f"there is no store {file}", f"{SYNC} makes it")
            return
        records = [record for record, _ in store.records()]
    except (PipelineError, OSError) as error:
        yield Finding("warning", ABOUT, str(error), "see `latent doctor`")
        return
    for stage, path, metrics in models:
        runs = [record for record in records if record.tags.get(MODEL_MD5) == whole[path]]
        runs = [record for record in runs if record.tags.get(STAGE, stage.name) == stage.name]
        if not runs:
            text = f"no run has the weights of {path} (md5 {whole[path]})"
            yield Finding("warning", ABOUT, text, f"{SYNC} rebuilds it, `latent sync --deleted` one that was deleted in MLflow")
            continue
        run, held = runs[0].id, {key: number for key in metrics if (number := runs[0].number(key)) is not None}
        if other := [key for key in held if rounded(held[key]) != rounded(metrics[key])]:
            values = f"{other[0]} is {metrics[other[0]]:.6g}, there {held[other[0]]:.6g}"
            yield Finding(
                "problem",
                ABOUT,
                f"run {run} has other numbers than the files of {path}: {values}",
                SYNC,
                lambda: f"{SYNC} corrected {sync()[1]} runs",
            )
        elif absent := metrics.keys() & HEADLINE.keys() - held.keys():
            yield Finding("warning", ABOUT, f"run {run} of {path} lacks {len(absent)} numbers", f"{SYNC} adds them")
