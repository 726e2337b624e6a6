"""The variants' stages: what is trained is what is measured, and the ledger can read it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import blobs

from pipeline import tracking
from pipeline.checkpoint import Checkpoints
from pipeline.data import Dataset, save_dataset
from pipeline.evaluation import PROFILES, Budget
from pipeline.judge import learn, save_judge
from pipeline.laboratory import load_laboratory
from pipeline.models import MODELS
from pipeline.variants import GROUPS
from pipeline.weights import Trained, save_weights
from stages import evaluate_variants, train_variants

SMALL = Budget(100, 100, importance_images=5, exact_images=5, grid=8, plots=50, samples=60, pairs=10)


def test_variants_are_trained_measured_and_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "find", lambda md5: tracking.Run())
    monkeypatch.setitem(PROFILES, "fast", SMALL)
    train, test = blobs(120, seed=0), blobs(100, seed=1)
    save_dataset(tmp_path / "data", Dataset("blobs", train, test))
    save_judge(tmp_path / "judge", learn("blobs", train, test, num_steps=60, seed=0))
    params = (Path(__file__).parents[1] / "params.yaml").read_text()
    for old, new in (("profile: full", "profile: fast"), ("threads: 2", "threads: 1")):
        assert old in params
        params = params.replace(old, new)
    (tmp_path / "params.yaml").write_text(params)
    common = ["--params", str(tmp_path / "params.yaml"), "--data", str(tmp_path / "data")]

    def pretend(name, settings, data, out, metrics):
        hidden = getattr(settings, name).hidden_dims
        beta = settings.beta if name == "vae" else None
        save_weights(out / f"{name}.safetensors", Trained(MODELS[name](64, 2, hidden), name, "blobs", (8, 8), beta))
        return Checkpoints(tmp_path, name)

    monkeypatch.setattr("pipeline.experiment.train", pretend)
    models, out, metrics = (str(tmp_path / name) for name in ("models", "laboratory", "variants.json"))
    for group in GROUPS:
        assert CliRunner().invoke(train_variants.main, [group, *common, "--out", models]).exit_code == 0
        assert (Path(models) / group).is_dir()
    arguments = ["--judge", str(tmp_path / "judge"), "--weights", models, "--out", out, "--metrics", metrics]
    assert CliRunner().invoke(evaluate_variants.main, [*common, *arguments]).exit_code == 0
    names = {"ae_matched_1", "vae_contrast_1"}
    assert json.loads(Path(metrics).read_text()).keys() == names
    assert {path.stem for path in Path(out).iterdir()} == names
    for claim, needed in (("smooth", "walk_tortuosity"), ("holes", "far_hull"), ("generates", "sample_features")):
        for path in Path(out).iterdir():
            assert needed in load_laboratory(path).arrays, claim
