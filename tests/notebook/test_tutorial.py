"""The tutorial in two languages: built from its source, with outputs of the code as it is, and it runs from top to bottom."""

import base64
import json
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from notebooks import build
from pipeline.notebook import load_params
from tests.conftest import ROOT

HINT = "`python -m notebooks.build` writes the notebooks from tutorial.py"


@pytest.fixture(params=build.NOTEBOOKS)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def committed(language: str) -> NotebookNode:
    return nbformat.read(build.NOTEBOOKS[language], as_version=4)


def test_each_notebook_is_built_from_the_source(language: str) -> None:
    assert build.with_outputs(language, committed("en")) == committed(language), HINT


def test_outputs_are_those_of_the_code_as_it_is(language: str) -> None:
    assert committed(language).metadata["made_from"]["code"] == build.digest(build.source(language)), HINT


def test_both_languages_have_a_text_at_the_same_places() -> None:
    kinds = [[cell.cell_type for cell in build.source(language).cells] for language in build.NOTEBOOKS]
    assert kinds[0] == kinds[1]
    texts = [
        [cell.source for cell in build.source(language).cells if cell.cell_type == "markdown"] for language in build.NOTEBOOKS
    ]
    for english, portuguese in zip(*texts, strict=True):
        assert english != portuguese
        assert re.findall(r"^#+|^\$\$.*|^\d+\.", english, re.MULTILINE) == re.findall(
            r"^#+|^\$\$.*|^\d+\.", portuguese, re.MULTILINE
        )


def test_outputs_are_small_and_of_types_that_every_viewer_shows(language: str) -> None:
    assert build.NOTEBOOKS[language].stat().st_size < 1.5e6
    outputs = [output for cell in build.code(committed(language)) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output.data for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 8
    assert all(picture.keys() == {"image/png"} for picture in pictures)
    for picture in pictures:
        assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")


def test_numbers_are_those_of_the_pipeline() -> None:
    made_from = committed("en").metadata["made_from"]
    if made_from["params"] != build.recipe(load_params(ROOT / "params.yaml")):
        pytest.skip("params.yaml has another recipe than the notebook's; `python -m notebooks.build --run` renews its outputs")
    metrics = json.loads((ROOT / "metrics/vae.json").read_text())
    if metrics["dataset"] != "mnist":
        pytest.skip("metrics/ is of another data set than the notebook")
    outputs = [output for cell in build.code(committed("en")) for output in cell.outputs if "data" in output]
    text = "\n".join(output["data"].get("text/plain", "") for output in outputs)
    rows = dict(re.findall(r"^(-ELBO|KL|reconstruction, sampled) +(-?[\d.]+) +-?[\d.]+$", text, re.MULTILINE))
    shown = {name: float(value) for name, value in rows.items()}
    expected = {"-ELBO": -metrics["test/elbo"], "KL": metrics["test/kl"], "reconstruction, sampled": metrics["test/recon"]}
    assert shown == pytest.approx(expected, abs=1)  # another type of CPU rounds otherwise, and training carries that on


def test_tutorial_runs_and_shows_each_figure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK", "1")
    tutorial = build.source("en")
    NotebookClient(tutorial, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(build.HERE)}}).execute()
    for cell in build.code(tutorial):
        shown = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        drawn = len(re.findall(r"^plot_|^visualize_latent_space|plt\.subplots\(", cell.source, re.MULTILINE))
        assert shown == drawn, cell.source
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
