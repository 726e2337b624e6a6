"""The fully connected encoder and decoder."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from pipeline.data import Shape


class MLP(nn.Sequential):
    """Linear layers of the given widths, with a ReLU after each but the last.

    >>> [type(layer).__name__ for layer in MLP([784, 512, 2])]
    ['Linear', 'ReLU', 'Linear']
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        layers = [layer for inputs, outputs in pairwise(sizes) for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
        super().__init__(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class MLPEncoder(MLP):
    """An :class:`MLP` that reads images ``[B, C, H, W]`` as rows and returns ``[B, outputs]``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class MLPDecoder(MLP):
    """An :class:`MLP` that returns logits ``[B, C, H, W]`` at latent points ``[B, d]``."""

    def __init__(self, sizes: Sequence[int], image_shape: Shape) -> None:
        super().__init__([*sizes, prod(image_shape)])
        self.image_shape = image_shape

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).view(-1, *self.image_shape)


def mlp(image_shape: Shape, outputs: int, latent_dim: int, hidden_dims: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    """Return an encoder of images ``(C, H, W)`` with that many outputs and hidden widths, and the decoder that mirrors it."""
    encoder = MLPEncoder([prod(image_shape), *hidden_dims, outputs])
    return encoder, MLPDecoder([latent_dim, *reversed(hidden_dims)], image_shape)
