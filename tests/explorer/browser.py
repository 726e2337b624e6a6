"""A headless Chromium that says what it asked of the network and what it complained about."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # containers have no namespaces to make one of
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--touch-events=enabled",
)


def missing() -> str:
    """Return which of the two programs is not installed, or nothing."""
    return ", ".join(name for name in ("chromium", "chromedriver") if not shutil.which(name))


@contextmanager
def browser(width: int = 1440, height: int = 1000) -> Iterator[Chrome]:
    """Start a browser with a fresh profile."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for switch in (*_SWITCHES, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(switch)
        driver = Chrome(options, Service(shutil.which("chromedriver")))
        try:
            driver.get("about:blank")
            requests(driver)  # those of the page a new tab shows
            yield driver
        finally:
            driver.quit()


def requests(driver: Chrome) -> list[str]:
    """Return the addresses asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def complaints(driver: Chrome) -> list[str]:
    """Return what the console was told since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]
