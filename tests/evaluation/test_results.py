"""Results in a file, and what reads them without torch."""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import Dataset, save_dataset
from pipeline.errors import IntegrityError
from pipeline.evaluation.results import Results, load_results, save_results
from tests.conftest import ROOT, craft
from tests.figures.figure_examples import make


def test_results_round_trip(tmp_path: Path):
    results = Results("mnist", "vae_larger_beta", 4.0, 2, ["prior"], "md5", {"codes": np.ones((3, 2), np.float32)})
    save_results(tmp_path / "file", results)
    loaded = load_results(tmp_path / "file")
    assert replace(loaded, arrays={}) == replace(results, arrays={})
    assert np.array_equal(loaded["codes"], results["codes"])
    assert "labels" not in loaded
    assert loaded.title == "vae larger beta on MNIST, β = 4"


def test_other_files_are_refused(dataset: Dataset, tmp_path: Path):
    save_dataset(tmp_path / "data", dataset)
    with pytest.raises(IntegrityError, match="not results"):
        load_results(tmp_path / "data")


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": float("nan")},
        {"beta": -1.0},
        {"beta": "x"},
        {"seed": "x"},
        {"samplers": "prior"},
        {"samplers": ["prior"]},
        {"weights_md5": None},
        {"codes": np.zeros((60, 3), np.float32)},
        {"codes": np.zeros(60, np.float32)},
        {"codes": np.full((60, 2), np.nan, np.float32)},
        {"labels": np.zeros(60)},
        {"labels": np.zeros(3, np.int64)},
        {"inputs": np.zeros((12, 1, 9, 6), np.float32)},
        {"reconstructions": np.zeros((11, 1, 8, 6), np.float32)},
        {"worst": np.zeros((3, 10, 1, 8, 6), np.float32)},
        {"pair_entropy": np.zeros((2, 2))},
        {"more": np.zeros(1)},
    ],
    ids=lambda wrong: str({name: np.shape(value) or value for name, value in wrong.items()}),
)
def test_crafted_results_are_refused(wrong: dict, tmp_path: Path):
    save_results(tmp_path / "r", make())
    assert load_results(tmp_path / "r").model == "vae"
    craft(tmp_path / "r", wrong)
    with pytest.raises(IntegrityError, match="r: not results of this version"):
        load_results(tmp_path / "r")


@pytest.mark.parametrize(("label", "allowed"), [(-1, False), (0, True), (65535, True), (65536, False)])
@pytest.mark.parametrize("name", ["labels", "image_predicted_class"])
def test_labels_of_results_are_those_of_a_data_set(name: str, label: int, allowed: bool, tmp_path: Path):
    save_results(tmp_path / "r", make())
    craft(tmp_path / "r", {name: np.full(60, label)})
    with nullcontext() if allowed else pytest.raises(IntegrityError, match=f"{name}: not those of a data set"):
        assert (load_results(tmp_path / "r")[name] == label).all()


def test_results_and_ledger_do_not_load_torch():
    script = "import sys, pipeline.evaluation.results, pipeline.claims.ledger; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).strip() == "False"


def test_results_of_more_dimensions_than_are_traversed_can_be_read(tmp_path: Path):
    arrays = {"codes": np.zeros((5, 64), np.float32), "traversals": np.zeros((32, 3, 1, 4, 4), np.float32)}
    save_results(tmp_path / "a.safetensors", Results("digits", "vae", 1.0, 1, [], "0" * 32, arrays))
    assert load_results(tmp_path / "a.safetensors")["traversals"].shape == (32, 3, 1, 4, 4)
