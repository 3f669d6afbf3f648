"""Pixel deflection: a few pixels replaced by neighbours, then wavelet denoising.

Prakash et al., CVPR 2018 (arXiv 1801.08926); where the paper leaves a detail open, the authors'
published code decides.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax._checks import check_image
from rainjax.defenses._base import Defense
from rainjax.defenses.wavelet_denoising import WaveletDenoising
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class PixelDeflection(Defense):
    """Replaces pixels by random neighbours, one after the other, and denoises what comes out.

    `num_deflections` times a pixel, anywhere with equal chance, takes the value of another,
    uniform in the square that reaches `window` pixels to all sides, as far as the image does.
    The image changes as that goes on: a later deflection copies what an earlier one wrote, as
    the authors' loop does. `denoiser` follows. The defaults, 200 and 10 and a sigma of 0.04, are
    the code's.

    `channels="apart"` draws places for each channel and counts its values singly, as the code
    does: a round takes one in every channel, so that 200 in RGB are 67 rounds. `"together"`
    moves all channels of a pixel at once, as the text says.

    Two things differ from the authors. They spare pixels in proportion to a class activation
    map; a defense sees no classifier, so this is their `-disable_map`. And their loop never
    reads the first row and the first column, which here are neighbours like any other.

    For a fixed key the deflection is linear and its gradient exact: a value that was overwritten
    unread has none, and one that was copied has that of each copy. Time and memory grow with the
    square of `num_deflections`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    num_deflections: int = 200
    window: int = 10
    channels: Literal["apart", "together"] = "apart"
    denoiser: WaveletDenoising = WaveletDenoising()

    def __post_init__(self):
        super().__post_init__()
        if self.num_deflections < 1:
            raise ValueError(f"num_deflections={self.num_deflections} must be at least 1.")
        if self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1.")

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the deflected and denoised image."""
        del params
        check_image(image, type(self).__name__)
        whole = self.denoiser.purify(self.deflect(key, image))
        # A NaN that was overwritten unread would pass for mended.
        return jnp.where(jnp.isnan(image).any(), jnp.nan, whole)

    def deflect(self, key: PRNGKey, image: Image) -> Image:
        """Returns the image with some pixels replaced by neighbours, before denoising."""
        height, width, num_channels = image.shape
        draws = (self.num_deflections,)
        if self.channels == "apart":
            draws = (num_channels, -(-self.num_deflections // num_channels))
        row_key, column_key = jax.random.split(key)
        row, from_row = _places(row_key, draws, height, self.window)
        column, from_column = _places(column_key, draws, width, self.window)
        to, source = row * width + column, from_row * width + from_column
        places = None if self.channels == "together" else 0
        flat = image.transpose(2, 0, 1).reshape(num_channels, -1)
        flat = jax.vmap(_copied, (0, places, places))(flat, to, source)
        return flat.reshape(num_channels, height, width).transpose(1, 2, 0)


def _places(key: PRNGKey, shape: tuple[int, ...], length: int, window: int):
    """Returns uniform places along an axis, and for each one near it, uniform in the window."""
    to_key, from_key = jax.random.split(key)
    to = jax.random.randint(to_key, shape, 0, length)
    low, high = jnp.maximum(to - window, 0), jnp.minimum(to + window, length - 1)
    return to, jax.random.randint(from_key, shape, low, high + 1)


def _copied(
    values: Float[Array, "n"], to: Int[Array, "k"], source: Int[Array, "k"]
) -> Float[Array, "n"]:
    """Returns `values` after `values[to[i]] = values[source[i]]` for each `i` in turn.

    All at once: whose value a step copies is found by following the steps back to one that
    reads what nobody had written.
    """
    step = jnp.arange(len(to))
    wrote = (to[None, :] == source[:, None]) & (step[None, :] < step[:, None])
    before = jnp.max(jnp.where(wrote, step[None, :], -1), axis=1)
    origin = jnp.where(before >= 0, before, step)
    for _ in range(len(to).bit_length()):
        origin = origin[origin]
    overwritten = jnp.any((to[None, :] == to[:, None]) & (step[None, :] > step[:, None]), axis=1)
    to = jnp.where(overwritten, len(values) + step, to)  # out of range, and dropped
    return values.at[to].set(values[source[origin]], mode="drop", unique_indices=True)
