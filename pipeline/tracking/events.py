"""What is logged to MLflow at each step of a model's life, by the stages and by sync, and the champion of each data set."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from pipeline.data import Shape
from pipeline.storage import flatten, numbers
from pipeline.tracking.logged_model import INPUT
from pipeline.tracking.run import EXPERIMENT, MODEL_MD5, NOTE, Client, Record, Run

Values = Mapping[str, Any]
CHAMPION = "champion"


def label(settings: Values) -> str:
    """Return the name of a run, with the hidden sizes of its encoder and the latent dimensions.

    >>> label({"model.name": "vae", "model.hidden_dims": [512, 256], "model.latent_dim": 2, "beta": 4.0, "seed": 1})
    'vae 512-256-2 beta=4 seed=1'
    """
    widths = "-".join(map(str, [*settings["model.hidden_dims"], settings["model.latent_dim"]]))
    parts = [f"{key}={settings[key]:g}" for key in ("beta", "seed") if key in settings]
    return " ".join([settings["model.name"], widths, *parts])


def log_training_start(run: Run, settings: Values, dataset: str, data: str | Path, data_md5: str, shape: tuple[int, ...]) -> None:
    """Log the params of a training, and its data set with the shape ``[N, C, H, W]`` of the training images."""
    run.log_params(settings)
    run.log_data(dataset, data, data_md5, shape)


def log_training_end(
    run: Run, settings: Values, summary: Values, weights_md5: str, image_shape: Shape, history: Path | None, weights: Path | None
) -> None:
    """Log the numbers of a training's summary and, where given, its history and weights."""
    run.set_tags({MODEL_MD5: weights_md5})
    run.log_metrics(numbers(flatten(summary)))
    if history:
        run.log_file(history)
    if weights:
        run.log_model(weights, settings["model.name"], image_shape, settings["model.latent_dim"])
        run.log_file(weights)
    describe(run)


def log_evaluation(run: Run, metrics: Values, files: Iterable[Path]) -> None:
    """Log a flat metrics file, its ``profile``, and files; promote the model if it is now the best of its ``dataset``."""
    run.set_tags({"evaluate.profile": metrics["profile"]})
    run.log_metrics(numbers(metrics))
    if "test/elbo" in metrics:
        promote_champion(run, metrics["dataset"])
    for path in files:
        run.log_file(path)
    describe(run)


def log_figures(run: Run, folder: str, files: Iterable[Path]) -> None:
    """Log figures into a folder of the run's artifacts."""
    for path in files:
        run.log_file(path, folder)


def log_claims(run: Run, claims: Mapping[str, Values]) -> None:
    """Log the verdict of each claim."""
    run.set_tags({f"claim.{name}": entry["verdict"] for name, entry in claims.items()})


def describe(run: Run) -> None:
    """Write the description on the run's page, in Markdown: the model, its main metrics, and the command to train it again."""
    run.when_quick("description", lambda: _describe(run))


def _describe(run: Run) -> None:
    record = run.record()
    if not record or not {"model.name", "seed"} <= record.params.keys():
        return
    params, metrics, name = record.params, record.metrics, record.params["model.name"]
    values = {"data.name": record.tags["dataset"], **params}
    keys = {key: key.replace("model.", f"{name}.", 1) for key in sorted(values) if key != "model.name"}
    again = "".join(f" -S {quote(f'{keys[key]}={values[key]}'.replace(' ', ''))}" for key in keys)
    shape = f"{params['model.latent_dim']} latent dimensions, hidden layers {params['model.hidden_dims']}"
    beta = f", β = {params['beta']}" if "beta" in params else ""
    validation = f"validation, epoch {metrics.get('best/epoch', 0):g} of {metrics.get('epochs', 0):g}"
    test, rows = f"test images ({record.tags.get('evaluate.profile', '')})", ""
    for images, prefix in ((validation, "best/val/"), (test, "test/")):
        recon, kl = (metrics.get(f"{prefix}{term}") for term in ("recon", "kl"))
        if recon is not None:
            terms = [recon, kl, None if kl is None else -(recon + kl)]
            rows += f"| {images} | {' | '.join('' if term is None else f'{term:.2f}' for term in terms)} |\n"
    note = f"""\
**{name.upper()}** of **{record.tags["dataset"]}**: {shape}{beta}, seed {params["seed"]}.

| nats per image | reconstruction | KL | ELBO (β = 1) |
|---|--:|--:|--:|
{rows}
Train it again:

    dvc exp run{again}"""
    run.set_tags({NOTE: note})


def promote_champion(run: Run, dataset: str) -> None:
    """Point the alias ``champion`` of the model ``latent-spaces-DATASET`` at the run with the best ELBO on its test images.

    The runs are those of the experiment of ``run``; evaluations on all test images take precedence over others.
    """

    def promote(client: Client, run_id: str) -> None:
        name, experiment = f"{EXPERIMENT}-{dataset}", client.get_run(run_id).info.experiment_id
        scored = f"tags.dataset = '{dataset}' and metrics.`test/elbo` < 0"
        order = ["tags.`evaluate.profile` DESC", "metrics.`test/elbo` DESC"]  # "full" before "fast"
        best = client.search_runs([experiment], scored, order_by=order, max_results=1)
        winner = Record.of(best[0]) if best else None
        if winner is None or winner.model_id is None:
            return
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description=f"Models of {dataset}; `{CHAMPION}` has the best test ELBO. {INPUT}")
        versions = [found for found in client.search_model_versions(f"name = '{name}'") if found.run_id == winner.id]
        source = f"models:/{winner.model_id}"
        version = (versions or [client.create_model_version(name, source, winner.id, model_id=winner.model_id)])[0]
        client.set_registered_model_alias(name, CHAMPION, version.version)

    run.when_quick("champion", lambda: run.attempt(promote, num_requests=10))
