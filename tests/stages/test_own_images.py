"""Images of one's own through the real ``dvc``: added, learned, changed, learned again, and compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from pipeline.storage import md5
from tests.stages.test_repro import call, commit, copy, locked, runs

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy
CLASSES = ("circles", "squares", "triangles")


def paint(folder: Path, count: int, seed: int) -> None:
    """Write colored shapes in PNGs of mixed size, a folder for each kind."""
    random = np.random.default_rng(seed)
    for index in range(count):
        width, height, radius, *colors = (
            int(value) for value in random.integers([20, 20, 5, *[0] * 6], [60, 60, 10, *[256] * 6])
        )
        image = Image.new("RGB", (width, height), tuple(colors[:3]))
        corners = {"circles": 60, "squares": 4, "triangles": 3}
        name = CLASSES[index % 3]
        ImageDraw.Draw(image).regular_polygon((width / 2, height / 2, radius), corners[name], fill=tuple(colors[3:]))
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"{seed}_{index:04}.png")


def started(folder: Path, images: int, **data: Any) -> Path:
    """Return a repository with images, two of them broken, that are tracked by DVC and chosen in params.yaml."""
    copy(folder)
    paint(folder / "images/photos", images, seed=0)
    (folder / "images/photos/circles/broken.png").write_bytes(b"no image")
    cut = folder / "images/photos/squares/cut.png"
    cut.write_bytes((folder / "images/photos/squares/0_0001.png").read_bytes()[:60])
    call(folder, "dvc", "add", "images/photos")
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["data"] |= {"name": "folder", "path": "images/photos", "on_error": "skip"} | data
    params["vae"] |= {"epochs": 1, "warmup_epochs": 0}
    yaml.dump(params, folder / "params.yaml")
    commit(folder, "images")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = started(tmp_path_factory.mktemp("own"), 36, image={"size": 8, "channels": 3, "fit": "crop", "background": "white"})
    said = call(folder, "dvc", "repro", "train_vae")
    assert "2 of 38 images cannot be read: circles/broken.png (no PNG, JPEG or WebP), squares/cut.png (" in said.stderr
    commit(folder, "first version")
    return folder


def version(folder: Path) -> str:
    """Return the md5 that DVC has for the images."""
    return str(YAML(typ="safe").load(folder / "images/photos.dvc")["outs"][0]["md5"])


def test_the_data_set_has_the_name_of_the_folder_and_mlflow_the_version_of_dvc(project: Path) -> None:
    about = json.loads((project / "metrics/data.json").read_text())
    assert (about["name"], about["requested"], about["channels"], about["height"]) == ("photos", "photos", 3, 8)
    assert about["train/images"] + about["test/images"] == 36
    (run,) = runs(project)
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("photos", version(project))
    assert run.data.tags["data.md5"] == md5(project / "data/dataset.safetensors")


def test_nothing_runs_again_here_or_in_a_temporary_copy(project: Path) -> None:
    assert "Running stage" not in call(project, "dvc", "repro", "train_vae").stdout
    said = call(project, "dvc", "exp", "run", "--temp", "-S", "train.patience=6", "download").stdout
    assert "Running stage 'download'" not in said
    assert call(project, "git", "status", "--porcelain").stdout == ""


def test_another_version_is_learned_and_dvc_says_which_images_are_new(project: Path) -> None:
    before, outs = version(project), locked(project)
    photos = project / "images/photos"
    paint(photos, 6, seed=1)
    (photos / "circles/0_0000.png").rename(photos / "squares/0_0000.png")
    assert "images/photos" in call(project, "dvc", "status", "download").stdout
    said = call(project, "dvc", "repro", "train_vae").stdout
    assert "Running stage 'download'" in said
    assert "Running stage 'train_vae'" in said
    assert version(project) != before
    diff = json.loads(call(project, "dvc", "diff", "--json").stdout)
    assert "images/photos/circles/1_0000.png" in {entry["path"] for entry in diff["added"]}
    assert {"old": "images/photos/circles/0_0000.png", "new": "images/photos/squares/0_0000.png"} in [
        entry["path"] for entry in diff["renamed"]
    ]
    newest, oldest = runs(project)
    digests = [run.inputs.dataset_inputs[0].dataset.digest for run in (newest, oldest)]
    assert digests == [version(project), before]
    refused = call(project, "latent", "compare", ok=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "2 versions of photos" in refused.stderr
    call(project, "git", "checkout", "--quiet", ".")
    call(project, "dvc", "checkout", "images/photos.dvc", "download", "train_vae")
    assert "Running stage" not in call(project, "dvc", "repro", "train_vae").stdout
    assert locked(project) == outs


def test_without_images_it_stops_before_any_work_and_takes_no_other_data(project: Path) -> None:
    done = call(project, "dvc", "exp", "run", "-S", "data.path=images/absent", ok=False)
    call(project, "git", "checkout", "--quiet", ".")
    assert done.returncode != 0
    assert "error: data.path: images/absent: no such file or folder; " in done.stderr
    assert done.stdout.count("Running stage") == 1


@pytest.mark.torture
def test_2000_images_go_through_the_whole_pipeline_and_so_does_a_second_version(tmp_path: Path) -> None:
    folder = started(tmp_path, 2000)
    call(folder, "dvc", "repro")
    commit(folder, "first version")
    assert "<!doctype html>" in (folder / "explorer/explorer.html").read_text()
    paint(folder / "images/photos", 500, seed=1)
    call(folder, "dvc", "repro")
    diff = json.loads(call(folder, "dvc", "metrics", "diff", "--json").stdout)
    assert diff["metrics/summary.json"]["vae/elbo"]["diff"] != 0
    assert len(json.loads(call(folder, "dvc", "diff", "--json").stdout)["added"]) >= 500
