"""What the figures of a comparison show, and the page around them."""

import itertools
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.reporting import compare_figures
from pipeline.reporting.compare import COLUMNS, Comparison
from pipeline.reporting.compare_figures import curves, decode, pictured, rate_distortion, samples, terms_by_beta, write_comparison

TERMS = {0.5: (25.0, 9.0), 1.0: (27.0, 6.0), 4.0: (34.0, 2.0)}
Compare = Callable[..., Comparison]


def tiny(model: str = "vae", latent_dim: int = 2, beta: float | None = 1.0) -> Trained:
    config = ModelConfig(model, "mlp", (1, 8, 8), latent_dim, (8,))
    return Trained(config.build().eval(), config, "blobs", beta)


class FakeRun:
    """A run whose artifacts lie in a folder."""

    alive = True

    def __init__(self, folder: Path, trained: Trained, readable: bool) -> None:
        folder.mkdir()
        self.folder = folder
        save_weights(folder / "model.safetensors", trained)
        if not readable:
            (folder / "model.safetensors").write_bytes(b"of another version")

    def points(self, key: str) -> dict[int, float]:
        return {} if key == "val/kl" else {1: 40.0, 2: 39.0, 3: 38.5}

    def files(self) -> dict[str, int]:
        return {"models/inner.safetensors": 1, "model.safetensors": 2, "history.csv": 3}

    def fetch(self, path: str, folder: Path) -> Path:
        return self.folder / path


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """A function that returns the comparison of runs ``(model, beta, seed, latent_dim, readable)``."""
    monkeypatch.setattr(compare_figures, "histories", lambda runs, key: [run.points(key) for run in runs])

    def make(*asked: tuple[str, float | None, int, int, bool]) -> Comparison:
        rows, runs = [], []
        for number, (model, beta, seed, latent_dim, readable) in enumerate(asked):
            recon, kl = (20.0, None) if beta is None else TERMS[beta]
            elbo = None if kl is None else -recon - kl
            name = f"{model} beta={beta} seed={seed}"
            series = f"{model} d={latent_dim}"
            setting = series if beta is None else f"{series} β={beta:g}"
            values = (name, "main", model, beta, latent_dim, seed, recon, kl, elbo, None, None, "blobs", "FINISHED", str(number))
            rows.append((*values, setting, series))
            runs.append(FakeRun(tmp_path / str(number), tiny(model, latent_dim, beta), readable))
        numbers = {"beta": float, "kl": float, "elbo": float}
        table = pd.DataFrame(rows, columns=COLUMNS).astype(numbers)
        return Comparison(table, runs, list(dict.fromkeys(table["setting"])))

    return make


ALL = [("ae", None, 1, 2, True), *(("vae", beta, 1, 2, True) for beta in TERMS)]


def dots(figure: compare_figures.Figure, panel: int = 0) -> list[tuple[float, ...]]:
    lines = [line for line in figure.axes[panel].get_lines() if line.get_marker() == "o"]
    return sorted(map(tuple, np.concatenate([line.get_xydata() for line in lines])))


def test_rate_and_distortion_of_each_run(compare: Compare) -> None:
    figure = rate_distortion(compare(*ALL))
    assert figure is not None
    assert dots(figure) == sorted((kl, recon) for recon, kl in TERMS.values())
    assert {"β = 0.5", "β = 1", "β = 4"} <= {text.get_text() for text in figure.axes[0].texts}


def test_lines_of_equal_elbo_have_their_value_written_on_them(compare: Compare) -> None:
    figure = rate_distortion(compare(*ALL))
    assert figure is not None
    (ax,) = figure.axes
    labels = [text.get_text() for text in ax.texts if text.get_text().startswith("ELBO")]
    named = [-float(label.removeprefix("ELBO ").replace("\N{MINUS SIGN}", "-")) for label in labels]
    lines = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    assert all(np.ptp(line.get_xydata().sum(1)) < 1e-9 for line in lines)
    assert len(named) > 2
    assert set(named) <= {float(np.round(line.get_xydata().sum(1)[0], 6)) for line in lines}


def test_each_beta_that_has_room_is_named_and_no_name_covers_another(compare: Compare) -> None:
    compared = compare(*ALL[1:], ("vae", 1.0, 1, 3, True), ("vae", 1.0, 1, 5, True), ("vae", 4.0, 1, 5, True))
    compared.table["kl"] = [9.0, 6.0, 2.0, 6.1, 6.0, 9.1]  # two are beside another, one is below one
    compared.table["recon"] = [25.0, 27.0, 34.0, 27.05, 33.0, 33.9]
    figure = rate_distortion(compared)
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    named = [text for text in figure.axes[0].texts if text.get_text().startswith("β")]
    assert sorted(text.get_text() for text in named) == ["β = 0.5", "β = 1", "β = 1", "β = 4", "β = 4"]
    boxes = [text.get_window_extent() for text in named]
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]


def test_betas_are_drawn_by_their_ratio_and_zero_takes_no_more_room_than_two_of_them(compare: Compare) -> None:
    figure = terms_by_beta(compare(*ALL[1:]))
    assert figure is not None
    for ax in figure.axes:
        places = ax.transData.transform([(beta, 1.0) for beta in (0.0, 0.25, 0.5, 1.0, 4.0, 16.0)])[:, 0]
        zero, half, one, four, sixteen = np.diff(places)
        np.testing.assert_allclose([half, four, sixteen], [one, 2 * one, 2 * one])
        assert 0 < zero < 2.01 * one


def test_axes_of_numbers_say_what_they_show(compare: Compare) -> None:
    compared = compare(*ALL)
    for figure in (rate_distortion(compared), terms_by_beta(compared), curves(compared)):
        assert figure is not None
        for ax in figure.axes:
            assert ax.get_xlabel()
            assert ax.get_ylabel() or ax is not figure.axes[0]
            assert ax.get_title() or ax.get_title(loc="left")


def test_terms_by_beta_average_over_seeds(compare: Compare) -> None:
    compared = compare(("vae", 1.0, 1, 2, True), ("vae", 1.0, 2, 2, True), ("vae", 4.0, 1, 2, True))
    compared.table.loc[1, "recon"] = 29.0
    figure = terms_by_beta(compared)
    assert figure is not None
    assert dots(figure) == [(1.0, 27.0), (1.0, 29.0), (4.0, 34.0)]
    (means,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "None"]
    assert means.get_xydata().tolist() == [[1.0, 28.0], [4.0, 34.0]]
    (band,) = figure.axes[0].collections
    assert {(1.0, 27.0), (1.0, 29.0)} <= {tuple(point) for point in band.get_paths()[0].vertices}


def test_runs_without_an_elbo_have_no_rate(compare: Compare) -> None:
    compared = compare(("ae", None, 1, 2, True))
    assert rate_distortion(compared) is terms_by_beta(compared) is None


def test_curves_of_the_terms_that_were_logged(compare: Compare) -> None:
    compared = compare(*ALL)
    figure = curves(compared)
    assert figure is not None
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes] == ["Loss at β = 1", "Reconstruction"]
    assert [line.get_ydata().tolist() for line in figure.axes[0].get_lines()] == [[40.0, 39.0, 38.5]] * len(ALL)
    assert [line.get_label() for line in figure.axes[0].get_lines()] == compared.table["setting"].tolist()
    assert figure.legends[0].get_title().get_text() == ""


def test_seeds_are_one_band_with_one_entry_in_the_legend(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = compare(*[("vae", 1.0, seed, 2, True) for seed in (1, 2, 3)], ("vae", 4.0, 1, 2, True))
    losses = [{1: 40.0, 2: 36.0}, {1: 41.0, 2: 37.0}, {1: 45.0, 2: 38.0, 3: 30.0}, {1: 50.0}]  # the third went on alone
    monkeypatch.setattr(compare_figures, "histories", lambda runs, key: losses if key == "val/loss" else [{} for _ in runs])
    figure = curves(compared)
    assert figure is not None
    (ax,) = figure.axes
    assert [line.get_ydata().tolist() for line in ax.get_lines()] == [[42.0, 37.0], [50.0]]
    (band,) = ax.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} == {(1.0, 40.0), (1.0, 45.0), (2.0, 36.0), (2.0, 38.0)}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vae d=2 β=1, 3 runs", "vae d=2 β=4"]
    assert legend.get_title().get_text() == "line: mean over seeds, band: their range"


def test_the_legends_have_the_best_alone(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_figures, "MAX_DRAWN", 2)
    compared = compare(*ALL[1:], ("vae", 1.0, 1, 3, True), ("vae", 4.0, 1, 5, True))
    read: list[int] = []
    monkeypatch.setattr(compare_figures, "histories", lambda runs, key: read.append(len(runs)) or [{1: 40.0} for _ in runs])
    drawn = curves(compared)
    assert drawn is not None
    assert set(read) == {2}
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vae d=2 β=0.5", "vae d=2 β=1"]
    assert legend.get_title().get_text() == "the best 2 of 5 settings by test/elbo"
    figure = rate_distortion(compared)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["1 other series", "vae d=2", "vae d=3"]


def test_one_model_is_pictured_for_each_beta_and_latent_size(compare: Compare) -> None:
    compared = compare(
        ("ae", None, 1, 2, True), ("ae", None, 2, 2, True), *ALL[1:], ("vae", 1.0, 2, 2, True), ("vae", 1.0, 1, 3, True)
    )
    compared.table.loc[compared.table.index[-1], "name"] = "vae of three dimensions"
    names = ["ae beta=None seed=1", *(f"vae beta={beta} seed=1" for beta in TERMS), "vae of three dimensions"]
    assert list(pictured(compared)) == names


def test_weights_of_another_version_are_left_out_with_a_line(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compared = compare(("vae", 1.0, 1, 2, False), ("vae", 1.0, 2, 2, True), ("vae", 4.0, 1, 2, False))
    assert list(pictured(compared)) == ["vae beta=1.0 seed=2"]  # the next seed in its place
    assert capsys.readouterr().err.splitlines() == [
        f"note: vae beta={beta} seed=1: weights of another version; its pictures are left out" for beta in (1.0, 4.0)
    ]


def test_the_number_of_pictured_models_is_limited(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_figures, "MAX_DRAWN", 2)
    assert len(pictured(compare(*ALL))) == 2


def test_images_are_decoded_at_any_number_of_points() -> None:
    trained, z = tiny(), np.linspace(-1, 1, 24).reshape(3, 4, 2)
    images = decode(trained, z)
    assert images.shape == (3, 4, 1, 8, 8)
    with torch.no_grad():
        alone = torch.sigmoid(trained.model.decode(torch.tensor(z[1, 2], dtype=torch.float32)[None]))[0]
    np.testing.assert_allclose(images[1, 2], alone.numpy(), rtol=1e-5)


def test_all_models_decode_the_same_samples_of_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(compare_figures, "decode", lambda trained, z: seen.append(z) or decode(trained, z))
    models = {"a": tiny(), "b": tiny(), "deep": tiny(latent_dim=5), "ae": tiny("ae", beta=None)}
    figure = samples(models)
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes if ax.axison] == ["a", "b", "deep"]
    assert len(seen) == 3
    np.testing.assert_array_equal(seen[0], seen[1])
    assert seen[2].shape == (6, 6, 5)


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.cells += [data.strip()] if data.strip() else []


def test_the_page_holds_the_table_and_all_figures(compare: Compare, tmp_path: Path) -> None:
    compared, out = compare(*ALL), tmp_path / "out"
    compared.table["experiment"] = experiment = "<four>" * 20
    names = write_comparison(compared, out, 50)
    assert names == ["rate_distortion", "terms_by_beta", "curves", "samples", "manifolds"]
    assert {path.stem for path in out.glob("*.png")} == set(names)
    page = Page((out / "compare.html").read_text())
    assert len(page.sources) == len(names)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert {"vae beta=4.0 seed=1", "-36.00", experiment} <= set(page.cells)
    assert pd.read_csv(out / "runs.csv")["recon"].tolist() == [20.0, *(recon for recon, _ in TERMS.values())]
