"""Every figure, for every shape of latent space."""

import csv
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import combinations
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pipeline import tracking
from pipeline.errors import IntegrityError
from pipeline.figures import FIGURES, Page, draw, png
from pipeline.figures.history import best_epoch
from pipeline.figures.images import grid_values
from pipeline.figures.latent import project, spread_out
from pipeline.figures.style import CLASS_COLORS
from pipeline.results import Results, save_results
from stages.figures import main

DIMENSIONS = (1, 2, 3, 16)
PLANES = {"manifold", "manifold_quantiles"}
ABSENT = {1: {*PLANES, "traversals"}, 2: {"traversals"}, 3: PLANES, 16: PLANES}


def make(model="vae", dimensions=2, beta=4.0, points=60, size=(8, 6), classes=10, grid=5):
    """Results of random pictures; those of a manifold are grey by where they lie: 0.1 more a column, 0.01 more a row up."""
    random = np.random.default_rng(dimensions)
    labels = np.arange(points) % classes

    def pictures(*shape):
        return random.random((*shape, *size), dtype=np.float32)

    grey = 0.1 * np.arange(grid) + 0.01 * np.arange(grid)[::-1, None]
    plane = np.broadcast_to(grey[..., None, None], (grid, grid, *size)).astype(np.float32)
    nothing = np.zeros((0, 0, *size), np.float32)
    return Results(
        dataset="digits",
        model=model,
        beta=beta,
        codes=random.normal(labels[:, None], 0.3, (points, dimensions)).astype(np.float32),
        labels=labels,
        spread=np.full((points, dimensions), 0.1, np.float32),
        inputs=np.linspace(0, 1, 12 * size[0] * size[1], dtype=np.float32).reshape(12, *size),
        reconstructions=pictures(12),
        samples=pictures(16),
        manifold_range=plane if dimensions == 2 else nothing,
        manifold_quantiles=plane if dimensions == 2 else nothing,
        interpolations=pictures(3, 7),
        traversals=pictures(dimensions, 7) if dimensions > 2 else nothing,
    )


def history(kl=True, epochs=6):
    columns = {"epoch": range(1, epochs + 1)}
    for split in ("train", "val"):
        for term in ("loss", "recon", "kl") if kl else ("loss", "recon"):
            columns[f"{split}/{term}"] = [100.0 + (epoch - 4) ** 2 for epoch in columns["epoch"]]
    return pd.DataFrame(columns)


def two(dimensions=2):
    models = {"ae": make("ae", dimensions, None), "vae": make("vae", dimensions)}
    return Page(models, {"ae": history(kl=False), "vae": history()}, points=50)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


@cache
def drawn(name, dimensions=2):
    page = two(dimensions) if dimensions in (2, 3) else Page({"vae": make("vae", dimensions)}, {"vae": history()})
    figure = draw(name, page)
    return figure, figure and png(figure, dpi=50)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_or_has_nothing_to_show_and_names_data_and_beta(name, dimensions):
    figure, content = drawn(name, dimensions)
    if name in ABSENT[dimensions]:
        assert figure is None
        return
    image = Image.open(BytesIO(content))
    assert min(image.size) > 80
    assert image.info == {}, "no date, no version"
    assert "digits" in texts(figure)
    assert "β = 4" in texts(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_equal_results_give_equal_bytes(name):
    dimensions = 3 if name == "traversals" else 2
    assert drawn(name, dimensions)[1] == png(draw(name, two(dimensions)), dpi=50)


@pytest.mark.parametrize(("name", "count"), [*((name, 4) for name in FIGURES), ("traversals", 1)])
def test_any_number_of_models_is_laid_out(name, count):
    models = {f"model{i}": make(f"model{i}", 2 + i % 2, classes=3, size=(5, 9)) for i in range(count)}
    page = Page(models, dict.fromkeys(models, history(epochs=1)))
    figure = draw(name, page)
    assert (figure is None) == (name == "traversals" and count == 1)
    if figure:
        shown = {"traversals": (3,)}.get(name, (2,) if name in PLANES else (2, 3))
        for results in models.values():
            assert (results.model in texts(figure)) == (results.codes.shape[1] in shown)
        assert png(figure, 50)


def test_a_user_own_settings_change_nothing():
    import matplotlib as mpl

    expected = drawn("latent")[1]
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "black", "savefig.dpi": 300}):
        assert png(draw("latent", two()), 50) == expected
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", ["manifold", "manifold_quantiles"])
def test_the_picture_at_a_tick_is_the_one_decoded_there(name):
    ax = drawn(name)[0].axes[0]
    (sheet,) = ax.get_images()
    left, right, bottom, top = sheet.get_extent()
    pixels, values = sheet.get_array(), grid_values(5, quantiles=name != "manifold")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")

    def number(label):
        return float(label.get_text().replace("\N{MINUS SIGN}", "-"))

    def steps(label):  # how many pictures from the left, or from below, the label's value is
        return np.interp(number(label), values, np.arange(5))

    assert len(ax.get_xticks()) >= 3
    for x, across in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
        for y, upward in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
            column = int((x - left) / (right - left) * pixels.shape[1])
            row = int((y - top) / (bottom - top) * pixels.shape[0])
            expected = 0.1 * np.floor(steps(across) + 0.5) + 0.01 * np.ceil(steps(upward) - 0.5)
            assert pixels[row, column] == pytest.approx(expected, abs=1e-6)


def test_grid_values_are_symmetric_and_the_quantiles_those_of_the_normal():
    np.testing.assert_allclose(grid_values(20, quantiles=False)[[0, -1]], [-3, 3])
    quantiles = grid_values(20, quantiles=True)
    np.testing.assert_allclose(quantiles, -quantiles[::-1], atol=1e-12)
    assert quantiles[-1] == pytest.approx(1.959964, abs=1e-6)  # 97.5 %


def test_tiles_put_each_picture_at_its_row_and_column():
    page, (ax,) = two(), drawn("reconstructions")[0].axes
    sheet = np.asarray(ax.get_images()[0].get_array())
    rows = [page.models["ae"].inputs, page.models["ae"].reconstructions, page.models["vae"].reconstructions]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["test image", "AE", "VAE, β = 4"]
    for row, images in enumerate(rows):
        np.testing.assert_array_equal(sheet[12 * row + 2 : 12 * row + 10, 10 * 3 + 2 : 10 * 3 + 8], images[3])


def test_more_than_two_dimensions_are_seen_through_principal_components():
    random = np.random.default_rng(0)
    codes = random.normal(size=(500, 2)) @ [[5.0, 0, 0, 0, 0], [0, 0, 0, -2.0, 0]] + 7
    results = replace(make(dimensions=5), codes=codes, labels=np.arange(500) % 10)
    xy, (xlabel, _) = project(results, 500)
    np.testing.assert_allclose(np.abs(xy - xy.mean(0)).max(0), np.abs(codes - codes.mean(0)).max(0)[[0, 3]], rtol=0.1)
    assert "8" in xlabel, "25 of 29 parts of the variance"
    assert project(replace(results, codes=np.ones((500, 5))), 500)[0].shape == (500, 2), "a collapsed space has a picture too"


def test_one_dimension_is_spread_out_by_class():
    results = make(dimensions=1)
    xy, _ = project(results, 30)
    assert xy.shape == (30, 2)
    np.testing.assert_array_equal(np.round(xy[:, 1]), results.labels[:30])


def test_numbers_of_classes_at_one_place_are_moved_apart():
    places = spread_out(np.zeros((10, 2)), np.array([1.0, 3.0])) / [1.0, 3.0]
    assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) > 0.8


def test_the_best_epoch_has_the_lowest_validation_loss():
    assert best_epoch(history()) == 3
    dots = [line for line in drawn("history")[0].axes[0].get_lines() if line.get_marker() == "o"]
    assert [tuple(np.ravel(dot.get_data())) for dot in dots] == [(4, 100), (4, 100)]
    assert draw("history", Page({"vae": make()})) is None


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009).
EYES = {
    "usual": np.eye(3),
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def oklab(linear):
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    cones += [[0.0883024619, 0.2817188376, 0.6299787005]]
    lab = [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099]]
    lab += [[0.0259040371, 0.7827717662, -0.8086757660]]
    return np.cbrt(np.clip(linear, 0, 1) @ np.transpose(cones)) @ np.transpose(lab)


@pytest.mark.parametrize("eyes", EYES)
def test_neighbouring_digits_are_told_apart_by_every_eye(eyes):
    rgb = np.array([to_rgb(color) for color in CLASS_COLORS.colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = oklab(linear @ np.transpose(EYES[eyes]))

    def apart(a, b):
        return np.linalg.norm(seen[a] - seen[b])

    assert min(apart(a, b) for a, b in combinations(range(10), 2)) > 0.06
    assert min(apart(a, b) for a, b in [(4, 9), (4, 7), (7, 9), (3, 5), (3, 8), (5, 8)]) > 0.2


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown figure 'scater'; allowed are overview, history"):
        draw("scater", two())
    with pytest.raises(IntegrityError, match="no results"):
        Page({})
    other = make("ae")
    with pytest.raises(IntegrityError, match="vae and ae were evaluated on different images"):
        Page({"ae": other, "vae": replace(other, inputs=other.inputs + 1)})


def test_drawing_needs_neither_torch_nor_mlflow_nor_pyplot():
    code = "import sys, pipeline.figures; print({'torch', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


class Logged(tracking.Run):
    """A run that only remembers the files it is given."""

    def __init__(self):
        super().__init__()
        self.files = set()

    def log_file(self, path, folder=None):
        self.files.add(f"{folder}/{path.name}")


@pytest.fixture
def runs(monkeypatch):
    """The MLflow runs by the md5 of their weights, in place of a store."""
    found = defaultdict(Logged)
    monkeypatch.setattr(tracking, "find", found.__getitem__)
    return found


@pytest.fixture
def evaluated(tmp_path):
    for name, results in two().models.items():
        save_results(tmp_path / "results" / f"{name}.safetensors", replace(results, weights_md5=f"md5 of {name}"))
    (tmp_path / "metrics").mkdir()
    for name, table in two().histories.items():
        table.to_csv(tmp_path / "metrics" / f"{name}_history.csv", index=False)
    params = (Path(__file__).parents[1] / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(
        params.replace("scatter_points: 1000", "scatter_points: 50").replace("dpi: 110", "dpi: 50")
    )
    return tmp_path


def stage(folder, *options):
    places = {"--params": "params.yaml", "--results": "results", "--metrics": "metrics", "--out": "figures"}
    arguments = [part for option, place in places.items() for part in (option, str(folder / place))]
    main.main([*arguments, *options], standalone_mode=False)


def test_the_stage_writes_figures_and_scatters_and_removes_what_no_longer_applies(evaluated, runs, capsys, monkeypatch):
    for name in set(FIGURES) - {"samples", "latent", "traversals"}:  # the others are drawn above
        monkeypatch.delitem(FIGURES, name)
    (evaluated / "figures").mkdir()
    (evaluated / "figures" / "traversals.png").write_bytes(b"of an earlier run")
    stage(evaluated)
    written = {path.name for path in (evaluated / "figures").iterdir()}
    assert written == {f"{name}.png" for name in FIGURES if name != "traversals"}
    assert (evaluated / "figures" / "samples.png").read_bytes() == drawn("samples")[1]
    assert len(capsys.readouterr().out.splitlines()) == len(FIGURES)
    with open(evaluated / "metrics" / "vae_latent.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    results = two().models["vae"]
    np.testing.assert_allclose([[float(row["z1"]), float(row["z2"])] for row in rows], results.codes[:50], rtol=1e-5)
    assert [int(row["label"]) for row in rows] == list(results.labels[:50])
    assert list(rows[0]) == ["z1", "z2", "label"]
    assert {name: run.files for name, run in runs.items()} == {
        f"md5 of {name}": {f"figures/{file}" for file in {*written, f"{name}_latent.csv"}} for name in ("ae", "vae")
    }


def test_the_stage_draws_one_figure_and_names_what_is_missing(evaluated, runs):
    stage(evaluated, "--only", "samples")
    assert [path.name for path in (evaluated / "figures").iterdir()] == ["samples.png"]
    with pytest.raises(click.UsageError, match="same name"):
        stage(evaluated, "--results", str(evaluated / "results" / "ae.safetensors"))
    with pytest.raises(click.BadParameter, match="'overview', 'history'"):
        stage(evaluated, "--only", "scater")
    (evaluated / "metrics" / "ae_history.csv").unlink()
    with pytest.raises(IntegrityError, match=r"ae_history\.csv: no readable training history"):
        stage(evaluated)
    (evaluated / "results" / "ae.safetensors").unlink()
    (evaluated / "results" / "vae.safetensors").unlink()
    with pytest.raises(IntegrityError, match="no results"):
        stage(evaluated)
