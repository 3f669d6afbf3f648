"""Moving pixels: products with a matrix along each side."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax._checks import as_plain
from rainjax.keys import choice
from rainjax.typing import Image, PRNGKey, Stratum


def circular_shift(image: Image, shift: Int[Array, "2"]) -> Image:
    """Rolls the rows of an image down and its columns right by `shift`, wrapping around.

    Linear in `image`, and undone by `-shift`. `shift` may be traced.
    """
    rows, columns = (
        # Products with a permutation, because the gradient of a gather is a scatter, which
        # XLA's CPU backend runs one element at a time.
        jax.nn.one_hot((jnp.arange(size) - amount) % size, size, dtype=image.dtype)
        for size, amount in zip(image.shape[:2], shift, strict=True)
    )
    return separable(image, rows, columns)


def separable(
    image: Image, rows: Float[Array, "h2 h"], columns: Float[Array, "w2 w"]
) -> Float[Array, "h2 w2 c"]:
    """Returns `rows @ image @ columns.T` of every channel: row `i` is the sum by `rows[i]`."""
    exact = jax.lax.Precision.HIGHEST  # accelerators would round the pixels to bfloat16
    image = jnp.einsum("ih,hwc->iwc", rows, image, precision=exact)
    return jnp.einsum("jw,iwc->ijc", columns, image, precision=exact)


def random_circular_shift(draw: PRNGKey | Stratum, image: Image, *, max_shift: int) -> Image:
    """Rolls an image by up to `max_shift` pixels along each axis, wrapping around (RdmSCS).

    Both components are drawn uniformly from `-max_shift..max_shift`, both ends and zero
    included (Du et al., 2020); stratified draws repeat no shift before all were taken. Linear
    in `image` once `draw` is fixed: its gradient is exact.

    Raises:
        ValueError: `max_shift` is negative, or not smaller than the image.
    """
    max_shift = as_plain("max_shift", max_shift, int)
    if not 0 <= max_shift < min(image.shape[:2]):
        raise ValueError(
            f"{max_shift=} must be at least 0 and below the image's size, {image.shape[:2]}."
        )
    if isinstance(draw, Stratum):
        return circular_shift(
            image, numbered_shift(choice(draw, (2 * max_shift + 1) ** 2), max_shift)
        )
    return circular_shift(image, jax.random.randint(draw, (2,), -max_shift, max_shift + 1))


def numbered_shift(number: Int[Array, ""], max_shift: int) -> Int[Array, "2"]:
    """Returns one of the `(2 * max_shift + 1) ** 2` shifts, in reading order."""
    return jnp.stack(jnp.divmod(number, 2 * max_shift + 1)) - max_shift
