"""Weights and pictures that NumPy alone makes from a seed, so PyTorch and JAX can share them."""

from collections.abc import Mapping

import numpy as np


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Returns float32 [h w 3] in [0, 1] with smooth shading, edges and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    channels = []
    for _ in range(3):
        y, x, phase = rng.uniform(-2, 2, 3)
        shade = 0.5 + 0.3 * np.sin(2 * np.pi * (y * rows + x * columns + phase))
        edge = 0.2 * (rows + x * columns > 0.5)
        channels.append(shade + edge + 0.03 * rng.standard_normal(rows.shape))
    return np.clip(np.stack(channels, -1), 0, 1).astype(np.float32)


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Returns one float32 array per name: kernels scaled by fan-in, variances positive.

    Axes are in PyTorch's order, whosever the names are.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name.endswith(("running_var", "moving_variance")):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith(("weight", "gamma")):
            array = rng.uniform(0.5, 1.0, shape)
        else:
            array = 0.1 * rng.standard_normal(shape)
        arrays[name] = array.astype(np.float32)
    return arrays
