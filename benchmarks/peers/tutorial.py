"""The tutorial's idiom: a torchvision data set with ToTensor for each sample, a DataLoader, three .item() a step."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import BATCH, EPOCHS, THREADS, Clock, images, report
from nets import decoder, encoder
from torch import nn
from torch.nn import functional
from torchvision import datasets, transforms

torch.set_num_threads(THREADS)
torch.manual_seed(0)


class VAE(nn.Module):
    """The net of :mod:`nets`, with pixel probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), nn.Sequential(decoder(), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return reconstruction, mean and log variance."""
        mu, logvar = self.encoder(x).chunk(2, 1)
        return self.decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)), mu, logvar


def loss_of(model: VAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    recon, mu, logvar = model(x)
    bce = functional.binary_cross_entropy(recon, x, reduction="sum") / len(x)
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
    return bce + kl, bce, kl


class Files(datasets.MNIST):
    """torchvision's MNIST over files that are there already."""

    def _check_exists(self) -> bool:
        return True


def raw(part: str, prefix: str, root: Path) -> None:
    """Write the images as the IDX files that torchvision reads."""
    x = images(part)
    folder = root / "Files" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    header = b"\0\0\x08\x03" + np.array(x.shape, ">i4").tobytes()
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + x.tobytes())
    labels = b"\0\0\x08\x01" + np.array([len(x)], ">i4").tobytes() + bytes(len(x))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


with tempfile.TemporaryDirectory() as name:
    raw("train", "train", Path(name))
    data = Files(name, train=True, transform=transforms.ToTensor())
loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
model, clock = VAE(), Clock()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(EPOCHS):
    totals = [0.0, 0.0, 0.0]
    for batch, _ in loader:
        optimizer.zero_grad()
        terms = loss_of(model, batch)
        terms[0].backward()
        optimizer.step()
        totals = [total + term.item() for total, term in zip(totals, terms, strict=True)]
    clock.epoch()
with torch.no_grad():
    x = torch.from_numpy(images("test"))[:, None].float() / 255
    report(clock, loss_of(model, x)[0].item())
