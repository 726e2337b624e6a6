"""Time a frame of the latent explorer in headless Chromium: `python -m benchmarks.explorer [explorer/explorer.html]`.

The pointer moves over each plane at random, once in each frame. "decode" is the decoders of all models at one point; "move" is
all JavaScript of one move: the point, its nearest test image, the decoded images, marks and numbers of all models; "frame" is the
time between two frames of the browser.
"""

from pathlib import Path

import click
from selenium.webdriver.support.wait import WebDriverWait

from tests.explorer.browser import browser, missing

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


@click.command()
@click.argument("page", default="explorer/explorer.html", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--count", default=600, show_default=True, help="Frames to draw in each mode.")
def main(page: Path, count: int) -> None:
    """Print milliseconds: median, 99th percentile and the worst."""
    if missing():
        raise click.ClickException(f"needs {missing()}")
    with browser() as driver:
        driver.set_script_timeout(300)
        driver.get(page.resolve().as_uri())
        WebDriverWait(driver, 30).until(lambda d: d.execute_script("return document.body.dataset.ready"))
        driver.execute_async_script(MEASURE, 60, "explore")  # let the just-in-time compiler finish
        for mode in driver.execute_script("return Object.keys(MODES).filter((name) => !$(`#mode-${name}`).disabled)"):
            measured: dict[str, list[float]] = driver.execute_async_script(MEASURE, count, mode)
            for name, times in measured.items():
                median, slow, worst = (sorted(times)[int(share * (len(times) - 1))] for share in (0.5, 0.99, 1))
                click.echo(f"{mode:9} {name:6} median {median:6.2f} ms, 99th percentile {slow:6.2f} ms, worst {worst:6.2f} ms")


if __name__ == "__main__":
    main()
