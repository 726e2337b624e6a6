"""``latent sync``: rebuild or complete MLflow's runs from DVC's files, which are the source of truth.

It reads the workspace and the commits of DVC's experiments. A run is identified by the md5 of its weights and the stage that
trained them, so syncing twice adds nothing. DVC's files lack times, throughput, sample grids, and device and source of the
training process; the tag ``sync`` marks runs without them.
"""

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import click

from pipeline.data import Shape
from pipeline.errors import IntegrityError, PipelineError
from pipeline.storage import flatten, load_arrays, load_json
from pipeline.tracking import events, store
from pipeline.tracking.dvc_repo import Source, Stage, sources
from pipeline.tracking.run import MODEL_MD5, STAGE, SYNC, Record, Run, finite, text


def comparison_model(group: Stage, weights: str, file: Path) -> Stage:
    """Return a stage for one model of a ``train_comparison``, with seed, model and beta of its folder and its weights' header."""
    _, header = load_arrays(file)
    name, folder = file.stem, PurePosixPath(weights).parent
    params = {key: value for key, value in group.params.items() if key.split(".")[0] in ("data", "train")}
    params |= {"seed": int(folder.name.rpartition("_")[2])} | ({} if header["beta"] is None else {"beta": header["beta"]})
    params[name] = {key: header["config"].get(key, value) for key, value in group.params[name].items()}
    if "pool.threads" in group.params:
        params["train"] = {**params["train"], "threads": group.params["pool.threads"]}
    outs = {out: md5 for out, md5 in group.outs.items() if folder.is_relative_to(out) or PurePosixPath(out).parent == folder}
    return replace(group, params=params, outs=outs)


def trained(source: Source) -> Iterator[Stage]:
    """Yield a stage for each model that was trained in a source."""
    for stage in source.stages:
        if stage.module == "train" and stage.weights:
            yield stage
        elif stage.module == "train_comparison":
            group = source.unfolded(stage)
            for weights in (path for path in group.outs if path.endswith(".safetensors")):
                try:
                    if file := source.fetch(group, weights):
                        yield comparison_model(group, weights, file)
                    else:
                        click.echo(f"sync: {weights} is neither here nor in DVC's cache; `dvc pull` brings it", err=True)
                except (IntegrityError, KeyError, ValueError) as error:
                    click.echo(f"sync: {weights} is left out, not of this version ({error})", err=True)


def read_metrics(source: Source, stage: Stage) -> dict[str, Any]:
    """Return a stage's metrics file, flat, or nothing where there is none that this version reads."""
    file = source.fetch(stage, stage.out(".json"))
    try:
        return flatten(load_json(file)) if file else {}
    except (IntegrityError, ValueError):
        return {}


def settings(stage: Stage) -> dict[str, Any]:
    """Return the params of a training, flat, as the training logged them."""
    name = PurePosixPath(stage.weights).stem
    values: dict[str, Any] = {"model.name": name}
    for key, value in stage.params.items():
        section = "model" if key == name else key
        values |= {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
    return values


class Training:
    """A training in DVC's files: the source and stage that made its weights, and the latest ones that have them."""

    def __init__(self, source: Source, stage: Stage) -> None:
        self.source, self.stage, self.settings = source, stage, settings(stage)
        self.latest, self.latest_stage, self.is_new = source, stage, False
        self.data = next((path, md5) for path, md5 in stage.deps.items() if path.endswith(".safetensors"))
        # The metrics of the download, empty if it was of another data set.
        downloads = (read_metrics(source, download) for download in source.stages if self.data in download.outs.items())
        self.about_data = next(downloads, {})
        self.history = source.fetch(stage, stage.out("_history.csv"))
        lines = self.history.read_text().splitlines() if self.history else []
        self.epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]

    def run(self, held: list[tuple[Record, Run]]) -> Run:
        """Return the newest run of these weights, else one that stopped before it logged them, else a new one."""
        # Two stages can train equal weights, such as the VAE and a comparison model of the same beta; each has its own run.
        held = [(record, run) for record, run in held if record.tags.get(STAGE, self.stage.name) == self.stage.name]
        same = [record for record, _ in held if record.tags.get(MODEL_MD5) == self.stage.outs[self.stage.weights]]
        same = same or [record for record, run in held if self._is_unfinished(record, run)]
        self.is_new = not same
        with store.connected() as (client, experiment):
            name, time = events.label(self.settings), self.source.time
            found = client.get_run(same[0].id) if same else client.create_run(experiment, time, run_name=name)
            return Run(client, found.info, complete=True)

    def _is_unfinished(self, record: Record, run: Run) -> bool:
        """Return whether a run has these params and data, no weights, and points that are all in this history."""
        wanted = {key: text(value) for key, value in self.settings.items()}
        if MODEL_MD5 in record.tags or record.params != wanted or record.tags.get("data.md5") != self.data[1]:
            return False
        by_step = {int(row["epoch"]): finite(row) for row in self.epochs}
        points = [(key, *point) for key in (self.epochs or [{}])[0] for point in run.points(key).items()]
        return bool(points) and all(by_step.get(step, {}).get(key) == value for key, step, value in points)

    def restore(self, run: Run) -> None:
        """Log what the run lacks."""
        tags = {"dataset": self.about_data.get("name"), "data.md5": self.data[1], STAGE: self.stage.name, **self.source.tags}
        run.set_tags({key: value for key, value in tags.items() if value})
        shape: Shape = (0, 0, 0)
        if about := self.about_data:
            shape = (about.get("channels", 1), about["height"], about["width"])
            events.log_training_start(run, self.settings, about["name"], *self.data, (about["train/images"], *shape))
        held = {key: {} if self.is_new else run.points(key) for key in (self.epochs or [{}])[0]}
        for row in self.epochs:
            run.log_epoch({key: value for key, value in row.items() if key == "epoch" or row["epoch"] not in held[key]})
        path = self.stage.weights
        weights = self.source.fetch(self.stage, path) or self.latest.fetch(self.stage, path)
        summary = read_metrics(self.source, self.stage)
        events.log_training_end(run, self.settings, summary, self.stage.outs[path], shape, self.history, weights)
        self._restore_results(run)
        if self.is_new or run.added["points"]:
            run.set_tags({"sync": "true"})
        run.finish()

    def _restore_results(self, run: Run) -> None:
        source, weights = self.latest, PurePosixPath(self.latest_stage.weights)
        known = {(path, md5) for path, md5 in self.latest_stage.outs.items() if weights.is_relative_to(path)}

        def files(stage: Stage, *suffixes: str) -> list[Path]:
            return [copy for path in stage.outs if path.endswith(suffixes) and (copy := source.fetch(stage, path))]

        for stage in source.stages:
            if stage.module in ("evaluate", "evaluate_comparison") and stage.deps.items() & known:
                known |= stage.outs.items()
                metrics = read_metrics(source, stage)
                if stage.module == "evaluate_comparison":  # one file for all models, by their folders
                    start = f"{weights.parent.name}/"
                    metrics = {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}
                if {"profile", "dataset"} <= metrics.keys():
                    events.log_evaluation(run, metrics, files(stage, ".parquet"))
        for stage in (stage for stage in source.stages if stage.deps.items() & known):
            if stage.module in ("figures", "claims"):
                latent = f"metrics/{self.settings['model.name']}_latent.csv"
                events.log_figures(run, stage.module, files(source.unfolded(stage), ".png", latent))
            if stage.module == "claims":
                for ledger in files(stage, ".json"):
                    events.log_claims(run, load_json(ledger).get("claims", {}))
            if stage.module == "explorer":
                for page in files(stage, ".html"):
                    run.log_file(page)


def trainings(scratch: Path) -> list[Training]:
    """Return every training in DVC's files, once: made in the first source with its weights, evaluated in the last."""
    found: dict[tuple[str, str], Training] = {}
    for source in sources(scratch):
        for stage in trained(source):
            reads_data = any(path.endswith(".safetensors") for path in stage.deps)
            if reads_data and {"seed", "model.hidden_dims", "model.latent_dim"} <= settings(stage).keys():
                key = stage.outs[stage.weights], stage.name
                if key not in found:
                    found[key] = Training(source, stage)
                found[key].latest, found[key].latest_stage = source, stage
        source.files.close()  # or two databases stay open for each experiment; the next read opens it again
    return list(found.values())


def sync() -> tuple[int, int]:
    """Complete MLflow's runs; return the number of trainings and of changed runs. Raises PipelineError without a store."""
    with tempfile.TemporaryDirectory() as scratch:
        known, changed = trainings(Path(scratch)), 0
        held = store.records() if known else []
        for training in known:
            run = training.run(held)
            held = [(record, other) for record, other in held if record.id != run.id]
            training.restore(run)
            for source in (training.source, training.latest):
                source.files.close()
            if not run.alive:
                raise PipelineError(f"MLflow failed in the middle; run {SYNC} again once it is back")
            if added := +run.added:
                changed += 1
                what = ", ".join(f"{count} {kind}" for kind, count in added.items())
                where = training.source.tags.get("dvc.exp.name", "")
                name = events.label(training.settings) + (f" ({where})" if where else "")
                click.echo(f"sync: {name}: {'rebuilt with' if training.is_new else 'added'} {what}")
    return len(known), changed
