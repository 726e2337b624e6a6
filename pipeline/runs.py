"""What MLflow is told about a model, said once: the stages log by it, and sync rebuilds by it from DVC's files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from pipeline import tracking
from pipeline.tracking import Record, Run


def label(settings: Mapping[str, Any]) -> str:
    """Return the name of a run, with the widths of its encoder down to the code.

    >>> label({"model.name": "vae", "model.hidden_dims": [512, 256], "model.latent_dim": 2, "beta": 4.0, "seed": 1})
    'vae 512-256-2 beta=4 seed=1'
    """
    widths = "-".join(map(str, [*settings["model.hidden_dims"], settings["model.latent_dim"]]))
    parts = [f"{key}={settings[key]:g}" for key in ("beta", "seed") if key in settings]
    return " ".join([settings["model.name"], widths, *parts])


def began(run: Run, settings: Mapping[str, Any], dataset: str, data: str | Path, data_md5: str, shape: tuple[int, ...]) -> None:
    """Log what a training starts from: its params, and the data set with the shape of its training images."""
    run.log_params(settings)
    run.log_data(dataset, data, data_md5, shape, "training")


def trained(
    run: Run,
    settings: Mapping[str, Any],
    summary: Mapping[str, float],
    weights_md5: str,
    input_dim: int,
    history: Path | None,
    weights: Path | None,
) -> None:
    """Log what a training made: its summary and, where they are at hand, history and weights."""
    run.set_tags({tracking.MODEL_MD5: weights_md5})
    run.log_metrics(summary)
    if history:
        run.log_file(history)
    if weights:
        run.log_file(weights)
        run.log_model(weights, settings["model.name"], input_dim, settings["model.latent_dim"])
    describe(run)


def evaluated(run: Run, profile: str, numbers: Mapping[str, float], dataset: str, files: Iterable[Path]) -> None:
    """Log what was measured on the test images, and see whether this model is now the best."""
    run.set_tags({"evaluate.profile": profile})
    run.log_metrics(numbers)
    for path in files:
        run.log_file(path)
    describe(run)
    if "test/elbo" in numbers:
        run.crown(dataset)


def drawn(run: Run, folder: str, files: Iterable[Path]) -> None:
    """Log the figures of a stage into the folder named after it."""
    for path in files:
        run.log_file(path, folder)


def judged(run: Run, ledger: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the verdicts of the claims ledger."""
    run.set_tags({f"claim.{name}": entry["verdict"] for name, entry in ledger.items()})


def reproduce(record: Record) -> str:
    """Return the command that trains the run's model again."""
    name = record.params["model.name"]
    values = {"data.name": record.tags["dataset"], **record.params}
    keys = {key: key.replace("model.", f"{name}.", 1) for key in values if key != "model.name"}
    return "dvc exp run" + "".join(f" -S {quote(f'{keys[key]}={values[key]}'.replace(' ', ''))}" for key in sorted(keys))


def note(record: Record) -> str:
    """Return what MLflow shows on a run's page, in Markdown: what the run is, its key numbers, how to make it again."""
    params, metrics = record.params, record.metrics
    shape = f"{params['model.latent_dim']} latent dimensions, hidden layers {params['model.hidden_dims']}"
    beta = f", β = {params['beta']}" if "beta" in params else ""
    rows = []
    for name, prefix in {
        f"validation, epoch {metrics.get('best/epoch', 0):g} of {metrics.get('epochs', 0):g}": "best/val/",
        f"test images ({record.tags.get('evaluate.profile', '')})": "test/",
    }.items():
        recon, kl = (metrics.get(f"{prefix}{term}") for term in ("recon", "kl"))
        if recon is not None:
            numbers = [recon, kl, None if kl is None else -(recon + kl)]
            rows.append(f"| {name} | " + " | ".join("" if n is None else f"{n:.2f}" for n in numbers) + " |")
    return "\n".join(
        [
            f"**{params['model.name'].upper()}** of **{record.tags['dataset']}**: {shape}{beta}, seed {params['seed']}.",
            "",
            "| nats per image | reconstruction | KL | ELBO (β = 1) |",
            "|---|--:|--:|--:|",
            *rows,
            "",
            "Train it again:",
            "",
            f"    {reproduce(record)}",
        ]
    )


def describe(run: Run) -> None:
    """Write the run's note from what the run holds."""
    record = run.record()
    if record and {"model.name", "seed"} <= record.params.keys():
        run.set_tags({tracking.NOTE: note(record)})
