"""The volume factor of the decoder: how much its Jacobian stretches a unit cube of the latent space."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, autograd

from pipeline.evaluation.context import EvalContext, MetricResult
from pipeline.evaluation.plot_data import grid

MAX_DIMENSIONS = 64  # each dimension costs one pass through the decoder
ENTRIES = 500 * 784 * 64  # of the Jacobians computed at once, for their memory
MAP_SIZE = 64
MAP_CODES = 1000  # test images shown on a map
SMALLEST = -100.0  # the value for a singular Jacobian


@torch.enable_grad()
def log_volume(context: EvalContext, z: np.ndarray) -> np.ndarray:
    r"""Return the logarithm ``[...]`` (float64) of the decoder's volume factor at points ``[..., d]``.

    .. math:: \tfrac12 \log \det J^T J, \quad J = \partial g / \partial z, \quad g(z) = E[x \mid z]

    It is at least -100. Rotating the latent space does not change it and stretching it by s subtracts d log s, so only
    differences between points compare across models. Reference: Latent Space Oddity, 1710.11379.
    """

    def jacobian(points: Tensor) -> Tensor:
        # The columns of J [N, D, d] are the derivatives of J^T u in u. Forward mode would load torch's compiler, a second.
        points = points.requires_grad_()
        pixels = context.model.decode_images(points).flatten(1)
        u = torch.zeros_like(pixels, requires_grad=True)
        (product,) = autograd.grad((pixels * u).sum(), points, create_graph=True)
        columns = [autograd.grad(column.sum(), u, retain_graph=True)[0] for column in product.unbind(-1)]
        return torch.stack(columns, dim=-1)

    flat = torch.as_tensor(z, dtype=torch.float32).reshape(-1, z.shape[-1])
    at_once = max(1, min(500, ENTRIES // (math.prod(context.test.shape) * flat.shape[1])))
    stretches = (jacobian(part.to(context.device)).double() for part in torch.split(flat, at_once))
    values = torch.cat([0.5 * torch.linalg.slogdet(stretch.mT @ stretch).logabsdet for stretch in stretches])
    return values.clamp(min=SMALLEST).cpu().numpy().reshape(z.shape[:-1])


def frame(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two axes ``[MAP_SIZE]`` of maps of a latent plane, over 99% of the codes ``[N, 2]`` in each direction."""
    low, high = np.quantile(codes, [0.005, 0.995], axis=0)
    margin = 0.1 * (high - low)
    first, second = np.linspace(low - margin, high + margin, MAP_SIZE).T
    return first, second


def geometry(context: EvalContext) -> MetricResult:
    """Measure how evenly the decoder stretches the latent space at the test images' codes.

    :func:`log_volume`: its median, its 99th percentile (``log_volume_p99``), the difference of the two
    (``log_volume_p99_excess``, which does not depend on the scale of the codes) and, in a plane, its map.
    """
    if context.model.latent_dim > MAX_DIMENSIONS:
        return MetricResult({"note": f"not computed above {MAX_DIMENSIONS} latent dimensions"})
    volumes = log_volume(context, context.codes[: context.budget.plots])
    median, high = np.quantile(volumes, [0.5, 0.99])
    numbers: dict[str, Any] = {"log_volume": float(median), "log_volume_p99": float(high)}
    numbers |= {"log_volume_p99_excess": float(high - median)} | context.needs_plane("maps")
    arrays = {}
    if context.model.latent_dim == 2:
        axes = frame(context.codes)
        arrays = {"map_axes": np.stack(axes), "volume_map": log_volume(context, grid(*axes)).astype(np.float32)}
        arrays["map_codes"] = context.codes[:MAP_CODES]
    return MetricResult(numbers, arrays=arrays)
