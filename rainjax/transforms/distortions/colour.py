"""Colours and exposure: every pixel by itself, but for contrast, which wants the mean of all."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax.transforms.distortions.strength import Strength
from rainjax.transforms.jpeg import TO_RGB
from rainjax.transforms.resampling import clip_rounding
from rainjax.typing import Image, PRNGKey


def contrast(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Brings every value nearer to its channel's mean; the constant is the share that is left."""
    del key
    means = jnp.mean(image, axis=(0, 1), keepdims=True)
    return clip_rounding((image - means) * strength() + means)


def brightness(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Adds the constant to the value of every pixel's hue, saturation and value, up to 1.

    Exact but where a pixel is black: it becomes grey, and its neighbours in colour do not.
    """
    del key
    value = jnp.max(image, axis=-1, keepdims=True)
    brighter = jnp.minimum(value + strength(), 1.0)
    black = value <= 0
    return clip_rounding(
        jnp.where(black, brighter, image * (brighter / jnp.where(black, 1.0, value)))
    )


def saturate(key: PRNGKey, image: Float[Array, "h w 3"], strength: Strength) -> Image:
    """Multiplies the saturation of hue, saturation and value by a constant, and adds the other.

    The benchmark's severities 1 and 2 take colour away, 3 to 5 add some. Grey has no hue, and
    counts as red: the second constant colours it.
    """
    del key
    factor, offset = strength()
    value = jnp.max(image, axis=-1, keepdims=True)
    span = value - jnp.min(image, axis=-1, keepdims=True)
    grey = span <= 0
    # A hue, as the part of `span` that each channel lacks to `value`.
    lacking = (value - image) / jnp.where(grey, 1.0, span)
    lacking = jnp.where(grey, jnp.array([0.0, 1.0, 1.0], image.dtype)[None, None], lacking)
    saturation = jnp.where(grey, 0.0, span) / jnp.where(value <= 0, 1.0, value)
    saturation = jnp.clip(saturation * factor + offset, 0.0, 1.0)
    return clip_rounding(value * (1 - saturation * lacking))


def colour_shift(key: PRNGKey, image: Float[Array, "h w 3"], strength: Strength) -> Image:
    """Adds one colour to all pixels: a cast, as of a wrong white balance, whose hue is drawn.

    The constant is its length in the plane of JPEG's two colour differences, so that luminance
    stays as it is where nothing is clipped.
    """
    hue = jax.random.uniform(key, (), maxval=2 * math.pi)
    blue, red = (jnp.asarray(TO_RGB[:, i], image.dtype) for i in (1, 2))
    cast = strength() * (jnp.cos(hue) * blue + jnp.sin(hue) * red)
    return jnp.clip(image + cast[None, None], 0.0, 1.0)


def exposure(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Multiplies the light by two to the power of the constant, which is in stops.

    Light is what the sRGB curve (IEC 61966-2-1) makes of values; above that of a 1 it is clipped.
    """
    del key
    light = jnp.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    light = jnp.minimum(light * 2.0 ** strength(), 1.0)
    # A root has no slope at zero, which would be NaN even where it is not taken.
    root = 1.055 * jnp.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return clip_rounding(jnp.where(light <= 0.0031308, 12.92 * light, root))
