"""Time a frame of the latent explorer in headless Chromium: `python -m benchmarks.explorer [explorer/explorer.html]`.

Points are drawn uniformly from the extent of each model's codes. "decode" is the decoders of all models, "frame" all work that a
move of the pointer causes in the page: decoding, the nearest test image, and the images, marks and numbers of all models.
"""

from pathlib import Path

import click
from selenium.webdriver.support.wait import WebDriverWait

from tests.explorer.browser import browser, missing

MEASURE = """
const times = { decode: [], frame: [] };
const draw = (card) => card.model.ranges.map(([low, high]) => low + Math.random() * (high - low));
for (let i = 0; i < arguments[0]; i++) {
  const points = cards.map(draw), start = performance.now();
  cards.forEach((card, k) => card.model.decode(points[k]));
  times.decode.push(performance.now() - start);
  const again = performance.now();
  cards[0].lead(points[0]);
  times.frame.push(performance.now() - again);
}
return times;
"""


@click.command()
@click.argument("page", default="explorer/explorer.html", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--count", default=1000, show_default=True, help="Points to decode.")
def main(page: Path, count: int) -> None:
    """Print milliseconds per point: mean, and the slowest of a hundred."""
    if missing():
        raise click.ClickException(f"needs {missing()}")
    with browser() as driver:
        driver.get(page.resolve().as_uri())
        WebDriverWait(driver, 30).until(lambda d: d.execute_script("return document.body.dataset.ready"))
        driver.execute_script(MEASURE, 50)  # let the just-in-time compiler finish
        measured: dict[str, list[float]] = driver.execute_script(MEASURE, count)
        models = driver.execute_script("return cards.length")
    for name, times in measured.items():
        slow = sorted(times)[int(0.99 * len(times))]
        click.echo(f"{name:7} {models} models: mean {sum(times) / len(times):.2f} ms, 99th percentile {slow:.2f} ms")


if __name__ == "__main__":
    main()
