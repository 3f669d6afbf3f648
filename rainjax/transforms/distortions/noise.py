"""Noise: of the electronics, of the light itself, and of pixels that fail."""

import jax
import jax.numpy as jnp

from rainjax.transforms.distortions.strength import Strength
from rainjax.typing import Image, PRNGKey


def gaussian_noise(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Adds independent normal noise to every value; the constant is its standard deviation."""
    noise = strength() * jax.random.normal(key, image.shape)
    return jnp.clip(image + noise, 0.0, 1.0)


def shot_noise(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Counts photons: Poisson numbers, whose mean is the constant where the image is 1.

    A count has no slope: the gradient is zero.
    """
    photons = strength()
    # The loops that draw the counts cannot be differentiated backwards.
    means = photons * jnp.maximum(jax.lax.stop_gradient(image), 0.0)
    return jnp.minimum(jax.random.poisson(key, means) / photons, 1.0)


def impulse_noise(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Puts 0 or 1, each as likely, in the place of a share of the values, channel by channel."""
    share = strength()
    draws = jax.random.uniform(key, image.shape)
    return jnp.where(draws < share / 2, 0.0, jnp.where(draws >= 1 - share / 2, 1.0, image))
