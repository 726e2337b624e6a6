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
from pipeline.figures.claims import REACH, claims_figure
from pipeline.figures.images import grid_values
from pipeline.params import load_params
from tests.conftest import ROOT
from tests.figures.figure_examples import history, make, texts, two

DIMENSIONS = (1, 2, 3, 16)
PLANES = {"manifold", "holes", "magnification"}
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


@pytest.mark.parametrize(("panel", "steps_are"), [(0, "even steps"), (3, "steps of equal probability under N(0, I)")])
def test_image_at_a_tick_of_the_manifold_is_the_one_decoded_there(panel, steps_are):
    ax = drawn("manifold")[0].axes[panel]
    (sheet,) = ax.get_images()
    left, right, bottom, top = sheet.get_extent()
    pixels, values = sheet.get_array(), grid_values(5, quantiles=panel == 3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"$z_1$, {steps_are}", "$z_2$")

    def number(label):
        return float(label.get_text().replace("\N{MINUS SIGN}", "-"))

    def steps(label):  # how many images from the left, or from below, the label's value is
        return np.interp(number(label), values, np.arange(5))

    assert len(ax.get_xticks()) >= 3
    for x, across in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True):
        for y, upward in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
            column, row = int(5 * (x - left) / (right - left)), int(5 * (y - top) / (bottom - top))
            middle = int((row + 0.5) * pixels.shape[0] / 5), int((column + 0.5) * pixels.shape[1] / 5)
            expected = 0.1 * np.floor(steps(across) + 0.5) + 0.01 * np.ceil(steps(upward) - 0.5)
            assert pixels[middle] == pytest.approx(expected, abs=1e-6)


def test_manifold_quantiles_are_symmetric_and_those_of_the_normal():
    np.testing.assert_allclose(grid_values(20, quantiles=False)[[0, -1]], [-3, 3])
    quantiles = grid_values(20, quantiles=True)
    np.testing.assert_allclose(quantiles, -quantiles[::-1], atol=1e-12)
    assert quantiles[-1] == pytest.approx(1.959964, abs=1e-6)  # 97.5 %


def test_reconstructions_lie_below_their_test_images():
    page, (ax,) = two(), drawn("reconstructions")[0].axes
    sheet, gap = np.asarray(ax.get_images()[0].get_array()), 3
    rows = [page.models["ae"]["inputs"], page.models["ae"]["reconstructions"], page.models["vae"]["reconstructions"]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["test image", "AE", "VAE, β = 4"]
    for row, images in enumerate(rows):
        top, left = row * (8 + 2 * gap) + gap, 3 * (6 + 2 * gap) + gap
        np.testing.assert_array_equal(sheet[top : top + 8, left : left + 6], images[3, 0])


def test_interpolations_lie_between_the_two_real_images():
    results, ax = two().models["ae"], drawn("interpolation")[0].axes[0]
    width, sheet = 6 + 2 * 3, np.asarray(ax.get_images()[0].get_array())
    row = [results["interpolation_ends"][0, 0], *results["interpolations"][0], results["interpolation_ends"][0, 1]]
    for column, image in enumerate(row):
        np.testing.assert_array_equal(sheet[3:11, column * width + 3 : column * width + 9], image[0])
    assert [tick.get_text() for tick in ax.get_xticklabels()][::2] == ["real", "real"]


def test_samplers_are_named_with_their_frechet_distance_and_that_of_real_images():
    said = texts(drawn("samplers")[0])
    assert {"N(0, I): 12.3", "mixture of 10: 4.0"} <= set(said.splitlines())
    assert "lower is closer (real images: 0.15)" in said


@pytest.mark.parametrize("count", [1, 4, 9, 19])
def test_samples_are_drawn_for_fewer_than_twenty_test_images(count):
    page = two(2)
    for results in page.models.values():
        results.arrays["sample_images"] = results["sample_images"][:, :count]
    shown = draw("samplers", page)
    assert "mixture of 10: 4.0" in texts(shown)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_at_most_900_pixels_wide_with_the_shipped_params(name):
    dpi = load_params(ROOT / "params.yaml").figures.dpi
    width_at_50 = Image.open(BytesIO(drawn(name, 3 if name == "traversals" else 2)[1])).width
    assert 400 < width_at_50 * dpi / 50 <= 900


def test_hardest_images_show_only_the_kinds_that_occur():
    said = texts(drawn("hardest_images")[0])
    assert "VAE on digits, β = 4: largest error" in said
    assert "taken for another class" not in said, "the classifier is right about all of them"


def test_map_of_holes_is_darkest_where_the_classifier_is_least_sure_and_shows_the_image_there():
    ax = drawn("holes")[0].axes[0]
    (image,) = ax.get_images()
    dark, light = image.cmap(image.norm([0.3, 1.0]))[:, :3].mean(1)
    assert dark < light - 0.4
    (inset,) = ax.child_axes
    assert inset.get_title() == "confidence 0.34"
    np.testing.assert_array_equal(np.asarray(inset.get_images()[0].get_array())[3:11, 3:9], two().models["ae"]["hole_image"][0])
    (line,) = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    assert line.xy == pytest.approx((3, 5))
    np.testing.assert_array_equal(image.get_array(), two().models["ae"]["confidence_map"])
    assert tuple(image.get_extent()) == (-3, 3, -5, 5)


def test_best_epoch_has_the_lowest_validation_loss():
    dots = [line for line in drawn("history")[0].axes[0].get_lines() if line.get_marker() == "o"]
    assert [tuple(np.ravel(dot.get_data())) for dot in dots] == [(4, 100), (4, 100)]
    assert draw("history", Page({"vae": make()})) is None


def test_claims_figure_names_each_claim_and_places_its_estimate():
    about = {"claim": "VAEs are smooth", "metric": "tortuosity", "sampler": "pairs", "threshold": 1.0}
    about |= {"below": "AE is smoother", "above": "VAE is smoother"}
    measured = {"verdict": "holds", "says": "holds in this training", "estimate": 2.0, "low": 1.5, "high": 5.0}
    entries = {
        "smooth": about | measured,
        "smooth/ae_depth_matched": about | measured | {"low": 0.0, "estimate": 0.5, "verdict": "fails", "high": 0.9},
        "other": about | {"verdict": "inconclusive", "says": "inconclusive", "note": "not measured"},
    }
    figure = claims_figure(entries, ["Only one seed."])
    said = texts(figure).splitlines()
    assert [
        said.count(words) for words in ("VAEs are smooth", "tortuosity; pairs", "AE is smoother", "holds in this training")
    ] == [*(1, 2, 2, 2)]
    assert {"Only one seed.", "inconclusive: not measured", "2", "0.5"} <= set(said)
    assert not any("ae_depth_matched" in line for line in said), "words, no ids"
    ax = figure.axes[0]
    dots = {line.get_marker(): np.ravel(line.get_data()) for line in ax.get_lines() if line.get_marker() in ("o", "D")}
    (axis, *_) = [
        line.get_xdata()[0] for line in ax.get_lines() if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert dots["o"][0] - axis == pytest.approx(REACH / 4), "a quarter as far from the threshold as the end of the interval"
    assert dots["D"][0] - axis == pytest.approx(-REACH / 8), "on the scale of its test"
    assert dots["D"][1] > dots["o"][1]
    assert png(figure, 40) == png(claims_figure(entries, ["Only one seed."]), 40)
    command = "`dvc exp run -P`"
    assert any(
        command in line for line in texts(claims_figure(entries, [f"{'x ' * 55}{command}"])).replace("\xa0", " ").splitlines()
    )
    assert Image.open(BytesIO(png(figure, 110))).width <= 900


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
