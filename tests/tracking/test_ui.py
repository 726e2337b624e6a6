"""`latent ui` and what a browser shows on MLflow's pages."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from pipeline.data import Dataset, save_dataset
from pipeline.params import Params, load_params
from pipeline.storage import load_json, md5
from pipeline.tracking import events, store, ui
from pipeline.tracking import run as tracking_run
from tests.conftest import ROOT, blobs
from tests.explorer.browser import browser, missing
from tests.tracking.fake_training import train

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
WIDTH = 1280
# The elements that can be scrolled to the side, but for MLflow's own table of models.
WIDE = """
return [...document.querySelectorAll("*")].filter(element =>
    element.scrollWidth > element.clientWidth + 1 && element.clientWidth
    && ["auto", "scroll"].includes(getComputedStyle(element).overflowX) && !element.matches("[class^=ag-]")
).map(element => `${element.outerHTML.slice(0, 80)} ${element.scrollWidth} > ${element.clientWidth}`)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def small(beta: float) -> Params:
    """Return the shipped params, all of which a run's page names, with small nets."""
    shipped = load_params(ROOT / "params.yaml").model_dump()
    for name in ("ae", "vae"):
        shipped[name] |= {"hidden_dims": [16, 8], "epochs": 3}
    return Params.model_validate(shipped | {"beta": beta})


@pytest.fixture(scope="module")
def links(_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses that `latent ui` prints, by title, and of a run's page; its server shows two runs."""
    folder = tmp_path_factory.mktemp("ui")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tracking_run, "SLOW", math.inf)
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        shutil.copy(_template, folder)
        save_dataset(folder / "data.safetensors", Dataset("mnist", blobs(120, 0), blobs(40, 1)))
        for beta in (1.0, 4.0):
            train("vae", small(beta), folder / "data.safetensors", folder / f"{beta}", folder)
            found = store.find(md5(folder / f"{beta}/vae.safetensors"))
            events.log_evaluation(found, load_json(ROOT / "metrics/vae.json") | {"test/kl": beta}, [])
        run = store.records()[0][0].id
        command = [sys.executable, "-m", "pipeline", "ui", "--port", str(free_port())]
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=-1, text=True) as server:
            try:
                assert server.stdout
                printed = (line.rstrip().partition(": ") for line in server.stdout)  # by MLflow, too
                places = dict(islice(((title, place) for title, _, place in printed if "#/experiments/" in place), 3))
                page = places["Results"].partition("?")[0]
                yield places | {"run": f"{page}/{run}?workflowType=machine_learning", "port": command[-1]}
            finally:
                server.send_signal(signal.SIGTERM)
                assert server.wait() == 128 + signal.SIGTERM
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", int(command[-1]))) != 0, "the server ends with the command"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    if missing():
        pytest.skip(f"needs {missing()} to open the pages")
    with browser(WIDTH, 900) as driver:
        yield driver


def opened(chrome: Chrome, address: str, *texts: str) -> str:
    """Open a page, wait until it shows these texts, and return all that it shows."""
    chrome.get("about:blank")
    chrome.get(address)

    def shown(driver: Chrome) -> str:
        said = str(driver.execute_script("return document.body.innerText"))
        return said if all(text in said for text in texts) else ""

    return str(WebDriverWait(chrome, 60).until(shown))


def test_the_page_of_a_run_fits_a_screen_of_1280_pixels_and_begins_with_the_result(chrome: Chrome, links: dict[str, str]) -> None:
    said = opened(chrome, links["run"], "Train it again", "test_elbo", "best_epoch", "Source")
    assert chrome.execute_script(WIDE) == []
    assert said.index("ELBO -") < said.index("Train it again") < said.index("test_elbo")


def test_the_first_link_shows_results_as_columns(chrome: Chrome, links: dict[str, str]) -> None:
    said = opened(chrome, links["Results"], "test_elbo", "frechet_distance", "β=4 vae", "-135")
    assert "main" in said


def test_the_curves_of_a_run_are_above_its_numbers(chrome: Chrome, links: dict[str, str]) -> None:
    said = opened(chrome, links["run"].replace("?", "/model-metrics?"), "train", "val", "Model metrics")
    assert said.index("train") < said.index("val") < said.rindex("Model metrics")


def test_the_links_to_curves_and_pictures_show_them(chrome: Chrome, links: dict[str, str]) -> None:
    opened(chrome, links["Curves"], "Curves, nats per image", "val/recon vs train/recon")
    opened(chrome, links["Pictures"], "Pictures by epoch", "samples")


def test_the_links_to_a_server_have_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host/")
    monkeypatch.setattr(ui, "sync", lambda: (0, 0))
    monkeypatch.setattr(store, "connected", lambda: nullcontext((None, "7")))
    assert ui.serve(5000) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2].startswith("https://host/#/experiments/7/") for line in printed] == [True] * 3


def test_the_server_is_of_this_machine_alone_and_checks_the_host(links: dict[str, str]) -> None:
    assert links["Results"].startswith("http://127.0.0.1:")
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"http://127.0.0.1:{links['port']}/api/2.0/mlflow/experiments/search", headers={"Host": "example.org"}))
    with refused.value as answer:
        assert answer.code == 403
