"""The input of every metric: a trained model, the images it is measured on, and how much to compute."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier import Classifier
from pipeline.data import Images
from pipeline.models.base import LatentModel
from pipeline.models.objectives import gaussian_kl
from pipeline.runtime import generator

BATCH = 500  # images per pass
NO_LABELS = "the images have no labels of two classes or more with two images each; what needs classes is left out"
NO_CLASSIFIER = "needs the classifier; the note of the section classifier says why there is none"


@dataclass(frozen=True)
class Budget:
    """How much one evaluation computes; ``evaluate.profile`` in params.yaml names one of :data:`PROFILES`."""

    test_images: int  # at most; a fixed choice, the same for every model and seed
    train_codes: int  # training codes for fitting classifiers and densities over the latent space
    importance_images: int  # test images with an importance-weighted bound, of 500 samples each
    exact_images: int  # test images whose log p(x) is integrated over a latent plane
    grid: int  # points along each side of the grid of that integral
    plots: int  # images, at most, in statistics that compare all pairs: silhouette, trustworthiness, MMD
    samples: int  # images decoded from each sampler, and points of each reference measure
    pairs: int  # interpolated pairs of test images of one class, and as many of two


PROFILES = {
    "fast": Budget(2_000, 5_000, importance_images=50, exact_images=500, grid=128, plots=1_000, samples=1_000, pairs=200),
    "full": Budget(
        10_000, 10_000, importance_images=1_000, exact_images=10_000, grid=256, plots=2_000, samples=5_000, pairs=1_000
    ),
}


class MetricResult(NamedTuple):
    """The result of one family of metrics, or of all."""

    numbers: dict[str, Any]  # a section of the metrics file: names to floats, or to nested mappings of them
    per_image: dict[str, np.ndarray] = {}  # noqa: RUF012 (a NamedTuple's default, never changed); columns [N] of the test images
    arrays: dict[str, np.ndarray] = {}  # noqa: RUF012 (as above); arrays of `Results`


def chosen(count: int, size: int, purpose: str) -> np.ndarray:
    """Return a random choice of ``size`` of ``count`` indices, sorted, or all if there are no more; ``purpose`` alone decides."""
    if count <= size:
        return np.arange(count)
    return np.sort(torch.randperm(count, generator=generator("choose", purpose)).numpy()[:size])


def choose(images: Images, size: int, purpose: str) -> Images:
    """Return the images of :func:`chosen`."""
    return images if len(images) <= size else images.take(chosen(len(images), size, purpose))


@dataclass(frozen=True, eq=False)
class EvalContext:
    """A trained model and the images it is measured on; expensive results are computed once, on first use."""

    model: LatentModel
    train: Images
    test: Images
    seed: int = 1  # seeds all noise, together with its purpose
    beta: float | None = None  # weight of the KL term in training; None for a model without one
    num_samples: int = 16  # posterior samples per image for the reconstruction term
    budget: Budget = PROFILES["full"]
    classifier: Classifier | None = None  # without one, the metrics that need it are left out
    manifold_size: int = 20  # images along each side of the decoded plane in the figures
    test_indices: np.ndarray = field(init=False)  # [N], where the test images of this evaluation stand in the data set

    def __post_init__(self) -> None:
        indices = chosen(len(self.test), self.budget.test_images, "test")
        object.__setattr__(self, "test_indices", indices)
        object.__setattr__(self, "test", self.test.take(indices))

    def needs_plane(self, names: str) -> dict[str, str]:
        """Return a note that these metrics need a latent plane, for a section of another model; else nothing."""
        dim = self.model.latent_dim
        return {} if dim == 2 else {"note": f"no {names}: they need 2 latent dimensions, not {dim}"}

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def noise(self, *shape: int, purpose: str) -> Tensor:
        """Return standard normal noise on the model's device; it depends on seed and purpose alone."""
        return torch.randn(shape, generator=generator(self.seed, purpose)).to(self.device)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a numpy generator that depends on seed and purpose alone."""
        words = torch.randint(2**31, (4,), generator=generator(self.seed, purpose))
        return np.random.default_rng(words.tolist())

    def pixels(self, images: Images) -> Tensor:
        """Return the images ``[N, C, H, W]`` in [0, 1] on the model's device."""
        return torch.from_numpy(images.intensities).to(self.device)

    @torch.no_grad()
    def encode(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Return codes and posterior standard deviations ``[N, d]``, float32; the latter are zeros for a point."""
        posteriors = [self.model.encode(x) for x in torch.split(self.pixels(images), BATCH)]
        codes, spread = (torch.cat([getattr(one, name) for one in posteriors]).cpu().numpy() for name in ("mean", "std"))
        return codes, spread

    @torch.no_grad()
    def decode(self, z: np.ndarray | Tensor) -> np.ndarray:
        """Return decoded intensities ``[..., C, H, W]`` in [0, 1], float32, at latent points ``[..., d]``."""
        points = torch.as_tensor(z, dtype=torch.float32)
        flat = points.reshape(-1, points.shape[-1])
        images = [self.model.decode_images(part.to(self.device)).cpu().numpy() for part in torch.split(flat, 8 * BATCH)]
        return np.concatenate(images).reshape(*points.shape[:-1], *self.test.shape)

    @torch.no_grad()
    def terms_of(self, images: Tensor, num_samples: int, purpose: str) -> dict[str, np.ndarray]:
        """Return the terms of each image ``[N, C, H, W]``, float64 ``[N]``, in nats unless said otherwise.

        ``recon`` at posterior samples (mean over ``num_samples``), ``recon_at_mean``, ``mse`` (per pixel, at the mean) and,
        unless the posterior is a point, ``kl`` and ``kl_per_dim`` ``[N, d]``. ``purpose`` seeds the noise.
        """
        batches = []
        for index, x in enumerate(torch.split(images, BATCH)):
            posterior, likelihood = self.model.encode(x), self.model.likelihood
            logits = self.model.decode(posterior.mean)
            mse = (likelihood.mean(logits) - x).square().flatten(1).mean(-1)
            parts = {"recon_at_mean": likelihood.nll(logits, x), "mse": mse}
            parts["recon"] = parts["recon_at_mean"]
            if posterior.logvar is not None:
                noise = self.noise(num_samples, *posterior.mean.shape, purpose=f"{purpose} {index}")
                # One sample at a time needs the memory of one batch, for any number of samples.
                samples = [likelihood.nll(self.model.decode(posterior.sample(eps)), x).double() for eps in noise]
                parts["recon"] = torch.stack(samples).mean(0)
                parts["kl_per_dim"] = gaussian_kl(posterior.mean, posterior.logvar)
                parts["kl"] = parts["kl_per_dim"].double().sum(-1)
            batches.append({name: values.double().cpu().numpy() for name, values in parts.items()})
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    @cached_property
    def terms(self) -> dict[str, np.ndarray]:
        """The terms of each test image, as :meth:`terms_of` returns them."""
        return self.terms_of(self.pixels(self.test), self.num_samples, "recon")

    @cached_property
    def _posteriors(self) -> tuple[np.ndarray, np.ndarray]:
        return self.encode(self.test)

    @property
    def codes(self) -> np.ndarray:
        """The test images' codes ``[N, d]``, the posterior means."""
        return self._posteriors[0]

    @property
    def spread(self) -> np.ndarray:
        """The test images' posterior standard deviations ``[N, d]``; zeros for a point."""
        return self._posteriors[1]

    @cached_property
    def reference(self) -> Images:
        """A fixed choice of training images, the same for every model and seed."""
        return choose(self.train, self.budget.train_codes, "train")

    @cached_property
    def labels(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The labels of :attr:`reference` and of the test images; None unless both have two classes and two images a class."""
        reference, test = self.reference.labels, self.test.labels
        if reference is None or test is None:
            return None
        parts = (reference, test, test[: self.budget.plots])
        return (reference, test) if all(1 < len(np.unique(part)) <= len(part) / 2 for part in parts) else None

    @cached_property
    def _reference_posteriors(self) -> tuple[np.ndarray, np.ndarray]:
        return self.encode(self.reference)

    @property
    def reference_codes(self) -> np.ndarray:
        """The codes ``[M, d]`` of :attr:`reference`."""
        return self._reference_posteriors[0]

    @cached_property
    def reference_samples(self) -> np.ndarray:
        """One posterior sample ``[M, d]`` for each image of :attr:`reference`; its code if the posterior is a point."""
        codes, spread = self._reference_posteriors
        return np.asarray(codes + spread * self.noise(*codes.shape, purpose="reference").cpu().numpy())
