"""Time a frame of the latent explorer in headless Chromium: `python -m benchmarks.explorer explorer/explorer.html`.

Without a page it writes four, of untrained models of the nets in NETS, and measures the mode Explore alone. The pointer moves
over each plane at random, once in each frame. "decode" is the decoders of all models at one point; "move" is all JavaScript of
one move: the point, its nearest test image, the decoded images, marks and numbers of all models; "frame" is the time between two
frames of the browser.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from pipeline.explorer.loading import load_explored
from pipeline.explorer.page import explorer
from tests.explorer.browser import browser, missing
from tests.explorer.explorer_examples import workspace

MEASURE = """
const [count, mode, done] = arguments, times = { decode: [], move: [], frame: [] };
$(`#mode-${mode}`).click();
let last;
function step(now) {
  if (last) times.frame.push(now - last);
  last = now;
  if (times.frame.length >= count) return done(times);
  const card = cards[times.frame.length % cards.length], box = card.plane.getBoundingClientRect();
  const [clientX, clientY] = [box.x, box.y].map((from) => from + 50 + Math.random() * (card.size - 70));
  let start = performance.now();
  cards.forEach((one) => one.model.decode(one.z));
  times.decode.push(performance.now() - start);
  start = performance.now();
  card.plane.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
  cards.forEach((one) => one.refresh(start + 8));
  times.move.push(performance.now() - start);
  requestAnimationFrame(step);
}
requestAnimationFrame(step);
"""


# Those of docs/nets.md.
NETS: dict[str, dict[str, Any]] = {
    "mlp 28 x 28": {"hidden": (512, 256)},
    "conv 28 x 28": {"net": "conv", "hidden": (32, 64)},
    "conv 32 x 32 x 3": {"net": "conv", "hidden": (32, 64, 64), "shape": (3, 32, 32)},
    "conv 64 x 64 x 3": {"net": "conv", "hidden": (32, 32, 64, 64), "shape": (3, 64, 64)},
}


def untrained(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write a page for each of NETS below a folder, without telling MLflow; yield their names and paths."""
    for number, (name, options) in enumerate(NETS.items()):
        place = folder / str(number)
        workspace(place, 2, **options)  # type: ignore[no-untyped-call]
        explored, images = load_explored(place / "results", place / "models", place / "dataset.safetensors")
        (place / "explorer.html").write_text(explorer([[one] for one in explored.values()], images), "utf-8")
        yield name, place / "explorer.html"


def measure(driver: Chrome, page: Path, count: int, modes: Sequence[str]) -> Iterator[str]:
    """Yield a line with median, 99th percentile and the worst of each time; without ``modes`` of all that the page has."""
    driver.get(page.resolve().as_uri())
    WebDriverWait(driver, 30).until(lambda d: d.execute_script("return document.body.dataset.ready"))
    driver.execute_async_script(MEASURE, 60, "explore")  # let the just-in-time compiler finish
    for mode in modes or driver.execute_script("return Object.keys(MODES).filter((name) => !$(`#mode-${name}`).disabled)"):
        measured: dict[str, list[float]] = driver.execute_async_script(MEASURE, count, mode)
        for name, times in measured.items():
            median, slow, worst = (sorted(times)[int(share * (len(times) - 1))] for share in (0.5, 0.99, 1))
            yield f"{mode:9} {name:6} median {median:6.2f} ms, 99th percentile {slow:6.2f} ms, worst {worst:6.2f} ms"


@click.command()
@click.argument("pages", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--count", default=600, show_default=True, help="Frames to draw in each mode.")
def main(pages: tuple[Path, ...], count: int) -> None:
    """Print milliseconds of pages, or of those of NETS."""
    if missing():
        raise click.ClickException(f"needs {missing()}")
    with TemporaryDirectory() as folder, browser() as driver:
        driver.set_script_timeout(300)
        for name, page in ((str(page), page) for page in pages) if pages else untrained(Path(folder)):
            click.echo(name)
            for line in measure(driver, page, count, [] if pages else ["explore"]):
                click.echo(f"  {line}")


if __name__ == "__main__":
    main()
