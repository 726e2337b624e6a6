"""The latent explorer: its file, and what a browser makes of it."""

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL, Popen
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from pipeline import tracking
from pipeline.data import Dataset, Split, save_dataset
from pipeline.errors import IntegrityError, ParamsError
from pipeline.explorer import MAX_BYTES, Explored, explorer, extent, layers, plane
from pipeline.files import md5, save_arrays
from pipeline.laboratory import Laboratory, save_laboratory
from pipeline.models import MODELS
from pipeline.results import Results, save_results
from pipeline.weights import Trained, load_weights, save_weights
from stages.explore import main
from tests.browser import browser, complaints, missing, requests

DIMENSIONS = (1, 2, 3, 16)
SWEEP = (0.5, 2.0, 8.0)
SHAPE = (28, 28)
LABELS = np.arange(300) % 10


def model(name, dim, hidden=(32, 16), seed=0):
    """A model whose decoder, though untrained, draws contrasts."""
    torch.manual_seed(seed)
    made = MODELS[name](input_dim=SHAPE[0] * SHAPE[1], latent_dim=dim, hidden_dims=hidden)
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(2.5)
    return made.eval()


def images():
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), *SHAPE)).astype(np.uint8)


def results(name, dim, beta, weights_md5=""):
    codes = np.random.default_rng(dim).normal(LABELS[:, None] % 4, 0.3, (len(LABELS), dim)).astype(np.float32)
    nothing = np.zeros((0, 0, *SHAPE), np.float32)
    inputs = images()[:10] / np.float32(255)
    return Results("digits", name, beta, codes, LABELS, codes * 0, inputs, *[nothing] * 6, weights_md5)


def decoder(name, dim, hidden):
    linear = [layer for layer in model(name, dim, hidden).decoder if isinstance(layer, torch.nn.Linear)]
    return [(layer.weight.numpy(force=True), layer.bias.numpy(force=True)) for layer in linear]


def cards(dim, hidden=(32, 16)):
    return [[Explored(results(n, dim, b), decoder(n, dim, hidden))] for n, b in (("ae", None), ("vae", 4.0))]


def workspace(folder, dim, hidden=(32, 16)):
    """Write all that the stage reads."""
    for name, beta in (("ae", None), ("vae", 1.0)):
        path = folder / "models" / f"{name}.safetensors"
        save_weights(path, Trained(model(name, dim, hidden), name, "digits", SHAPE, beta))
        save_results(folder / "results" / f"{name}.safetensors", results(name, dim, beta, md5(path)))
        ramp = np.linspace(0, 1, 25).reshape(5, 5)
        arrays = {"map_axes": np.linspace(-1, 4, 5) * np.ones((2, 1)), "confidence_map": ramp}
        save_laboratory(folder / "laboratory" / f"{name}.safetensors", Laboratory("digits", name, beta, 0, [], md5(path), arrays))
    for seed, beta in enumerate(SWEEP, 1):
        save_weights(
            folder / "sweep" / f"{beta}.safetensors", Trained(model("vae", dim, hidden, seed), "vae", "digits", SHAPE, beta)
        )
    split = Split(images(), LABELS)
    save_dataset(folder / "dataset.safetensors", Dataset("digits", split, split))


def stage(folder, *options):
    names = ("results", "models", "laboratory")
    given = [word for name in names for word in (f"--{name}", str(folder / name))]
    out = folder / "explorer.html"
    main.main([*given, "--data", str(folder / "dataset.safetensors"), "--out", str(out), *options], standalone_mode=False)
    return out


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_the_file_is_alone_and_the_same_each_time(dim):
    document = explorer(cards(dim))
    assert document == explorer(cards(dim))
    assert not re.search(r"https?:|\bsrc=|@import|url\(|\bfetch\b|XMLHttpRequest|WebSocket", document)
    assert "<title>Latent explorer on digits: AE and VAE, β = 4</title>" in document
    assert "default-src 'none'" in document
    assert not re.search(r"{{\w+}}", document), "every place is filled"


def test_models_of_the_shipped_size_fit_in_float32():
    document = explorer(cards(16, (512, 256, 128)))
    assert len(document.encode()) < MAX_BYTES
    assert '"precision": ["float32"]' in document


def test_text_from_outside_cannot_become_markup():
    (ae,), _ = cards(2)
    document = explorer([[replace(ae, results=replace(ae.results, dataset="</script><b>", model="</script><b>"))]])
    assert "<b>" not in document


def test_the_plane_keeps_most_variance_and_its_frame_nearly_all_codes():
    codes = results("vae", 16, 1.0).codes
    centre, axes, names = plane(results("vae", 16, 1.0))
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    assert ((codes - centre) @ axes.T).var(0).sum() >= np.sort(codes.var(0))[-2:].sum()
    assert "of variance" in names[0]
    low, high = extent(codes).T
    assert ((codes >= low) & (codes <= high)).mean() > 0.98


def test_precision_gives_way_to_the_number_of_models_and_then_the_number_is_refused(monkeypatch):
    _, (vae,) = cards(2, (64, 32))
    models = [replace(vae, results=replace(vae.results, beta=beta)) for beta in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)]
    monkeypatch.setattr("pipeline.explorer.MAX_BYTES", len(explorer([models[:3]])))
    assert '"precision": ["float32"]' in explorer([models[:2]])
    assert '"precision": ["float32", "float16"]' in explorer([models[:3]])
    with pytest.raises(ParamsError, match=r"8 models takes .* MB, over .*; give it fewer"):
        explorer([models])


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_the_decoders_in_order(name, tmp_path):
    save_weights(tmp_path / "x.safetensors", Trained(model(name, 3, (16, 16)), name, "digits", SHAPE, None))
    for read, expected in zip(layers(tmp_path / "x.safetensors"), decoder(name, 3, (16, 16)), strict=True):
        for one, other in zip(read, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_cannot_be_shown_is_refused(tmp_path):
    _, (vae,) = cards(2)
    with pytest.raises(IntegrityError, match="no results"):
        explorer([])
    with pytest.raises(IntegrityError, match="of different shapes"):
        explorer([[replace(vae, layers=vae.layers[1:])]])
    other = model("vae", 2)
    other.decoder[1] = torch.nn.Tanh()
    save_weights(tmp_path / "tanh.safetensors", Trained(other, "vae", "digits", SHAPE, 1.0))
    with pytest.raises(IntegrityError, match=r"tanh\.safetensors: .*linear layers.*Tanh"):
        layers(tmp_path / "tanh.safetensors")
    save_arrays(tmp_path / "plain.safetensors", {"decoder.0.weight": np.ones((4, 2))}, {"decoder": ["Linear"]})
    with pytest.raises(IntegrityError, match=r"plain\.safetensors: .*with a bias.*decoder\.0\.bias"):
        layers(tmp_path / "plain.safetensors")
    save_arrays(tmp_path / "old.safetensors", {}, {"model": "vae"})
    with pytest.raises(IntegrityError, match=r"old\.safetensors: .*unknown"):
        layers(tmp_path / "old.safetensors")


class Logged(tracking.Run):
    def __init__(self):
        super().__init__()
        self.files = []

    def log_file(self, path, folder=None):
        self.files.append(Path(path).name)


def test_the_stage_writes_the_page_and_logs_it_to_each_run(tmp_path, monkeypatch):
    workspace(tmp_path, 2)
    found = {md5(tmp_path / "models" / f"{name}.safetensors"): Logged() for name in ("ae", "vae")}
    monkeypatch.setattr(tracking, "find", found.__getitem__)
    first = stage(tmp_path).read_bytes()
    assert stage(tmp_path).read_bytes() == first
    assert [run.files for run in found.values()] == [["explorer.html"] * 2] * 2
    empty = tmp_path / "empty"
    assert stage(tmp_path, "--sweep", str(empty)).read_bytes() == first, "no sweep, no slider"
    assert stage(tmp_path, "--sweep", str(tmp_path / "sweep")).read_bytes() != first
    without = stage(tmp_path, "--laboratory", str(empty)).read_text()
    assert '"map"' in first.decode()
    assert '"map"' not in without
    save_weights(tmp_path / "models" / "vae.safetensors", Trained(model("vae", 2, seed=9), "vae", "digits", SHAPE, 1.0))
    with pytest.raises(IntegrityError, match="of other weights"):
        stage(tmp_path)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    if missing():
        pytest.skip(f"needs {missing()} to open the page")
    with browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str | int, Path]:
    """One page of each kind, and the folder with its weights beside it."""
    made: dict[str | int, Path] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "find", lambda *args: tracking.Run())
        for kind in (1, 2, 16, "sweep", "half"):
            if kind == "half":
                patch.setattr("pipeline.explorer.PRECISIONS", [("float16", "float16")])
            folder = tmp_path_factory.mktemp(str(kind))
            dim = kind if isinstance(kind, int) else 2
            workspace(folder, dim, (512, 256) if kind == 2 else (32, 16))
            made[kind] = stage(folder, *(["--sweep", str(folder / "sweep")] if kind == "sweep" else []))
    return made


class Open:
    """A page in the browser; every point it shows is checked against torch."""

    def __init__(self, driver, path, address=""):
        self.driver, self.folder = driver, path.parent
        requests(driver), complaints(driver)
        driver.get(address or path.as_uri())
        if address:  # of a page that shows it in a frame
            driver.switch_to.frame(WebDriverWait(driver, 60).until(lambda d: d.find_element(By.TAG_NAME, "iframe")))
        painted = "document.body.dataset.ready && performance.getEntriesByType('paint').length"  # before it, input may be dropped
        WebDriverWait(driver, 60).until(lambda d: d.execute_script(f"return {painted}"))
        driver.execute_script("addEventListener('pointermove', (event) => (window.pointer = event), true)")
        self.planes = driver.find_elements(By.CSS_SELECTOR, ".plane")

    def __call__(self, expression, *args):
        return self.driver.execute_script(f"return {expression}", *args)

    def point(self, card):
        return np.array(self(f"Array.from(cards[{card}].z)"))

    def check(self, weights=("models/ae", "models/vae"), tolerance=1e-4, half=False):
        """Compare what is drawn, and what it is drawn from, with what torch decodes there."""
        for card, path in enumerate(weights):
            decoder = load_weights(self.folder / f"{path}.safetensors").model
            with torch.no_grad():
                for matrix in decoder.parameters():
                    matrix.copy_(matrix.half() if half and matrix.ndim == 2 else matrix)
                expected = torch.sigmoid(decoder.decode(torch.tensor(self.point(card), dtype=torch.float32))).numpy()
            assert np.ptp(expected) > 0.5, "the picture has contrast, so the comparison says something"
            np.testing.assert_allclose(self(f"Array.from(cards[{card}].pixels)"), expected, rtol=0, atol=tolerance)
            drawn = self(f"Array.from(cards[{card}].digit.getContext('2d').getImageData(0, 0, 28, 28).data)")
            np.testing.assert_allclose(np.array(drawn[::4]), 255 * (1 - expected), atol=0.51 + 255 * tolerance)

    def hover(self, card, x, y):
        """Move the pointer until the page has seen it there: a busy browser may drop a move, or make one of its own."""
        box = "const box = arguments[0].getBoundingClientRect(), {clientX, clientY} = window.pointer ?? {};"
        away = "Math.hypot(clientX - box.x - box.width / 2 - arguments[1], clientY - box.y - box.height / 2 - arguments[2])"

        def arrived(driver):
            for beside in (3, 0):  # a move to where the pointer is already is none
                ActionChains(driver, 0).move_to_element_with_offset(self.planes[card], x + beside, y).perform()
            return driver.execute_script(f"{box} return {away} < 2", self.planes[card], x, y)

        WebDriverWait(self.driver, 20).until(arrived)

    def slide(self, element, value):
        change = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.driver.execute_script(change, element, value)


@pytest.fixture
def opened(chrome, pages):
    shown: list[Open] = []

    def show(kind):
        shown.append(Open(chrome, pages[kind]))
        return shown[0]

    yield show
    assert [said for said in complaints(chrome) if "willReadFrequently" not in said] == [], "but for how often these tests read"
    assert [url.split(",")[0] for url in requests(chrome) if url != "data:,"] == [chrome.current_url], (
        "nothing but the file itself"
    )
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_the_pointer_decodes_the_point_under_it(opened):
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


def test_the_other_plane_follows_as_chosen(opened):
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


def test_a_click_holds_the_point_and_another_lets_go(opened):
    page = opened(2)
    page.hover(0, 30, 60)
    ActionChains(page.driver, 0).click().perform()
    held = page.point(0)
    page.hover(0, -80, -20)
    np.testing.assert_array_equal(page.point(0), held)
    assert "held" in page.driver.find_element(By.CSS_SELECTOR, "small").text
    ActionChains(page.driver, 0).click().perform()
    assert not np.array_equal(page.point(0), held)


def test_the_keyboard_moves_the_point_and_tab_changes_the_plane(opened):
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


def test_a_finger_moves_the_point(opened):
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
    page.driver.find_element(By.CSS_SELECTOR, "#holes input").click()
    assert page(dark) > before
    page.driver.find_element(By.CSS_SELECTOR, "#holes input").click()
    assert page(dark) == before


def test_many_dimensions_have_a_slider_each(opened):
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


def test_one_dimension_is_a_line(opened):
    page = opened(1)
    page.hover(0, 50, 0)
    first = page.point(0)
    page.hover(0, 50, 80)
    np.testing.assert_array_equal(page.point(0), first)
    page.hover(0, -50, 80)
    assert page.point(0) < first
    page.check()


def test_the_beta_slider_changes_the_decoder_the_codes_and_the_name(opened):
    page = opened("sweep")
    assert page.driver.title == "Latent explorer on digits: AE and VAE, β = 0.5 to 8"
    slider = page.driver.find_element(By.CSS_SELECTOR, "section:nth-child(2) .beta input")
    assert not page.driver.find_element(By.CSS_SELECTOR, "section:nth-child(1) .beta").is_displayed()
    assert page.driver.find_elements(By.TAG_NAME, "h2")[1].text == "VAE, β = 1"
    page.check()
    near = page("cards[1].near")
    for index, beta in enumerate((0.5, 1.0, 2.0, 8.0)):
        page.slide(slider, index)
        assert page("cards[1].near") == near, "the same test image"
        weights = "models/vae" if beta == 1 else f"sweep/{beta}"
        assert page.driver.find_elements(By.TAG_NAME, "h2")[1].text == f"VAE, β = {beta:g}"
        page.check(("models/ae", weights))
        if beta != 1:
            with torch.no_grad():
                pixels = torch.from_numpy(images()[:1].reshape(1, -1) / np.float32(255))
                code = load_weights(page.folder / f"{weights}.safetensors").model.embed(pixels)[0]
            np.testing.assert_allclose(page("Array.from(cards[1].codes[0])"), code, atol=1e-4)


def test_halved_weights_are_read_as_torch_reads_them(opened):
    page = opened("half")
    page.check(half=True)
    page.hover(1, 30, 60)
    page.check(half=True)
    assert "float16" in page.driver.find_element(By.ID, "precision").text


@pytest.mark.parametrize("width", [360, 800, 1440])
def test_the_page_fits_its_window(opened, width):
    page = opened(16)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page("document.documentElement.scrollWidth") <= width
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextmanager
def mlflow_ui():
    """Show the store on a free port, and say where."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    host, port = address.split(":")
    command = ["mlflow", "ui", "--host", host, "--port", port, "--workers", "1", "--backend-store-uri", tracking.store_uri()]
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
def test_it_works_in_mlflows_artifact_pane(chrome, pages, store):
    with tracking.start("explored", {}) as run:
        run.log_file(pages[2])
    _, experiment = tracking.connect()
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
