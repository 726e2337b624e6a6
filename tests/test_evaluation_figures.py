"""The laboratory's figures: drawn for what was measured, left out for what was not, the same bytes every time."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from pipeline import tracking
from pipeline.claims import ledger
from pipeline.errors import IntegrityError
from pipeline.figures.laboratory import LABORATORY, draw_laboratory
from pipeline.figures.style import png
from pipeline.laboratory import Laboratory, save_laboratory
from stages.laboratory import main


def laboratory(model: str, beta: float | None) -> Laboratory:
    rng = np.random.default_rng(len(model))
    arrays = {
        "map_axes": np.stack([np.linspace(-3, 3, 8), np.linspace(-5, 5, 8)]),
        "map_codes": rng.normal(size=(20, 2)),
        "map_labels": np.arange(20) % 10,
        "confidence_map": rng.uniform(0.4, 1, (8, 8)),
        "volume_map": rng.normal(size=(8, 8)),
        "sample_images": rng.random((4, 20, 6, 5)),
        "sample_features": rng.normal(size=(4, 50, 3)),
        "real_features": rng.normal(size=(50, 3)),
        "worst": rng.random((2, 10, 6, 5)),
        "surprising": rng.random((2, 0, 6, 5)),
        "walk_tortuosity": rng.normal(size=30),
    }
    return Laboratory("digits", model, beta, 1, ["prior", "gaussian", "gmm10", "kde"], f"md5 {model}", arrays)


BOTH = (laboratory("ae", None), laboratory("vae", 4.0))


def test_every_figure_names_models_data_and_beta():
    figures = draw_laboratory(BOTH, ledger(BOTH))
    assert figures.keys() == {*LABORATORY, "claims"}
    for name, figure in figures.items():
        said = "\n".join(text.get_text() for text in figure.findobj(Text))
        assert ("inconclusive" if name == "claims" else "VAE on digits, β = 4") in said
    again = draw_laboratory(BOTH, ledger(BOTH))["holes"]
    assert png(figures["holes"], 40) == png(again, 40)


def test_what_was_not_measured_is_not_drawn():
    bare = replace(BOTH[0], arrays={"worst": BOTH[0].arrays["worst"]})
    assert draw_laboratory([bare], ledger([bare])).keys() == {"digits", "claims"}


def test_the_stage_leaves_no_figure_of_an_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "find", lambda md5: tracking.Run())
    paths = [str(tmp_path / measured.model) for measured in BOTH]
    for path, measured in zip(paths, BOTH, strict=True):
        save_laboratory(path, measured)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.png").write_bytes(b"")
    params = Path(__file__).parents[1] / "params.yaml"
    arguments = [*paths, "--claims", str(tmp_path / "claims.json"), "--out", str(out), "--params", str(params)]
    assert isinstance(CliRunner().invoke(main, arguments).exception, IntegrityError)
    (tmp_path / "claims.json").write_text(json.dumps(ledger(BOTH)))
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert {path.stem for path in out.iterdir()} == {*LABORATORY, "claims"}
