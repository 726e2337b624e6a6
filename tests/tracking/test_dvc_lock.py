"""The version of a data set of one's own is the md5 that DVC has for its images."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.datasets.own import KINDS
from pipeline.tracking.dvc_lock import OWN, version_here

PREPARED, IMAGES = "a" * 32, "b" * 32 + ".dir"


def lock(**params: str) -> None:
    """Write a lock file of a download that read images."""
    deps = [
        {"path": "images/photos/", "hash": "md5", "md5": IMAGES},
        {"path": "pipeline/data.py", "hash": "md5", "md5": "c" * 32},
    ]
    stage: dict[str, Any] = {"cmd": "python -m stages.download", "deps": deps}
    stage |= {"params": {"params.yaml": {f"data.{key}": value for key, value in params.items()}}}
    stage |= {"outs": [{"path": "data/dataset.safetensors", "hash": "md5", "md5": PREPARED}]}
    YAML().dump({"schema": "2.0", "stages": {"download": stage}}, Path("dvc.lock"))


@pytest.mark.usefixtures("workspace")
def test_the_version_is_that_of_the_images_if_they_are_your_own() -> None:
    assert version_here(PREPARED) == PREPARED, "without a lock file"
    for name in OWN:
        lock(name=name, path="images/photos/")
        assert version_here(PREPARED) == IMAGES
        assert version_here("d" * 32) == "d" * 32, "another prepared file"
    lock(name="mnist", path="images/photos/")
    assert version_here(PREPARED) == PREPARED
    Path("dvc.lock").write_text("<<<<<<<")
    assert version_here(PREPARED) == PREPARED


def test_the_names_are_those_of_the_data_sets() -> None:
    assert set(OWN) == KINDS.keys()
