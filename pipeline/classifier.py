"""The reference classifier: a small network whose features and confidence measure decoded images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from pipeline.data import Dataset, Shape, intensities
from pipeline.runtime import generator
from pipeline.storage import Header, Name, Size, check_arrays, load_arrays, md5, refusing, save_arrays

BATCH = 128
LEARNING_RATE = 3e-3
NUM_FEATURES = 64
_PREDICTED = 1000  # images at a time
NO_CLASSES = "the images have no labels of two classes or more, so there is no classifier"


class ClassifierNet(nn.Module):
    """Two strided convolutions and a layer of 64 features, with batch normalisation.

    >>> features, logits = ClassifierNet((1, 28, 28), num_classes=10)(torch.rand(5, 1, 28, 28))
    >>> features.shape, logits.shape
    (torch.Size([5, 64]), torch.Size([5, 10]))
    """

    def __init__(self, image_shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.image_shape, self.num_classes = image_shape, num_classes
        channels, height, width = image_shape
        first = nn.Conv2d(channels, 24, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        second = nn.Conv2d(24, 48, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(48), nn.ReLU()
        self.convolutions = nn.Sequential(*first, *second, nn.Flatten())
        size = 48 * ((height + 3) // 4) * ((width + 3) // 4)
        self.features = nn.Sequential(nn.Linear(size, NUM_FEATURES), nn.BatchNorm1d(NUM_FEATURES), nn.ReLU())
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[B, 64]`` and class logits ``[B, K]`` of images ``[B, C, H, W]`` in [0, 1]."""
        features = self.features(self.convolutions(x))
        return features, self.head(features)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier."""

    net: ClassifierNet
    dataset: str  # the name of its training data
    accuracy: float  # on the data set's test images
    md5: str = ""  # of its file, as in dvc.lock

    @torch.no_grad()
    def predict(self, images: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return features ``[..., 64]`` and class probabilities ``[..., K]``, float32, of images ``[..., C, H, W]`` in [0, 1]."""
        x = torch.as_tensor(images, dtype=torch.float32)
        device = next(self.net.parameters()).device
        parts = [self.net(part.to(device)) for part in torch.split(x.reshape(-1, *x.shape[-3:]), _PREDICTED)]
        features, logits = (torch.cat(part).reshape(*x.shape[:-3], -1) for part in zip(*parts, strict=True))
        return features.cpu().numpy(), logits.softmax(-1).cpu().numpy()


def train_classifier(dataset: Dataset, *, num_steps: int, seed: int, device: torch.device | str = "cpu") -> Classifier | None:
    """Train a classifier on the training images and measure its accuracy on the test images.

    It uses Adam with a one-cycle learning rate (1708.07120) for at most ``num_steps`` batches of 128 and 40 epochs, and
    shifts each batch by up to a fourteenth of the image. Returns None unless all images have labels, of two classes or more.
    """
    train, test = dataset.train, dataset.test
    if train.labels is None or test.labels is None or len(np.unique(train.labels)) < 2:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ClassifierNet(train.shape, int(max(train.labels.max(), test.labels.max())) + 1).to(device)
    num_steps = min(num_steps, 40 * max(1, len(train) // BATCH))
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    shift = max(1, min(train.shape[1:]) // 14)
    for step in trange(num_steps, desc="classifier", unit="step", disable=None):
        rng = generator(seed, "judge", step)  # the key decides the weights' bits, so it stays
        images = train.take(torch.randint(len(train), (BATCH,), generator=rng).numpy())
        pixels, labels = (torch.from_numpy(array).to(device) for array in (images.pixels, images.labels))
        move = tuple(torch.randint(-shift, shift + 1, (2,), generator=rng).tolist())
        logits = net(intensities(pixels.roll(move, (-2, -1))))[1]
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    classifier, correct = Classifier(net.eval(), dataset.name, accuracy=0.0), 0
    for start in range(0, len(test), 10 * _PREDICTED):
        images = test.take(slice(start, start + 10 * _PREDICTED))
        correct += int((classifier.predict(images.intensities)[1].argmax(-1) == images.labels).sum())
    return replace(classifier, accuracy=correct / len(test))


class _Header(Header):
    dataset: Name
    accuracy: float = Field(ge=0, le=1)
    image_shape: tuple[Size, Size, Size]
    num_classes: Size


def save_classifier(path: str | Path, classifier: Classifier | None) -> None:
    """Write the classifier, or a note that there is none; equal weights give equal bytes."""
    if classifier is None:
        save_arrays(path, {}, {"note": NO_CLASSES})
        return
    net, header = classifier.net, {"dataset": classifier.dataset, "accuracy": classifier.accuracy}
    # Inference does not use the batch count of batch normalisation.
    state = {key: value.numpy(force=True) for key, value in net.state_dict().items() if "num_batches" not in key}
    save_arrays(path, state, header | {"image_shape": list(net.image_shape), "num_classes": net.num_classes})


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> Classifier | None:
    """Read a classifier, None if there is none; raises IntegrityError if the file is missing, damaged or of another version."""
    arrays, header = load_arrays(path)
    if header == {"note": NO_CLASSES}:
        return None
    with refusing(path, "a classifier"):
        _Header.check(header)
        sizes = tuple(header["image_shape"]), header["num_classes"]
        with torch.device("meta"):  # which allocates nothing, so that a file cannot ask for more than it holds
            expected = {name: tensor for name, tensor in ClassifierNet(*sizes).state_dict().items() if "num_batches" not in name}
        if expected.keys() != arrays.keys():
            raise ValueError("it has other layers")
        check_arrays(arrays, {name: " ".join(["f4", *map(str, tensor.shape)]) for name, tensor in expected.items()})
        net = ClassifierNet(*sizes)
        net.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()}, strict=False)
        return Classifier(net.to(device).eval(), header["dataset"], header["accuracy"], md5(path))


def accept_classifier(classifier: Classifier | None, required: float) -> tuple[Classifier | None, dict[str, Any]]:
    """Return the classifier, or None if its test accuracy is below ``required``, and its section of the metrics file."""
    if classifier is None:
        return None, {"note": f"{NO_CLASSES}; the metrics that need one are left out"}
    section = {"accuracy": classifier.accuracy, "md5": classifier.md5}
    if classifier.accuracy >= required:
        return classifier, section
    note = f"below classifier.min_accuracy = {required:g}; the metrics that need a classifier are left out"
    return None, section | {"note": note}
