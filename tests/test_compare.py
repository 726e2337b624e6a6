"""Runs that compare are shown in one table, one set of figures and one page; runs of several data sets are refused."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from pipeline import compare, runs, tracking
from pipeline.errors import ParamsError
from pipeline.models import MODELS
from pipeline.tracking import Record
from pipeline.weights import Trained, save_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own use of SQLAlchemy
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # and its own hints
]
TERMS = {0.5: (25.0, 9.0), 1.0: (27.0, 6.0), 4.0: (34.0, 2.0)}


def log(model: str, beta: float | None, seed: int, folder: Path, dataset: str = "blobs", latent_dim: int = 2, **tags: str) -> str:
    """Log a run as a training and an evaluation would; return its id."""
    settings = {"model.name": model, "model.hidden_dims": [8], "model.latent_dim": latent_dim, "seed": seed}
    settings |= {} if beta is None else {"beta": beta}
    weights = folder / f"{model}.safetensors"
    trained = Trained(MODELS[model](64, latent_dim, [8]), model, dataset, (8, 8), beta)
    save_weights(weights, trained)
    recon, kl = TERMS.get(beta or 1.0, (20.0, 8.0))
    numbers = {"test/recon": recon} if beta is None else {"test/recon": recon, "test/kl": kl, "test/elbo": -recon - kl}
    with tracking.start(runs.label(settings), {"dataset": dataset, **tags}) as run:
        run.log_params(settings)
        for epoch in (1, 2, 3):
            run.log_epoch({"epoch": epoch, "val/loss": 40.0 - epoch, "val/recon": 30.0 - epoch})
        run.log_file(weights)
        runs.evaluated(run, "full", numbers, dataset, [])
    assert run.id
    return run.id


def call(*arguments: str) -> Result:
    return CliRunner().invoke(compare.main, arguments)


class Page(HTMLParser):
    """What a page refers to, and its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.cells += [data.strip()] if data.strip() else []


def test_runs_of_a_data_set_side_by_side(store: Path, workspace: Path) -> None:
    for beta in TERMS:
        log("vae", beta, 1, workspace, **({"dvc.exp.name": "four"} if beta == 4.0 else {}))
    log("ae", None, 1, workspace)
    said = call("--out", "out", "--dpi", "50")
    assert said.exit_code == 0, said.output
    line = next(line for line in said.output.splitlines() if "beta=4" in line)
    assert line.split() == ["vae", "8-2", "beta=4", "seed=1", "vae", "blobs", "4", "2", "1", "34.00", "2.00", "-36.00", "four"]
    table = pd.read_csv("out/runs.csv")
    assert table["name"].tolist() == ["ae 8-2 seed=1", *(f"vae 8-2 beta={beta:g} seed=1" for beta in TERMS)]
    assert table.set_index("beta").loc[1.0, ["recon", "kl", "elbo"]].tolist() == [27.0, 6.0, -33.0]
    pictures = {"rate_distortion", "terms_by_beta", "curves", "samples", "manifolds"}
    assert {path.stem for path in Path("out").glob("*.png")} == pictures
    page = Page(Path("out/compare.html").read_text())
    assert len(page.sources) == len(pictures)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert {"vae 8-2 beta=4 seed=1", "-36.00", "four"} <= set(page.cells)


def test_what_the_rate_distortion_figure_shows() -> None:
    rows = [("r", "vae", "blobs", beta, 2, 1, *terms, -sum(terms), None, "FINISHED", "r") for beta, terms in TERMS.items()]
    rows.append(("r", "ae", "blobs", None, 2, 1, 20.0, None, None, None, "FINISHED", "r"))
    figure = compare.rate_distortion(compare.Comparison(pd.DataFrame(rows, columns=compare.COLUMNS)))
    assert figure is not None
    (ax,) = figure.axes
    lines = [line for line in ax.get_lines() if line.get_marker() == "o"]
    expected = sorted((kl, recon) for recon, kl in TERMS.values())
    assert sorted(map(tuple, np.concatenate([line.get_xydata() for line in lines]))) == expected
    labels = [text.get_text() for text in ax.texts]
    assert {"β = 0.5", "β = 1", "β = 4"} <= set(labels)
    iso = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    named = sorted(
        -float(label.removeprefix("ELBO ").replace("\N{MINUS SIGN}", "-")) for label in labels if label.startswith("ELBO")
    )
    sums = sorted({float(np.round(line.get_xydata().sum(1)[0], 6)) for line in iso})
    assert all(np.ptp(line.get_xydata().sum(1)) < 1e-9 for line in iso), "recon + kl is the same all along the line"
    assert len(named) > 2
    assert set(named) <= set(sums)


def test_data_sets_are_not_mixed_silently(store: Path, workspace: Path) -> None:
    log("vae", 1.0, 1, workspace)
    log("vae", 4.0, 1, workspace, dataset="squares")
    said = call("--out", "out")
    assert said.exit_code == 2
    assert "several data sets (blobs, squares); choose one with --dataset" in said.output
    assert not Path("out").exists()
    assert call("--out", "out", "--dataset", "squares", "--dpi", "50").exit_code == 0
    assert pd.read_csv("out/runs.csv")["dataset"].tolist() == ["squares"]


def record(name: str, number: int, model: str = "vae", **tags: str) -> tuple[Record, tracking.Run]:
    params = {"model.name": model, "model.latent_dim": str(number), "seed": "1"} | ({"beta": "1"} if model == "vae" else {})
    tags = {"dataset": "blobs", "model.md5": str(number)} | tags
    return Record(f"{number:04}", name, "FINISHED", params, tags, {}, True, None), tracking.Run()


def test_filters() -> None:
    found = [record("a", 1, sweep="true"), record("b", 2, "ae"), record("c", 3), record("older", 1)]
    assert compare.select(found, None, None, {}).table["name"].tolist() == ["b", "a", "c"]
    assert compare.select(found, None, "ae", {}).table["name"].tolist() == ["b"]
    assert compare.select(found, None, None, {"sweep": "true"}).table["name"].tolist() == ["a"]
    with pytest.raises(ParamsError, match="no run passes"):
        compare.select(found, "mnist", None, {})
    assert compare.select([record("a", 1), record("a", 2)], None, None, {}).table["name"].tolist() == ["a 0001", "a 0002"]


def test_a_tag_without_a_value_and_an_empty_store(store: Path) -> None:
    said = call("--tag", "sweep")
    assert said.exit_code == 2
    assert re.search("'sweep'; allowed is key=value", said.output)
    said = call()
    assert said.exit_code == 2
    assert said.output.startswith("error: no run passes")
