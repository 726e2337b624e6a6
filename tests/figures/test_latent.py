"""Where codes are drawn, and in which colors."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pipeline.figures import Page, draw, png
from pipeline.figures.latent import MAX_TICKS, class_places, classes, project
from pipeline.figures.style import CLASS_COLORS, distinct_colors, is_ink, tiles
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


def clouds(number, spread, heavy=False, points=40):
    """Codes of classes in a circle of clouds; heavy tails make a crowd in the middle, as an autoencoder's codes do."""
    random = np.random.default_rng(number)
    numbers = np.repeat(np.arange(number), points)
    angle = 2 * np.pi * numbers / number
    codes = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if heavy:
        codes *= random.exponential(1, len(codes))[:, None] ** 3
    return codes + random.normal(0, spread, codes.shape), numbers


CLOUDS = {
    "apart": clouds(10, 0.2),
    "mixed": clouds(10, 2.0),
    "spread as an autoencoder's": clouds(10, 0.5, heavy=True),
    "26 apart": clouds(26, 0.1),
    "26 mixed": clouds(26, 1.0),
    "26 spread": clouds(26, 0.5, heavy=True),
    "all at one place": (np.zeros((60, 2)), np.arange(60) % 10),
    "one image": (np.ones((1, 2)), np.array([3])),
    "on a line": (np.linspace(0, 1, 100)[:, None] * [1, 0], np.arange(100) // 10),
}


@pytest.mark.parametrize("crafted", CLOUDS)
def test_the_name_of_a_class_stands_on_a_point_of_it_or_has_a_line_to_one(crafted):
    xy, numbers = CLOUDS[crafted]
    distance = np.maximum(0.06 * np.ptp(xy, axis=0), 1e-9)
    places, anchors = class_places(xy, numbers, distance)
    for number, place, anchor in zip(np.unique(numbers), places, anchors, strict=True):
        assert np.linalg.norm((xy[numbers == number] - anchor) / distance, axis=1).min() < 1e-6
        away = np.linalg.norm((xy - place) / distance, axis=1)
        if (place == anchor).all():
            near = numbers[away < 0.5]
            assert 2 * np.count_nonzero(near == number) > len(near), "in its own cloud"
        elif not np.isnan(place).any():
            assert away.min() > 0.5, "in no cloud"
    written = [place / distance for place in places if not np.isnan(place).any()]
    assert all(np.linalg.norm(a - b) >= 1 - 1e-9 for a, b in combinations(written, 2))
    if "apart" in crafted:
        assert (places == anchors).all(), "no lines where each cloud has room for its name"
        assert [int(numbers[np.linalg.norm(xy - place, axis=1).argmin()]) for place in places] == list(range(len(places)))
    elif "place" not in crafted:
        assert len(written) == len(places), "there is room for all names"


@pytest.mark.parametrize("number", [10, 26])
def test_the_figure_has_a_line_and_a_dot_for_each_name_outside_its_cloud(number):
    xy, numbers = clouds(number, 4.0, points=100)
    results = make(beta=None)
    results = replace(results, arrays=results.arrays | {"codes": xy, "labels": numbers, "spread": xy})
    (panel, _) = draw("latent", Page({"ae": results}, points=len(xy))).axes
    outside = 0
    for text in panel.texts:
        own = xy[numbers == int(text.get_text())]
        assert np.linalg.norm(own - text.xy, axis=1).min() < 1e-6
        if text.arrow_patch:
            outside += 1
        else:
            assert text.get_position() == pytest.approx(text.xy)
    assert outside > 0
    assert len([line for line in panel.get_lines() if line.get_marker() == "o"]) == outside


def test_axes_of_heavy_tailed_codes_are_logarithmic_outside_their_middle():
    spread, _ = clouds(10, 0.5, heavy=True)
    for codes, scale in ((spread, "symlog"), (clouds(10, 0.5)[0], "linear"), (spread + 1e4, "linear"), (0 * spread, "linear")):
        results = make(beta=None)
        results = replace(results, arrays=results.arrays | {"codes": codes, "labels": np.arange(len(codes)) % 10})
        panel = draw("latent", Page({"ae": results})).axes[0]
        assert (panel.get_xscale(), panel.get_yscale()) == (scale, scale)
        assert ("logarithmic beyond" in panel.get_xlabel()) == (scale == "symlog")
    prior = replace(results, beta=1.0, arrays=results.arrays | {"codes": spread})
    assert draw("latent", Page({"vae": prior})).axes[0].get_xscale() == "linear", "where the prior is a circle"


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
    assert 0 < len(bar.get_yticks()) <= MAX_TICKS
    assert [label.get_text() for label in bar.get_yticklabels()] == found.names[:: -(-number // MAX_TICKS)]
    shown = panel.get_yticklabels() if dimensions == 1 else panel.texts
    written = {text.get_text() for text in shown} - {"1σ", "2σ", "3σ of the prior"}
    assert written <= set(found.names)
    assert len(written) == number or number > MAX_TICKS, "as many as there is room for"
    assert number <= MAX_TICKS or not [text for text in panel.texts if getattr(text, "arrow_patch", None)]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_named_classes_are_called_by_their_names_cut_to_fit(dimensions):
    names = (*(f"Class {number}" for number in range(9)), "Ankle boot, left", "no image of it")
    results = replace(labeled((0, 3, 9), dimensions=dimensions), classes=names)
    panel, bar = draw("latent", Page({"vae": results})).axes
    assert [label.get_text() for label in bar.get_yticklabels()][-1] == "Ankle boot,…"
    assert bar.get_ylabel() == "", "the names say what they are"
    shown = panel.get_yticklabels() if dimensions == 1 else panel.texts
    assert {text.get_text() for text in shown} >= {"Class 0", "Class 3", "Ankle boot,…"}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_name_with_dollar_signs_is_no_formula(dimensions):
    names = (r"$\frac$", "$5 or $10", "c$", *map(str, range(3, 10)))
    png(draw("latent", Page({"vae": replace(labeled((0, 1, 2, 9), dimensions=dimensions), classes=names)})), 50)


def test_gray_images_are_ink_where_most_of_them_is_black():
    digits, photos = (make(shape=(1, 8, 6)) for _ in range(2))
    digits = replace(digits, arrays=digits.arrays | {"inputs": digits["inputs"] ** 8})
    colors = {}
    for name, results in {"digits": digits, "photos": photos}.items():
        (image,) = draw("reconstructions", Page({"vae": results})).axes[0].get_images()
        colors[name] = image.cmap(image.norm(1.0))[:3]
    assert colors == {"digits": (0, 0, 0), "photos": (1, 1, 1)}
    assert not is_ink(np.zeros((1, 3, 8, 8)))


def test_images_of_other_channels_are_drawn_as_their_mean():
    ax, images = Figure().subplots(), np.random.default_rng(0).random((1, 1, 4, 5, 5))
    tiles(ax, images, gap=0, ink=False)
    np.testing.assert_allclose(ax.get_images()[0].get_array(), images[0, 0].mean(0))


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
    images = np.random.default_rng(0).random((2, 3, channels, 4, 5))  # too small for a wider frame
    ax = Figure().subplots()
    assert tiles(ax, images, gap=1, ink=channels == 1) == pytest.approx(2 * 6 / (3 * 7))
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


def oklab_of(colors, vision="usual"):
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return oklab(linear @ np.transpose(VISION[vision]))


@pytest.mark.parametrize("vision", VISION)
def test_colors_of_neighboring_digits_differ_in_every_kind_of_color_vision(vision):
    seen = oklab_of(CLASS_COLORS, vision)

    def distance(a, b):
        return np.linalg.norm(seen[a] - seen[b])

    assert min(distance(a, b) for a, b in combinations(range(10), 2)) > (0.2 if vision == "usual" else 0.12)
    assert min(distance(a, b) for a, b in [(4, 9), (4, 7), (7, 9), (3, 5), (3, 8), (5, 8), (0, 6)]) > 0.22


def test_26_colors_are_far_apart_and_dark_enough_for_white_paper():
    seen = oklab_of(distinct_colors(26))
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.1
    assert seen[:, 0].max() < 0.86


def test_tiles_that_reach_their_edge_have_a_wider_frame():
    ax, images = Figure().subplots(), np.ones((1, 2, 1, 16, 16))
    assert tiles(ax, images, gap=1, ink=True) == pytest.approx((16 + 2 * 3) / (2 * (16 + 2 * 3)))
    images[..., [0, -1], :] = 0
    assert np.asarray(tiles(ax, images, gap=1, ink=True)) == pytest.approx(0.5)
    assert ax.get_images()[-1].get_array().shape == (18, 36)
