"""What the explorer's modes show, compared with torch, and its views, filter and tour."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from pipeline.models.weights import load_weights
from tests.explorer.explorer_examples import LABELS, images
from tests.explorer.opened import decoded

MODELS = ("ae", "vae")
TILES = "[...cards[{}].section.querySelectorAll('.strip canvas')].map((canvas) => Array.from(canvas.getContext('2d')"
TILES += ".getImageData(0, 0, 28, 28).data).filter((_, i) => i % 4 === 0))"


@cache
def read(path):
    return load_weights(path).model


def model(page, name):
    return read(page.folder / f"models/{name}.safetensors")


def mode(page, name):
    page.driver.find_element(By.CSS_SELECTOR, f"label[for=mode-{name}]").click()
    page.frame()


def press(page, selector):
    page.driver.find_element(By.CSS_SELECTOR, selector).click()
    page.frame()


def same(drawn, expected):
    """Gray levels on a light page against intensities."""
    np.testing.assert_allclose(drawn, 255 * (1 - np.array(expected)), rtol=0, atol=0.6)


def test_nearest_test_image_stands_beside_its_reconstruction(opened):
    page = opened(2)
    for x, y in ((-60, 40), (80, -100)):
        page.hover(1, x, y)
        near = page("cards[1].near")
        distances = np.linalg.norm(np.array(page("cards[1].codes.map((code) => Array.from(code))")) - page.point(1), axis=1)
        assert near == distances.argmin()
        for card, name in enumerate(MODELS):
            found = {part: page(f"Array.from(cards[{card}].{part})") for part in ("source", "recon")}
            np.testing.assert_allclose(found["source"], images()[near].flatten() / 255, atol=1e-6)
            expected = decoded(model(page, name), page(f"Array.from(cards[{card}].codes[{near}])"))
            np.testing.assert_allclose(found["recon"], expected, atol=1e-4)
            for part, pixels in found.items():
                shown = (
                    f"Array.from(cards[{card}].section.querySelector('.{part}').getContext('2d').getImageData(0, 0, 28, 28).data)"
                )
                same(page(shown)[::4], pixels)


def test_posterior_draws_from_the_encoders_gaussian_again_and_again(opened):
    page = opened(2)
    mode(page, "posterior")
    with torch.no_grad():
        posterior = model(page, "vae").encode(torch.from_numpy(images() / np.float32(255)))
    drawn = []
    for _ in range(12):
        near, samples = page("cards[1].near"), np.array(page("cards[1].samples"))
        drawn.append((samples - posterior.mean[near].numpy()) / posterior.std[near].numpy())
        for tile, code in zip(page(TILES.format(1)), samples, strict=True):
            same(tile, decoded(model(page, "vae"), code))
        press(page, "#act")
    noise = np.concatenate(drawn)
    assert len(np.unique(noise)) == noise.size == 192, "other samples each time"
    assert abs(noise.mean()) < 0.25
    assert 0.8 < noise.std() < 1.2
    assert page(TILES.format(0)) == [], "an autoencoder's code is a point"


def test_ellipse_is_two_standard_deviations_of_the_posterior(opened):
    page = opened(2)
    page.driver.execute_script("window.drawn = []")
    trace = "const card = cards[1], at = (point) => (drawn.push(point), [0, 0]);"
    page.driver.execute_script(f"{trace} card.ellipse(card.plane.getContext('2d'), card.codes[3], card.spreadOf(3), '#000', at)")
    points, code = np.array(page("drawn")), page("Array.from(cards[1].codes[3])")
    away = (points - code) / page("Array.from(cards[1].spreadOf(3))")
    np.testing.assert_allclose(np.linalg.norm(away, axis=1), 2, rtol=1e-6)


def test_walk_decodes_the_straight_line_between_two_clicked_images_in_both_planes(opened):
    page = opened(2)
    mode(page, "walk")
    ends = []
    for x, y in ((-60, 40), (80, -100)):
        page.hover(1, x, y)
        ActionChains(page.driver, 0).click().perform()
        page.frame()
        ends.append(page("cards[1].near"))
    assert page("state.walk") == ends
    for card, name in enumerate(MODELS):
        a, b = (np.array(page(f"Array.from(cards[{card}].codes[{end}])")) for end in ends)
        steps = [decoded(model(page, name), a + (b - a) * t) for t in np.linspace(0, 1, 10)]
        first, *middle, last = page(TILES.format(card))
        for drawn, expected in zip(middle, steps, strict=True):
            same(drawn, expected)
        for drawn, end in ((first, ends[0]), (last, ends[1])):
            same(drawn, images()[end].flatten() / 255)
        fine = [decoded(model(page, name), a + (b - a) * t) for t in np.linspace(0, 1, 65)]
        length = sum(np.linalg.norm(one - other) for one, other in pairwise(fine))
        straight = np.linalg.norm(fine[0] - fine[-1])
        assert page(f"cards[{card}].path.length") == pytest.approx(length, rel=1e-3)
        note = page.driver.find_elements(By.CSS_SELECTOR, ".note")[card].text
        assert note == f"Path length in pixel space: {length:.1f}, {length / straight:.1f} times the distance between its ends."
    before = page("state.walk")
    press(page, "#act")
    assert page("state.walk") != before


def test_prior_decodes_the_same_normal_codes_with_each_model(opened):
    page = opened(2)
    mode(page, "prior")
    seen = []
    for _ in range(8):
        samples = page("cards.map((card) => card.samples)")
        assert samples[0] == samples[1]
        seen += samples[0]
        press(page, "#act")
    assert np.unique(seen).size == 256
    assert abs(np.mean(seen)) < 0.2
    assert 0.85 < np.std(seen) < 1.15
    for card, name in enumerate(MODELS):
        for drawn, code in zip(page(TILES.format(card)), page(f"cards[{card}].samples"), strict=True):
            same(drawn, decoded(model(page, name), code))


def draw(page, points):
    """Draw a line through points, in pixels from the canvas' middle."""
    canvas = page.driver.find_element(By.ID, "canvas")
    actions = ActionChains(page.driver, 0).move_to_element_with_offset(canvas, *points[0]).click_and_hold()
    for point in points[1:]:
        actions.move_to_element_with_offset(canvas, *point)
    actions.release().perform()
    page.frame()
    return np.array(page("Array.from(drawing.pixels)")).reshape(28, 28)


def test_a_drawing_is_scaled_and_centered_as_mnist_and_encoded_as_torch_does(opened):
    page = opened(2)
    mode(page, "draw")
    pixels = draw(page, [(-30, -40), (25, -40), (-10, 50)])
    rows, columns = np.nonzero(pixels)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (20, 21), "scaled into a square of 20, at any position between the pixels"
    middle = np.average(np.indices(pixels.shape).reshape(2, -1) + 0.5, axis=1, weights=pixels.flatten())
    np.testing.assert_allclose(middle, [14, 14], atol=0.05)
    assert 0.9 < pixels.max() <= 1
    for card, name in enumerate(MODELS):
        with torch.no_grad():
            posterior = model(page, name).encode(torch.tensor(pixels, dtype=torch.float32)[None, None])
        code = page(f"cards[{card}].own.code")
        np.testing.assert_allclose(code, posterior.mean[0], atol=1e-4)
        np.testing.assert_array_equal(page.point(card), code)
        np.testing.assert_allclose(page(f"Array.from(cards[{card}].recon)"), decoded(model(page, name), code), atol=1e-4)
        np.testing.assert_allclose(page(f"Array.from(cards[{card}].source)"), pixels.flatten(), atol=1e-7)
        expected = posterior.std[0] if name == "vae" else []
        np.testing.assert_allclose(page(f"cards[{card}].own.spread"), expected, rtol=1e-4)
    press(page, "#clear")
    assert page("drawing.pixels") is None
    assert page("cards[0].own") is None


def test_where_and_how_large_a_drawing_is_does_not_matter(opened):
    page = opened(2)
    ink = np.zeros((224, 224))
    ink[40:80, 60:70] = ink[70:80, 60:100] = 1
    moved, doubled = np.roll(ink, (90, 20), (0, 1)), np.kron(ink[:112, :112], np.ones((2, 2)))
    one, other, third = (
        page("Array.from(asMnist(arguments[0], 224, page.shape))", each.flatten().tolist()) for each in (ink, moved, doubled)
    )
    np.testing.assert_allclose(other, one, atol=1e-6)
    np.testing.assert_allclose(third, one, atol=1e-6)
    assert sum(one) == pytest.approx((40 * 10 + 30 * 10) * (20 / 40) ** 2, rel=1e-3), (
        "the ink, made as much smaller as the drawing"
    )


@pytest.mark.parametrize("kind", [2, 1, 16, "conv"])
def test_encoder_in_the_page_gives_torchs_codes_of_all_test_images(opened, kind):
    page = opened(kind)
    for card, name in enumerate(MODELS):
        found = page(f"Array.from({{length: 20}}, (_, i) => cards[{card}].model.encode(testImage(i)).code)")
        with torch.no_grad():
            expected = model(page, name).encode(torch.from_numpy(images()[:20] / np.float32(255))).mean
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", [1, 2, 16])
def test_replay_shows_the_codes_after_each_epoch(opened, kind):
    page = opened(kind)
    mode(page, "replay")
    assert page("cards[1].view === cards[1].frame && cards[1].frame === cards[1].model.replay.frame")
    final = np.array(page("Array.from(cards[1].final)")).reshape(-1, 2)[:100]
    center = np.array(page("cards[1].project(Array(cards[1].z.length).fill(0))"))
    for epoch in (0, 2, 3):
        page.slide(page.driver.find_element(By.ID, "epoch"), epoch)
        shown = np.array(page("Array.from(cards[1].places)")).reshape(-1, 2)
        expected = center + (final - center) * epoch / 3 if kind > 1 else final * (epoch / 3, 1)
        np.testing.assert_allclose(shown, expected, rtol=1e-3, atol=1e-3 * np.abs(final).max())
        note = page.driver.find_elements(By.CSS_SELECTOR, ".note")
        assert [line.text for line in note] == ["Its epochs are not in this page.", f"Epoch {epoch} of 3."]
    before = page.point(1)
    page.hover(1, 30, 60)
    np.testing.assert_array_equal(page.point(1), before, "the decoder of an earlier epoch is not in the page")
    press(page, "#play")
    page.wait("state.epoch === 3 && !MODES.replay.timer")
    mode(page, "explore")
    assert page("cards[1].places === cards[1].final && cards[1].view === cards[1].whole")


def test_decoded_plane_lies_behind_the_codes(opened):
    page = opened(2)
    press(page, "#tiles")
    for card, name in enumerate(MODELS):
        page.wait(f"cards[{card}].sheet")
        count = page(f"cards[{card}].sheet.count")
        for column, row in ((0, 0), (count - 1, 2), (3, count - 1)):
            (left, right), (bottom, top) = page(f"cards[{card}].frame")
            z = left + (column + 0.5) / count * (right - left), top - (row + 0.5) / count * (top - bottom)
            place = f"{30 * column + 1}, {30 * row + 1}, 28, 28"
            drawn = page(f"Array.from(cards[{card}].sheet.canvas.getContext('2d').getImageData({place}).data)")
            same(drawn[::4], decoded(model(page, name), z))
    press(page, "#tiles")
    assert not page("state.tiles")


def test_decoded_plane_of_color_images_keeps_their_shape(opened):
    page = opened("color")
    press(page, "#tiles")
    page.wait("cards[1].sheet")
    count = page("cards[1].sheet.count")
    (left, right), (bottom, top) = page("cards[1].frame")
    z = left + 0.5 / count * (right - left), top - 0.5 / count * (top - bottom)
    drawn = page("Array.from(cards[1].sheet.canvas.getContext('2d').getImageData(5, 1, 24, 32).data)")
    expected = 255 * decoded(model(page, "vae"), z)
    np.testing.assert_allclose(np.reshape(drawn, (-1, 4))[:, :3].ravel(), expected, atol=0.6)
    press(page, "#tiles")


def test_wheel_keys_and_buttons_zoom_and_the_place_under_the_pointer_stays(opened):
    page = opened(2)
    page.hover(0, 40, -30)
    spot = np.array(page("cards[0].spot(pointer)"))
    at = "clientX: pointer.clientX, clientY: pointer.clientY"
    wheel = f"cards[0].plane.dispatchEvent(new WheelEvent('wheel', {{{{deltaY: {{}}, {at}, cancelable: true}}}}))"
    assert page(wheel.format(120)), "all is in view: the page may scroll"
    assert page("cards[0].scale") == 1
    assert not page(wheel.format(-400)), "the page must not scroll"
    assert page("cards[0].scale") > 1.5
    np.testing.assert_allclose(page("cards[0].spot(pointer)"), spot, atol=1e-9)
    page.hover(0, 60, 20)
    page.check()
    page.driver.execute_script("arguments[0].focus()", page.planes[0])
    scale = page("cards[0].scale")
    for keys, factor in (("+", 1.5), ("-", 1)):
        ActionChains(page.driver, 0).send_keys(keys).perform()
        assert page("cards[0].scale") == pytest.approx(scale * factor)
    view = page("cards[0].view")
    page.hover(0, 0, 0)
    ActionChains(page.driver, 0).key_down(Keys.SHIFT).click_and_hold().move_by_offset(30, 0).release().key_up(
        Keys.SHIFT
    ).perform()
    (left, right), (bottom, top) = view
    moved = 30 / page("cards[0].inner") * (right - left)
    np.testing.assert_allclose(page("cards[0].view"), [[left - moved, right - moved], [bottom, top]], rtol=1e-6)
    assert not page("cards[0].held"), "moving the view holds no point"
    press(page, "section .zoom button[value='0']")
    assert page("cards[0].view === cards[0].frame")
    press(page, "section .zoom button[value='+']")
    assert page("cards[0].scale") == pytest.approx(1.5)


def test_two_fingers_zoom(opened):
    page = opened(2)
    box = page.planes[1].rect
    for kind, apart in (("touchStart", 40), ("touchMove", 80)):
        points = [{"x": box["x"] + 200 + side * apart, "y": box["y"] + 200, "id": side} for side in (0, 1)]
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    page.wait("cards[1].scale > 1.8")
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait("cards[1].pointers.size === 0")


def test_a_click_on_a_class_shows_it_alone(opened):
    page = opened(2)
    ink = "cards[0].base.getContext('2d').getImageData(46, 12, 300, 300).data.reduce((sum, x, i) => sum + (i % 4 == 3) * x, 0)"
    before = page(ink)
    press(page, "#legend button:nth-child(4)")
    assert page(ink) < before
    for x, y in ((-60, 40), (80, -100), (120, 90)):
        page.hover(0, x, y)
        assert LABELS[page("cards[0].near")] == 3
    press(page, "#legend button:nth-child(4)")
    assert page("state.only") == -1


def test_a_class_name_stands_among_its_own_images(opened):
    page = opened(2)
    for mixed in (LABELS, np.where(np.arange(len(LABELS)) % 2, LABELS, np.random.default_rng(1).permutation(LABELS))):
        page.driver.execute_script("page.labelsOf = Uint8Array.from(arguments[0])", mixed.tolist())
        for card in (0, 1):
            marks = page(f"cards[{card}].marks()")
            places = np.array(page(f"Array.from(cards[{card}].codes, (_, i) => cards[{card}].spotOf(i))"))
            cell = page(f"cards[{card}].inner / Math.round(cards[{card}].inner / 14)")
            assert len(marks) >= 3
            for name, *at in marks:
                around = np.abs(places - at).max(1) < 1.5 * cell + 1e-6
                assert (mixed[around] == int(name)).mean() > 0.5


def test_no_name_is_cut_at_the_edge_of_a_narrow_plane(opened):
    page = opened(2)
    size = {"width": 320, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.frame()
    trace = (
        "const said = [], pen = CanvasRenderingContext2D.prototype, fill = pen.fillText; pen.fillText = function (words, x, y) {"
    )
    trace += "said.push([words, x, this.measureText(words).width, this.textAlign]); fill.call(this, words, x, y) };"
    said = page.driver.execute_script(f"{trace} cards[1].paint(); pen.fillText = fill; return said")
    (word, x, width, align) = next(entry for entry in said if "prior" in entry[0])
    assert (word, align) == ("3σ of the prior", "center")
    assert page("MARGIN") < x - width / 2 < x + width / 2 < page("cards[1].size") - 10
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_hidden_card_is_no_error(opened):
    page = opened(2)
    page.driver.execute_script("document.querySelector('main').hidden = true")
    page.frame()
    page.driver.execute_script("cards[0].lead([0, 0]); cards[0].zoom(2); state.tiles = true; cards[0].tile()")
    page.frame()
    page.driver.execute_script("document.querySelector('main').hidden = false")
    page.frame()
    page.check()


@pytest.mark.parametrize("kind", [1, 2, 16, "sweep", "unlabeled", "letters", "color", "half"])
def test_tour_leads_through_five_places_that_its_address_leads_back_to(opened, kind):
    page = opened(kind)
    state = "[state.mode, state.only, state.tiles, state.holes, state.link, state.walk, state.seed, tour.at, cards.map((card) => "
    state += "[card.z, card.view, card.model.beta, card.near])]"
    press(page, "#start")
    titles = []
    for step in range(5):
        titles.append(page.driver.find_element(By.CSS_SELECTOR, "#tour h2").text)
        assert page.driver.find_element(By.ID, "step").text == f"{step + 1} of 5"
        shown, link = page(state), page("permalink()")
        assert shown[-2] == step
        page("visit('')")
        assert page(state) != shown
        page("visit(arguments[0])", link)
        page.frame()
        assert page(state)[:-1] == shown[:-1]
        for card, (z, *rest) in enumerate(page(state)[-1]):
            np.testing.assert_allclose(z, shown[-1][card][0], rtol=1e-5, atol=1e-6)
            assert rest == shown[-1][card][1:]
        assert page("document.documentElement.scrollWidth") <= page("innerWidth")
        press(page, "#next")
    assert len(set(titles)) == 5
    assert not page.driver.find_element(By.ID, "tour").is_displayed()
    assert all(page("cards.map((card) => card.model === card.models[card.start])")), "it ends on the models shown at first"
    page.wait("location.hash")


def test_an_address_that_says_nonsense_shows_the_start(opened):
    page = opened(2)
    for link in (
        "#mode=constructor&walk=1,x&z=1&image=999999&class=99&view0=3,1,0,1&plane=7&tour=9&seed=-1",
        "#mode=walk&walk=1,2,3&z=a,b",
        "#view0=0,1e-120,0,1",
    ):
        page("visit(arguments[0])", link)
        page.frame()
        page.check()
        assert page("state.only") == -1
        assert page("cards[0].view === cards[0].frame")


def test_what_is_shown_is_said_in_words(opened):
    page = opened(2)
    page.hover(1, 30, 60)
    near = LABELS[page("cards[1].near")]
    said = "document.querySelector('#status').textContent"  # of the AE first, as the page begins with it
    page.wait(f"{said}.startsWith('VAE, β = 1: point ') && {said}.includes('nearest test image: digit\\u00a0{near}')")
    named = "one.ariaLabel || one.textContent || one.labels?.length"
    unnamed = "[...document.querySelectorAll('main canvas, button:not([hidden]), input, select')]"
    unnamed += f".filter((one) => !({named})).map((one) => one.outerHTML)"
    assert page(unnamed) == []
