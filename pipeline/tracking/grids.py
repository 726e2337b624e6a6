"""Grids of images as MLflow's charts show them, several in one call: MLflow's own ``log_image`` makes five calls for each."""

import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

if TYPE_CHECKING:
    import mlflow

FOLDER = "images"
TAG = {"mlflow.loggedImages": "True"}
"""The tag of a run by which MLflow's pages look for grids."""
_THUMBNAIL = 256, 256


def file_name(key: str, step: int) -> str:
    """Return a file name, without its ending, that says key and step."""
    return f"{key}+step+{step}+timestamp+{round(time.time() * 1000)}+{uuid4()}"


def held(paths: Iterable[str]) -> set[tuple[str, int]]:
    """Return key and step of each file, also of MLflow 3.16 and earlier.

    >>> held(["images/samples%step%5%timestamp%1%a.png"]), held(["images/samples+step+10+timestamp+1+b.png"])
    ({('samples', 5)}, {('samples', 10)})
    """
    names = (re.split(r"\W+", Path(path).name) for path in paths)
    return {(name[0], int(name[2])) for name in names if name[1:2] == ["step"]}


def log(client: "mlflow.MlflowClient", run_id: str, pictures: Mapping[str, np.ndarray]) -> None:
    """Log pictures by their file names, each with a small copy that MLflow's charts show first."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for name, picture in pictures.items():
            image = Image.fromarray(picture)
            image.save(f"{folder}/{name}.png")
            image.thumbnail(_THUMBNAIL)
            image.save(f"{folder}/{name}+compressed.webp")
        client.log_artifacts(run_id, folder, FOLDER)
