"""Fewer pixels, or more."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax._checks import as_plain
from rainjax.keys import choices
from rainjax.typing import Image, PRNGKey, Stratum

_Half = Float[Array, "h//2 w//2 c"]


def random_pixel_downsample(draw: PRNGKey | Stratum, image: Image) -> _Half:
    """Keeps one pixel of every 2x2 cell at random, for each channel separately (RdmDU).

    The four pixels of a cell are equally likely, and cells and channels are independent, so
    the colours of one output pixel may come from different places (Du et al., 2020, with the
    details of the authors' code). Linear in `image` once `key` is fixed: an input value has
    gradient 1 if it was picked, which happens with probability 1/4, and 0 otherwise. The
    mean over keys is `average_downsample`, and so is that over any four stratified draws.

    Raises:
        ValueError: the height or the width is odd.
    """
    cells = _cells(image)
    # Two random bits a cell, exactly uniform. The sum is a selection whose gradient is a
    # product: a gather's gradient is a scatter, which is slow on CPU.
    pick = choices(draw, cells.shape[:-1], 4)
    return jnp.sum(cells * jax.nn.one_hot(pick, 4, dtype=image.dtype), axis=-1)


def average_downsample(image: Image) -> _Half:
    """Averages every 2x2 cell: the mean of `random_pixel_downsample` over its key.

    Raises:
        ValueError: the height or the width is odd.
    """
    return jnp.mean(_cells(image), axis=-1)


def resize_bicubic(image: Image, height: int, width: int) -> Float[Array, "{height} {width} c"]:
    """Resizes with Keys' cubic kernel (a = -0.5), anti-aliased when shrinking, as Pillow does.

    Linear in `image`; may leave [0, 1] by overshoot.

    Raises:
        ValueError: `height` or `width` is below 1.
    """
    height, width = as_plain("height", height, int), as_plain("width", width, int)
    if min(height, width) < 1:
        raise ValueError(f"Cannot resize to {height} x {width}: both must be at least 1.")
    shape = (height, width, image.shape[-1])
    # Two small matrix products; on CPU their default precision is already float32.
    return jax.image.resize(
        image, shape, "cubic", antialias=True, precision=jax.lax.Precision.HIGHEST
    )


def halve_bicubic(image: Image) -> _Half:
    """Returns the image at half its size in 8 bits: what super-resolution starts from.

    Bicubic with anti-aliasing, clipped and rounded to whole grey levels, as MATLAB's `imresize`
    of an integer image; within two pixels of the border, where that reflects the image, weights
    are renormalised instead. Rounding has gradient zero.

    Raises:
        ValueError: the height or the width is odd.
    """
    height, width, _ = image.shape
    _require_even(height, width)
    small = resize_bicubic(image, height // 2, width // 2)
    return jnp.round(jnp.clip(small, 0.0, 1.0) * 255) / 255


def clip_rounding(values: Image) -> Image:
    """Clips weighted means of an image to [0, 1], with the gradient of what was not clipped.

    Such means leave the range by the rounding of their weights alone, and the slope of a true clip
    would be lost wherever an image is white.
    """
    return values + jax.lax.stop_gradient(jnp.clip(values, 0.0, 1.0) - values)


def _cells(image: Image) -> Float[Array, "h2 w2 c 4"]:
    """Splits an image into 2x2 cells, listed in reading order along the last axis."""
    height, width, channels = image.shape
    _require_even(height, width)
    cells = image.reshape(height // 2, 2, width // 2, 2, channels)
    return cells.transpose(0, 2, 4, 1, 3).reshape(height // 2, width // 2, channels, 4)


def _require_even(height: int, width: int) -> None:
    if height % 2 or width % 2:
        raise ValueError(
            f"An image of {height} x {width} has no whole number of 2x2 cells: "
            "crop or pad it to an even height and width."
        )
