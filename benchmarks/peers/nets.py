"""The encoder and the decoder that every torch peer trains: the tutorial's, or the layers of ``pipeline/models/conv.py``."""

from common import NET
from torch import nn

LATENT = {"mlp": 2, "conv": 50}[NET]


def encoder() -> nn.Sequential:
    """Return a net from images ``[B, 1, 28, 28]`` to means and log variances ``[B, 2 * LATENT]``."""
    if NET == "mlp":
        layers = [nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()]
    else:
        layers = [nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(64 * 7 * 7, 256), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 2 * LATENT))


def decoder() -> nn.Sequential:
    """Return a net from codes ``[B, LATENT]`` to logits ``[B, 1, 28, 28]``."""
    layers = [nn.Linear(LATENT, 256), nn.ReLU()]
    if NET == "mlp":
        layers += [nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 784), nn.Unflatten(1, (1, 28, 28))]
    else:
        layers += [nn.Linear(256, 64 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))]
        layers += [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)]
    return nn.Sequential(*layers)
