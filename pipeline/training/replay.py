"""The codes of the same test images before a training and after each of its epochs, for the explorer's replay."""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.data import Images
from pipeline.models import LatentModel
from pipeline.training.trainer import Epoch

IMAGES = 1000


class Replay:
    """Follows a training and keeps ``codes`` ``[1 + epochs, N, latent_dim]`` of the first 1,000 test images.

    They are part of each epoch's state, so that a resumed training has those of all epochs.
    """

    def __init__(self, model: LatentModel, images: Images, epochs: int, device: torch.device) -> None:
        self._model = model.to(device)
        self._x = torch.from_numpy(images.take(slice(IMAGES)).intensities).to(device)
        self.codes = np.zeros((1 + epochs, len(self._x), model.latent_dim), np.float32)
        self._keep(0)

    @torch.no_grad()
    def _keep(self, epoch: int) -> None:
        self.codes[epoch] = self._model.encode(self._x).mean.numpy(force=True)

    def follow(self, epochs: Iterator[Epoch]) -> Iterator[Epoch]:
        """Pass epochs on, with ``codes`` in their state."""
        for epoch in epochs:
            self._keep(epoch.number)
            epoch.state.arrays["codes"] = self.codes
            yield epoch
