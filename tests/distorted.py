"""Distortions for tests: pictures, compiled programs, and the benchmark's constants again."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.transforms import DISTORTIONS, distort
from rainjax.transforms.distortions import Scale
from tests.golden import seeded

SCALES = typing.get_args(Scale)
KEYS = jax.random.split(jax.random.key(0), 2)
OTHER_KEYS = jax.random.split(jax.random.key(1), 2)

# Typed from the code that made the benchmark's files, as a second pair of eyes.
SIGMAS = {"imagenet_c": (1, 2, 3, 4, 6), "cifar10_c": (0.4, 0.6, 0.7, 0.8, 1.0)}
DISKS = {
    "imagenet_c": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "cifar10_c": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
}
STREAKS = {
    "imagenet_c": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "cifar10_c": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
}
QUALITIES = {"imagenet_c": (25, 18, 15, 10, 7), "cifar10_c": (80, 65, 58, 50, 40)}
SHARES = {"imagenet_c": (0.6, 0.5, 0.4, 0.3, 0.25), "cifar10_c": (0.95, 0.9, 0.85, 0.75, 0.65)}
CONTRASTS = {"imagenet_c": (0.4, 0.3, 0.2, 0.1, 0.05), "cifar10_c": (0.75, 0.5, 0.4, 0.3, 0.15)}
VALUES = {"imagenet_c": (0.1, 0.2, 0.3, 0.4, 0.5), "cifar10_c": (0.05, 0.1, 0.15, 0.2, 0.3)}
SATURATIONS = {
    "imagenet_c": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "cifar10_c": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
DEVIATIONS = {
    "imagenet_c": (0.08, 0.12, 0.18, 0.26, 0.38),
    "cifar10_c": (0.04, 0.06, 0.08, 0.09, 0.1),
}
PHOTONS = {"imagenet_c": (60, 25, 12, 5, 3), "cifar10_c": (500, 250, 100, 75, 50)}
IMPULSES = {
    "imagenet_c": (0.03, 0.06, 0.09, 0.17, 0.27),
    "cifar10_c": (0.01, 0.02, 0.03, 0.05, 0.07),
}


def picture():
    """uint8, with a black, a grey and a white corner."""
    image = np.uint8(255 * seeded.picture(48, 44, seed=0))
    for level, corner in ((0, image[:6, :6]), (99, image[:6, -6:]), (255, image[-6:, :6])):
        corner[:] = level
    return image


PICTURE = picture()
PAIR = np.stack([PICTURE / 255, seeded.picture(48, 44, seed=1)]).astype(np.float32)


@functools.cache
def compiled(name, scale):
    """All severities of two images, each with its key: the one program that most tests share."""
    one = lambda key, image, severity: distort(
        key, image, name=name, severity=severity, scale=scale
    )
    each = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))
    return jax.jit(lambda keys, images: each(keys, images, jnp.arange(1, 6)))


@functools.cache
def of_pair(name, scale):
    return np.asarray(compiled(name, scale)(KEYS, PAIR))


def of_flat(name, scale, levels=(0.5, 0.2)):
    flat = np.broadcast_to(np.float32(levels)[:, None, None, None], PAIR.shape)
    return np.asarray(compiled(name, scale)(KEYS, flat))


everything = pytest.mark.parametrize("name", DISTORTIONS)
both_scales = pytest.mark.parametrize("scale", SCALES)
