"""What can be known before any work is refused before any work, in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT


def validate(folder: Path, changes: dict[str, Any]) -> tuple[int, str]:
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = params
        for name in sections:
            section = section[name]
        section[last] = value
    yaml.dump(params, folder / "params.yaml")
    np.save(folder / "small.npy", np.zeros((5, 6, 6), bool))
    command = [sys.executable, "-c", "from stages import run; from stages.validate import main; run(main)"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    return done.returncode, done.stderr


CONV: dict[str, Any] = {"vae.net": "conv", "vae.hidden_dims": [8, 8, 8]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"data.name": "mnits"},
            "data.name: 'mnits' is not a data set; allowed are mnist, fashion_mnist, kmnist, digits, fo",
        ),
        ({"data.name": "folder", "data.path": "absent"}, "data.path: absent: no such file or folder; data.name: folder needs"),
        ({"data.name": "folder", "data.path": "params.yaml"}, "data.path: params.yaml: a file; data.name: folder needs a folder"),
        ({"data.name": "arrays", "data.path": "."}, "data.path: .: a folder; data.name: arrays needs a file"),
        (CONV | {"data.name": "folder", "data.path": ".", "data.image.size": 36}, "32 x 32 or 40 x 40"),
        (CONV | {"data.name": "arrays", "data.path": "small.npy"}, "images of 6 x 6"),
        (CONV, "images of 28 x 28"),
        ({"ae.net": "cnn"}, "ae.net: 'cnn' is not allowed"),
    ],
)
def test_a_mistake_is_refused_in_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    code, err = validate(tmp_path, changes)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err


@pytest.mark.parametrize(
    "changes", [{}, CONV | {"data.name": "folder", "data.path": ".", "data.image.size": 64}, {"data.path": "absent"}]
)
def test_what_fits_passes_and_a_path_that_is_not_read_does_not_matter(changes: dict[str, Any], tmp_path: Path) -> None:
    assert validate(tmp_path, changes) == (0, "")
