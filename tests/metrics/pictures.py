"""Pictures that NumPy makes, for the tests of measures."""

import numpy as np

GREY = np.full((16, 16, 3), 0.5, np.float32)


def pair(shape, noise=0.1):
    """A picture with structure at several scales, and a noisy copy of it."""
    rng = np.random.default_rng(3)
    height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (2 + c)) * np.cos(y / (3 + c)) for c in range(channels)]
    image = np.stack(waves, axis=-1) * 0.3 + 0.5 + rng.normal(0, 0.05, shape)
    copy = image + rng.normal(0, noise, shape)
    return np.clip(image, 0, 1).astype(np.float32), np.clip(copy, 0, 1).astype(np.float32)
