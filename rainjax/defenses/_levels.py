"""How far a rounding can be moved within a ball: bounds on its levels, for certificates."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax.defenses._base import LevelBounds
from rainjax.transforms.blocks import (
    BLOCK,
    block_dct,
    dct_matrix,
    inverse_block_dct,
    pad_to_blocks,
)
from rainjax.transforms.jpeg import TO_YCBCR, Subsampling, halved_colours, kept_levels
from rainjax.typing import Image

# What the rounding of float32 may add, in grey levels: to a value of at most 255; and to a
# coefficient, which is at most 2,040 and comes from 64 products.
_VALUE_SLACK, _SLACK = 0.001, 0.01


def interval(
    image: Image, radius: float, norm: str
) -> tuple[Float[Array, "h w c"], Float[Array, "h w c"]]:
    """Returns the lowest and the highest value that every pixel takes in the ball."""
    del norm  # a pixel of an L2 ball can take all of the radius
    return jnp.clip(image - radius, 0.0, 1.0), jnp.clip(image + radius, 0.0, 1.0)


def value_bounds(image: Image, radius: float, norm: str, *, levels: int) -> LevelBounds:
    """Returns bounds where every value is rounded to one of `levels` + 1."""
    # What the rounding of float32 may add: to a value, in an attack and here, and to its multiple.
    slack = 1e-5 + 5e-7 * levels
    low, high = interval(image, radius, norm)
    return LevelBounds((_whole(low * levels - slack),), (_whole(high * levels + slack),))


def channel_bounds(
    image: Image, radius: float, norm: str, *, steps: Float[Array, "8 8"], shift: float
) -> LevelBounds:
    """Returns bounds where the coefficients of every channel are rounded by themselves.

    In L-inf a coefficient moves by the sum of what its basis image allows every pixel, in L2 by
    the radius at most, for the basis is orthonormal; by more where edges are repeated.
    """
    low, high = (pad_to_blocks(x) * 255 - shift for x in interval(image, radius, norm))
    least, most = _coefficient_interval(low, high)
    if norm == "l2":
        centre = block_dct(pad_to_blocks(image) * 255 - shift)
        repeats = np.prod([1 + -side % BLOCK for side in image.shape[:2]])
        reach = 255 * radius * float(np.sqrt(repeats))
        least, most = jnp.maximum(least, centre - reach), jnp.minimum(most, centre + reach)
    steps = jnp.asarray(steps)[None, None, :, :, None]
    return LevelBounds((_whole((least - _SLACK) / steps),), (_whole((most + _SLACK) / steps),))


def jpeg_bounds(
    image: Image, radius: float, norm: str, *, steps, colour_steps, subsampling: Subsampling
) -> LevelBounds:
    """Returns bounds for JPEG: through the rounding of grey levels, of colours and of their means.

    Every step is taken of both ends of an interval, value by value: more than can be reached. In
    L2 nothing is known but that no value moves further than the radius.
    """
    low, high = (255 * x for x in interval(image, radius, norm))
    low, high = jnp.round(low - _VALUE_SLACK), jnp.round(high + _VALUE_SLACK)
    low, high = (jnp.clip(x, 0.0, 255.0) for x in (low, high))
    if image.shape[-1] == 1:
        ends = [_plane_levels(low, high, steps)]
    else:
        up, down = np.maximum(TO_YCBCR, 0), np.minimum(TO_YCBCR, 0)
        grey = jnp.array([0.0, 128.0, 128.0])[None, None]
        mixed = lambda a, b: (
            jnp.einsum("hwc,pc->hwp", a, up, precision="highest")
            + jnp.einsum("hwc,pc->hwp", b, down, precision="highest")
            + grey
        )
        low, high = mixed(low, high) - _VALUE_SLACK, mixed(high, low) + _VALUE_SLACK
        low, high = (jnp.clip(jnp.round(x), 0.0, 255.0) for x in (low, high))
        colours = [low[..., 1:], high[..., 1:]]
        if subsampling == "4:2:0":
            colours = [halved_colours(x) for x in colours]
        ends = [
            _plane_levels(low[..., :1], high[..., :1], steps),
            _plane_levels(*colours, colour_steps),
        ]
    lows, highs = zip(*ends, strict=True)
    return LevelBounds(tuple(lows), tuple(highs))


def _plane_levels(low, high, steps):
    least, most = _coefficient_interval(*(pad_to_blocks(x) - 128.0 for x in (low, high)))
    return kept_levels(least - _SLACK, steps), kept_levels(most + _SLACK, steps)


def _coefficient_interval(low: Float[Array, "h w c"], high: Float[Array, "h w c"]):
    """Returns the ends of what the coefficients can be, of values between `low` and `high`."""
    centre, half = block_dct((low + high) / 2), (high - low) / 2
    size = jnp.asarray(np.abs(dct_matrix()), low.dtype)
    height, width, channels = half.shape
    cells = half.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    reach = jnp.einsum("uy,rysxc,vx->rsuvc", size, cells, size, precision="highest")
    return centre - reach, centre + reach


def channel_image(
    levels: Int[Array, "rows cols 8 8 c"], shape: tuple[int, ...], *, steps, shift: float
) -> Image:
    """Returns the image, of `shape`, whose coefficients were rounded to these levels."""
    steps = jnp.asarray(steps)[None, None, :, :, None]
    whole = (inverse_block_dct(levels * steps) + shift) / 255
    return jnp.clip(whole, 0.0, 1.0)[: shape[0], : shape[1]]


def _whole(values: Float[Array, "..."]) -> Int[Array, "..."]:
    return jnp.round(values).astype(jnp.int32)
