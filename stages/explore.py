"""Write the latent explorer, one HTML page to open in any browser, and log it to the models' MLflow runs."""

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from pipeline import tracking
from pipeline.data import load_dataset
from pipeline.errors import IntegrityError
from pipeline.explorer import Explored, explorer, layers
from pipeline.files import md5, write
from pipeline.laboratory import load_laboratory
from pipeline.results import load_results
from stages import run


def explored(name: str, results: Path, models: Path, laboratory: Path) -> Explored:
    """Return a model by its name in the three folders; the laboratory's file may be absent."""
    found, weights, extra = (folder / f"{name}.safetensors" for folder in (results, models, laboratory))
    result, decoder = load_results(found), layers(weights)
    if md5(weights) != result.weights_md5:
        raise IntegrityError(f"{found}: of other weights than {weights}; run `dvc repro` to evaluate these")
    return Explored(result, decoder, load_laboratory(extra) if extra.exists() else None)


def swept(shown: dict[str, Explored], sweep: Path, data: Path) -> list[list[Explored]]:
    """Return each model with those in the folder ``sweep`` that differ from it in beta, at their codes of the test images."""
    import torch  # a second, and only a sweep has new codes to find

    from pipeline.weights import load_weights

    dataset = load_dataset(data)
    cards = {name: {one.results.beta: one} for name, one in shown.items()}
    for path in sorted(sweep.glob("*.safetensors")):
        trained = load_weights(path)
        card = cards.get(trained.name, {})
        if trained.beta in card or not card:
            continue
        results = shown[trained.name].results
        if {trained.dataset, dataset.name} != {results.dataset} or not np.array_equal(dataset.test.labels, results.labels):
            raise IntegrityError(f"{path}, {data}: another data set than the results'; a sweep is shown on the same images")
        with torch.no_grad():
            codes = trained.model.embed(torch.from_numpy(dataset.test.pixels)).numpy()
        card[trained.beta] = Explored(replace(results, codes=codes, beta=trained.beta), layers(path))
    return [list(card.values()) for card in cards.values()]


@click.command()
@click.option("--results", default="results", show_default=True, type=Path, help="Folder of results, a file for each model.")
@click.option("--models", default="models", show_default=True, type=Path, help="Folder of the models' weights.")
@click.option("--laboratory", default="laboratory", show_default=True, type=Path, help="Folder of hole maps; may be absent.")
@click.option("--sweep", type=Path, help="Folder of weights that differ in beta from the models': adds a beta slider.")
@click.option("--data", default="data/dataset.safetensors", show_default=True, type=Path, help="Read for the codes of a sweep.")
@click.option("--out", default="explorer/explorer.html", show_default=True, type=Path)
def main(results: Path, models: Path, laboratory: Path, sweep: Path | None, data: Path, out: Path) -> None:
    """Write the latent explorer of all models that have results."""
    names = [path.stem for path in sorted(results.glob("*.safetensors"))]
    shown = {name: explored(name, results, models, laboratory) for name in names}
    cards = swept(shown, sweep, data) if sweep else [[one] for one in shown.values()]
    write(out, explorer(cards))
    click.echo(f"explore: {out}, {out.stat().st_size / 1e6:.1f} MB, {sum(map(len, cards))} models")
    for one in shown.values():
        tracking.find(one.results.weights_md5).log_file(out)


if __name__ == "__main__":
    run(main)
