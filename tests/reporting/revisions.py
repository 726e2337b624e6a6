"""A small repository of real revisions with hand-written metrics, and what changes it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.cli import main

RULES = """
same: [data/name, data/train/sha256]
metrics:
  vae/test/elbo: {better: higher, tolerance: 0.5}
  vae/sample_quality/frechet_distance: {better: lower, tolerance: 1, optional: true}
"""
DVC_YAML = """
params: [params.yaml]
metrics: [metrics/data.json, metrics/vae.json]
plots:
  - metrics/figures
  - metrics/vae_history.csv
  - loss:
      x: epoch
      y: {metrics/vae_history.csv: [train/loss, val/loss]}
"""
ELBO = np.random.default_rng(0).normal(0, 8, 400)
ELBO += -140 - ELBO.mean()


def write(path: str, content: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content))


def write_metrics(elbo: float = -140.0, **more: Any) -> None:
    write("metrics/vae.json", {f"test/{key}": value for key, value in {"elbo": elbo, **more}.items()})


def write_images(elbo: np.ndarray, labels: np.ndarray | None = None) -> None:
    Path("results").mkdir(exist_ok=True)
    table = pd.DataFrame({"label": np.arange(len(elbo)) % 10 if labels is None else labels, "elbo": elbo})
    table.to_parquet("results/vae_images.parquet")


def write_picture(name: str, color: str) -> None:
    Path("metrics/figures").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), color).save(f"metrics/figures/{name}.png")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def commit(message: str) -> None:
    run("git", "add", "--all")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", message)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result
