"""Where codes are drawn, and in which colors."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pipeline.figures import Page, draw
from pipeline.figures.latent import class_places, classes, project
from pipeline.figures.style import CLASS_COLORS, tiles
from tests.figures.figure_examples import make, texts


def with_codes(codes):
    results = make(dimensions=codes.shape[1])
    return replace(results, arrays=results.arrays | {"codes": codes, "labels": np.arange(len(codes)) % 10})


def test_more_than_two_dimensions_are_drawn_through_principal_components():
    random = np.random.default_rng(0)
    codes = random.normal(size=(500, 2)) @ [[5.0, 0, 0, 0, 0], [0, 0, 0, -2.0, 0]] + 7
    xy, (xlabel, _) = project(with_codes(codes), 500)
    np.testing.assert_allclose(np.abs(xy - xy.mean(0)).max(0), np.abs(codes - codes.mean(0)).max(0)[[0, 3]], rtol=0.1)
    assert "8" in xlabel, "25 of 29 parts of the variance"
    assert project(with_codes(np.ones((500, 5))), 500)[0].shape == (500, 2), "a collapsed space has a figure too"


def test_two_dimensions_are_drawn_as_they_are():
    results = make()
    np.testing.assert_array_equal(project(results, 40)[0], results["codes"][:40])


def test_one_dimension_is_spread_out_by_class():
    results = make(dimensions=1)
    xy, names = project(results, 30)
    assert names == ["$z_1$", "digit"]
    np.testing.assert_array_equal(xy[:, 0], results["codes"][:30, 0])
    np.testing.assert_array_equal(np.round(xy[:, 1]), results["labels"][:30])
    assert np.abs(project(make(dimensions=1, classes=None), 30)[0][:, 1]).max() < 0.5, "one strip without labels"


def test_class_numbers_at_one_place_are_moved_apart():
    places = class_places(np.zeros((10, 2)), np.arange(10), np.array([1.0, 3.0])) / [1.0, 3.0]
    assert min(np.linalg.norm(a - b) for a, b in combinations(places, 2)) > 0.8


LABELS = {str(number): range(number) for number in (1, 4, 10, 11, 26, 300)}
LABELS |= {"one to 26": range(1, 27), "codes of letters": range(65, 91), "with gaps": (-1, 3, 7, 10**9), "one alone": (5000,)}


def labeled(labels, **options):
    results = make(points=max(60, len(labels)), classes=len(labels), **options)
    return replace(results, arrays=results.arrays | {"labels": np.array(labels)[results["labels"]]})


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("labels", LABELS)
def test_each_class_has_its_own_color_name_and_place_in_the_color_bar(labels, dimensions):
    labels = LABELS[labels]
    results = labeled(labels, dimensions=dimensions)
    found, number = classes(results), len(labels)
    assert found.names == [str(label) for label in labels]
    assert found.colors.N == len(set(found.colors.colors)) == number
    assert number > 10 or found.colors.colors == CLASS_COLORS[:number]
    panel, bar = draw("latent", Page({"vae": results})).axes
    assert bar.get_ylim() == (-0.5, number - 0.5)
    assert 0 < len(bar.get_yticks()) <= 30
    assert [label.get_text() for label in bar.get_yticklabels()] == found.names[:: -(-number // 30)]
    shown = panel.get_yticklabels() if dimensions == 1 else panel.texts
    assert set(found.names if number <= 30 or dimensions > 1 else found.names[::10]) <= {text.get_text() for text in shown}


def test_a_digit_keeps_its_color_where_another_one_is_missing():
    found = classes(labeled((0, 2, 7)))
    assert found.colors.colors == CLASS_COLORS[:8]
    assert set(found.numbers) == {0, 2, 7}


def test_codes_without_labels_have_one_color_and_no_numbers():
    results = make(classes=None)
    figure = draw("latent", Page({"vae": results}))
    (panel,) = figure.axes
    assert {text.get_text() for text in panel.texts} == {"1σ", "2σ", "3σ of the prior"}
    assert len(np.unique(panel.collections[0].get_facecolor(), axis=0)) == 1


def test_prior_is_drawn_only_for_models_that_have_one():
    assert "3σ of the prior" in texts(draw("latent", Page({"vae": make()})))
    assert "3σ of the prior" not in texts(draw("latent", Page({"ae": make("ae", beta=None)})))


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_put_each_image_at_its_row_and_column(channels):
    images = np.random.default_rng(0).random((2, 3, channels, 4, 5))
    ax = Figure().subplots()
    assert tiles(ax, images, gap=1) == pytest.approx(2 * 6 / (3 * 7))
    sheet = np.asarray(ax.get_images()[0].get_array())
    tile = np.moveaxis(images[1, 2], 0, -1) if channels == 3 else images[1, 2, 0]
    np.testing.assert_array_equal(sheet[7:11, 15:20], tile)
    paper = 0 if channels == 1 else 1  # gray images are ink: 0 is white
    assert (sheet[6] == paper).all()


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009).
VISION = {
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


@pytest.mark.parametrize("vision", VISION)
def test_colors_of_neighboring_digits_differ_in_every_kind_of_color_vision(vision):
    rgb = np.array([to_rgb(color) for color in CLASS_COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = oklab(linear @ np.transpose(VISION[vision]))

    def distance(a, b):
        return np.linalg.norm(seen[a] - seen[b])

    assert min(distance(a, b) for a, b in combinations(range(10), 2)) > 0.06
    assert min(distance(a, b) for a, b in [(4, 9), (4, 7), (7, 9), (3, 5), (3, 8), (5, 8)]) > 0.2
