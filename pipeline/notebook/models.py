"""The tutorial's models, which wrap those of the package and return pixel probabilities, their loss and their training."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.models import ModelConfig
from pipeline.models.likelihoods import bernoulli_nll
from pipeline.models.objectives import Posterior, negative_elbo
from pipeline.notebook.data import Loader, images_of
from pipeline.params import Params
from pipeline.runtime import use
from pipeline.training.config import TrainConfig
from pipeline.training.schedules import kl_weight
from pipeline.training.trainer import fit

Device = torch.device | str | None
History = dict[str, list[float]]


class Network(nn.Module):
    """A model of the package, ``core``, that takes images ``[B, ...]`` and returns pixel probabilities ``[B, input_dim]``."""

    name: str  # in pipeline.models.MODELS
    beta: float | None = None  # weight of the KL term in training
    warmup_epochs = 0  # over which beta rises

    def __init__(self, input_dim: int = 784, latent_dim: int = 2, hidden_dims: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        squares = [(channels, side, side) for channels in (1, 3) for side in (math.isqrt(input_dim // channels),)]
        self.image_shape = next((shape for shape in squares if math.prod(shape) == input_dim), (1, 1, input_dim))
        self.core = ModelConfig(self.name, "mlp", self.image_shape, latent_dim, tuple(hidden_dims)).build()
        self.input_dim, self.latent_dim = input_dim, latent_dim
        self.dataset, self.history = "no data yet", History()

    def extra_repr(self) -> str:
        return f"latent_dim={self.latent_dim}, {sum(weights.numel() for weights in self.parameters()):,} parameters"

    def posterior(self, x: Tensor) -> Posterior:
        """Return the posterior of images ``[B, ...]`` in [0, 1]."""
        return self.core.encode(x.reshape(-1, *self.image_shape))

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixels ``[B, input_dim]``, in [0, 1], at latent points ``[B, latent_dim]``."""
        return self.core.decode_images(z).flatten(-3)

    @torch.no_grad()
    def interpolate(self, x1: Tensor, x2: Tensor, num_steps: int = 10) -> Tensor:
        """Return ``[num_steps, input_dim]`` decoded from the line between the codes of two single images, ends included."""
        start, end = self.posterior(x1).mean, self.posterior(x2).mean
        if len(start) != 1 or len(end) != 1:
            raise ValueError(f"interpolate takes two single images, not {len(start)} and {len(end)}")
        return self.decode(torch.lerp(start, end, torch.linspace(0, 1, num_steps, device=start.device)[:, None]))


class Autoencoder(Network):
    """An autoencoder; ``hidden_dims`` are the widths of the encoder's hidden layers, which the decoder mirrors."""

    name = "ae"

    def __init__(self, input_dim: int = 784, latent_dim: int = 2, hidden_dims: Sequence[int] = (512, 256, 128)) -> None:
        super().__init__(input_dim, latent_dim, hidden_dims)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes ``[B, latent_dim]`` of images ``[B, ...]`` in [0, 1]."""
        return self.posterior(x).mean

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(x_recon [B, input_dim] in [0, 1], codes [B, latent_dim])``."""
        code = self.encode(x)
        return self.decode(code), code


class VAE(Network):
    """A variational autoencoder with the arguments of :class:`Autoencoder`.

    >>> x_recon, mu, logvar, z = VAE(latent_dim=16)(torch.rand(5, 784))
    >>> x_recon.shape, z.shape
    (torch.Size([5, 784]), torch.Size([5, 16]))
    """

    name, beta = "vae", 1.0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's ``(mu, logvar)``, each ``[B, latent_dim]``, for images ``[B, ...]`` in [0, 1]."""
        mu, logvar = self.posterior(x)
        assert logvar is not None
        return mu, logvar

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``(x_recon, mu, logvar, z)``: pixels ``[B, input_dim]`` in [0, 1], the posterior and a sample of it."""
        mu, logvar = self.encode(x)
        z = Posterior(mu, logvar).sample(torch.randn_like(mu))
        return self.decode(z), mu, logvar, z

    @torch.no_grad()
    def sample(self, num_samples: int = 16, device: Device = None) -> Tensor:
        """Return decoded samples from N(0, I), ``[num_samples, input_dim]``, on ``device`` (default: the model's)."""
        z = torch.randn(num_samples, self.latent_dim, device=next(self.parameters()).device)
        return self.decode(z).to(device)


class BetaVAE(VAE):
    """A :class:`VAE` with the weight ``beta`` on the KL term in training (openreview Sy2fzU9gl)."""

    def __init__(self, *args: Any, beta: float = 4.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta = beta


class AnnealedBetaVAE(VAE):
    """A :class:`VAE` with a KL weight that rises to ``max_beta`` over ``anneal_steps`` epochs, at most all (1511.06349)."""

    def __init__(self, *args: Any, max_beta: float = 4.0, anneal_steps: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta, self.warmup_epochs = max_beta, anneal_steps


def vae_loss(x_recon: Tensor, x: Tensor, mu: Tensor, logvar: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
    """Return the terms of the objective, in nats per image, means over the batch: ``total = reconstruction + beta * kl``.

    ``x_recon`` are pixel probabilities ``[B, D]``, ``x`` images ``[B, ...]`` in [0, 1], ``mu`` and ``logvar`` are ``[B, d]``.

    >>> loss = vae_loss(torch.full((1, 784), 0.5), torch.rand(1, 784), torch.ones(1, 2), torch.zeros(1, 2), beta=4.0)
    >>> {name: round(value.item(), 2) for name, value in loss.items()}  # 784 ln 2 and 2 / 2
    {'total': 547.43, 'reconstruction': 543.43, 'kl': 1.0}
    """
    shape = len(x_recon), 1, 1, -1
    logits = torch.logit(x_recon, eps=torch.finfo(x_recon.dtype).eps).reshape(shape)
    terms = negative_elbo(bernoulli_nll(logits, x.reshape(shape)), Posterior(mu, logvar), beta)
    return {"total": terms["loss"], "reconstruction": terms["recon"], "kl": terms["kl"]}


def train_model(
    model: Network,
    train_loader: Loader,
    val_loader: Loader,
    num_epochs: int = 15,
    learning_rate: float = 1e-3,
    device: Device = None,
    early_stopping_patience: int = 7,
    verbose: bool = False,
    *,
    schedule: str = "cosine",
    seed: int = 1,
    params: Params | None = None,
) -> History:
    """Train a model in place with :func:`pipeline.training.trainer.fit`, which ends with the weights of the best epoch.

    Returns ``train_loss``, ``train_recon``, ``val_loss``, ``val_recon`` and, for a VAE, ``train_kl``, ``val_kl``: one number per
    epoch, in nats per image. Both losses weight the KL term as training does in that epoch.

    Args:
        model: moved to ``device``; training starts from its weights.
        train_loader, val_loader: from :func:`~pipeline.notebook.load_mnist`, or others with images in [0, 1]: those are read
            once, so their random augmentation is not repeated. The batch size is that of ``train_loader``.
        num_epochs, learning_rate: passes over the training images, and Adam's initial learning rate.
        device: ``auto`` (None), ``cpu``, ``cuda`` or ``mps``. Raises ParamsError when this machine does not have it.
        early_stopping_patience: epochs without a lower validation loss before training stops; 0 never stops early. Here, and
            in the choice of the best epoch, the KL term has weight 1, and the epochs of a KL warm-up do not count.
        verbose: print a line for each epoch.
        schedule: ``cosine`` lowers the learning rate to zero over the epochs, ``constant`` keeps it.
        seed: seed of the order of the images and of the noise.
        params: from :func:`~pipeline.notebook.load_params`. Training then follows the pipeline's recipe for this kind of model
            and ignores the other settings but ``verbose``; the KL weight stays the model's own. The weights are those of
            ``dvc repro`` if ``torch.manual_seed(params.seed)`` precedes the model, and the loaders have its seed.

    Raises DivergedError when the loss or a gradient is not finite.
    """
    train, val = (images_of(loader, model.image_shape) for loader in (train_loader, val_loader))
    model.dataset, model.history = getattr(train_loader.dataset, "name", "images"), {}
    beta = 1.0 if model.beta is None else model.beta
    if params is None:
        shared = num_epochs, train_loader.batch_size or 128, learning_rate, schedule, early_stopping_patience, seed
        config = TrainConfig(*shared, beta=beta, warmup_epochs=model.warmup_epochs)
        place = str(device or "auto").removesuffix(":0"), torch.get_num_threads(), "float32"
    else:
        config = replace(TrainConfig.from_params(params, getattr(params, model.name)), beta=beta)
        place = params.train.device, params.train.threads, params.train.precision
        model.core.start_at_mean(torch.from_numpy(train.mean_image()), len(train))
    with use(*place) as runtime:
        epochs = fit(model.core, train, val, config, runtime=runtime)
        for epoch in tqdm(epochs, total=config.epochs, unit="epoch", disable=None if verbose else True):
            row = {name.replace("/", "_"): value for name, value in epoch.metrics.items() if name.count("/") == 1}
            row["val_loss"] = row["val_recon"] + kl_weight(config, epoch.number) * row.get("val_kl", 0.0)
            for name, value in row.items():
                model.history.setdefault(name, []).append(value)
            if verbose:
                terms = "".join(f"  {name} {value:.2f}" for name, value in row.items())
                tqdm.write(f"epoch {epoch.number:3}/{config.epochs}{terms}", file=sys.stdout)
    model.eval()
    return model.history


def train_vae(
    model: VAE,
    train_loader: Loader,
    val_loader: Loader,
    num_epochs: int = 30,
    learning_rate: float = 1e-3,
    beta: float | None = None,
    device: Device = None,
    early_stopping_patience: int = 7,
    verbose: bool = True,
    **options: Any,
) -> History:
    """Train a VAE as :func:`train_model` does, with the KL weight ``beta`` in every epoch, or the model's own for None."""
    if beta is not None:
        model.beta, model.warmup_epochs = beta, 0
    shared = num_epochs, learning_rate, device, early_stopping_patience, verbose
    return train_model(model, train_loader, val_loader, *shared, **options)
