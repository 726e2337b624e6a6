"""The convolutional encoder and decoder."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.data import Shape

HIDDEN = 256  # width of the fully connected layer on each side of the code, as in 1804.03599


def check_size(image_shape: Shape, num_blocks: int) -> None:
    """Raise ValueError, with the next sizes that are allowed, unless each block can halve the image.

    >>> check_size((1, 30, 28), num_blocks=2)
    Traceback (most recent call last):
    ValueError: images of 30 x 28; 2 convolutions that halve the size need multiples of 4, such as 28 x 28 or 32 x 28
    """
    factor, sides = 2**num_blocks, image_shape[1:]
    if num_blocks < 1:
        raise ValueError("allowed is at least one number of channels")
    if any(side % factor for side in sides):
        lower, upper = ([max(factor, side // factor * factor) for side in sides], [-(-side // factor) * factor for side in sides])
        names = " or ".join(dict.fromkeys(f"{height} x {width}" for height, width in (lower, upper)))
        need = f"{num_blocks} convolutions that halve the size need multiples of {factor}, such as {names}"
        raise ValueError(f"images of {sides[0]} x {sides[1]}; {need}")


class ChannelsLast(nn.Module):
    """Returns images ``[B, C, H, W]`` in the memory layout in which a CPU convolves them faster; no value changes.

    A copy, since :meth:`torch.Tensor.contiguous` leaves images of one channel as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.channels_last)


def conv(image_shape: Shape, outputs: int, latent_dim: int, hidden_dims: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    """Return convolutions that each halve the image, then a hidden linear layer, and the decoder that mirrors them.

    ``hidden_dims`` are the numbers of channels of the convolutions, which have kernels of 4 x 4, stride 2 and a ReLU. Raises
    ValueError unless height and width are multiples of ``2 ** len(hidden_dims)``. The layers are those of Understanding
    disentangling in beta-VAE, 1804.03599.

    >>> encoder, decoder = conv((3, 32, 32), outputs=20, latent_dim=10, hidden_dims=(32, 64))
    >>> [type(layer).__name__ for layer in decoder]
    ['Linear', 'ReLU', 'Linear', 'ReLU', 'Unflatten', 'ChannelsLast', 'ConvTranspose2d', 'ReLU', 'ConvTranspose2d']
    """
    check_size(image_shape, len(hidden_dims))
    channels, height, width = image_shape
    factor = 2 ** len(hidden_dims)
    inner = hidden_dims[-1], height // factor, width // factor
    size = inner[0] * inner[1] * inner[2]
    sizes = [channels, *hidden_dims]
    down = [layer for a, b in pairwise(sizes) for layer in (nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU())]
    up = [layer for b, a in pairwise(sizes[::-1]) for layer in (nn.ReLU(), nn.ConvTranspose2d(b, a, 4, stride=2, padding=1))]
    encoder = nn.Sequential(ChannelsLast(), *down, nn.Flatten(), nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))
    hidden = nn.Linear(latent_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size)
    return encoder, nn.Sequential(*hidden, up[0], nn.Unflatten(1, inner), ChannelsLast(), *up[1:])
