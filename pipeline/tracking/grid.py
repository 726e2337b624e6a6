"""Many images as one."""

import numpy as np


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Return images ``[N, C, H, W]`` in [0, 1] as one uint8 image of ``columns`` columns, gray for one channel, else RGB."""
    channels, height, width = images.shape[1:]
    rows = images[: len(images) // columns * columns].reshape(-1, columns, channels, height, width)
    grid: np.ndarray = np.rint(rows.transpose(0, 3, 1, 4, 2).reshape(-1, columns * width, channels) * 255).astype(np.uint8)
    return grid[..., 0] if channels == 1 else grid
