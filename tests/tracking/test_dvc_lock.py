"""The version of a data set of one's own is the md5 that DVC has for its images."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.datasets.own import KINDS
from pipeline.errors import IntegrityError
from pipeline.tracking.dvc_lock import OWN, Stage, digest, parse, read, read_locked, version_here

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


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        ("", "empty"),
        ("1", "not a lock file with the schema 2.0"),
        ("schema: '1.0'", "not a lock file with the schema 2.0"),
        ("schema: '2.0'\nstages: []", "not a lock file with the schema 2.0"),
        ("a: [", "not valid YAML: expected the node content, but found '<stream end>'"),
        ("[" * 1000, "not valid YAML: nested too deeply"),
        ("a\n=======\nb", "a merge left its marks in it"),
        (">>>>>>> other", "a merge left its marks in it"),
        ("schema: '2.0'\nstages: {a: 1}", "the entry a is not that of a stage"),
        ("schema: '2.0'\nstages: {a: {deps: []}}", "the entry a is not that of a stage"),
        ("schema: '2.0'\nstages: {a: {cmd: x, params: []}}", "the entry a is not that of a stage"),
        ("schema: '2.0'\nstages: {a: {cmd: x, outs: [1]}}", "the entry a is not that of a stage"),
        ("schema: '2.0'\nstages: {a: {cmd: x, deps: [{path: 1}]}}", "the entry a is not that of a stage"),
        ("schema: '2.0'\nstages: {a: {cmd: x, deps: [{path: b, hash: md5}]}}", "the entry a is not that of a stage"),
        ("schema: '2.0'\nstages: {a: {cmd: x, deps: [{path: b, md5: ../c}]}}", "the entry a is not that of a stage"),
    ],
)
def test_a_lock_file_that_is_none_is_refused_with_what_is_wrong(lock: str, said: str, workspace: Path) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse(lock.encode())
    (workspace / "dvc.lock").write_text(lock)
    with pytest.raises(IntegrityError) as refused:
        read("dvc.lock")
    cure = "`git checkout HEAD -- dvc.lock` brings the committed one back, else delete it and run `dvc repro`"
    assert str(refused.value) == f"dvc.lock: {said}; {cure}"


def test_a_lock_file_may_have_no_stages_and_stages_neither_files_nor_params() -> None:
    assert parse(b"schema: '2.0'") == []
    others = "[{path: a}, {path: b, md5: null, hash: other}]"
    assert parse(f"schema: '2.0'\nstages: {{1: {{cmd: [x], deps: {others}}}}}".encode()) == [Stage("1", "", {}, {}, {})]


@pytest.mark.usefixtures("workspace")
def test_a_locked_file_is_read_with_its_own_bytes_alone() -> None:
    with pytest.raises(IntegrityError, match=r"^dvc.lock: no such file; run `dvc repro`$"):
        read("dvc.lock")
    Path("data").mkdir()
    for text in ("right", "wrong"):
        Path("data/file").write_text(text)
        assert read_locked("data/file") == text.encode(), "without a lock file"
        entry = f"{{cmd: x, outs: [{{path: data/file, hash: md5, md5: {digest(b'right')}}}]}}"
        Path("dvc.lock").write_text(f"schema: '2.0'\nstages: {{a: {entry}}}")
        if text == "right":
            assert read_locked("data/file") == b"right"
            Path("dvc.lock").unlink()
    with pytest.raises(IntegrityError, match=r"^data/file: not the file of dvc.lock; delete it and run `dvc repro`$"):
        read_locked("data/file")


def test_the_weights_are_those_that_the_command_names_else_the_least_deep_and_the_last_option_counts() -> None:
    outs = dict.fromkeys(("models/a/b/vae.safetensors", "models/vae.safetensors", "ae.safetensors", "vae.csv"), "1")
    assert Stage("a", "train", {}, {}, outs, ("vae",)).weights == "models/vae.safetensors"
    assert Stage("a", "train", {}, {}, outs).weights == "ae.safetensors"
    assert Stage("a", "train", {}, {}, {"vae.csv": "1"}).weights == ""
    stage = Stage("a", "train", {}, {}, {}, ("--data", "x", "--out", "y", "--data=z=1"))
    assert [stage.option(name, "default") for name in ("data", "out", "params")] == ["z=1", "y", "default"]
    deps = {"b.safetensors": "1", "data/dataset.safetensors": "2", "c.csv": "3"}
    assert Stage("a", "train", {}, deps, {}).data == ("data/dataset.safetensors", "2")
    assert Stage("a", "train", {}, {"b.safetensors": "1"}, {}).data == ("b.safetensors", "1")
    assert Stage("a", "train", {}, {"c.csv": "3"}, {}).data is None
