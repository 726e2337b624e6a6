"""The interface of a model for training, evaluation and everything downstream."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.models.likelihoods import Bernoulli, Likelihood
from pipeline.models.objectives import Posterior, negative_elbo


def parametric_layers(net: nn.Module) -> list[nn.Module]:
    """Return the modules of a net that have parameters of their own, from input to output.

    >>> from pipeline.models.mlp import MLP
    >>> parametric_layers(MLP([4, 3, 2]))
    [Linear(in_features=4, out_features=3, bias=True), Linear(in_features=3, out_features=2, bias=True)]
    """
    return [module for module in net.modules() if list(module.parameters(recurse=False))]


class LatentModel(nn.Module, ABC):
    """An encoder and a decoder around a latent space. No other code depends on a model's name, class or layers.

    Args:
        encoder: reads images ``[B, C, H, W]`` in [0, 1], returns ``[B, outputs_per_dim * latent_dim]``.
        decoder: reads latent points ``[B, latent_dim]``, returns pixel logits ``[B, C, H, W]``.
        latent_dim: number of latent dimensions.
        likelihood: what the logits mean; by default Bernoulli pixels.
    """

    outputs_per_dim: ClassVar[int]
    """Outputs of the encoder per latent dimension; :meth:`encode` defines what they mean."""
    is_probabilistic: ClassVar[bool]
    """Whether the posterior is a distribution, which adds a KL term."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int, likelihood: Likelihood | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, latent_dim
        self.likelihood = likelihood or Bernoulli()

    @property
    def noise_dim(self) -> int:
        """Dimensions of the noise that :meth:`loss_terms` takes for each image."""
        return self.latent_dim if self.is_probabilistic else 0

    @abstractmethod
    def encode(self, x: Tensor) -> Posterior:
        """Return the posterior of images ``[B, C, H, W]`` in [0, 1]."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the pixel logits ``[..., C, H, W]`` at latent points ``[..., latent_dim]``."""
        logits: Tensor = self.decoder(z.reshape(-1, self.latent_dim))
        return logits.reshape(*z.shape[:-1], *logits.shape[1:])

    def decode_images(self, z: Tensor) -> Tensor:
        """Return the images ``[..., C, H, W]`` at latent points ``[..., latent_dim]``: intensities in [0, 1]."""
        return self.likelihood.mean(self.decode(z))

    def loss_terms(
        self, x: Tensor, noise: Tensor, beta: float | Tensor = 1.0, encoder_input: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the objective and its parts: :func:`~pipeline.models.objectives.negative_elbo` at one posterior sample.

        Args:
            x: images ``[B, C, H, W]`` in [0, 1], the targets of the reconstruction.
            noise: standard normal ``[B, noise_dim]``.
            beta: weight of the KL term.
            encoder_input: what the encoder reads instead of ``x``, with input dropout.
        """
        posterior = self.encode(x if encoder_input is None else encoder_input)
        nll = self.likelihood.nll(self.decode(posterior.sample(noise)), x)
        return negative_elbo(nll, posterior, beta)

    @torch.no_grad()
    def start_at_mean(self, mean_image: Tensor, num_images: int) -> None:
        r"""Set the decoder's output bias to :math:`\mathrm{logit}(\bar x)`, so that its sigmoid is the mean image at first.

        ``mean_image`` holds mean intensities ``[C, H, W]`` of ``num_images`` images; half a black and half a white image are
        added, so that constant pixels have finite logits. A bias per channel gets the channel's mean. A net without an output
        bias is not changed.
        """
        bias = getattr(parametric_layers(self.decoder)[-1], "bias", None)
        if isinstance(bias, Tensor):
            mean = mean_image.reshape(bias.numel(), -1).mean(1)
            bias.copy_(torch.logit((mean * num_images + 0.5) / (num_images + 1)).view_as(bias))

    def param_groups(self, hidden_optimizer: str = "adam", decoder_input_lr_multiplier: float = 1.0) -> list[dict[str, Any]]:
        """Return the groups of :class:`pipeline.training.optimizer.Optimizer`: ``params``, ``lr_scale`` and ``kind``.

        The parameters keep their order, and neighbors that are alike share a group.

        Args:
            hidden_optimizer: ``adam`` or ``shampoo``, for weights of linear layers that are neither first nor last in a net.
            decoder_input_lr_multiplier: ``lr_scale`` of the decoder's first layer; 1 for everything else.
        """
        layers = [parametric_layers(net) for net in (self.encoder, self.decoder)]
        hidden = {layer.weight for net in layers for layer in net[1:-1] if isinstance(layer, nn.Linear)}
        decoder_input = set(layers[1][0].parameters(recurse=False))
        groups: list[dict[str, Any]] = []
        for parameter in self.parameters():
            lr_scale = decoder_input_lr_multiplier if parameter in decoder_input else 1.0
            group = {"lr_scale": lr_scale, "kind": hidden_optimizer if parameter in hidden else "adam"}
            if group["kind"] == "adam" and groups and group.items() <= groups[-1].items():
                groups[-1]["params"].append(parameter)
            else:
                groups.append({"params": [parameter], **group})
        return groups
