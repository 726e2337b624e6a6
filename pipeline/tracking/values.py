"""Values as MLflow holds them: params as text, numbers rounded and under their names there, images as one grid."""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from pipeline.storage import numbers, rounded

HEADLINE = {
    "epochs": "epochs",
    "best/epoch": "best_epoch",
    "best/val/loss": "best_val_loss",
    "best/val/recon": "best_val_recon",
    "best/val/kl": "best_val_kl",
    "test/elbo": "test_elbo",
    "test/elbo_se": "test_elbo_se",
    "test/recon": "test_recon",
    "test/recon_se": "test_recon_se",
    "test/recon_at_mean": "test_recon_at_mean",
    "test/kl": "test_kl",
    "test/mse": "test_mse",
    "test/bits_per_dim": "test_bits_per_dim",
    "test/active_units": "test_active_units",
    "log_likelihood/log_p": "log_p",
    "latent/knn_accuracy": "knn_accuracy",
    "sample_quality/prior/frechet_distance": "frechet_distance",
    "sample_quality/gmm10/frechet_distance": "frechet_distance_gmm10",
    "holes/hull/off_manifold": "hull_off_manifold",
    "interpolation/cross_class/jump_share": "longest_step",
}
"""The numbers of a model that MLflow shows beside its curves: their names there by their keys in metrics files.

MLflow draws charts in sections by what stands before the last ``/`` and puts those without one last. So the curves come first.
"""


def headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a flat metrics file that MLflow shows, by their names there.

    >>> headline({"dataset": "mnist", "test/recon": 128.4, "test/gray_floor": 45.5})
    {'test_recon': 128.4}
    """
    return {HEADLINE[key]: value for key, value in numbers(metrics).items() if key in HEADLINE}


def text(value: object) -> str:
    """Return a parameter as MLflow stores it; 4 and 4.0 in params.yaml give the same text.

    >>> text(4.0), text(0.001), text([512, 256])
    ('4', '0.001', '[512, 256]')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the finite metrics, rounded as in DVC's files."""
    return {key: rounded(float(value)) for key, value in metrics.items() if math.isfinite(value)}


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images ``[N, C, H, W]`` in [0, 1] as one uint8 image of ``columns`` columns, gray for one channel, else RGB."""
    channels, height, width = images.shape[1:]
    rows = images[: len(images) // columns * columns].reshape(-1, columns, channels, height, width)
    grid = np.rint(rows.transpose(0, 3, 1, 4, 2).reshape(-1, columns * width, channels) * 255).astype(np.uint8)
    return cast(np.ndarray, grid[..., 0] if channels == 1 else grid)
