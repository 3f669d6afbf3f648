"""Random changes to training images: pure functions of a key and one image."""

import jax
import jax.numpy as jnp

from rainjax.typing import Image, PRNGKey


def random_flip(key: PRNGKey, image: Image) -> Image:
    """Returns the image or, as often, its mirror image."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_shifted_crop(key: PRNGKey, image: Image, *, padding: int) -> Image:
    """Moves the image by up to `padding` pixels along each axis; its edge is reflected."""
    if not 0 <= padding < min(image.shape[:2]):
        raise ValueError(f"{padding=} must be at least 0 and below the size {image.shape[:2]}.")
    wide = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    row, column = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(wide, (row, column, 0), image.shape)


def random_square(key: PRNGKey, image: Image, *, size: int) -> Image:
    """Returns a square of `size` pixels out of the image, at a random place."""
    if not 1 <= size <= min(image.shape[:2]):
        raise ValueError(f"{size=} must be at least 1, and at most the size {image.shape[:2]}.")
    row, column = (
        jax.random.randint(k, (), 0, side - size + 1)
        for k, side in zip(jax.random.split(key), image.shape[:2], strict=True)
    )
    return jax.lax.dynamic_slice(image, (row, column, 0), (size, size, image.shape[2]))


def random_symmetry(key: PRNGKey, image: Image) -> Image:
    """Returns one of the eight turns and mirror images of a square image."""
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"Only a square can be turned, not {image.shape[0]}x{image.shape[1]}.")
    mirror, flip, turn = jax.random.bernoulli(key, shape=(3,))
    image = jnp.where(mirror, image[:, ::-1], image)
    image = jnp.where(flip, image[::-1], image)
    return jnp.where(turn, image.transpose(1, 0, 2), image)


def flip_and_shift(key: PRNGKey, image: Image, *, padding: int) -> Image:
    """Returns the image flipped half of the time, and moved by up to `padding` pixels."""
    flip_key, crop_key = jax.random.split(key)
    return random_shifted_crop(crop_key, random_flip(flip_key, image), padding=padding)
