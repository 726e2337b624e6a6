"""``python -m pipeline.sync``: rebuild or complete MLflow's runs from DVC's files, which are the source of truth.

It reads the workspace and the commits of DVC's experiments: dvc.lock says which stage made which bytes, git holds metrics,
plots and histories, and the folder or DVC's cache the weights, and all of the variants. A run is found by the md5 of its
weights and the stage that trained them, so syncing twice adds nothing. What DVC's files do not hold is not rebuilt: times,
throughput, sample grids of the epochs, device and source of the process that trained; the tag ``sync`` says so.
"""

import csv
import hashlib
import io
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import click
from ruamel.yaml import YAML

from pipeline import runs, tracking
from pipeline.command import one_line
from pipeline.errors import PipelineError
from pipeline.files import load_arrays, write
from pipeline.history import flatten
from pipeline.tracking import Record, Repair, Run

STAGE = "dvc.stage"
Out = tuple[str, str]  # a path and the md5 that dvc.lock has for it


def git(*arguments: str) -> bytes | None:
    """Return what a git command prints, or None when it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


@cache
def _cache() -> Path:
    """Return the folder of DVC's cache."""
    for file in (".dvc/config.local", ".dvc/config"):
        if folder := git("config", "--file", file, "cache.dir"):
            return Path(".dvc", folder.decode().strip(), "files", "md5")
    return Path(".dvc/cache/files/md5")


def digest(content: bytes) -> str:
    """Return the md5 by which dvc.lock names these bytes."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def cached(md5: str) -> bytes | None:
    """Return what DVC's cache has under this md5, or None when it is not there or damaged."""
    path = _cache() / md5[:2] / md5[2:]
    content = path.read_bytes() if md5 and path.is_file() else None
    return content if content is not None and digest(content) == md5.removesuffix(".dir") else None


@dataclass(frozen=True)
class Stage:
    """A stage of a dvc.lock."""

    name: str
    module: str
    """What its command runs: ``train``, ``evaluate`` ..."""
    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> "Stage | None":
        """Return the stage, or None for one that is not of this pipeline."""
        _, _, module = entry["cmd"].partition("-m stages.")
        if not module:
            return None
        deps, outs = ({item["path"]: item["md5"] for item in entry.get(kind, [])} for kind in ("deps", "outs"))
        return cls(name, module.split()[0], entry.get("params", {}).get("params.yaml", {}), deps, outs)

    def out(self, suffix: str) -> str:
        """Return the path of the first output that ends so, or an empty one."""
        return next((path for path in self.outs if path.endswith(suffix)), "")


@dataclass(frozen=True)
class Source:
    """A place that holds DVC's files: a commit or, without one, the workspace."""

    commit: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, or None when it is not there."""
        if self.commit:
            return git("show", f"{self.commit}:{path}")
        return Path(path).read_bytes() if Path(path).is_file() else None

    def names(self, folder: str) -> list[str]:
        """Return the files of a folder, by their paths below it."""
        if self.commit:
            listed = git("ls-tree", "-r", "-z", "--name-only", f"{self.commit}:{folder}") or b""
            return sorted(name.decode() for name in listed.split(b"\0") if name)
        return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages of the source's dvc.lock."""
        entries = (YAML(typ="safe", pure=True).load(self.read("dvc.lock") or b"") or {}).get("stages", {})
        return [stage for name, entry in entries.items() if (stage := Stage.of(name, entry))]

    @cached_property
    def time(self) -> int:
        """When the files were made, as far as is known, in milliseconds."""
        if self.commit:
            return int(git("show", "-s", "--format=%ct", self.commit) or 0) * 1000
        return round(Path("dvc.lock").stat().st_mtime * 1000)

    def out(self, stage: Stage, path: str) -> bytes | None:
        """Return an output with just the bytes that dvc.lock names, from the source or DVC's cache, or None."""
        md5 = stage.outs.get(path, "")
        content = self.read(path) if path else None
        return content if content is not None and digest(content) == md5 else cached(md5)

    def unfolded(self, stage: Stage) -> Stage:
        """Return the stage with the files of its output folders as outputs too, if source or DVC's cache has the folders."""
        files: dict[str, str] = {}
        for path, md5 in stage.outs.items():
            if md5.endswith(".dir"):
                content = cached(md5)
                if content is None:
                    here = [{"md5": digest(self.read(f"{path}/{name}") or b""), "relpath": name} for name in self.names(path)]
                    content = json.dumps(here, sort_keys=True).encode()
                if digest(content) == md5.removesuffix(".dir"):
                    files |= {f"{path}/{file['relpath']}": file["md5"] for file in json.loads(content)}
        return replace(stage, outs=stage.outs | files)

    @cached_property
    def trained(self) -> list[tuple[Stage, Out]]:
        """The stages that trained a model, one for each variant, with the output by which later stages know it."""
        found = []
        for stage in self.stages:
            if stage.module == "train" and (weights := stage.out(".safetensors")):
                found.append((stage, (weights, stage.outs[weights])))
            elif stage.module == "train_variants":
                group = self.unfolded(stage)
                for weights in group.outs:
                    if not weights.endswith(".safetensors"):
                        continue
                    folder = str(PurePosixPath(weights).parents[1])
                    if content := self.out(group, weights):
                        found.append((variant(group, weights, content), (folder, group.outs[folder])))
                    else:
                        click.echo(f"sync: {weights} is neither here nor in DVC's cache; `dvc pull` brings it", err=True)
        return found


def variant(group: Stage, weights: str, content: bytes) -> Stage:
    """Return a stage that trains one variant of a group.

    Its params are the group's but for what makes it a variant, which its folder and the header of its weights say.
    """
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        _, header = load_arrays(file.name)
    folder, name, beta = PurePosixPath(weights).parent, header["model"], header["beta"]
    params = {key: group.params[key] for key in ("data.val_size", "train")} | {"seed": int(folder.name.rpartition("_")[2])}
    params[name] = {key: header["config"].get(key, value) for key, value in group.params[name].items()}
    params |= {} if beta is None else {"beta": beta}
    outs = {path: md5 for path, md5 in group.outs.items() if PurePosixPath(path).parent == folder}
    return replace(group, params=params, outs=outs)


def sources() -> list[Source]:
    """Return the commits that experiments started from, the experiments, oldest first, and the workspace."""
    listed = git("for-each-ref", "--sort=committerdate", "--format=%(objectname) %(refname)", "refs/exps/") or b""
    experiments: list[Source] = []
    baselines: dict[str, Source] = {}
    for line in listed.decode().splitlines():
        commit, ref = line.split()
        parts = ref.split("/")[2:]
        if len(parts) == 3 and len(parts[0] + parts[1]) == 40:  # the others are DVC's own: stash, queue, running ...
            baseline = parts[0] + parts[1]
            baselines.setdefault(baseline, Source(baseline))
            experiments.append(Source(commit, (("dvc.exp.name", parts[2]), ("dvc.exp.baseline", baseline))))
    return [*baselines.values(), *experiments, Source()]


def settings(stage: Stage, name: str) -> dict[str, Any]:
    """Return the params of a training, flat, as the training logged them."""
    values: dict[str, Any] = {"model.name": name}
    for key, value in stage.params.items():
        section = "model" if key == name else key
        values |= {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
    return values


def is_broken_off(record: Record, run: Run, params: Mapping[str, Any], data_md5: str, history: list[dict[str, float]]) -> bool:
    """Return whether a run is of this very training, yet ended before it was told the md5 of its weights.

    So it is if params and data are the same and every point it has is one of the history.
    """
    wanted = {key: tracking.text(value) for key, value in params.items()}
    if tracking.MODEL_MD5 in record.tags or record.params != wanted or record.tags.get("data.md5") != data_md5:
        return False
    by_step = {int(row["epoch"]): tracking.finite(row) for row in history}
    held = [(key, *point) for key in (history or [{}])[0] for point in run.points(key).items()]
    return bool(held) and all(by_step.get(step, {}).get(key) == value for key, step, value in held)


def lay(desk: Path, path: str, content: bytes | None) -> Path | None:
    """Write a file under the name it has in MLflow; None where there is no content."""
    if content is None:
        return None
    file = desk / digest(content) / PurePosixPath(path).name
    write(file, content)
    return file


@dataclass(frozen=True)
class Training:
    """A training as DVC's files tell it: where it was made, and where it was last measured."""

    source: Source
    stage: Stage
    latest: Source
    output: Out
    """By which stages of ``latest`` know it: its weights, or the folder of all variants of its group."""

    @cached_property
    def weights(self) -> Out:
        """Path and md5 of the weights."""
        path = self.stage.out(".safetensors")
        return path, self.stage.outs[path]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The params, flat, as the training logged them."""
        return settings(self.stage, PurePosixPath(self.weights[0]).stem)

    @cached_property
    def data(self) -> Out:
        """Path and md5 of the data set."""
        return next((path, md5) for path, md5 in self.stage.deps.items() if path.endswith(".safetensors"))

    @cached_property
    def about_data(self) -> dict[str, Any]:
        """What the download said of the data set, empty if that was another one."""
        for stage in self.source.stages:
            if self.data in stage.outs.items():
                return json.loads(self.source.out(stage, stage.out(".json")) or b"{}")
        return {}

    @cached_property
    def history(self) -> tuple[str, bytes | None]:
        """Path and bytes of the history."""
        path = self.stage.out("_history.csv")
        return path, self.source.out(self.stage, path)

    @cached_property
    def epochs(self) -> list[dict[str, float]]:
        """The history, a row an epoch."""
        lines = io.StringIO((self.history[1] or b"").decode())
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]

    def run(self, store: list[tuple[Record, Run]]) -> Repair:
        """Return the newest run of these weights, else one that broke off before it knew them, else a new one.

        Two stages can train the very same weights, the VAE and its contrast at one beta: each has a run.
        """
        store = [(record, run) for record, run in store if record.tags.get(STAGE, self.stage.name) == self.stage.name]
        same = [record for record, _ in store if record.tags.get(tracking.MODEL_MD5) == self.weights[1]]
        same = same or [r for r, run in store if is_broken_off(r, run, self.settings, self.data[1], self.epochs)]
        return tracking.repair(same[0].id if same else None, runs.label(self.settings), self.source.time)

    def restore(self, run: Repair, desk: Path) -> None:
        """Log what the run lacks."""
        tags = {"dataset": self.about_data.get("name"), "data.md5": self.data[1], STAGE: self.stage.name}
        run.set_tags({key: value for key, value in (tags | dict(self.source.tags)).items() if value})
        if about := self.about_data:
            shape = (about["train"]["images"], about["height"], about["width"])
            runs.began(run, self.settings, about["name"], *self.data, shape)
        run.log_epochs(self.epochs)
        path, md5 = self.weights
        runs.trained(
            run,
            self.settings,
            flatten(json.loads(self.source.out(self.stage, self.stage.out("_train.json")) or b"{}")),
            md5,
            about.get("height", 0) * about.get("width", 0),
            lay(desk, *self.history),
            lay(desk, path, self.source.out(self.stage, path) or self.latest.out(self.stage, path)),
        )
        self._restore_what_followed(run, desk)
        if run.is_new or run.added["points"]:
            run.set_tags({"sync": "true"})
        run.finish()

    def _restore_what_followed(self, run: Repair, desk: Path) -> None:
        source, known = self.latest, {self.output}
        for stage in source.stages:
            if stage.module in ("evaluate", "evaluate_variants") and stage.deps.items() & known:
                known |= stage.outs.items()
                numbers = json.loads(source.out(stage, stage.out(".json")) or b"{}")
                if stage.module == "evaluate_variants":
                    numbers = numbers.get(PurePosixPath(self.weights[0]).parent.name)
                if numbers:
                    table = stage.out(".parquet")
                    files = [file for file in [lay(desk, table, source.out(stage, table))] if file]
                    runs.evaluated(run, numbers["profile"], flatten(numbers), numbers["dataset"], files)
        for stage in source.stages:
            if not stage.deps.items() & known:
                continue
            if stage.module in ("figures", "laboratory"):
                drawn, latent = source.unfolded(stage), f"metrics/{self.settings['model.name']}_latent.csv"
                pictures = [lay(desk, path, source.out(drawn, path)) for path in drawn.outs if path.endswith((".png", latent))]
                runs.drawn(run, stage.module, [file for file in pictures if file])
            if stage.module == "explore" and (page := lay(desk, (path := stage.out(".html")), source.out(stage, path))):
                run.log_file(page)
            if stage.module == "claims" and (ledger := source.out(stage, stage.out(".json"))):
                runs.judged(run, json.loads(ledger))


def trainings() -> list[Training]:
    """Return every training that DVC's files know, once.

    The first source that has its weights is where they were made; the last one has them measured as is true now.
    """
    found: dict[tuple[str, str], Training] = {}
    for source in sources():
        for stage, output in source.trained:
            key = stage.outs[stage.out(".safetensors")], stage.name
            first = found.get(key, Training(source, stage, source, output))
            found[key] = replace(first, latest=source, output=output)
    return list(found.values())


def sync() -> tuple[int, int]:
    """Make MLflow's runs whole, say what was added, and return how many runs there are and to how many something was added.

    Raises PipelineError when the store does not answer.
    """
    known, changed = trainings(), 0
    store = tracking.records() if known else []
    with tempfile.TemporaryDirectory() as desk:
        for training in known:
            run = training.run(store)
            store = [(record, held) for record, held in store if record.id != run.id]
            training.restore(run, Path(desk))
            if not run.alive:
                raise PipelineError("MLflow failed in the middle; run `python -m pipeline.sync` again once it is back")
            if added := +run.added:
                changed += 1
                what = ", ".join(f"{count} {kind}" for kind, count in added.items())
                where = dict(training.source.tags).get("dvc.exp.name", "")
                name = runs.label(training.settings) + (f" ({where})" if where else "")
                click.echo(f"sync: {name}: {'rebuilt with' if run.is_new else 'added'} {what}")
    return len(known), changed


@click.command()
@one_line()
def main() -> None:
    """Rebuild or complete the MLflow runs of the workspace and of DVC's experiments. Doing it twice adds nothing."""
    known, changed = sync()
    click.echo(f"sync: {known} trainings in DVC's files, {changed} of them new or incomplete in {tracking.store_uri()}")


if __name__ == "__main__":
    main()
