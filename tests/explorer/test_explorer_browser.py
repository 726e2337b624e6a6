"""What a browser makes of the latent explorer's page: the point under the pointer, and what surrounds it."""

import os
import shutil
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from subprocess import DEVNULL, Popen
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from pipeline.data import intensities
from pipeline.explorer.page import WASM
from pipeline.models.weights import load_weights
from pipeline.tracking import store
from tests.explorer.explorer_examples import LETTERS, NAMES, images
from tests.explorer.opened import Open


def test_moving_the_pointer_decodes_the_point_under_it(opened):
    page = opened(2)
    page.check()
    points = set()
    for card in (0, 1):
        for x, y in ((-60, 40), (80, -100), (120, 90)):
            page.hover(card, x, y)
            page.check()
            points.add(tuple(page.point(card)))
            expected = page(f"cards[{card}].at(cards[{card}].project(cards[{card}].z))")
            size = page(f"cards[{card}].size")
            np.testing.assert_allclose(expected, [size / 2 + x, size / 2 + y], atol=1)
            shown = page.driver.find_elements(By.CSS_SELECTOR, ".point")[card].text
            assert shown == "({:.2f}, {:.2f})".format(*page.point(card)).replace("-", "−")
    assert len(points) == 6


def test_other_plane_follows_as_chosen(opened):
    page = opened(2)
    page.hover(0, 30, 60)
    near = page("cards[0].near")
    np.testing.assert_array_equal(page.point(1), page(f"Array.from(cards[1].codes[{near}])"))
    page.driver.find_element(By.CSS_SELECTOR, "option[value=coordinates]").click()
    page.hover(0, -30, 60)
    np.testing.assert_array_equal(page.point(1), page.point(0))
    page.driver.find_element(By.CSS_SELECTOR, "option[value=nothing]").click()
    before = page.point(1)
    page.hover(0, 90, 60)
    np.testing.assert_array_equal(page.point(1), before)
    page.check()


def test_click_holds_the_point_and_another_releases_it(opened):
    page = opened(2)
    page.hover(0, 30, 60)
    ActionChains(page.driver, 0).click().perform()
    held = page.point(0)
    page.hover(0, -80, -20)
    np.testing.assert_array_equal(page.point(0), held)
    assert page.driver.find_element(By.CSS_SELECTOR, ".held").text == "held"
    ActionChains(page.driver, 0).click().perform()
    assert not np.array_equal(page.point(0), held)


def test_arrow_keys_move_the_point_and_tab_changes_the_plane(opened):
    page = opened(2)
    page.driver.execute_script("arguments[0].focus()", page.planes[0])
    for card in (0, 1):
        assert page.driver.switch_to.active_element == page.planes[card]
        (left, right), (bottom, top) = page(f"cards[{card}].frame")
        step = np.array([right - left, top - bottom]) / 100
        keys = {Keys.ARROW_RIGHT: (1, 0), Keys.ARROW_LEFT: (-1, 0), Keys.ARROW_UP: (0, 1), Keys.ARROW_DOWN: (0, -1)}
        for key, direction in keys.items():
            before = page.point(card)
            ActionChains(page.driver, 0).send_keys(key).perform()
            np.testing.assert_allclose(page.point(card) - before, step * direction, atol=1e-9)
        before = page.point(card)
        ActionChains(page.driver, 0).key_down(Keys.SHIFT).send_keys(Keys.ARROW_UP).key_up(Keys.SHIFT).perform()
        np.testing.assert_allclose(page.point(card) - before, step * (0, 10), atol=1e-9)
        page.check()
        ActionChains(page.driver, 0).send_keys(Keys.HOME).perform()
        np.testing.assert_array_equal(page.point(card), [0, 0])
        ActionChains(page.driver, 0).send_keys(Keys.TAB).perform()


def test_touch_moves_the_point(opened):
    page = opened(2)
    box = page.planes[1].rect
    for kind, x, y in (("touchStart", 150, 150), ("touchMove", 210, 260)):
        points = [{"x": box["x"] + x, "y": box["y"] + y}]
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        WebDriverWait(page.driver, 5).until(lambda _, x=x, y=y: np.allclose(page("cards[1].at(cards[1].z)"), [x, y], atol=1))
        page.check()
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert not page("cards[1].held")


def test_holes_are_shaded_on_demand(opened):
    page = opened(2)
    dark = "cards[0].base.getContext('2d').getImageData(100, 60, 100, 300).data.reduce((sum, x, i) => sum + (i % 4 == 3) * x, 0)"
    before = page(dark)
    page.driver.find_element(By.CSS_SELECTOR, "#holes").click()
    assert page(dark) > before
    page.driver.find_element(By.CSS_SELECTOR, "#holes").click()
    assert page(dark) == before


def test_each_of_many_dimensions_has_a_slider(opened):
    page = opened(16)
    sliders = page.driver.find_elements(By.CSS_SELECTOR, "section:nth-child(2) .sliders input")
    assert len(sliders) == 16
    for i, value in ((3, 1.25), (15, -0.5)):
        page.slide(sliders[i], value)
        assert page.point(1)[i] == value
        page.check()
    page("cards[1].held = false")
    before, axes = page.point(1), np.array(page("cards[1].model.axes"))
    page.hover(1, 40, -70)
    moved = page.point(1) - before
    np.testing.assert_allclose(moved, moved @ axes.T @ axes, atol=1e-9)
    assert np.abs(moved).max() > 0.1
    assert float(sliders[3].get_property("value")) == pytest.approx(page.point(1)[3])
    page.check()


def test_one_dimension_moves_along_a_line(opened):
    page = opened(1)
    page.hover(0, 50, 0)
    first = page.point(0)
    page.hover(0, 50, 80)
    np.testing.assert_array_equal(page.point(0), first)
    page.hover(0, -50, 80)
    assert page.point(0) < first
    page.check()


def test_beta_slider_changes_the_decoder_the_codes_and_the_name(opened):
    page = opened("sweep")
    assert page.driver.title == "Latent explorer on digits: AE and VAE, β = 0.5 to 8"
    slider = page.driver.find_element(By.CSS_SELECTOR, "section:nth-child(2) .beta input")
    assert not page.driver.find_element(By.CSS_SELECTOR, "section:nth-child(1) .beta").is_displayed()
    assert page.driver.find_elements(By.CSS_SELECTOR, "section h2")[1].text == "VAE, β = 1"
    page.check()
    near = page("cards[1].near")
    for index, beta in enumerate((0.5, 1.0, 2.0, 8.0)):
        page.slide(slider, index)
        assert page("cards[1].near") == near, "the same test image"
        weights = "models/vae" if beta == 1 else f"sweep/{beta}"
        assert page.driver.find_elements(By.CSS_SELECTOR, "section h2")[1].text == f"VAE, β = {beta:g}"
        page.check(("models/ae", weights))
        if beta != 1:
            with torch.no_grad():
                pixels = torch.from_numpy(intensities(images()[:1]))
                code = load_weights(page.folder / f"{weights}.safetensors").model.encode(pixels).mean[0]
            np.testing.assert_allclose(page("Array.from(cards[1].codes[0])"), code, atol=1e-4)


def test_page_without_labels_numbers_the_test_images(opened):
    page = opened("unlabeled")
    page.check()
    page.hover(0, 30, 60)
    page.check()
    small = page.driver.find_element(By.CSS_SELECTOR, "small").text
    assert small == f"nearest test image: number\u00a0{page('cards[0].near') + 1}".replace("\u00a0", " ")
    assert not page.driver.find_element(By.ID, "legend").is_displayed()


def test_many_classes_are_named_by_their_labels(opened):
    page = opened("letters")
    page.check()
    shown = page.driver.find_elements(By.CSS_SELECTOR, "#legend button")
    assert [entry.text for entry in shown] == [str(label) for label in range(65, 91)]
    assert len({entry.get_attribute("style") for entry in shown}) == 26
    page.hover(0, 30, 60)
    small = page.driver.find_element(By.CSS_SELECTOR, "small").text
    assert small == f"nearest test image: digit {LETTERS[page('cards[0].near')]}"


@pytest.mark.parametrize("kind", ["conv", "color"])
def test_convolutions_are_decoded_as_torch_decodes_them(opened, kind):
    page = opened(kind)
    page.check()
    height, width, channels = page("page.shape")
    expected = intensities(images((channels, height, width))[7]).transpose(1, 2, 0)
    np.testing.assert_allclose(page("Array.from(testImage(7))"), expected.ravel(), atol=1e-6)
    for card in (0, 1):
        for x, y in ((-60, 40), (80, -100)):
            page.hover(card, x, y)
            page.check()
    assert page.driver.find_element(By.CSS_SELECTOR, "label[for=mode-draw]").is_displayed() == (kind == "conv")


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("kind", [2, "conv", "color"])
def test_a_browser_without_webassembly_decodes_the_same(chrome, pages, kind, is_there, tmp_path):
    page = Open(chrome, pages[kind])
    assert page("accumulate.toString().includes('native code')")
    fast = page("Array.from(cards[1].pixels)")
    plain = shutil.copytree(pages[kind].parent, tmp_path / "plain") / pages[kind].name
    command = "Page.addScriptToEvaluateOnNewDocument", {"source": "" if is_there else "delete globalThis.WebAssembly"}
    script = chrome.execute_cdp_cmd(*command)
    plain.write_text(plain.read_text("utf-8").replace(WASM, ""), "utf-8")
    page = Open(chrome, plain)
    assert page("'WebAssembly' in globalThis") == is_there
    assert not page("accumulate.toString().includes('native code')")
    page.check()
    np.testing.assert_allclose(page("Array.from(cards[1].pixels)"), fast, atol=1e-5)
    chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    chrome.get("about:blank")


def test_no_number_is_minus_zero_and_none_reaches_the_title_of_its_axis(opened):
    page = opened(2)
    assert page("[-0.001, -0, 0.004, -0.006, -12].map((x) => number(x))") == ["0.00", "0.00", "0.00", "−0.01", "−12.00"]
    page.driver.execute_script("cards[1].look([[0.123456, 0.1235], [-1234.5671, -1234.567]])")
    page.frame()
    drawn = "const pen = CanvasRenderingContext2D.prototype, { fillText } = pen, said = [];"
    drawn += "pen.fillText = function (words, x, y, most = 1e9) {"
    drawn += "said.push([this.textAlign, x - Math.min(most, this.measureText(words).width)]) };"
    said = page.driver.execute_script(f"{drawn} cards[1].paint(); pen.fillText = fillText; return said")
    beside = [left for align, left in said if align == "right"]
    assert beside
    assert min(beside) > 15


def test_named_classes_are_called_by_their_names(opened):
    page = opened("color")
    shown = page.driver.find_elements(By.CSS_SELECTOR, "#legend button")
    assert [entry.text for entry in shown] == list(NAMES)
    shown[3].click()
    page.hover(0, 30, 60)
    small = page.driver.find_element(By.CSS_SELECTOR, "small").text
    assert small == f"nearest test image: {NAMES[3]}"
    page.wait(f"document.querySelector('#status').textContent.includes('nearest test image: {NAMES[3]}.')")
    assert page("permalink()").startswith("#class=Large+thing+number+1")
    page.driver.execute_script("state.only = -1")
    for card in (0, 1):
        names = page(f"cards[{card}].marks().map(([name]) => name)")
        assert names
        assert all(len(name) <= 12 for name in names)


def test_float16_weights_are_read_as_torch_reads_them(opened):
    page = opened("half")
    page.check(half=True)
    page.hover(1, 30, 60)
    page.check(half=True)
    assert "float16" in page.driver.find_element(By.ID, "precision").text


@pytest.mark.parametrize("width", [320, 800, 1440])
def test_page_fits_its_window(opened, width):
    page = opened(16)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page("document.documentElement.scrollWidth") <= width
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


TRIES = """
const done = arguments[0], refused = new Set();
addEventListener("securitypolicyviolation", ({ effectiveDirective }) => {
  if (refused.add(effectiveDirective).size === 5) done([...refused].sort());
});
const add = (tag, content) => document.body.append(Object.assign(document.createElement(tag), content));
add("script", { textContent: "window.ran = true" });
add("style", { textContent: "body { color: red }" });
add("img", { src: "http://127.0.0.1:1/" });
document.body.setAttribute("onclick", "window.ran = true");
fetch("http://127.0.0.1:1/").catch(() => {});
"""


def test_policy_lets_no_other_script_run_and_no_request_leave(chrome, pages):
    page = Open(chrome, pages[2])
    refused = chrome.execute_async_script(TRIES)
    assert refused == ["connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-elem"]
    assert page("window.ran") is None
    page.check()
    chrome.get("about:blank")


@contextmanager
def mlflow_ui():
    """Show the store on a free port, and say where."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    host, port = address.split(":")
    command = ["mlflow", "ui", "--host", host, "--port", port, "--workers", "1", "--backend-store-uri", store.store_uri()]
    with Popen([sys.executable, "-m", *command], start_new_session=True, stdout=DEVNULL, stderr=DEVNULL) as server:
        try:
            healthy = WebDriverWait(server, 60, ignored_exceptions=[OSError]).until
            healthy(lambda server: server.poll() is not None or urlopen(f"http://{address}/health", timeout=5).status == 200)
            assert server.poll() is None, "it ended at once"
            yield f"http://{address}"
        finally:
            with suppress(ProcessLookupError):  # where it ended by itself
                os.killpg(server.pid, signal.SIGTERM)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy
@pytest.mark.usefixtures("store")
def test_page_works_in_the_artifact_pane_of_mlflow(chrome, pages):
    with store.start("explored", {}) as run:
        run.log_file(pages[2])
    _, experiment = store.connect()
    with mlflow_ui() as address:
        page = Open(chrome, pages[2], f"{address}/#/experiments/{experiment}/runs/{run.id}/artifacts/explorer.html")
        assert page("origin") == "null", "scripts may run there, yet have neither storage nor an origin"
        page.check()
        for card in (0, 1):
            page.driver.execute_script("arguments[0].scrollIntoView()", page.planes[card])
            before = page.point(card)
            page.hover(card, 20, -30)
            assert not np.array_equal(page.point(card), before)
            page.check()
        chrome.get("about:blank")  # before the server it asks is gone
