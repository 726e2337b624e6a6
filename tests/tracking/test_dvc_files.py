"""What is read of DVC's files has limits, and what is refused is named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import IntegrityError
from pipeline.tracking.dvc_files import check, read_download, read_history, read_metrics, trained
from pipeline.tracking.dvc_lock import Stage

ABOUT = {"name": "blobs", "train": {"images": 3}, "channels": 1, "height": 4, "width": 5}
PARAMS = {"seed": 1, "vae": {"latent_dim": 2, "hidden_dims": [8]}, "beta": 1.0}
MOST = 2**31 - 1


def source(file: Path | None) -> Any:
    return SimpleNamespace(fetch=lambda stage, path: file if path else None)


@pytest.mark.parametrize(
    ("change", "is_read"),
    [
        ({}, True),
        ({"channels": 3}, True),
        ({"train": {"images": 1}, "height": 2**25, "width": 2**25 - 1}, True),
        ({"train": {"images": 1}, "height": 2**25, "width": 2**25}, False),
        ({"height": 0}, False),
        ({"width": -5, "height": -4}, False),
        ({"channels": True}, False),
        ({"height": 4.0}, False),
        ({"train": {}}, False),
        ({"name": None}, False),
    ],
)
def test_a_download_is_read_if_it_names_its_data_and_a_shape_that_can_be(
    change: dict[str, Any], is_read: bool, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_text(json.dumps(ABOUT | change))
    found = read_download(source(tmp_path / "data.json"), Stage("download", "download", {}, {}, {"metrics/data.json": "1"}))
    assert bool(found) == is_read
    assert not is_read or {"name", "train/images", "height", "width", "channels"} == found.keys()


def test_metrics_of_a_training_are_its_summary_and_what_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    stage = Stage("train", "train", {}, {}, {"metrics/vae.json": "1", "metrics/vae_train.json": "2"})
    files = SimpleNamespace(fetch=lambda stage, path: asked.append(path))
    assert read_metrics(files, stage) == {}  # type: ignore[arg-type]
    assert asked == ["metrics/vae_train.json"]
    (tmp_path / "vae.json").write_text("[1]")
    assert read_metrics(source(tmp_path / "vae.json"), stage) == {}
    assert capsys.readouterr().err == "sync: metrics/vae_train.json is left out (not a mapping)\n"


def test_a_history_has_an_epoch_in_each_row(tmp_path: Path) -> None:
    (file := tmp_path / "history.csv").write_text(f"epoch,val/loss\n1,2.5\n{MOST},nan\n")
    (first, last) = read_history(file)
    assert (first, last["epoch"]) == ({"epoch": 1.0, "val/loss": 2.5}, MOST)
    for epoch in (0, MOST + 1, "nan"):
        file.write_text(f"epoch,val/loss\n{epoch},1\n")
        with pytest.raises(IntegrityError, match=r"^not the history of a training \(a number of an epoch is not allowed\)$"):
            read_history(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"seed": MOST}, ""),
        ({"seed": -MOST}, ""),
        ({"seed": MOST + 1}, "its params have seed = 2147483648"),
        ({"seed": True}, "its params have seed = True"),
        ({"seed": "x" * 99}, f"its params have seed = '{'x' * 79}"),
        ({"beta": None}, ""),
        ({"beta": 4}, ""),
        ({"beta": "4"}, "its params have beta = '4'"),
        ({"vae": {"latent_dim": 2.0, "hidden_dims": []}}, "its params have model.latent_dim = 2.0"),
        ({"vae": {"latent_dim": 2, "hidden_dims": 8}}, "its params have model.hidden_dims = 8"),
        ({"vae": {"latent_dim": 2}}, "its params have model.hidden_dims = None"),
    ],
)
def test_params_that_no_training_has_are_named(change: dict[str, Any], said: str) -> None:
    deps, outs = {"data/dataset.safetensors": "1"}, {"models/vae.safetensors": "2"}
    stage = Stage("train", "train", PARAMS | change, deps, outs)
    if not said:
        check(stage)
        return
    with pytest.raises(IntegrityError) as caught:
        check(stage)
    assert str(caught.value) == said


@pytest.mark.parametrize(("deps", "outs"), [({}, {"models/vae.safetensors": "2"}), ({"data/dataset.safetensors": "1"}, {})])
def test_a_training_has_data_and_weights(deps: dict[str, str], outs: dict[str, str]) -> None:
    with pytest.raises(IntegrityError, match=r"^it has no weights or no data set with an md5$"):
        check(Stage("train", "train", PARAMS, deps, outs))


def test_comparison_models_that_cannot_be_had_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage("all", "train_comparison", {}, {}, {"models/seeds/vae_2/vae.safetensors": "1", "models/seeds/notes.txt": "2"})
    for file in (None, tmp_path / "vae.safetensors"):
        (tmp_path / "vae.safetensors").write_text("text")
        files = SimpleNamespace(stages=[stage], unfolded=lambda stage: stage, fetch=lambda *_, file=file: file)
        assert not list(trained(files))  # type: ignore[arg-type]
    first, second = capsys.readouterr().err.splitlines()
    assert first == "sync: models/seeds/vae_2/vae.safetensors is neither here nor in DVC's cache; `dvc pull` brings it"
    assert second.startswith("sync: models/seeds/vae_2/vae.safetensors is left out, not of this version (not a readable file")
    assert str(tmp_path) not in second
    assert "`" not in second
