"""The data sets: their published tables, the real MNIST, and the bundled digits."""

import ast
import gzip
import hashlib
import importlib.util
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from pipeline.datasets import DATASETS, digits, fashion_mnist, kmnist, load, mnist
from pipeline.datasets.digits import enlarge
from pipeline.datasets.idx import IdxDataset, idx_file
from pipeline.errors import IntegrityError
from tests.conftest import MNIST


def torchvision_resources(name: str) -> list[tuple[str, str]]:
    """Read ``(file, md5)`` from torchvision's source: importing it takes longer than all of these tests."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    source = Path((spec.submodule_search_locations or [""])[0], "datasets", "mnist.py").read_text()
    assigned = {
        (part.name, statement.targets[0].id): statement.value
        for part in ast.parse(source).body
        if isinstance(part, ast.ClassDef)
        for statement in part.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    resources: list[tuple[str, str]] = ast.literal_eval(assigned[name, "resources"])
    return resources


@pytest.mark.parametrize(("dataset", "name"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST"), (kmnist, "KMNIST")])
def test_the_tables_are_those_of_torchvision_over_https(dataset: IdxDataset, name: str) -> None:
    published = torchvision_resources(name)
    assert [f"{file.name}.gz" for file in dataset.files] == [resource[0] for resource in published]
    for file, (_, md5) in zip(dataset.files, published, strict=True):
        assert file.gz_md5 == md5 if dataset is kmnist else file.sha256
    assert all(mirror.startswith("https://") for mirror in dataset.mirrors)
    assert [file.size for file in dataset.files] == [47_040_016, 60_008, 7_840_016, 10_008]


@pytest.mark.skipif(not MNIST.is_dir(), reason="needs the four MNIST files in ../shared/mnist")
def test_the_real_mnist() -> None:
    dataset = load("mnist", [str(MNIST)])
    assert dataset.name == "mnist"
    assert dataset.train.pixels.shape == (60_000, 1, 28, 28)
    assert np.bincount(dataset.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.train.pixels.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


FASHION = MNIST.with_name("fashion_mnist")


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the four Fashion-MNIST files in ../shared/fashion_mnist")
def test_the_real_fashion_mnist_from_files_that_were_compressed_anew() -> None:
    dataset = load("fashion_mnist", [str(FASHION)])
    assert (len(dataset.train), len(dataset.test)) == (60_000, 10_000)
    assert dataset.test.labels is not None
    assert [dataset.classes[label] for label in dataset.test.labels[:4]] == ["Ankle boot", "Pullover", "Trouser", "Trouser"]
    assert {tuple(np.bincount(part.labels)) for part in (dataset.train, dataset.test)} == {(6000,) * 10, (1000,) * 10}
    assert dataset.train.pixels.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    with pytest.raises(IntegrityError, match="sha256"):
        load("mnist", [str(FASHION)])


NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LAYOUTS = {
    "as published": "{name}.gz",
    "raw": "{name}",
    "Kaggle's spelling": "{dotted}",
    "Kaggle's spelling, zipped": "{dotted}.gz",
    "Kaggle's folders": "{name}/{name}",
    "torchvision's root": "TinyMNIST/raw/{name}",
    "torchvision's root, zipped": "TinyMNIST/raw/{name}.gz",
    "torchvision's data set": "raw/{name}",
}


def tiny_idx(folder: Path, layout: str) -> tuple[IdxDataset, list[bytes]]:
    """Write a tiny data set in a layout; return it and the bytes of its files."""
    random = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(20, 4, 5), (20,), (10, 4, 5), (10,)]
    contents = []
    for name, shape in zip(NAMES, shapes, strict=True):
        header = idx_file(name, shape, sha256="0").header
        contents.append(header + random.integers(0, 256, shape, np.uint8).tobytes())
        path = folder / layout.format(name=name, dotted=name.replace("-idx", ".idx"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(contents[-1], 3) if path.suffix == ".gz" else contents[-1])
    files = [
        idx_file(name, shape, hashlib.sha256(content).hexdigest())
        for name, shape, content in zip(NAMES, shapes, contents, strict=True)
    ]
    return IdxDataset("tiny", (), (files[0], files[1], files[2], files[3]), raw="TinyMNIST/raw"), contents


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_known_layout_of_a_folder_is_found(layout: str, tmp_path: Path) -> None:
    tiny, contents = tiny_idx(tmp_path / "mirror", LAYOUTS[layout])
    dataset = tiny([f"{tmp_path}/mirror"])
    assert dataset.train.pixels.tobytes() == contents[0][16:]
    assert dataset.test.labels is not None
    assert dataset.test.labels.tolist() == list(contents[3][8:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_known_layout_is_found_over_http(layout: str, tmp_path: Path) -> None:
    tiny, contents = tiny_idx(tmp_path, LAYOUTS[layout])
    handler = partial(SilentHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        assert tiny([f"http://127.0.0.1:{server.server_port}"]).train.pixels.tobytes() == contents[0][16:]
        server.shutdown()


class SilentHandler(SimpleHTTPRequestHandler):
    """A server of files without an access log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def unzipped(served: bytes) -> bytes | None:
    try:
        return gzip.decompress(served)
    except (EOFError, OSError, zlib.error):
        return None


@given(
    shape=st.one_of(st.tuples(st.integers(1, 9)), st.tuples(*[st.integers(1, 6)] * 3)),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_the_right_file_or_an_integrity_error(shape: tuple[int, ...], data: st.DataObject) -> None:
    header = idx_file("x", shape, sha256="0").header
    content = header + data.draw(st.binary(min_size=prod(shape), max_size=prod(shape)))
    file = idx_file("x", shape, sha256=hashlib.sha256(content).hexdigest())
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    changed = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    raw = data.draw(st.sampled_from([content, changed, content + content]))
    served = data.draw(st.sampled_from([raw, gzip.compress(raw), gzip.compress(raw[:9]) + gzip.compress(raw[9:])]))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(served)))
        served = served[:start] + data.draw(st.binary(max_size=20)) + served[data.draw(st.integers(start, len(served))) :]
    whole = served == content or (served.startswith(b"\x1f\x8b") and unzipped(served) == content)
    if whole:
        assert file.check(served) == content
    else:
        with pytest.raises(IntegrityError):
            file.check(served)


@given(served=st.one_of(st.binary(max_size=400), st.binary(max_size=400).map(lambda end: b"\x1f\x8b" + end)))
@settings(deadline=None)
def test_no_bytes_break_the_check_of_a_file(served: bytes) -> None:
    for file in (*mnist.files[1:2], *kmnist.files[1:2]):
        with pytest.raises(IntegrityError):
            file.check(served)


def test_an_unknown_name_lists_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"'mnits'.*mnist, fashion_mnist, kmnist, digits"):
        load("mnits")
    assert all(getattr(dataset, "name", name) == name for name, dataset in DATASETS.items())


def test_digits_are_stratified_full_range_and_always_the_same() -> None:
    dataset = load("digits", ["ignored"])
    train, test = dataset.train, dataset.test
    assert (dataset.name, len(train), len(test), train.shape) == ("digits", 1438, 359, (1, 28, 28))
    total = np.bincount(train.labels) + np.bincount(test.labels)
    np.testing.assert_allclose(np.bincount(test.labels), 0.2 * total, atol=0.5)
    assert {(part.pixels.min(), part.pixels.max()) for part in (train, test)} == {(0, 255)}
    digest = hashlib.sha256(b"".join(part.pixels.tobytes() + part.labels.tobytes() for part in (train, test)))
    assert digest.hexdigest() == "d18ec962736cbbd66d3a9751f29a13b4df8998edef749a98f96183ec96d9fc10"
    assert digits().train.labels.tolist() == train.labels.tolist()


def test_enlarging_is_bilinear() -> None:
    small = np.random.default_rng(0).integers(0, 17, (5, 8, 8))
    exact = zoom(small * 255 / 16, (1, 3.5, 3.5), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(enlarge(small), exact, atol=0.51)
    assert (enlarge(np.full((1, 8, 8), 16)) == 255).all()
