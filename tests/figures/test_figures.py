"""Every figure, for every shape of latent space, of images and of labels."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import IntegrityError
from pipeline.figures import FIGURES, Page, draw, png
from pipeline.figures.claims import claims_figure
from pipeline.figures.images import grid_values
from tests.figures.figure_examples import history, make, texts, two

DIMENSIONS = (1, 2, 3, 16)
PLANES = {"manifold", "manifold_quantiles", "holes", "magnification"}
ABSENT = {1: {*PLANES, "traversals"}, 2: {"traversals"}, 3: PLANES, 16: PLANES}
NEED_LABELS = {"holes", "samplers"}


@cache
def drawn(name, dimensions=2):
    page = two(dimensions) if dimensions in (2, 3) else Page({"vae": make("vae", dimensions)}, {"vae": history()})
    figure = draw(name, page)
    return figure, figure and png(figure, dpi=50)


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_drawn_or_none_and_names_dataset_and_beta(name, dimensions):
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


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize("name", FIGURES)
def test_color_images_without_labels_are_drawn(name, dimensions):
    figure = draw(name, two(dimensions, shape=(3, 5, 4), classes=None))
    assert (figure is None) == (name in ABSENT[dimensions] | NEED_LABELS)
    if figure:
        assert png(figure, 40)
        assert not {"digit", "class"} & set(texts(figure).splitlines()), "no color bar"


@pytest.mark.parametrize("name", FIGURES)
def test_results_with_no_arrays_draw_nothing_but_their_history(name):
    bare = Page({"vae": replace(make(), arrays={})}, {"vae": history()})
    assert (draw(name, bare) is None) == (name != "history")


@pytest.mark.parametrize(("name", "count"), [*((name, 4) for name in FIGURES), ("traversals", 1)])
def test_any_number_of_models_is_laid_out(name, count):
    models = {f"model{i}": make(f"model{i}", 2 + i % 2, classes=3, shape=(1, 5, 9)) for i in range(count)}
    page = Page(models, dict.fromkeys(models, history(epochs=1)))
    figure = draw(name, page)
    assert (figure is None) == (name == "traversals" and count == 1)
    if figure:
        shown = {"traversals": (3,)}.get(name, (2,) if name in PLANES else (2, 3))
        for results in models.values():
            assert (results.model in texts(figure)) == (results["codes"].shape[1] in shown)
        assert png(figure, 50)


def test_user_settings_of_matplotlib_change_nothing():
    import matplotlib as mpl

    expected = drawn("latent")[1]
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "black", "savefig.dpi": 300}):
        assert png(draw("latent", two()), 50) == expected
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", ["manifold", "manifold_quantiles"])
def test_image_at_a_tick_of_the_manifold_is_the_one_decoded_there(name):
    ax = drawn(name)[0].axes[0]
    (sheet,) = ax.get_images()
    left, right, bottom, top = sheet.get_extent()
    pixels, values = sheet.get_array(), grid_values(5, quantiles=name != "manifold")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")

    def number(label):
        return float(label.get_text().replace("\N{MINUS SIGN}", "-"))

    def steps(label):  # how many images from the left, or from below, the label's value is
        return np.interp(number(label), values, np.arange(5))

    assert len(ax.get_xticks()) >= 3
    for x, across in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
        for y, upward in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
            column = int((x - left) / (right - left) * pixels.shape[1])
            row = int((y - top) / (bottom - top) * pixels.shape[0])
            expected = 0.1 * np.floor(steps(across) + 0.5) + 0.01 * np.ceil(steps(upward) - 0.5)
            assert pixels[row, column] == pytest.approx(expected, abs=1e-6)


def test_manifold_quantiles_are_symmetric_and_those_of_the_normal():
    np.testing.assert_allclose(grid_values(20, quantiles=False)[[0, -1]], [-3, 3])
    quantiles = grid_values(20, quantiles=True)
    np.testing.assert_allclose(quantiles, -quantiles[::-1], atol=1e-12)
    assert quantiles[-1] == pytest.approx(1.959964, abs=1e-6)  # 97.5 %


def test_reconstructions_lie_below_their_test_images():
    page, (ax,) = two(), drawn("reconstructions")[0].axes
    sheet = np.asarray(ax.get_images()[0].get_array())
    rows = [page.models["ae"]["inputs"], page.models["ae"]["reconstructions"], page.models["vae"]["reconstructions"]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["test image", "AE", "VAE, β = 4"]
    for row, images in enumerate(rows):
        np.testing.assert_array_equal(sheet[12 * row + 2 : 12 * row + 10, 10 * 3 + 2 : 10 * 3 + 8], images[3, 0])


def test_samplers_are_named_with_their_frechet_distance():
    said = texts(drawn("samplers")[0])
    assert "N(0, I), Fréchet distance 12.3" in said
    assert "mixture of 10, Fréchet distance 4.0" in said


def test_hardest_images_show_only_the_kinds_that_occur():
    said = texts(drawn("hardest_images")[0])
    assert "VAE on digits, β = 4: largest error" in said
    assert "taken for another class" not in said, "the classifier is right about all of them"


def test_map_of_holes_has_a_line_at_confidence_of_80_percent():
    ax = drawn("holes")[0].axes[0]
    assert [list(lines.levels) for lines in ax.collections if hasattr(lines, "levels")] == [[0.8]]
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array(), two().models["ae"]["confidence_map"])
    assert tuple(image.get_extent()) == (-3, 3, -5, 5)


def test_best_epoch_has_the_lowest_validation_loss():
    dots = [line for line in drawn("history")[0].axes[0].get_lines() if line.get_marker() == "o"]
    assert [tuple(np.ravel(dot.get_data())) for dot in dots] == [(4, 100), (4, 100)]
    assert draw("history", Page({"vae": make()})) is None


def test_claims_figure_names_each_claim_and_places_its_estimate():
    about = {"claim": "VAEs are smooth", "metric": "tortuosity", "sampler": "pairs", "threshold": 1.0}
    entries = {
        "smooth": {**about, "verdict": "holds", "estimate": 2.0, "low": 1.5, "high": 3.0},
        "other": {**about, "verdict": "inconclusive", "note": "not measured"},
    }
    figure = claims_figure(entries)
    assert "VAEs are smooth (smooth)" in texts(figure)
    assert "inconclusive   not measured" in texts(figure)
    (dot,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert tuple(np.ravel(dot.get_data())) == (0.5, 0), "half as far from the threshold as the end of the interval"
    assert png(figure, 40) == png(claims_figure(entries), 40)


def test_unknown_names_and_different_test_images_are_refused():
    with pytest.raises(ValueError, match="unknown figure 'scater'; allowed are overview, history"):
        draw("scater", two())
    with pytest.raises(IntegrityError, match="no results"):
        Page({})
    other = make("ae")
    changed = replace(other, arrays=other.arrays | {"inputs": other["inputs"] + 1})
    with pytest.raises(IntegrityError, match="vae and ae were evaluated on different images"):
        Page({"ae": other, "vae": changed})


def test_drawing_imports_neither_torch_nor_mlflow_nor_pyplot():
    code = "import sys, pipeline.figures.claims; print({'torch', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
