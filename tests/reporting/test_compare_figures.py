"""What the figures of a comparison show, and the page around them."""

import itertools
import shutil
from base64 import b64encode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from pipeline.figures.style import PENCIL
from pipeline.models import ModelConfig
from pipeline.models.weights import Trained, save_weights
from pipeline.reporting import compare_figures
from pipeline.reporting.compare import COLUMNS, Comparison
from pipeline.reporting.compare_figures import (
    curves,
    decode,
    manifolds,
    page,
    pictured,
    rate_distortion,
    samples,
    terms_by_beta,
    write_comparison,
)
from pipeline.runtime import generator

TERMS = {0.5: (25.0, 9.0), 1.0: (27.0, 6.0), 4.0: (34.0, 2.0)}
Compare = Callable[..., Comparison]


def tiny(model: str = "vae", latent_dim: int = 2, beta: float | None = 1.0) -> Trained:
    config = ModelConfig(model, "mlp", (1, 8, 8), latent_dim, (8,))
    return Trained(config.build().eval(), config, "blobs", beta)


class FakeRun:
    """A run whose artifacts lie in a folder."""

    alive = True
    has_weights = True

    def __init__(self, folder: Path, trained: Trained, readable: bool) -> None:
        folder.mkdir()
        self.folder = folder
        save_weights(folder / "model.safetensors", trained)
        if not readable:
            (folder / "model.safetensors").write_bytes(b"of another version")

    def points(self, key: str) -> dict[int, float]:
        return {} if key == "val/kl" else {1: 40.0, 2: 39.0, 3: 38.5}

    def files(self) -> dict[str, int]:
        return (
            {"history.csv": 3, "models/inner.safetensors": 1, "model.safetensors": 2} if self.has_weights else {"history.csv": 3}
        )

    def fetch(self, path: str, folder: Path) -> Path | None:
        assert folder.is_dir()
        return self.folder / path if self.folder.exists() else None


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


def words(figure: compare_figures.Figure | None) -> tuple[Any, ...]:
    """Return the title and size in inches of a figure, the words of its axes and of its legends, their titles first."""
    assert figure is not None
    axes = [ax for ax in figure.axes if ax.axison]
    legends = [*figure.legends, *filter(None, [ax.get_legend() for ax in axes])]
    texts = [
        [ax.get_title() + ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel(), *(text.get_text() for text in ax.texts)]
        for ax in axes
    ]
    shown = [[legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())] for legend in legends]
    return figure.get_suptitle(), figure.get_size_inches().round(3).tolist(), texts, shown


def test_all_words_of_each_figure(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = compare(*ALL[1:])
    elbos = [f"ELBO \N{MINUS SIGN}{total:g}" for total in (27.5, 30, 32.5, 35, 37.5, 40, 42.5)]
    title, x, y = (
        "Rate and distortion on test images of blobs",
        "rate: KL, nats per image",
        "distortion: reconstruction, nats per image",
    )
    assert words(rate_distortion(compared)) == (
        "",
        [6.4, 4.6],
        [[title, x, y, "β = 0.5", "β = 1", "β = 4", *elbos]],
        [["", "vae d=2"]],
    )
    axes = [[term, "β in training", "nats per test image"] for term in ("Reconstruction", "KL", "ELBO at β = 1")]
    assert words(terms_by_beta(compared)) == ("", [7.8, 2.7], axes, [["", "vae d=2"]])
    monkeypatch.setattr(compare_figures, "histories", lambda runs, key: [{1: 40.0} for _ in runs])
    axes = [[term, "epoch", "nats per validation image"] for term in ("Loss at β = 1", "Reconstruction", "KL")]
    assert words(curves(compared)) == ("", [7.8, 3.0], axes, [["", *(f"vae d=2 β={beta:g}" for beta in TERMS)]])
    models = {"a": tiny(), "b": tiny()}
    assert words(samples(models)) == ("Samples from the prior", [7.8, 4.3], [["a", "", ""], ["b", "", ""]], [])
    assert words(manifolds(models)) == ("Decoded planes, −3 to 3", [7.8, 4.3], [["a", "", ""], ["b", "", ""]], [])


def lines(ax: Axes) -> dict[str, tuple[list[list[float]], Any]]:
    """Return points and color of each line through means, by its label."""
    return {
        str(line.get_label()): (line.get_xydata().tolist(), line.get_color())
        for line in ax.get_lines()
        if line.get_linestyle() == "-"
    }


def test_a_series_has_one_line_through_its_means_and_one_color_in_all_panels(compare: Compare) -> None:
    runs = [("vae", 4.0, 1, 2, True), ("vae", 1.0, 1, 2, True), ("vae", 1.0, 2, 2, True), ("vae", 1.0, 1, 3, True)]
    compared = compare(*runs)
    compared.table.loc[2, ["recon", "kl", "elbo"]] = 30.0, 8.0, -38.0
    plane, terms = rate_distortion(compared), terms_by_beta(compared)
    assert plane is not None
    assert terms is not None
    means = {"recon": (28.5, 34.0, 27.0), "kl": (7.0, 2.0, 6.0), "elbo": (-35.5, -36.0, -33.0)}  # d=2 with β = 1 and 4, d=3
    seeds = {"recon": (27.0, 30.0), "kl": (6.0, 8.0), "elbo": (-38.0, -33.0)}
    two, three = (color for _, color in lines(plane.axes[0]).values())
    assert two != three
    assert lines(plane.axes[0]) == {"vae d=2": ([[7.0, 28.5], [2.0, 34.0]], two), "vae d=3": ([[6.0, 27.0]], three)}
    for ax, term in zip(terms.axes, means, strict=True):
        one, four, other = means[term]
        assert lines(ax) == {"vae d=2": ([[1.0, one], [4.0, four]], two), "vae d=3": ([[1.0, other]], three)}
        bands = [{tuple(point) for point in band.get_paths()[0].vertices} for band in ax.collections]
        assert bands == [{(1.0, low) for low in seeds[term]} | {(4.0, four)}, {(1.0, other)}]
        assert [to_hex(band.get_facecolor()[0]) for band in ax.collections] == [two, three]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4"]
        assert ax.get_xticks().tolist() == [1.0, 4.0]
    for ax in (*plane.axes, *terms.axes):
        assert [line.get_color() for line in ax.get_lines() if line.get_marker() == "o"] == [two, three]


def test_all_runs_are_inside_the_plane_of_rate_and_distortion_with_room_for_names(compare: Compare) -> None:
    figure = rate_distortion(compare(*ALL))
    assert figure is not None
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.get_xlim(), (2 - 0.12 * 7, 9 + 0.12 * 7))
    np.testing.assert_allclose(ax.get_ylim(), (25 - 0.12 * 9, 34 + 0.12 * 9))
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    places = np.array([text.xy for text in names])
    assert np.all((places >= (ax.get_xlim()[0], ax.get_ylim()[0])) & (places <= (ax.get_xlim()[1], ax.get_ylim()[1])))
    betas = {text.get_text(): text.xy for text in names if text.get_text().startswith("β")}
    assert betas == {f"β = {beta:g}": (kl, recon) for beta, (recon, kl) in TERMS.items()}
    for text in (text for text in names if text.get_text() not in betas):  # at the left or at the top, on its line
        assert text.xy[0] == ax.get_xlim()[0] or text.xy[1] == ax.get_ylim()[1]
        np.testing.assert_allclose(sum(text.xy), -float(text.get_text()[5:].replace("\N{MINUS SIGN}", "-")))


def test_many_runs_have_smaller_dots(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    compared, sizes = compare(*ALL[1:]), []
    for most in (3, 2):
        monkeypatch.setattr(compare_figures, "MAX_DOTS", most)
        figure = rate_distortion(compared)
        assert figure is not None
        sizes += [line.get_markersize() for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert sizes == [7, 2.5]


@pytest.mark.parametrize(("letters", "columns"), [(3, 4), (31, 2), (49, 2), (50, 1), (120, 1)])
def test_a_legend_is_below_the_axes_and_as_wide_as_its_names_allow(compare: Compare, letters: int, columns: int) -> None:
    compared = compare(*[("vae", 1.0, 1, latent_dim, True) for latent_dim in (2, 3, 4, 5)])
    compared.table["series"] = [*"abc", "d" * letters]
    figure = terms_by_beta(compared)
    assert figure is not None
    (legend,) = figure.legends
    FigureCanvasAgg(figure).draw()
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == columns
    below = [ax.xaxis.label.get_window_extent().y0 for ax in figure.axes]
    assert legend.get_window_extent().y1 <= min(below)


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
    losses = [{2: 36.0, 1: 40.0}, {1: 41.0, 2: 37.0}, {1: 45.0, 2: 38.0, 3: 30.0}, {1: 50.0}]  # the third went on alone
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


def test_a_curve_goes_on_while_half_of_the_runs_do_and_keeps_its_color_in_each_panel(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = compare(*[("vae", beta, seed, 2, True) for beta in (0.5, 1.0, 4.0) for seed in (1, 2)])
    points = [{}, {}, {1: 40.0, 2: 38.0}, {1: 42.0}, {1: 50.0}, {}]  # the first setting has none
    monkeypatch.setattr(compare_figures, "histories", lambda runs, key: points if key != "val/kl" else [{1: 5.0}] * 6)
    figure = curves(compared)
    assert figure is not None
    loss, recon, kl = map(lines, figure.axes)
    assert loss == recon
    assert [points for points, _ in loss.values()] == [[[1.0, 41.0], [2.0, 38.0]], [[1.0, 50.0]]]
    assert list(loss) == ["vae d=2 β=1, 2 runs", "vae d=2 β=4"]
    colors = {name: color for name, (_, color) in kl.items()}
    assert len(set(colors.values())) == 3
    assert [color for _, color in loss.values()] == list(colors.values())[1:]
    assert [to_hex(band.get_facecolor()[0]) for band in figure.axes[2].collections] == list(colors.values())
    monkeypatch.setattr(compare_figures, "histories", lambda runs, key: [{} for _ in runs])
    assert curves(compared) is None


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
    monkeypatch.setattr(compare_figures, "MAX_DRAWN", 1)
    figure = rate_distortion(Comparison(compared.table, compared.runs, compared.best[::-1]))
    assert figure is not None
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["2 other series", "vae d=5"]
    solid = [line for line in ax.get_lines() if line.get_linestyle() == "-"]
    assert [line.get_xydata()[0].tolist() for line in solid] == [[9.0, 25.0], [6.0, 27.0], [2.0, 34.0]]  # the best above
    assert [line.get_color() for line in solid[:2]] == [PENCIL] * 2 != [solid[2].get_color()] * 2
    assert dots(figure) == [(2.0, 34.0)]


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


def test_runs_whose_weights_are_gone_are_not_pictured(compare: Compare, capsys: pytest.CaptureFixture[str]) -> None:
    compared = compare(*[("vae", 1.0, seed, 2, True) for seed in (1, 2, 3)])
    compared.runs[0].has_weights = False  # type: ignore[attr-defined]
    shutil.rmtree(compared.runs[1].folder)  # type: ignore[attr-defined]
    (name,) = models = pictured(compared)
    assert (name, models[name].beta, capsys.readouterr().err) == ("vae beta=1.0 seed=3", 1.0, "")


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
    for z, dim in zip(seen[1:], (2, 5), strict=True):  # fixed for all comparisons
        np.testing.assert_array_equal(z, torch.randn(6, 6, dim, generator=generator("compare", dim)))
    assert samples({"ae": models["ae"]}) is None


def test_the_plane_of_each_model_of_two_dimensions_is_decoded_from_left_to_right_and_from_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(compare_figures, "decode", lambda trained, z: seen.append(z) or decode(trained, z) / 9)
    figure = manifolds({"deep": tiny(latent_dim=5), "ae": tiny("ae", beta=None), "a": tiny()})
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes if ax.axison] == ["ae", "a"]
    for z in seen:
        x, y = np.meshgrid(np.arange(15) * 3 / 7 - 3, 3 - np.arange(15) * 3 / 7)
        np.testing.assert_allclose(z, np.stack([x, y], -1), atol=1e-9)
    assert len(seen) == 2
    assert {ax.images[0].get_array().shape for ax in figure.axes} == {(15 * 8, 15 * 8)}  # without gaps
    assert {ax.images[0].get_cmap().name for ax in figure.axes} == {"gray_r"}  # dark images, as ink
    assert manifolds({"deep": tiny(latent_dim=5)}) is None
    monkeypatch.setattr(compare_figures, "decode", lambda trained, z: decode(trained, z) / 9 + 0.5)
    figure = samples({"a": tiny()})
    assert figure is not None
    (image,) = figure.axes[0].images
    assert (image.get_array().shape, image.get_cmap().name) == ((6 * (8 + 2 * 3),) * 2, "gray")


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.names: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        self.names += [value or "" for name, value in attrs if name == "alt"]

    def handle_data(self, data: str) -> None:
        self.cells += [data.strip()] if data.strip() else []


def test_the_page_holds_the_table_and_all_figures(compare: Compare, tmp_path: Path) -> None:
    compared, out = compare(*ALL), tmp_path / "out"
    compared.table["experiment"] = experiment = "<four>" * 20
    names = write_comparison(compared, out, 50)
    assert names == ["rate_distortion", "terms_by_beta", "curves", "samples", "manifolds"]
    assert {path.stem for path in out.glob("*.png")} == set(names)
    shown = Page((out / "compare.html").read_text())
    pictures = [b64encode((out / f"{name}.png").read_bytes()).decode() for name in names]
    assert shown.sources == [f"data:image/png;base64,{picture}" for picture in pictures]
    assert shown.names == ["rate distortion", "terms by beta", "curves", "samples", "manifolds"]
    assert {"vae beta=4.0 seed=1", "-36.00", experiment} <= set(shown.cells)
    assert pd.read_csv(out / "runs.csv")["recon"].tolist() == [20.0, *(recon for recon, _ in TERMS.values())]
    assert (out / "runs.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_the_page_says_what_it_shows_and_what_it_leaves_out(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = compare(*ALL[1:])
    compared.table["dataset"] = "<b>"
    head = ["name", "role", "model", "beta", "latent_dim", "seed", "recon", "kl", "elbo"]
    first, *_ = rows = [
        [f"vae beta={beta} seed=1", "main", "vae", f"{beta:g}", "2", "1", f"{recon:.2f}", f"{kl:.2f}", f"{-recon - kl:.2f}"]
        for beta, (recon, kl) in TERMS.items()
    ]
    note = "Nats per test image; the ELBO is at β = 1, also for models trained with another β."
    whole = page(compared, {})
    assert [cell for cell in Page(whole).cells if "{" not in cell] == [
        "Runs on <b>",
        "Runs on <b>",
        note,
        *head,
        *itertools.chain(*rows),
    ]
    assert "border=" not in whole.replace('border="0"', "")
    monkeypatch.setattr("pipeline.reporting.compare.MAX_ROWS", 1)
    cut = "The table has 1 of 3 runs, those of the best settings by test/&elbo; runs.csv has all."
    shown = Page(page(Comparison(compared.table, compared.runs, compared.best, "test/&elbo"), {})).cells
    assert [cell for cell in shown if "{" not in cell] == ["Runs on <b>", "Runs on <b>", note, cut, *head, *first]
