"""The data sets: their published tables, the real MNIST, and the bundled digits."""

import ast
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import zoom

from pipeline.datasets import DATASETS, digits, fashion_mnist, kmnist, load, mnist
from pipeline.datasets.digits import enlarge
from pipeline.datasets.idx import IdxDataset
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
        assert file.sha256 if dataset is mnist else file.gz_md5 == md5
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
