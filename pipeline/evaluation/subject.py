"""What is measured: a trained model with the images it is measured on, and what the measurement may cost."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data import Split
from pipeline.judge import Judge
from pipeline.models import Model
from pipeline.runtime import generator

BATCH = 500  # images per pass; times num_samples rows go through the decoder at once


@dataclass(frozen=True)
class Budget:
    """What one evaluation spends; a profile of params.yaml is one of these."""

    test_images: int
    """Test images measured; fewer than there are: a fixed choice, the same for every model and seed."""
    train_codes: int
    """Training codes that classifiers and densities over the latent space are fitted to."""
    importance_images: int
    """Test images whose importance-weighted bound is computed, with 500 draws each."""
    exact_images: int
    """Test images whose log p(x) is integrated exactly, where the latent space is a plane."""
    grid: int
    """Points along each side of the grid over which it is integrated."""
    plots: int
    """Images, at most, of the statistics that compare all pairs: silhouette, trustworthiness, MMD."""
    samples: int
    """Images decoded from each sampler, and drawn from each reference measure."""
    pairs: int
    """Pairs of test images of one class, and as many of two, between which walks are measured."""


PROFILES = {
    "fast": Budget(2_000, 5_000, importance_images=50, exact_images=500, grid=128, plots=1_000, samples=1_000, pairs=200),
    "full": Budget(
        10_000, 10_000, importance_images=1_000, exact_images=10_000, grid=256, plots=2_000, samples=5_000, pairs=1_000
    ),
}


class Findings(NamedTuple):
    """What a family of metrics returns; the last two are optional."""

    numbers: dict[str, Any]
    """Names to floats, or to nested mappings of them: a section of the metrics file."""
    per_image: dict[str, np.ndarray] = {}  # noqa: RUF012 (a NamedTuple's default, never changed)
    """Columns ``[N]`` of the table with one row per test image."""
    arrays: dict[str, np.ndarray] = {}  # noqa: RUF012
    """What figures and the claims ledger need and a metrics file should not hold."""


def choose(split: Split, size: int, purpose: str) -> Split:
    """Return ``size`` images of the split in their order, drawn by ``purpose`` alone; all of them when there are no more."""
    if len(split) <= size:
        return split
    order = torch.randperm(len(split), generator=generator("choose", purpose)).numpy()
    return split.take(np.sort(order[:size]))


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and the images it is measured on; what is expensive is computed once, on first use.

    Raises ValueError when the images do not fit the model.
    """

    model: Model
    train: Split
    test: Split
    seed: int = 1
    """Seeds every draw, with the draw's purpose."""
    beta: float | None = None
    """Weight of the KL term in training; None for a model without one."""
    num_samples: int = 16
    """Posterior draws per image for the sampled reconstruction term."""
    budget: Budget = PROFILES["full"]
    judge: Judge | None = None
    """What looks at decoded images; None: nothing that needs it is measured."""

    def __post_init__(self) -> None:
        pixels, expected = self.test.images[0].size, self.model.config["input_dim"]
        if pixels != expected:
            raise ValueError(f"the model takes images of {expected} pixels, the data set has {pixels}")
        object.__setattr__(self, "test", choose(self.test, self.budget.test_images, "test"))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def probabilistic(self) -> bool:
        """Whether the encoder gives a distribution, so that KL and ELBO exist."""
        return self.model.noise_dim > 0

    def noise(self, *shape: int, purpose: str) -> Tensor:
        """Return standard normal draws that depend on seed and purpose alone, on the model's device."""
        return torch.randn(shape, generator=generator(self.seed, purpose)).to(self.device)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a numpy generator that depends on seed and purpose alone."""
        words = torch.randint(2**31, (4,), generator=generator(self.seed, purpose))
        return np.random.default_rng(words.tolist())

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(mean, logvar)`` ``[B, d]`` for images ``[B, D]``; a log variance of -inf where there is no posterior."""
        if self.probabilistic:
            mean, logvar = self.model.encode(x)
            return mean, logvar
        mean = self.model.embed(x)
        return mean, torch.full_like(mean, -torch.inf)

    @torch.no_grad()
    def encode(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Return codes and posterior standard deviations ``[N, d]``, float32; the latter zero where there is no posterior."""
        codes, spread = [], []
        for start in range(0, len(split), BATCH):
            mean, logvar = self.posterior(self.pixels(split.take(slice(start, start + BATCH))))
            codes.append(mean.cpu().numpy())
            spread.append(torch.exp(0.5 * logvar).cpu().numpy())
        return np.concatenate(codes), np.concatenate(spread)

    @torch.no_grad()
    def decode(self, z: np.ndarray | Tensor) -> np.ndarray:
        """Return decoded intensities ``[..., D]`` in [0, 1], float32, at latent points ``[..., d]``."""
        points = torch.as_tensor(z, dtype=torch.float32)
        flat = points.reshape(-1, points.shape[-1])
        images = [torch.sigmoid(self.model.decode(part.to(self.device))).cpu().numpy() for part in flat.split(8 * BATCH)]
        return np.concatenate(images).reshape(*points.shape[:-1], -1)

    def pixels(self, split: Split) -> Tensor:
        """Return the split's images ``[N, D]`` in [0, 1] on the model's device."""
        return torch.from_numpy(split.pixels).to(self.device)

    @cached_property
    def _encoded(self) -> tuple[np.ndarray, np.ndarray]:
        return self.encode(self.test)

    @property
    def codes(self) -> np.ndarray:
        """The test images' codes ``[N, d]``: posterior means, where there is a posterior."""
        return self._encoded[0]

    @property
    def spread(self) -> np.ndarray:
        """The test images' posterior standard deviations ``[N, d]``; zeros where there is no posterior."""
        return self._encoded[1]

    @cached_property
    def reference(self) -> Split:
        """A fixed choice of training images, the same for every model and seed."""
        return choose(self.train, self.budget.train_codes, "train")

    @cached_property
    def _encoded_reference(self) -> tuple[np.ndarray, np.ndarray]:
        return self.encode(self.reference)

    @property
    def reference_codes(self) -> np.ndarray:
        """The codes ``[M, d]`` of :attr:`reference`."""
        return self._encoded_reference[0]

    @cached_property
    def reference_draws(self) -> np.ndarray:
        """One draw ``[M, d]`` from the posterior of each image of :attr:`reference`; the code where there is none."""
        codes, spread = self._encoded_reference
        return codes + spread * self.noise(*codes.shape, purpose="reference").cpu().numpy()
