"""Data loaders of the tutorial."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from pipeline.data import Dataset, Images, save_dataset
from pipeline.datasets.transfer import Unavailable
from pipeline.notebook import Autoencoder, data, load_images, load_mnist, train_model

SHAPE = (1, 28, 28)


def tiny(name="mnist", count=40, seed=0):
    rng = np.random.default_rng(seed)
    images = Images(rng.integers(0, 256, (count, *SHAPE), np.uint8), np.arange(count) % 10)
    return Dataset(name, images, images.take(slice(20)))


def test_loaders_give_images_in_0_1_and_labels():
    loaders = train, _, test = load_mnist(batch_size=100, name="digits")
    for loader, full in zip(loaders, (True, False, True), strict=True):
        images, labels = next(iter(loader))
        assert images.shape == (100 if full else len(loader.dataset), *SHAPE)
        assert images.dtype == torch.float32
        assert (images.min(), images.max()) == (0, 1)
        assert labels.shape == images.shape[:1]
        assert len(loader) == -(-len(loader.dataset) // 100)
    assert not torch.equal(next(iter(train))[0], next(iter(train))[0])
    assert torch.equal(next(iter(test))[0], next(iter(test))[0])


def test_prepared_file_is_used_if_it_is_the_requested_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "PREPARED", tmp_path / "dataset.safetensors")
    save_dataset(data.PREPARED, tiny())
    monkeypatch.setattr(data.datasets, "load", lambda name, mirrors=(): tiny(name, 60))
    assert [len(loader.dataset) for loader in load_mnist()] == [38, 2, 20]
    assert "mnist: 38 train, 2 validation" in capsys.readouterr().out
    assert [len(loader.dataset) for loader in load_mnist(name="kmnist")] == [57, 3, 20]


def test_digits_replace_a_data_set_that_no_mirror_has_with_a_warning(tmp_path, monkeypatch):
    def load(name, mirrors=()):
        if name == "mnist":
            raise Unavailable(f"{mirrors}: no such folder")
        return tiny(name)

    monkeypatch.setattr(data, "PREPARED", tmp_path / "none")
    monkeypatch.setattr(data.datasets, "load", load)
    monkeypatch.delenv("PIPELINE_MIRROR", raising=False)
    with pytest.warns(UserWarning, match=r"NOT mnist.*no such folder.*1,797 digits instead"):
        train, _, _ = load_mnist()
    assert train.dataset.name == "digits"
    monkeypatch.setenv("PIPELINE_MIRROR", "/nowhere")
    with pytest.raises(Unavailable, match="/nowhere"):
        load_mnist()


def test_images_without_labels_are_loaded_without_labels():
    images = Images(tiny().train.pixels)
    (batch,) = next(iter(DataLoader(data.ImageTensors(images, "unlabeled"), 8)))
    assert torch.equal(batch, torch.from_numpy(images.intensities[:8]))


@pytest.mark.parametrize("shape", [SHAPE, (28, 28), (784,)])
def test_images_of_any_loader_are_recovered_exactly(shape):
    images = tiny().train
    x = torch.from_numpy(images.intensities).reshape(-1, *shape)
    for loader in (
        DataLoader(data.ImageTensors(images, "mnist"), 8, shuffle=True),
        DataLoader(TensorDataset(x, torch.from_numpy(images.labels)), 8),
    ):
        found = data.images_of(loader, SHAPE)
        np.testing.assert_array_equal(found.pixels, images.pixels)
        np.testing.assert_array_equal(found.labels, images.labels)


def test_normalized_images_are_refused():
    loader = DataLoader(TensorDataset(torch.randn(20, *SHAPE), torch.zeros(20, dtype=torch.long)), 10)
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\].*leave out Normalize"):
        data.images_of(loader, SHAPE)


@pytest.mark.parametrize(("channels", "classes"), [(1, ("cat", "dog")), (3, ("cat", "dog")), (3, ("cat",))])
def test_images_of_your_own_are_loaded_and_learned(channels, classes, tmp_path, capsys):
    random = np.random.default_rng(0)
    for index in range(24):
        path = tmp_path / "photos" / classes[index % len(classes)] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (10, 8, 3), np.uint8)).save(path)
    train, val, test = load_images(tmp_path / "photos", size=8, channels=channels, batch_size=64)
    assert "photos: " in capsys.readouterr().out
    assert sum(len(loader.dataset) for loader in (train, val, test)) == 24
    images, *labels = next(iter(train))
    assert images.shape[1:] == (channels, 8, 8)
    assert [set(label.tolist()) for label in labels] == ([{0, 1}] if len(classes) == 2 else [])
    model = Autoencoder(channels * 64, hidden_dims=[8])
    assert model.image_shape == (channels, 8, 8)
    assert len(train_model(model, train, val, num_epochs=1)["val_loss"]) == 1


def test_a_file_of_arrays_is_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 6, 6, 3)))
    assert next(iter(load_images(tmp_path / "x.npy")[2]))[0].shape[1:] == (3, 6, 6)
