"""The commands that use a trained model: what they write, that it is the same each time, and one line for a mistake."""

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from pipeline.data import Dataset, Images, save_dataset
from pipeline.datasets.image_files import read_image
from pipeline.inference import pictures, tables
from pipeline.inference.commands import COMMANDS
from pipeline.models.weights import Trained
from pipeline.storage import load_arrays, save_arrays
from tests.inference.conftest import done, latent

DATA = "data/dataset.safetensors"


def codes_of(trained: Trained, images: Images) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        posterior = trained.model.encode(torch.from_numpy(images.intensities))
    return posterior.mean.numpy(), posterior.std.numpy()


def decoded(trained: Trained, codes: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return trained.model.decode_images(torch.from_numpy(codes)).numpy()


def columns(table: pd.DataFrame, name: str, number: int) -> np.ndarray:
    return table[[f"{name}{i + 1}" for i in range(number)]].to_numpy(np.float32)


def arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path))


def labels_of(images: Images) -> list[int]:
    assert images.labels is not None
    return [int(label) for label in images.labels]


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
@pytest.mark.parametrize("name", ["vae", "ae"])
def test_codes_are_those_of_the_encoder_and_decode_to_its_reconstructions(
    name: str, suffix: str, models: dict[str, Trained], dataset: Dataset
) -> None:
    trained, number = models[name], models[name].config.latent_dim
    said = done("encode", DATA, "--model", name, "--out", f"codes{suffix}").stdout
    assert said == f"encode: codes of 40 images, {number} dimensions, in codes{suffix}\n"
    mean, std = codes_of(trained, dataset.test)
    if suffix in (".parquet", ".csv"):
        table = pd.read_parquet("codes.parquet") if suffix == ".parquet" else pd.read_csv("codes.csv")
        assert [*table][: 2 + number] == ["index", "label", *(f"z{i + 1}" for i in range(number))]
        assert table["label"].tolist() == labels_of(dataset.test)
        found = {"z": columns(table, "z", number)} | ({"std": columns(table, "std", number)} if "std1" in table else {})
    else:
        found = arrays("codes.npz") if suffix == ".npz" else load_file("codes.safetensors")
        assert found["index"].tolist() == [*range(40)]
    np.testing.assert_array_equal(found["z"], mean)
    assert ("std" in found) == (name == "vae")
    if name == "vae":
        np.testing.assert_array_equal(found["std"], std)
    done("decode", f"codes{suffix}", "--model", name, "--out", "images.npz")
    file = arrays("images.npz")
    np.testing.assert_array_equal(file["z"], mean)
    np.testing.assert_allclose(file["images"], decoded(trained, mean), atol=1e-6)


def test_images_are_read_from_arrays_and_the_training_part(models: dict[str, Trained], dataset: Dataset) -> None:
    images = dataset.train.take(slice(6))
    gray, labels = images.pixels[:, 0], images.labels
    np.save("bytes.npy", gray)
    np.save("floats.npy", images.intensities)
    np.savez("named.npz", images=gray[..., None], labels=np.asarray(labels))
    save_file({"images": images.pixels, "labels": np.asarray(labels)}, "named.safetensors")
    idx = b"\0\0\x08\x03" + struct.pack(">3I", *gray.shape) + gray.tobytes()
    Path("t10k-images-idx3-ubyte").write_bytes(idx)
    Path("idx.gz").write_bytes(gzip.compress(idx))
    expected, found = codes_of(models["vae"], images)[0], {}
    for source in ["bytes.npy", "floats.npy", "named.npz", "named.safetensors", "t10k-images-idx3-ubyte", "idx.gz"]:
        done("encode", source, "--out", "codes.parquet")
        found[source] = pd.read_parquet("codes.parquet")
        np.testing.assert_allclose(columns(found[source], "z", 2), expected, atol=1e-6)  # as threads round
    assert {name for name in found if "label" in found[name]} == {"named.npz", "named.safetensors"}
    assert found["named.npz"]["label"].tolist() == labels_of(images)
    done("encode", DATA, "--part", "train", "--out", "codes.parquet")
    table = pd.read_parquet("codes.parquet")
    assert len(table) == len(dataset.train)
    np.testing.assert_allclose(columns(table, "z", 2)[:6], expected, atol=1e-6)


def test_images_in_folders_have_the_names_of_their_files_and_of_the_sub_folder(
    models: dict[str, Trained], dataset: Dataset
) -> None:
    images = dataset.train.take(slice(5))
    for index, (label, image) in enumerate(zip(labels_of(images), images.pixels[:, 0], strict=True)):
        folder = Path("photos", f"class {label}", "deep")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    for name in ("notes.txt", "._0.png", ".trash/0.png"):
        Path("photos", name).parent.mkdir(exist_ok=True)
        Path("photos", name).write_text("not an image")
    done("encode", "photos", "photos/class 1/deep/1.png", "--out", "codes.npz")
    done("encode", "photos", "photos/class 1/deep/1.png", "--out", "codes.parquet")
    table = pd.read_parquet("codes.parquet")
    order = [0, 4, 1, 2, 3, 1]  # by class, then the single file
    files = [f"photos/class {i % 4}/deep/{i}.png" for i in order]
    assert table["file"].tolist() == arrays("codes.npz")["file"].tolist() == files
    assert table["label"].tolist() == [*(f"class {i % 4}" for i in order[:5]), ""]
    expected = codes_of(models["vae"], images.take(np.array(order)))[0]
    np.testing.assert_allclose(columns(table, "z", 2), expected, atol=1e-6)  # as threads round


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_broken_files_of_a_folder_are_named_in_one_line_or_left_out(command: str, dataset: Dataset) -> None:
    for index, image in enumerate(dataset.train.pixels[:3, 0]):
        Path("photos", str(index)).mkdir(parents=True)
        Image.fromarray(image).save(f"photos/{index}/whole.png")
    Path("photos/0/cut.png").write_text("no image")
    Path("photos/2/empty.png").touch()
    line = "2 of 5 images cannot be read: photos/0/cut.png (no PNG, JPEG or WebP), photos/2/empty.png (empty)"
    stopped = latent(command, "photos", "--out", "x.npz")
    assert (stopped.exit_code, stopped.stderr) == (3, f"error: {line}; mend or delete them, or add `--on-error skip`\n")
    assert not Path("x.npz").exists()
    assert done(command, "photos", "--out", "x.npz", "--on-error", "skip").stderr == f"{line}; they are left out\n"
    done(command, *(f"photos/{index}/whole.png" for index in range(3)), "--out", "whole.npz")
    found, whole = arrays("x.npz"), arrays("whole.npz")
    for name in whole:
        np.testing.assert_array_equal(found[name], whole[name])
    if command == "encode":
        assert found["label"].tolist() == ["0", "1", "2"]
    for index in range(3):
        Path(f"photos/{index}/whole.png").unlink()
    assert latent(command, "photos", "--out", "x.npz", "--on-error", "skip").stderr.endswith("; mend or delete them\n")
    assert "--on-error" not in latent("nearest", "photos").stderr


def test_image_files_of_another_size_and_color_are_fitted_as_the_data_stage_does(models: dict[str, Trained]) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 13, 3), np.uint8)).save("wide.png")
    for name in ("vae", "conv"):
        trained = models[name]
        for fit, background in (("crop", "white"), ("pad", "black")):
            options = ["--fit", fit, "--background", background]
            done("encode", "wide.png", "--model", name, *options, "--out", "codes.parquet")
            fitted = Images(read_image("wide.png", trained.config.image_shape, fit, background)[None])
            found = columns(pd.read_parquet("codes.parquet"), "z", trained.config.latent_dim)
            np.testing.assert_array_equal(found, codes_of(trained, fitted)[0])


EXAMPLES = {
    "encode": (["encode", DATA], [*tables.SUFFIXES]),
    "decode": (["decode", "-1,0.5", "0,2"], [*pictures.SUFFIXES]),
    "sample": (["sample", "-n", 5, "--seed", 3], [*pictures.SUFFIXES]),
    "reconstruct": (["reconstruct", DATA, "-n", 11], [*pictures.SUFFIXES]),
    "interpolate": (["interpolate", 3, 8, "--steps", 4], [*pictures.SUFFIXES]),
    "nearest": (["nearest", 3, "-k", 4], [".png"]),
}


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("command", EXAMPLES)
def test_the_same_command_writes_the_same_bytes(command: str) -> None:
    arguments, suffixes = EXAMPLES[command]
    for suffix in suffixes:
        for out in ("a", "b"):
            done(*arguments, "--out", f"{out}{suffix}")
        for first in [Path(f"a{suffix}")] if suffix else Path("a").iterdir():
            assert first.read_bytes() == (Path(f"b{suffix}") if suffix else Path("b", first.name)).read_bytes()


def test_points_on_the_command_line_are_decoded_to_a_picture_or_a_folder(models: dict[str, Trained]) -> None:
    images = decoded(models["vae"], np.array([[-1, 0.5], [0, 2], [1, 1]], np.float32))
    levels = np.rint(images[:, 0] * 255)
    done("decode", "-1,0.5", "0,2", "1,1", "--out", "folder/")
    assert sorted(path.name for path in Path("folder").iterdir()) == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal([pixels(f"folder/{i}.png") for i in range(3)], levels)
    done("decode", "-1,0.5", "0,2", "1,1", "--out", "grid.png")
    picture = pixels("grid.png")  # two rows of images of 8 x 8, eight times as large, with white lines of 2 pixels between
    assert picture.shape == (134, 134)
    np.testing.assert_array_equal(picture[2:66:8, 68:132:8], levels[1])
    np.testing.assert_array_equal(picture[68:132:8, 2:66:8], levels[2])
    assert (picture[66:, 66:] == 255).all()


def test_samples_follow_the_seed_and_an_autoencoder_has_no_prior(models: dict[str, Trained]) -> None:
    codes = {}
    for name, arguments in {
        "one": ["--seed", 1],
        "two": ["--seed", 2],
        "ae": ["--model", "ae"],
        "conv": ["--model", "conv"],
    }.items():
        said = done("sample", "-n", 2000, *arguments, "--out", "samples.npz").stderr
        assert said.startswith("note: an autoencoder has no prior") == (name == "ae")
        file = arrays("samples.npz")
        codes[name] = file["z"]
        np.testing.assert_allclose(file["z"].mean(0), 0, atol=0.1)
        np.testing.assert_allclose(file["z"].std(0), 1, atol=0.1)
    np.testing.assert_allclose(file["images"], decoded(models["conv"], codes["conv"]), atol=1e-5)
    assert not np.array_equal(codes["one"], codes["two"])


def test_a_reconstruction_stands_below_its_image(models: dict[str, Trained], dataset: Dataset) -> None:
    images = dataset.test.take(slice(0, 33, 3))  # evenly spread over 40
    expected = decoded(models["vae"], codes_of(models["vae"], images)[0])
    said = done("reconstruct", DATA, "-n", 11, "--out", "pairs.npz").stdout
    file = arrays("pairs.npz")
    np.testing.assert_array_equal(file["images"], images.intensities)
    np.testing.assert_allclose(file["reconstructions"], expected, atol=1e-6)
    error = ((images.intensities - expected) ** 2).mean()
    assert said == f"reconstruct: 11 images in pairs.npz, mean squared error {error:.4f} per pixel\n"
    done("reconstruct", DATA, "-n", 11, "--out", "pairs.png")
    picture = pixels("pairs.png")
    for i in range(11):
        top, left = 2 + i // 8 * 132, 2 + i % 8 * 66
        np.testing.assert_array_equal(picture[top : top + 64 : 8, left : left + 64 : 8], images.pixels[i, 0])
        below = picture[top + 66 : top + 130 : 8, left : left + 64 : 8]
        np.testing.assert_allclose(below, expected[i, 0] * 255, atol=0.51)


def test_a_line_leads_from_one_image_to_the_other(models: dict[str, Trained], dataset: Dataset) -> None:
    Image.fromarray(dataset.test.pixels[8, 0]).save("eight.png")
    done("interpolate", 3, "eight.png", "--steps", 5, "--out", "line.npz")
    file = arrays("line.npz")
    start, end = codes_of(models["vae"], dataset.test.take(np.array([3, 8])))[0]
    np.testing.assert_allclose(file["z"], [start + share * (end - start) for share in (0, 0.25, 0.5, 0.75, 1)], atol=1e-6)
    np.testing.assert_allclose(file["images"], decoded(models["vae"], file["z"]), atol=1e-6)
    done("interpolate", 3, "eight.png", "--steps", 5, "--out", "line")
    assert len([*Path("line").iterdir()]) == 7
    np.testing.assert_array_equal(pixels("line/0.png"), dataset.test.pixels[3, 0])
    np.testing.assert_array_equal(pixels("line/6.png"), dataset.test.pixels[8, 0])


def test_the_nearest_images_are_listed_without_the_image_itself(models: dict[str, Trained], dataset: Dataset) -> None:
    codes, labels = codes_of(models["vae"], dataset.test)[0], labels_of(dataset.test)
    distances = np.linalg.norm(codes - codes[3], axis=1)
    order = np.argsort(distances)
    assert order[0] == 3
    rows = [line.split() for line in done("nearest", 3, "-k", 4).stdout.splitlines()]
    assert rows[0] == ["index", "label", "distance"]
    assert rows[1:] == [[str(i), str(labels[i]), f"{distances[i]:.4f}"] for i in order[1:5]]
    Image.fromarray(dataset.test.pixels[3, 0]).save("three.png")
    same = done("nearest", "three.png", "-k", 5, "--out", "near.png").stdout.splitlines()
    assert same[1].split() == ["3", str(labels[3]), "0.0000"]
    assert pixels("near.png").shape == (68, 6 * 66 + 2)


@pytest.mark.usefixtures("models")
def test_an_image_is_nearest_to_itself_in_a_folder() -> None:
    random = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(random.integers(0, 256, (20, 13), np.uint8)).save(Path("data", f"{index}.png"))
    rows = done("nearest", "data/2.png", "--data", "data", "--fit", "pad", "--background", "black").stdout.splitlines()
    name, distance = rows[1].split()
    assert (name, float(distance)) == ("data/2.png", 0)


def test_names_of_classes_are_labels(models: dict[str, Trained], dataset: Dataset) -> None:
    save_dataset("named.safetensors", Dataset("blobs", dataset.train, dataset.test, ("up", "right", "down", "left")))
    done("encode", "named.safetensors", "--out", "codes.csv")
    assert pd.read_csv("codes.csv")["label"][:3].tolist() == ["up", "right", "down"]
    assert "left" in done("nearest", 3, "--data", "named.safetensors").stdout


MISTAKES = {
    "no model": (
        ["sample", "--model", "best", "--out", "x.png"],
        2,
        "models/best.safetensors: no such file; in models/ are ae, c",
    ),
    "no file": (
        ["sample", "--model", "a/b", "--out", "x.png"],
        2,
        "a/b: no such file; in models/ are ae, conv, vae; `dvc repro`",
    ),
    "other file": (["sample", "--model", DATA, "--out", "x.png"], 3, f"{DATA}: not weights of this version"),
    "two revisions": (
        ["sample", "--rev", "HEAD", "--model", "models:/m@best", "--out", "x.png"],
        2,
        "--rev is for files; models:/m",
    ),
    "suffix": (["encode", DATA, "--out", "x.txt"], 2, "Invalid value for '--out': 'x.txt'; allowed are .parquet, .csv, .npz and"),
    "one suffix": (["nearest", 3, "--out", "x.jpg"], 2, "Invalid value for '--out': 'x.jpg'; allowed is .png"),
    "dot": (["export", "--onnx", "v1.2"], 2, "Invalid value for '--onnx': 'v1.2'; allowed is a folder without a dot"),
    "own input": (
        ["encode", "other.npz", "--out", "./other.npz"],
        2,
        "--out: other.npz is read by this command; choose another name",
    ),
    "no image": (["encode", "none.png", "--out", "x.csv"], 2, "none.png: no such file or folder; allowed are image files (.png"),
    "not alone": (["encode", DATA, "a.npy", "--out", "x.csv"], 2, f"{DATA}: must be given alone; allowed are"),
    "empty folder": (["encode", "empty", "--out", "x.csv"], 2, "empty: no image below this folder; allowed are .png"),
    "text": (["encode", "text.png", "--out", "x.csv"], 3, "text.png: no PNG, JPEG or WebP"),
    "no array": (["encode", "text.txt", "--out", "x.csv"], 2, "text.txt: not an array file (.npy, .npz, .safetensors), an IDX"),
    "array's name": (["encode", "other.npz", "--out", "x.csv"], 2, "other.npz: not an array file"),
    "array's shape": (
        ["encode", "large.npy", "--out", "x.csv"],
        2,
        "large.npy: images [2, 1, 9, 9]; this model takes [N, 1, 8, 8],",
    ),
    "array's values": (["encode", "bright.npy", "--out", "x.csv"], 2, "bright.npy: images of float64 from 0 to 2; allowed are"),
    "NaN": (["encode", "nan.npy", "--out", "x.csv"], 2, "nan.npy: images of float64 from nan to nan; allowed are"),
    "data's shape": (["nearest", 3, "--model", "conv"], 2, f"{DATA}: images [40, 1, 8, 8]; this model takes [N, 3, 8, 8]"),
    "no codes": (["decode", "codes.csv", "--out", "x.png"], 2, "codes.csv: no such file"),
    "no table": (
        ["decode", "text.csv", "--out", "x.png"],
        2,
        "text.csv: not a file of `latent encode`, or a table with the columns",
    ),
    "other columns": (["decode", "gap.csv", "--out", "x.png"], 2, "gap.csv: not a file of `latent encode`, or a table with the"),
    "more values": (
        ["decode", "comma.csv", "--out", "x.png"],
        2,
        "comma.csv: not a file of `latent encode`, or a table with the",
    ),
    "times": (["decode", "times.npz", "--out", "x.png"], 2, "times.npz: not a file of `latent encode`, or a table with the"),
    "complex": (["decode", "complex.npz", "--out", "x.png"], 2, "complex.npz: not a file of `latent encode`, or a table with"),
    "diverged": (
        ["sample", "--model", "./large.safetensors", "--out", "x.png"],
        4,
        "the model gives images that are not finite; its weights",
    ),
    "no revision": (
        ["sample", "--rev", "", "--out", "x.png"],
        2,
        "'' is neither a revision of this repository nor an experiment",
    ),
    "no name": (["sample", "--model", "models:/ @ ", "--out", "x.png"], 2, "models:/ @ : allowed are models:/NAME@ALIAS"),
    "words": (["decode", "--ouf", "x.png", "--out", "x.png"], 2, "--ouf x.png: neither a file of codes"),
    "dimensions": (["decode", "1,2,3", "--out", "x.png"], 2, "codes of 3 numbers; this model's codes have 2"),
    "ragged": (["decode", "1,2", "1", "--out", "x.png"], 2, "1,2 1: neither a file of codes"),
    "infinite": (["decode", "1e39,0", "--out", "x.png"], 2, "1e39,0: neither a file of codes"),
    "index": (["nearest", 40], 2, f"40: {DATA} has 40 test images; allowed is 0 to 39"),
    "two images": (
        ["interpolate", DATA, 3, "--out", "x.png"],
        2,
        f"{DATA}: 40 images; allowed is a file of one image, or an index",
    ),
    "folder": (["sample", "--out", "full"], 2, "full: it is there already; give the name of a new folder"),
    "a file": (["sample", "--out", "file"], 2, "file: it is there already; give the name of a new folder"),
    "data": (["nearest", 3, "--data", "none.safetensors"], 2, "none.safetensors: no such file or folder"),
}


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(mistake: str) -> None:
    for name in ("text.png", "text.txt", "text.csv", "file", "full/file"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("text\nmore")
    Path("empty").mkdir()
    np.savez("other.npz", x=np.zeros(3))
    np.save("large.npy", np.zeros((2, 1, 9, 9)))
    np.save("bright.npy", np.linspace(0, 2, 64).reshape(1, 8, 8))
    np.save("nan.npy", np.full((1, 8, 8), np.nan))
    np.savez("times.npz", z=np.zeros((1, 2), "M8[s]"))
    np.savez("complex.npz", z=np.ones((1, 2), complex))
    Path("gap.csv").write_text("z1,z3,label\n0,0,0\n")
    Path("comma.csv").write_text("z1,z2\n0,5,0,1\n")  # a comma for the point
    weights, header = load_arrays("models/vae.safetensors")
    save_arrays("large.safetensors", {name: np.full_like(array, 3e38) for name, array in weights.items()}, header)
    before = sorted(Path().rglob("*"))
    arguments, code, message = MISTAKES[mistake]
    result = latent(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert sorted(Path().rglob("*")) == before


def _zipped(name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(file := BytesIO(), "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def _saved(**arrays: np.ndarray) -> bytes:
    np.savez_compressed(file := BytesIO(), **arrays)
    return file.getvalue()


IMAGES = np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8)
HALF = json.dumps({"images": {"dtype": "BF16", "shape": [1, 8, 8], "data_offsets": [0, 128]}}).encode()
DAMAGED = {
    "cut.npz": _saved(images=IMAGES)[:200],
    "other bytes.npz": _saved(images=IMAGES)[:200] + bytes(60) + _saved(images=IMAGES)[260:],
    "no array.npz": _zipped("images", b"hello"),
    "text.npz": _saved(images=IMAGES.astype(str)),
    "times.npz": _saved(images=IMAGES.astype("M8[s]")),
    "complex.npz": _saved(images=IMAGES.astype(complex)),
    "fields.npz": _saved(images=np.zeros((9, 8, 8), [("a", "f4")])),
    "labels.npz": _saved(images=IMAGES, labels=np.zeros(9, [("a", "f4")])),
    "names.npz": _saved(images=IMAGES, labels=np.array([b"\xff"] * 9)),
    "half.safetensors": struct.pack("<Q", len(HALF)) + HALF + bytes(128),
    "other bytes.gz": gzip.compress(IMAGES.tobytes())[:40] + b"\xff" * 40 + gzip.compress(IMAGES.tobytes())[80:],
}


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_and_one_with_other_arrays_is_refused_in_one_line(name: str) -> None:
    Path(name).write_bytes(DAMAGED[name])
    result = latent("encode", name, "--out", "x.csv")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {name}: ")


@pytest.mark.usefixtures("models")
def test_a_file_whose_name_is_no_text_can_be_encoded(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        Image.fromarray(IMAGES[0]).save(tmp_path / name)
    except OSError:
        pytest.skip("no such names on this file system")
    for suffix in tables.SUFFIXES:
        done("encode", tmp_path / name, "--out", f"codes{suffix}")
    assert pd.read_csv("codes.csv")["file"][0].endswith(r"\udcff.png")


@pytest.mark.usefixtures("models")
def test_labels_of_bytes_are_names() -> None:
    np.savez("images.npz", images=IMAGES, labels=np.array([b"cat"] * 9))
    for suffix in tables.SUFFIXES:
        done("encode", "images.npz", "--out", f"codes{suffix}")
    assert set(pd.read_parquet("codes.parquet")["label"]) == {"cat"}


@pytest.mark.usefixtures("models")
def test_a_folder_is_whole_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = Path.write_bytes, list[Path]()

    def full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    before = sorted(Path().rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        result = latent("sample", "-n", 5, "--out", "folder")
    assert (result.exit_code, len(result.stderr.splitlines())) == (74, 1)
    assert sorted(Path().rglob("*")) == before
    done("sample", "-n", 5, "--out", "folder")
    assert len([*Path("folder").iterdir()]) == 5


@pytest.mark.usefixtures("models")
def test_a_folder_of_images_has_the_rights_of_a_new_folder() -> None:
    Path("open").mkdir()
    Path("open").chmod(0o1777)  # as /tmp has them
    Path("new").mkdir()
    done("sample", "-n", 2, "--out", "open/images")
    assert Path("open/images").stat().st_mode == Path("new").stat().st_mode


def test_every_command_shows_an_example() -> None:
    for command in COMMANDS:
        assert f"  latent {command.name} " in latent(command.name, "--help").stdout


@pytest.mark.usefixtures("models")
def test_the_console_script_works_in_a_folder_below_the_root(workspace: Path) -> None:
    (workspace / ".dvc").mkdir()
    (workspace / "sub").mkdir()
    shutil.copy("models/vae.safetensors", "sub/mine.safetensors")
    program = Path(sys.executable).with_name("latent")
    command = [program, "encode", f"../{DATA}", "--model", "mine.safetensors", "--out", "codes.csv"]
    run = subprocess.run(command, cwd="sub", capture_output=True, text=True, env=os.environ, check=False)
    assert (run.returncode, run.stderr) == (0, f"note: working in {workspace}\n")
    assert len(pd.read_csv("sub/codes.csv")) == 40
