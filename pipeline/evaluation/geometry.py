"""How the decoder stretches the latent space: the volume its Jacobian gives to a unit cube."""

import numpy as np
import torch
from torch import Tensor, autograd

from pipeline.evaluation.pictures import grid
from pipeline.evaluation.subject import Findings, Subject

MAX_DIMENSIONS = 64  # each dimension costs one pass through the decoder
MAP_SIZE = 64
MAP_CODES = 1000  # test images shown on a map
SMALLEST = -100.0  # what a singular Jacobian counts as: e^-100 times the volume


@torch.enable_grad()
def log_volume(subject: Subject, z: np.ndarray) -> np.ndarray:
    r"""Return the logarithm of the factor by which the decoder g enlarges a small volume around each point.

    .. math:: \tfrac12 \log \det J^T J, \quad J = \partial g / \partial z, \quad g(z) = \mathrm{sigmoid}(l(z))

    Rotating the latent space leaves it as it is, stretching it by s subtracts d log s, so only differences between points
    compare across models.
    Reference: Latent Space Oddity, 1710.11379.

    Args:
        subject: the model.
        z: points ``[..., d]``.

    Returns:
        Float64 ``[...]``, at least -100, where the decoder is flat.
    """

    def jacobian(points: Tensor) -> Tensor:
        """Return J ``[N, D, d]``, whose columns are the derivatives of J^T u along the directions of u.

        Forward mode, the direct way to them, loads torch's compiler for a second; gradients of anything but a sum load a part.
        """
        points = points.requires_grad_()
        pixels = torch.sigmoid(subject.model.decode(points))
        u = torch.zeros_like(pixels, requires_grad=True)
        (product,) = autograd.grad((pixels * u).sum(), points, create_graph=True)
        columns = [autograd.grad(column.sum(), u, retain_graph=True)[0] for column in product.unbind(-1)]
        return torch.stack(columns, dim=-1)

    flat = torch.as_tensor(z, dtype=torch.float32).reshape(-1, z.shape[-1])
    values = []
    for part in flat.split(500):
        stretch = jacobian(part.to(subject.device)).double()
        values.append(0.5 * torch.linalg.slogdet(stretch.mT @ stretch).logabsdet)
    return torch.cat(values).clamp(min=SMALLEST).cpu().numpy().reshape(z.shape[:-1])


def frame(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two axes ``[MAP_SIZE]`` of maps of a latent plane, over 99% of the codes ``[N, 2]`` in each direction."""
    low, high = np.quantile(codes, [0.005, 0.995], axis=0)
    margin = 0.1 * (high - low)
    return (
        np.linspace(low[0] - margin[0], high[0] + margin[0], MAP_SIZE),
        np.linspace(low[1] - margin[1], high[1] + margin[1], MAP_SIZE),
    )


def geometry(subject: Subject) -> Findings:
    """Measure how evenly the decoder stretches the latent space at the test images' codes.

    :func:`log_volume`: its median (``log_volume``), its 99th percentile above the median (``log_volume_p99_excess``, which
    does not depend on the scale of the codes) and, in a plane, its map.
    """
    if subject.model.latent_dim > MAX_DIMENSIONS:
        return Findings({"note": f"not computed above {MAX_DIMENSIONS} latent dimensions"})
    volumes = log_volume(subject, subject.codes[: subject.budget.plots])
    median, high = np.quantile(volumes, [0.5, 0.99])
    numbers = {"log_volume": float(median), "log_volume_p99": float(high), "log_volume_p99_excess": float(high - median)}
    arrays = {}
    if subject.model.latent_dim == 2:
        axes = frame(subject.codes)
        arrays = {"map_axes": np.stack(axes), "volume_map": log_volume(subject, grid(*axes)).astype(np.float32)}
        arrays |= {"map_codes": subject.codes[:MAP_CODES], "map_labels": subject.test.labels[:MAP_CODES]}
    return Findings(numbers, arrays=arrays)
