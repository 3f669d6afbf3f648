"""Gaussian noise on the image: the input of randomized smoothing, clipped."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from rainjax._checks import check_image
from rainjax.defenses._base import Defense
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Defense):
    """Adds independent noise of standard deviation `sigma` to every value, and clips to [0, 1].

    A defense's image is in [0, 1], so the noise is cut off there, and the certificate of
    randomized smoothing (Cohen et al., 2019), which wants the noise whole, does not hold for
    this: certify with `rainjax.smoothing`, whose noise is not clipped. `sigma` is the least that
    they train ImageNet networks with, 0.25 of the range; a classifier that was not trained under
    noise bears far less.

    The gradient is exact: one, and zero behind a value that was clipped.

    Raises:
        ValueError: `sigma` is not positive and finite.
    """

    sigma: float = 0.25

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma} must be positive and finite.")

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the noisy image."""
        del params
        check_image(image, type(self).__name__)
        (noise_key,) = jax.random.split(key, 1)
        noise = self.sigma * jax.random.normal(noise_key, image.shape, image.dtype)
        return jnp.clip(image + noise, 0.0, 1.0)
