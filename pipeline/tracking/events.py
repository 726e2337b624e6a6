"""What is logged to MLflow at each step of a model's life, by the stages and by sync, and the champion of each data set."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.data import Shape
from pipeline.storage import flatten, rounded
from pipeline.tracking import logged_model
from pipeline.tracking.card import model_card
from pipeline.tracking.database import load_mlflow
from pipeline.tracking.logged_model import NOTE
from pipeline.tracking.pages import Values, describe_run
from pipeline.tracking.record import Record
from pipeline.tracking.run import EXPERIMENT, MODEL_MD5, Client, Run
from pipeline.tracking.values import HEADLINE, headline

CHAMPION = "champion"


def log_training_start(run: Run, settings: Values, dataset: str, data: str | Path, version: str, shape: tuple[int, ...]) -> None:
    """Log the params of a training, and its data set with the version and the shape ``[N, C, H, W]`` of the training images."""
    run.log_params(settings)
    run.log_data(dataset, data, version, shape)


def log_training_end(
    run: Run, settings: Values, summary: Values, weights_md5: str, image_shape: Shape, history: Path | None, weights: Path | None
) -> None:
    """Log the numbers of a training's summary and, where given, its history and weights."""
    run.log_metrics(headline(flatten(summary)), {MODEL_MD5: weights_md5})
    if history:
        run.log_file(history)
    if weights:
        run.log_model(weights, settings["model.name"], image_shape, settings["model.latent_dim"])
        run.log_file(weights)
    describe(run)


def log_evaluation(run: Run, metrics: Values, files: Iterable[Path]) -> None:
    """Log a flat metrics file and other files; promote the model if it is now the best of its ``dataset``.

    MLflow shows the numbers of :data:`HEADLINE`; the artifact ``evaluation.json`` has all of them.
    """
    run.log_metrics(headline(metrics), {"evaluate.profile": metrics["profile"]})
    if "test/elbo" in metrics:
        promote_champion(run, metrics["dataset"])
    _log_json(run, "evaluation.json", metrics)
    for path in files:
        run.log_file(path)
    describe(run)


def _log_json(run: Run, name: str, values: Values) -> None:
    run.log_text(name, json.dumps(rounded(values), indent=2) + "\n")


def log_figures(run: Run, folder: str, files: Iterable[Path]) -> None:
    """Log figures into a folder of the run's artifacts."""
    for path in files:
        run.log_file(path, folder)


def log_claims(run: Run, claims: Mapping[str, Values]) -> None:
    """Log the ledger of claims as the artifact ``claims.json``, and how many have which verdict as a tag."""
    verdicts = Counter(entry["verdict"] for entry in claims.values())
    run.set_tags({"claims": ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())})
    _log_json(run, "claims.json", claims)


def describe(run: Run) -> None:
    """Write the description on the run's page (its result, the model, and the command to train it again) and the model's card."""

    def write() -> None:
        record = run.held
        if {"model.name", "seed"} <= record.params.keys() and "dataset" in record.tags:  # which a user may delete
            run.set_tags({NOTE: describe_run(record)})
            if model_id := record.model_id:
                run.attempt(lambda client, _: logged_model.describe(client, model_id, model_card(record, f"models:/{model_id}")))

    if run.alive:
        run.when_quick("description", write)


def promote_champion(run: Run, dataset: str) -> None:
    """Point the alias ``champion`` of the model ``latent-spaces-DATASET`` at the run with the best ELBO on its test images.

    The runs are those of the experiment of ``run``, of the same version of the data and the same likelihood, without which the
    numbers do not compare; evaluations on all test images take precedence over others. A champion that no other run beats stays,
    also when its run was deleted. One of an older version of the data gives way, one of another likelihood stays.
    """

    def rank(record: Record) -> tuple[str, float]:
        elbo = record.number("test/elbo")
        return record.tags.get("evaluate.profile", ""), -math.inf if elbo is None else elbo  # "full" after "fast"

    def kind(entity: Any) -> tuple[Any, Any]:
        return entity.data.tags.get("data.md5"), entity.data.params.get("likelihood")

    def stays(champion: Any, winner: Any) -> bool:
        # A run of an earlier version may lack its likelihood, one of another program both; they compare with all.
        differs = [None not in pair and pair[0] != pair[1] for pair in zip(kind(champion), kind(winner), strict=True)]
        if differs[0]:
            return bool(champion.info.start_time > winner.info.start_time)
        return differs[1] or rank(Record.of(champion)) >= rank(Record.of(winner))

    def promote(client: Client, run_id: str) -> None:
        name, own = f"{EXPERIMENT}-{dataset}", client.get_run(run_id)
        (data_md5, likelihood), experiment = kind(own), own.info.experiment_id
        elbo = HEADLINE["test/elbo"]
        scored = f"tags.dataset = '{dataset}' and metrics.{elbo} <= 1e308"  # of runs that have it
        scored += f" and tags.`data.md5` = '{data_md5}'" if data_md5 else ""
        scored += f" and params.likelihood = '{likelihood}'" if likelihood else ""
        order = ["tags.`evaluate.profile` DESC", f"metrics.{elbo} DESC"]  # "full" before "fast"
        best = client.search_runs([experiment], scored, order_by=order, max_results=1)
        winner = Record.of(best[0]) if best else None
        if winner is None or winner.model_id is None:
            return
        registered: list[Any] = client.search_registered_models(f"name = '{name}'")
        if not registered:
            about = f"Models of {dataset}. The alias `{CHAMPION}` has the best ELBO on the test images, `{elbo}`."
            registered = [client.create_registered_model(name, tags={"dataset": dataset, "metric": elbo}, description=about)]
        if alias := registered[0].aliases.get(CHAMPION):
            held = f"attributes.run_id = '{client.get_model_version(name, alias).run_id}'"
            every = load_mlflow().entities.ViewType.ALL
            champions = client.search_runs([experiment], held, run_view_type=every)
            if any(champion.info.run_id != winner.id and stays(champion, best[0]) for champion in champions):
                return
        versions = [found for found in client.search_model_versions(f"name = '{name}'") if found.run_id == winner.id]
        source = f"models:/{winner.model_id}"
        tags = {key: winner.tags.get(key, "") for key in ("dataset", "role", "evaluate.profile")}
        tags |= {elbo: f"{winner.number('test/elbo'):.6g}", "model": winner.params.get("model.name", "")}
        version = (versions or [client.create_model_version(name, source, winner.id, tags, model_id=winner.model_id)])[0]
        card = model_card(winner, f"models:/{name}/{version.version}")
        if version.description != card:
            for key, value in tags.items() - version.tags.items():
                client.set_model_version_tag(name, version.version, key, value)
            logged_model.log_numbers(client, winner.id, winner.model_id)
            client.update_model_version(name, version.version, card)  # last: where it is, a killed process has left nothing out
        if alias != version.version:
            client.set_registered_model_alias(name, CHAMPION, version.version)

    run.when_quick("champion", lambda: run.attempt(promote, num_requests=20))
