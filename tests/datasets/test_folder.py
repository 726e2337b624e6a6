"""Images below a folder become one data set, the same whatever the order and the number of processes that read them."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data import Dataset, load_dataset, save_dataset
from pipeline.datasets import DATASETS, own
from pipeline.datasets import folder as folder_module
from pipeline.datasets.folder import folder
from pipeline.datasets.own import TAKEN, is_test
from pipeline.errors import IntegrityError, ParamsError
from tests.conftest import ROOT

SHAPE = (1, 4, 4)


def write(root: Path, **levels: int) -> Path:
    """Write a gray image for each path, with __ for the slash and without suffix."""
    for name, level in levels.items():
        path = root / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), level).save(path)
    return root


def held(dataset: Dataset) -> dict[int, tuple[str, str]]:
    """Return the class and the part of each image by its gray level."""
    found = {}
    for part, images in (("train", dataset.train), ("test", dataset.test)):
        for index, pixels in enumerate(images.pixels):
            name = dataset.classes[images.labels[index]] if images.labels is not None else ""
            found[int(pixels[0, 0, 0])] = name, part
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images of two classes, of which each has a gray level of its own."""
    return write(tmp_path / "photos", **{f"{('cat', 'dog')[i % 2]}__{i:02}": 5 * i for i in range(40)})


def test_classes_are_the_names_of_the_subfolders_at_any_depth(photos: Path) -> None:
    write(photos, dog__old__deep__er=251)
    dataset = folder(photos, SHAPE)
    assert (dataset.name, dataset.classes, dataset.train.shape) == ("photos", ("cat", "dog"), SHAPE)
    assert {level: name for level, (name, _) in held(dataset).items()} == {
        251: "dog",
        **{5 * i: ("cat", "dog")[i % 2] for i in range(40)},
    }


@pytest.mark.parametrize("prefix", ["", "all__"])
def test_images_that_are_in_no_or_in_one_folder_have_no_labels(prefix: str, tmp_path: Path) -> None:
    dataset = folder(write(tmp_path / "flat", **{f"{prefix}{i}": i for i in range(9)}), SHAPE)
    assert (dataset.train.labels, dataset.test.labels, dataset.classes) == (None, None, ())
    assert held(dataset).keys() == set(range(9))


def test_the_folders_train_and_test_are_the_split(tmp_path: Path) -> None:
    names = {f"{part}__{name}__{i}": 9 * i + len(part) for part in ("train", "test") for i, name in enumerate("abab")}
    dataset = folder(write(tmp_path, **names), SHAPE)
    assert dataset.classes == ("a", "b")
    assert held(dataset) == {level: (name.split("__")[1], name.split("__")[0]) for name, level in names.items()}


def test_a_broken_file_of_a_split_moves_no_other(tmp_path: Path) -> None:
    names = {f"{part}__{i}": 9 * i + len(part) for part in ("train", "test") for i in range(4)}
    write(tmp_path, **names, train__broken=1).joinpath("train/broken.png").write_bytes(b"no")
    (tmp_path / "test" / "0.png").write_bytes(b"no")
    found = held(folder(tmp_path, SHAPE, on_error="skip"))
    assert found == {level: ("", name.split("__")[0]) for name, level in names.items() if name != "test__0"}


def test_an_image_keeps_its_part_when_others_come_and_go_and_when_it_is_renamed_or_moved(photos: Path) -> None:
    before = held(folder(photos, SHAPE))
    assert {part for _, part in before.values()} == {"train", "test"}
    for path in sorted(photos.rglob("*.png"))[::7]:
        path.rename(photos / "dog" / f"moved_{path.name}")
    for path in sorted(photos.rglob("*.png"))[::9]:
        path.unlink()
    write(photos, cat__new=201, bird__new=202)
    after = held(folder(photos, SHAPE))
    assert len(before.keys() & after.keys()) > 30
    assert {level: before[level][1] for level in before.keys() & after.keys()} == {
        level: after[level][1] for level in before.keys() & after.keys()
    }


def test_copies_of_an_image_are_in_one_part(photos: Path) -> None:
    for path in list(photos.rglob("*.png")):
        shutil.copy(path, photos / "dog" / f"copy_{path.name}")
    dataset = folder(photos, SHAPE)
    assert not {*dataset.train.pixels[:][:, 0, 0, 0]} & {*dataset.test.pixels[:][:, 0, 0, 0]}
    assert len(dataset.train) + len(dataset.test) == 80


def test_about_a_fraction_of_many_images_is_for_testing() -> None:
    digests = [hashlib.sha256(str(index).encode()).digest() for index in range(10_000)]
    for fraction in (0.05, 0.2, 0.9):
        assert is_test(digests, fraction).mean() == pytest.approx(fraction, abs=0.02)
    assert is_test(digests[:3], 1e-9).sum() == 1
    assert is_test(digests[:3], 1 - 1e-9).sum() == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_neither_processes_nor_memory_nor_the_order_of_the_files_change_the_bytes(
    workers: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dataset(tmp_path / "one", folder(photos, SHAPE))
    monkeypatch.setattr(folder_module, "FEW", 10)
    monkeypatch.setattr(folder_module, "ASKED", 12)
    monkeypatch.setattr(own, "RESIDENT", 0)
    monkeypatch.chdir(tmp_path)
    listed = os.walk
    monkeypatch.setattr(os, "walk", lambda *args, **options: reversed([*listed(*args, **options)]))
    (photos / "cat" / "broken.png").write_bytes(b"")
    save_dataset(tmp_path / "two", folder(photos, SHAPE, workers=workers, on_error="skip"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "one", "two"}


READER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background deaf to it
from pipeline.startup import begin
begin()
from pipeline.datasets import folder
folder.FEW = 10
folder.folder(sys.argv[1], (3, 8, 8), workers=2)
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_the_processes_end_with_the_one_that_is_stopped(signum: int, code: int, tmp_path: Path) -> None:
    Image.effect_noise((700, 700), 50).save(tmp_path / "0.png")
    for index in range(1, 1000):
        os.link(tmp_path / "0.png", tmp_path / f"{index}.png")
    command = [sys.executable, "-c", READER, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stderr is not None
    assert "100 of 1,000 files read" in process.stderr.readline()
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)  # the processes would keep it open
    assert process.returncode == code
    assert "1,000 of" not in err
    assert "Traceback" not in err


def test_broken_files_are_counted_and_named_in_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(12):
        (photos / "cat" / f"x{i:02}\n.png").write_bytes(b"no")
    with pytest.raises(IntegrityError, match=r"(?s)12 of 52 images cannot be read: cat/x00.* and 2 more; .* data\.on_error"):
        folder(photos, SHAPE)
    dataset = folder(photos, SHAPE, on_error="skip")
    (line,) = capsys.readouterr().err.splitlines()
    assert "12 of 52 images cannot be read: cat/x00 .png (no PNG, JPEG or WebP), " in line
    assert line.endswith("and 2 more; they are left out")
    assert len(held(dataset)) == 40
    assert dataset.classes == ("cat", "dog")


def test_with_nothing_but_broken_files_there_is_no_data_set_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(IntegrityError, match=r"1 of 1 images cannot be read: x\.png"):
        folder(tmp_path, SHAPE, on_error="skip")


def test_hidden_and_other_files_are_no_images_and_links_to_folders_are_not_followed(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = held(folder(photos, SHAPE))
    write(photos, **{".trash__a": 211, "cat__._b": 212})
    outside = write(photos.parent / "outside", c=213, d=214)
    (photos / "notes.txt").write_text("hello")
    (photos / "loop").symlink_to(photos)
    (photos / "out").symlink_to(outside)
    (photos / "cat" / "linked.png").symlink_to(outside / "c.png")
    assert held(folder(photos, SHAPE)).keys() == before.keys() | {213}
    line = "not read, as no PNG, JPEG or WebP file: loop (link to a folder), notes.txt, out (link to a folder)"
    assert capsys.readouterr().err.splitlines() == [f"{photos}: {line}"]


def test_links_that_lead_nowhere_are_broken_files(photos: Path) -> None:
    (photos / "cat" / "gone.png").symlink_to(photos / "absent.png")
    (photos / "cat" / "loop.png").symlink_to(photos / "cat" / "loop.png")
    with pytest.raises(IntegrityError, match=r"2 of 42 images cannot be read: cat/gone\.png \(no such file\), cat/loop\.png"):
        folder(photos, SHAPE)


UNCLEAR: dict[str, tuple[dict[str, int], str]] = {
    "empty": ({}, "no PNG, JPEG or WebP file; set data.path"),
    "one image": ({"a": 1}, "0 test images; allowed are at least 2 and 1"),
    "two images": ({"a": 1, "b": 2}, "0 test images; allowed are at least 2 and 1"),
    "images beside classes": ({"a": 1, "cat__b": 2, "dog__c": 3}, r"images beside the folders of the classes \(a\.png\)"),
    "train alone": (
        {"train__cat__a": 1, "train__dog__b": 2},
        "train alone; add the other of train and test, or set data.path to",
    ),
    "a third part": ({"train__a": 1, "test__b": 2, "val__c": 3}, "beside train and test also val; move its images into train"),
    "images beside parts": ({"train__a": 1, "test__b": 2, "c": 3}, r"images beside train and test \(c\.png\)"),
    "a class of test alone": ({"train__a__1": 1, "train__a__2": 2, "test__b__3": 3}, "train lacks classes of test: b"),
    "labels in train alone": ({"train__a__1": 1, "train__b__2": 2, "test__3": 3}, r"beside the folders of the classes \(test/3"),
    "one to train": ({"train__a": 1, "test__b": 2, "test__c": 3}, "1 training and 2 test images"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_folder_of_which_the_meaning_is_not_clear_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    levels, message = UNCLEAR[name]
    with pytest.raises(IntegrityError, match=message) as caught:
        folder(write(tmp_path / "x", **levels) if levels else tmp_path, SHAPE)
    assert "\n" not in str(caught.value)


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    assert folder(write(tmp_path, **{f"{i}__a": i for i in (1, 2, 10)}), SHAPE).classes == ("1", "2", "10")


def test_a_name_of_a_class_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"'a\\n' is no name of a class"):
        folder(write(tmp_path, **{"a\n__a": 1, "a\n__b": 2, "b__c": 3}), SHAPE)


def test_a_path_that_is_no_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "photos.dvc").touch()
    (tmp_path / "x.npz").touch()
    for name, message in (
        ("absent", "no such file or folder; data.name: folder needs a folder of PNG"),
        ("photos", "`dvc checkout .*photos`, or `dvc pull .*photos` from a remote, brings it"),
        ("photos.dvc", "a file; data.name: folder needs a folder"),
        ("x.npz", r"\(data\.name: arrays reads it\)"),
    ):
        with pytest.raises(ParamsError, match=rf"^data\.path: .*{message}"):
            folder(tmp_path / name, SHAPE)


@pytest.mark.parametrize("name", ["m²", "½", "①", "Bäume", "日本 3", "a$b", "...", "x" * 200])
def test_a_folder_of_any_name_can_be_prepared(name: str, tmp_path: Path) -> None:
    dataset = folder(write(tmp_path / name, a=1, b=2, c=3), SHAPE)
    save_dataset(tmp_path / "dataset.safetensors", dataset)
    assert load_dataset(tmp_path / "dataset.safetensors").name == dataset.name


def test_the_names_of_the_other_data_sets_are_taken(tmp_path: Path) -> None:
    assert DATASETS.keys() == TAKEN
    assert folder(write(tmp_path / "mnist", a=1, b=2, c=3), SHAPE).name == "own_mnist"
