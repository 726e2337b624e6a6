"""A browser, and pages of the explorer of each kind, that its tests share."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from selenium.webdriver import Chrome

from pipeline.explorer.page import Precision
from pipeline.tracking import store
from tests.explorer.browser import browser, complaints, missing, requests
from tests.explorer.explorer_examples import LABELS, LETTERS, NAMES, stage, workspace
from tests.explorer.opened import Open


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    if missing():
        pytest.skip(f"needs {missing()} to open the page")
    with browser() as driver:
        yield driver


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> dict[str | int, Path]:
    """One page of each kind, and the folder with its weights beside it."""
    made: dict[str | int, Path] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "find", lambda md5: SimpleNamespace(log_file=lambda path: None))
        for kind in (1, 2, 16, "sweep", "unlabeled", "letters", "conv", "color", "half"):
            if kind == "half":
                patch.setattr("pipeline.explorer.page.PRECISIONS", [(Precision("float16", "float16"),) * 2])
            folder = tmp_path_factory.mktemp(str(kind))
            dim = kind if isinstance(kind, int) else 2
            labels = {"unlabeled": None, "letters": LETTERS}.get(kind, LABELS)
            color = {"shape": (3, 32, 24), "classes": NAMES, "likelihood": "continuous_bernoulli"}
            own = {"conv": {"net": "conv"}, "color": {"net": "conv"} | color}.get(kind, {})
            hidden = (4, 8) if own else (512, 256) if kind == 2 else (32, 16)
            workspace(folder, dim, hidden, labels=labels, **own)
            made[kind] = stage(folder, *(["--sweep", str(folder / "sweep")] if kind == "sweep" else []))
    return made


@pytest.fixture
def opened(chrome, pages):
    shown: list[Open] = []

    def show(kind):
        shown.append(Open(chrome, pages[kind]))
        return shown[-1]

    yield show
    assert [said for said in complaints(chrome) if "willReadFrequently" not in said] == [], "but for how often these tests read"
    assert [url.split(",")[0] for url in requests(chrome) if url != "data:,"] == [chrome.current_url.split("#")[0]], (
        "nothing but the file itself"
    )
    assert chrome.execute_script("return performance.getEntriesByType('resource').length") == 0
