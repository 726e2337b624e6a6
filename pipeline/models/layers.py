"""What the models share: the fully connected trunk and the decoder's first guess."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers of the given widths with a ReLU between each two, none after the last.

    >>> mlp([784, 512, 2])
    Sequential(
      (0): Linear(in_features=784, out_features=512, bias=True)
      (1): ReLU()
      (2): Linear(in_features=512, out_features=2, bias=True)
    )
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def start_at_mean(decoder: nn.Sequential, mean_image: Tensor, num_images: int) -> None:
    r"""Set the decoder's output bias to :math:`\mathrm{logit}(\bar x)`, so that its first guess is the mean image.

    Args:
        decoder: ends in the linear layer that emits the pixel logits.
        mean_image: mean intensities ``[D]`` in [0, 1].
        num_images: how many images the mean is of; half a count of black and of white is added to each pixel, so that
            one that is always black gets a finite logit.
    """
    output = decoder[-1]
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        output.bias.copy_(torch.logit((mean_image * num_images + 0.5) / (num_images + 1)))
