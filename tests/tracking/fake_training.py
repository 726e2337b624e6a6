"""A stand-in for a training: it writes the files that a training writes and logs what a training logs, in milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data import load_dataset
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.params import Params
from pipeline.storage import md5, save_csv, save_metrics
from pipeline.tracking import events, store
from pipeline.tracking.pages import label


def settings(name: str, params: Params) -> dict[str, Any]:
    """Return the params that decide a training, flat, as they are logged to MLflow."""
    values: dict[str, Any] = {"seed": params.seed, "data.val_size": params.data.val_size, "model.name": name}
    values |= {f"train.{key}": value for key, value in params.train.model_dump().items()}
    values |= {f"model.{key}": value for key, value in getattr(params, name).model_dump().items()}
    return values | ({"beta": params.beta} if name == "vae" else {})


def history(name: str, params: Params) -> list[dict[str, float]]:
    """Return the metrics of each epoch, which depend on the params."""
    kl = {"val/kl": 2.0 / (1.0 + params.beta)} if name == "vae" else {}
    rows = []
    for epoch in range(1, getattr(params, name).epochs + 1):
        recon = 30.0 + 10.0 / epoch + params.seed
        rows.append({"epoch": epoch, "train/loss": recon - 1.0, "val/loss": recon + sum(kl.values()), "val/recon": recon, **kl})
    return rows


def train(name: str, params: Params, data: Path, out: Path, metrics: Path, role: str = "main") -> None:
    """Write weights, history and summary of a model, and log one MLflow run."""
    values, section, dataset = settings(name, params), getattr(params, name), load_dataset(data)
    config = ModelConfig(name, section.net, dataset.train.shape, section.latent_dim, tuple(section.hidden_dims))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        trained = Trained(config.build(), config, dataset.name, values.get("beta"))
    tags = {
        "dataset": dataset.name,
        "data.md5": md5(data),
        "source.sha256": "0",
        "device": "cpu",
        "threads": "1",
        "torch": "0",
        "role": role,
    }
    with store.start(label(values), tags) as run:
        events.log_training_start(run, values, dataset.name, data, md5(data), dataset.train.pixels.shape)
        rows = history(name, params)
        for row in rows:
            run.log_epoch(row | {"samples_per_second": 1000.0}, float(row["epoch"]))
        run.log_grid("samples", np.zeros((8, *dataset.train.shape)), len(rows))
        weights, table = out / f"{name}.safetensors", metrics / f"{name}_history.csv"
        save_weights(weights, trained)
        save_csv(table, rows)
        summary = {"epochs": len(rows), "best": rows[-1]}
        save_metrics(metrics / f"{name}_train.json", summary)
        events.log_training_end(run, values, summary, md5(weights), dataset.train.shape, table, weights)
