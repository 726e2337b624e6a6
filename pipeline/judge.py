"""The judge: a small classifier whose features and confidence measure what a decoder draws; trained once, then frozen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from pipeline.data import Split
from pipeline.errors import IntegrityError
from pipeline.files import load_arrays, md5, save_arrays
from pipeline.runtime import generator

BATCH = 128
LEARNING_RATE = 3e-3
NUM_FEATURES = 64


class JudgeNet(nn.Module):
    """Two strided convolutions and a layer of 64 features, with batch normalisation.

    >>> features, logits = JudgeNet((28, 28), 10)(torch.rand(5, 784))
    >>> features.shape, logits.shape
    (torch.Size([5, 64]), torch.Size([5, 10]))
    """

    def __init__(self, image_shape: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        height, width = ((size + 3) // 4 for size in image_shape)
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.features = nn.Sequential(nn.Linear(48 * height * width, NUM_FEATURES), nn.BatchNorm1d(NUM_FEATURES), nn.ReLU())
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features ``[B, 64]`` and class logits ``[B, C]`` of images ``[B, height * width]`` in [0, 1]."""
        features = self.features(self.convolutions(x.reshape(-1, 1, *self.image_shape)))
        return features, self.head(features)


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained, frozen judge."""

    net: JudgeNet
    dataset: str
    """The data set it was trained on."""
    accuracy: float
    """The fraction of the data set's test images it names rightly."""
    md5: str = ""
    """The hash of its file, as dvc.lock shows it."""

    @torch.no_grad()
    def look(self, images: np.ndarray | Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return features ``[..., 64]`` and class probabilities ``[..., C]``, float32, for images ``[..., D]`` in [0, 1]."""
        x = torch.as_tensor(images, dtype=torch.float32)
        device = next(self.net.parameters()).device
        parts = [self.net(part.to(device)) for part in x.reshape(-1, x.shape[-1]).split(1000)]
        features = torch.cat([part[0] for part in parts])
        probabilities = torch.cat([part[1] for part in parts]).softmax(-1)
        return (
            features.cpu().numpy().reshape(*x.shape[:-1], -1),
            probabilities.cpu().numpy().reshape(*x.shape[:-1], -1),
        )


def learn(name: str, train: Split, test: Split, *, num_steps: int, seed: int, device: torch.device | str = "cpu") -> Judge:
    """Train a judge on the training images and measure it on the test images, which choose nothing.

    Adam with a one-cycle step size (1708.07120), each batch moved by up to a fourteenth of the image.

    Args:
        name: the data set's name.
        train, test: its images.
        num_steps: batches of 128 to train on; fewer for a small data set, which it sees 40 times at most.
        seed: the judge's own; that of the models it judges does not enter.
        device: where to train.
    """
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = JudgeNet(train.image_shape, classes)
    net.to(device).train()
    num_steps = min(num_steps, 40 * max(1, len(train) // BATCH))
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps)
    images, labels = torch.from_numpy(train.images).to(device), torch.from_numpy(train.labels).to(device)
    shift = max(1, min(train.image_shape) // 14)
    for step in trange(num_steps, desc="judge", unit="step", disable=None):
        draws = generator(seed, "judge", step)
        indices = torch.randint(len(train), (BATCH,), generator=draws).to(device)
        move = tuple(torch.randint(-shift, shift + 1, (2,), generator=draws).tolist())
        x = images[indices].roll(move, (1, 2)).float() / 255
        loss = functional.cross_entropy(net(x.flatten(1))[1], labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    judge = Judge(net.eval(), name, accuracy=0.0)
    accuracy = float((judge.look(test.pixels)[1].argmax(-1) == test.labels).mean())
    return Judge(net, name, accuracy)


def save_judge(path: str | Path, judge: Judge) -> None:
    """Write the judge; equal weights give equal bytes."""
    # The count of batches seen decides nothing once the net is frozen.
    state = {key: value.numpy(force=True) for key, value in judge.net.state_dict().items() if "num_batches" not in key}
    header = {"dataset": judge.dataset, "accuracy": judge.accuracy, "image_shape": list(judge.net.image_shape)}
    save_arrays(path, state, header | {"num_classes": judge.net.head.out_features})


def load_judge(path: str | Path, device: torch.device | str = "cpu") -> Judge:
    """Read a judge. Raises IntegrityError naming the file when it is missing, damaged or of another version."""
    arrays, header = load_arrays(path)
    try:
        height, width = header["image_shape"]
        net = JudgeNet((height, width), header["num_classes"])
        missing = net.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()}, strict=False)
        if missing.unexpected_keys or any("num_batches" not in key for key in missing.missing_keys):
            raise ValueError("it has other layers")
        return Judge(net.to(device).eval(), header["dataset"], header["accuracy"], md5(path))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IntegrityError(f"{path}: not a judge of this version ({error}); delete it and run `dvc repro`") from None
