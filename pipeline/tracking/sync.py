"""``latent sync``: rebuild or complete MLflow's runs from DVC's files, which are the source of truth.

It reads the workspace and the commits of DVC's experiments. A run is identified by the md5 of its weights and the stage that
trained them, so syncing twice adds nothing. DVC's files lack times, throughput, sample grids, and device and source of the
training process; the tag ``sync`` marks runs without them. A run that was deleted in MLflow stays deleted.
"""

import re
import tempfile
from pathlib import Path, PurePosixPath

import click

from pipeline.data import Shape
from pipeline.errors import AccessError, IntegrityError, reason
from pipeline.storage import load_json
from pipeline.tracking import events, store
from pipeline.tracking.database import locked
from pipeline.tracking.dvc_files import (
    UNREADABLE,
    check,
    read_download,
    read_history,
    read_metrics,
    reason_of_copy,
    settings,
    trained,
)
from pipeline.tracking.dvc_lock import Stage, version_of
from pipeline.tracking.dvc_repo import Source, sources
from pipeline.tracking.failures import SYNC
from pipeline.tracking.origin import COMMIT
from pipeline.tracking.pages import label, role
from pipeline.tracking.record import Record
from pipeline.tracking.run import MODEL_MD5, STAGE, Run
from pipeline.tracking.values import finite, text


class Training:
    """A training in DVC's files: the source and stage that made its weights, and the latest ones that have them."""

    def __init__(self, source: Source, stage: Stage) -> None:
        self.source, self.stage, self.settings = source, stage, settings(stage)
        self.latest, self.latest_stage, self.is_new = source, stage, False
        self.data = stage.data or ("", "")
        self.key = stage.outs[stage.weights], stage.name
        # The metrics of the download, empty if it was of another data set.
        downloads = (read_download(source, download) for download in source.stages if self.data in download.outs.items())
        self.about_data = next(downloads, {})
        self.history = source.fetch(stage, stage.out("_history.csv"))
        try:
            self.epochs = read_history(self.history) if self.history else []
        except IntegrityError as error:
            click.echo(f"sync: {stage.out('_history.csv')} is left out: {error}", err=True)
            self.history, self.epochs = None, []

    def __str__(self) -> str:
        experiment = self.source.tags.get("dvc.exp.name", "")
        return label(self.settings) + (f" ({experiment})" if experiment else "")

    def run(self, held: list[tuple[Record, Run]], keys: set[tuple[str, str]], deleted: bool = False) -> Run | None:
        """Return the newest run of these weights, else one that stopped before it logged them, else a new one.

        ``keys`` are those of all trainings. A run that was deleted is brought back if asked; otherwise the result is None.
        """
        md5, stage = self.key
        # Two stages can train equal weights, such as the VAE and a comparison model of the same beta; each has its own run.
        own = [(record, run) for record, run in held if record.tags.get(STAGE, stage) == stage]
        same = [record for record, _ in own if record.tags.get(MODEL_MD5) == md5]
        if not same:  # that of a stage which has another name now
            same = [r for r, _ in held if r.tags.get(MODEL_MD5) == md5 and (md5, r.tags.get(STAGE, stage)) not in keys]
        active = [record for record in same if not record.is_deleted]
        active = active or [record for record, run in own if not record.is_deleted and self._is_unfinished(record, run)]
        if same and not active and not deleted:
            return None
        self.is_new = not same and not active
        with store.connected() as (client, experiment):
            if self.is_new:  # with tags by which the next sync finds it, should this one be killed
                tags = {MODEL_MD5: md5, STAGE: stage, "sync": "true"}
                tags |= {COMMIT: self.source.commit} if self.source.commit else {}
                found = client.create_run(experiment, self.source.time, tags, label(self.settings))
            else:
                if not active:
                    client.restore_run(same[0].id)
                found = client.get_run((active or same)[0].id)
            return Run(client, found, complete=True)

    def _is_unfinished(self, record: Record, run: Run) -> bool:
        """Return whether a run has no weights, and of params, data and points nothing that differs from this training."""
        wanted = {key: text(value) for key, value in self.settings.items()}
        if MODEL_MD5 in record.tags or record.tags.get("data.md5", self.data[1]) != self.data[1]:
            return False
        by_step = {int(row["epoch"]): finite(row) for row in self.epochs}
        points = [(key, *point) for key in (self.epochs or [{}])[0] for point in run.points(key).items()]
        if not points and record.params in ({}, wanted):  # it stopped before its first epoch
            return record.tags.get(STAGE) == self.stage.name and not store.may_be_written(record)
        return record.params == wanted and all(by_step.get(step, {}).get(key) == value for key, step, value in points)

    def restore(self, run: Run) -> None:
        """Log what the run lacks."""
        folder = PurePosixPath(self.stage.weights).parent
        group = folder.parent.name if self.stage.module == "train_comparison" else ""
        tags = {"dataset": self.about_data.get("name"), "data.md5": self.data[1], STAGE: self.stage.name, **self.source.tags}
        tags["role"] = role(group, folder.name)
        run.set_tags({key: value for key, value in tags.items() if value})
        shape: Shape = (0, 0, 0)
        if about := self.about_data:
            shape = (about.get("channels", 1), about["height"], about["width"])
            path, md5 = self.data
            version, full = version_of(md5, self.source.stages), (about["train/images"], *shape)
            events.log_training_start(run, self.settings, about["name"], path, version, full)
        held = {key: {} if self.is_new else run.points(key) for key in (self.epochs or [{}])[0]}
        for row in self.epochs:
            run.log_epoch({key: value for key, value in row.items() if key == "epoch" or row["epoch"] not in held[key]})
        path = self.stage.weights
        weights = self.source.fetch(self.stage, path) or self.latest.fetch(self.stage, path)
        summary = read_metrics(self.source, self.stage)
        events.log_training_end(run, self.settings, summary, self.stage.outs[path], shape, self.history, weights)
        self._restore_results(run)
        if run.added["points"]:
            run.set_tags({"sync": "true"})
        run.finish()
        lacking = [path for path, file in ((path, weights), (self.stage.out("_history.csv"), self.history)) if path and not file]
        if lacking and self.is_new:
            click.echo(f"sync: {self}: no {' and '.join(lacking)} here or in DVC's cache; `dvc pull` fetches them", err=True)

    def _restore_results(self, run: Run) -> None:
        source, weights = self.latest, PurePosixPath(self.latest_stage.weights)
        known = {(path, md5) for path, md5 in self.latest_stage.outs.items() if weights.is_relative_to(path)}

        def files(stage: Stage, *suffixes: str) -> list[Path]:
            return [copy for path in stage.outs if path.endswith(suffixes) and (copy := source.fetch(stage, path))]

        for stage in source.stages:  # in the order in which they run
            if stage.module in ("evaluate", "evaluate_comparison") and stage.deps.items() & known:
                known |= stage.outs.items()
                metrics = read_metrics(source, stage)
                if stage.module == "evaluate_comparison":  # one file for all models, by their folders
                    start = f"{weights.parent.name}/"
                    metrics = {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}
                if {"profile", "dataset"} <= metrics.keys() and re.fullmatch(r"[\w.-]+", str(metrics["dataset"])):
                    events.log_evaluation(run, metrics, files(stage, ".parquet"))
        for stage in (stage for stage in source.stages if stage.deps.items() & known):
            if stage.module in ("figures", "claims"):
                latent = f"metrics/{self.settings['model.name']}_latent.csv"
                events.log_figures(run, stage.module, files(source.unfolded(stage), ".png", latent))
            if stage.module == "claims":
                for ledger in files(stage, "/claims.json"):
                    try:
                        if claims := load_json(ledger).get("claims"):  # which an earlier version has not
                            events.log_claims(run, claims)
                    except UNREADABLE as error:
                        click.echo(f"sync: {stage.out('.json')} is left out ({reason_of_copy(error, ledger)})", err=True)
            if stage.module == "explorer":
                for page in files(stage, ".html"):
                    run.log_file(page)


def trainings(scratch: Path) -> list[Training]:
    """Return every training in DVC's files, once: made in the first source with its weights, evaluated in the last."""
    found: dict[tuple[str, str], Training] = {}
    for source in sources(scratch):
        for stage in trained(source):
            try:
                check(stage)
            except UNREADABLE as error:
                click.echo(f"sync: the stage {stage.name} is left out: {reason(error)}", err=True)
                continue
            key = stage.outs[stage.weights], stage.name
            if key not in found:
                found[key] = Training(source, stage)
            found[key].latest, found[key].latest_stage = source, stage
        source.files.close()  # or two databases stay open for each experiment; the next read opens it again
    return list(found.values())


def sync(deleted: bool = False) -> tuple[int, int]:
    """Complete MLflow's runs, ``deleted`` ones, too, if asked; return the number of trainings and of changed runs.

    Raises:
        IntegrityError: dvc.lock is missing or damaged, or MLflow refuses content of some runs, which are named.
        BusyError: another sync runs.
        AccessError: this user may not write some runs, which are named.
        PipelineError: MLflow does not answer.
    """
    lock = store.root() / ".pipeline" / "sync.lock"
    with locked(lock, f"another {SYNC} runs"), tempfile.TemporaryDirectory() as scratch:
        known, changed, failed = trainings(Path(scratch)), 0, list[Exception]()
        if known:
            store.complete_experiment()
        held, keys = store.records(deleted=True) if known else [], {training.key for training in known}
        left = list[str]()
        for training in known:
            try:
                run = training.run(held, keys, deleted)
                if run is None:
                    left.append(str(training))
                    continue
                held = [(record, other) for record, other in held if record.id != run.id]
                had = set(run.held.params) if run.held.status == "FINISHED" and not training.is_new else set[str]()
                training.restore(run)
                if had and (more := sorted(run.held.params.keys() - had)):
                    names = ", ".join(more)[:200]
                    cure = "`git diff dvc.lock` shows what changed"
                    click.echo(f"sync: {training}: the finished run lacked {names}, which dvc.lock has; {cure}", err=True)
                if run.failure:
                    raise store.explained(run.failure)
            except (AccessError, *UNREADABLE) as error:
                click.echo(f"sync: {training} is not complete: {reason(error)}", err=True)
                failed.append(error)
                continue
            finally:
                for source in (training.source, training.latest):
                    source.files.close()
            if added := +run.added:
                changed += 1
                what = ", ".join(f"{count} {kind}" for kind, count in added.items())
                click.echo(f"sync: {training}: {'rebuilt with' if training.is_new else 'added'} {what}")
        for ended in store.end_stale_runs() if known else []:
            click.echo(f"sync: {ended.name}: ended, because its process was killed")
    if left:
        click.echo(f"sync: deleted in MLflow and left so: {', '.join(left)}; `latent sync --deleted` brings them back", err=True)
    if failed:
        kind = AccessError if any(isinstance(error, AccessError) for error in failed) else IntegrityError
        raise kind(f"{len(failed)} of {len(known)} runs could not be completed, see above")
    return len(known), changed
