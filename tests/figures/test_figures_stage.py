"""The stage that draws the figures."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from pipeline.errors import IntegrityError
from pipeline.evaluation.results import save_results
from pipeline.figures import FIGURES, draw, png
from pipeline.tracking import events, store
from stages.figures import main
from tests.figures.figure_examples import make, two

ROOT = Path(__file__).parents[2]


@pytest.fixture
def logged(monkeypatch):
    """The files logged to each run, by the md5 of its weights, in place of a store."""
    files = {}
    monkeypatch.setattr(store, "find", lambda md5: md5)
    monkeypatch.setattr(
        events, "log_figures", lambda run, folder, paths: files.setdefault((run, folder), {path.name for path in paths})
    )
    return files


@pytest.fixture
def evaluated(tmp_path):
    """A folder with results and histories of two models."""
    for name, results in two().models.items():
        save_results(tmp_path / "results" / f"{name}.safetensors", results)
    (tmp_path / "metrics").mkdir()
    for name, table in two().histories.items():
        table.to_csv(tmp_path / "metrics" / f"{name}_history.csv", index=False)
    params = (ROOT / "params.yaml").read_text()
    for given, fewer in (("scatter_points: 1000", "scatter_points: 50"), ("dpi: 110", "dpi: 50")):
        assert given in params
        params = params.replace(given, fewer)
    (tmp_path / "params.yaml").write_text(params)
    return tmp_path


def stage(folder, *options):
    places = {"--params": "params.yaml", "--results": "results", "--metrics": "metrics", "--out": "figures"}
    arguments = [part for option, place in places.items() for part in (option, str(folder / place))]
    main.main([*arguments, *options], standalone_mode=False)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_figures_and_scatter_points_are_written_logged_and_stale_ones_removed(evaluated, logged, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.figures.FIGURES", {name: FIGURES[name] for name in ("samples", "latent", "traversals")})
    (evaluated / "figures").mkdir()
    (evaluated / "figures" / "traversals.png").write_bytes(b"of an earlier run")
    stage(evaluated)
    written = {path.name for path in (evaluated / "figures").iterdir()}
    assert written == {"samples.png", "latent.png"}
    assert (evaluated / "figures" / "samples.png").read_bytes() == png(draw("samples", two()), 50)
    assert len(capsys.readouterr().out.splitlines()) == 3
    points, results = rows(evaluated / "metrics" / "vae_latent.csv"), two().models["vae"]
    np.testing.assert_allclose([[float(row["z1"]), float(row["z2"])] for row in points], results["codes"][:50], rtol=1e-5)
    assert [int(row["label"]) for row in points] == list(results["labels"][:50])
    assert logged == {(f"md5 of {name}", "figures"): {*written, f"{name}_latent.csv"} for name in ("ae", "vae")}


def test_scatter_points_without_labels_have_two_columns(evaluated, logged):
    for name in ("ae", "vae"):
        save_results(evaluated / "results" / f"{name}.safetensors", make(name, classes=None))
    stage(evaluated, "--only", "latent")
    assert list(rows(evaluated / "metrics" / "ae_latent.csv")[0]) == ["z1", "z2"]


def test_one_figure_can_be_drawn_alone(evaluated, logged):
    stage(evaluated, "--only", "samples")
    assert [path.name for path in (evaluated / "figures").iterdir()] == ["samples.png"]


def test_mistakes_are_named(evaluated, logged):
    with pytest.raises(click.UsageError, match="same name"):
        stage(evaluated, "--results", str(evaluated / "results" / "ae.safetensors"))
    with pytest.raises(click.BadParameter, match="scater; allowed are overview, history"):
        stage(evaluated, "--only", "scater")
    (evaluated / "metrics" / "ae_history.csv").unlink()
    with pytest.raises(IntegrityError, match=r"ae_history\.csv: no readable training history"):
        stage(evaluated)
    (evaluated / "metrics" / "ae_history.csv").write_text("epoch,val/loss\n")
    with pytest.raises(IntegrityError, match="no epochs"):
        stage(evaluated)
    for path in (evaluated / "results").iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match="no results"):
        stage(evaluated)


def test_other_weights_md5_finds_another_run(evaluated, logged):
    save_results(evaluated / "results" / "ae.safetensors", replace(make("ae", beta=None), weights_md5="other"))
    stage(evaluated, "--only", "samples")
    assert {run for run, _ in logged} == {"other", "md5 of vae"}


@pytest.mark.parametrize("name", ["figures", "explorer"])
def test_help_of_a_stage_imports_nothing_heavy(name):
    code = f"import sys, stages.{name}; print({{'torch', 'mlflow', 'matplotlib', 'numpy', 'pandas'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n"
