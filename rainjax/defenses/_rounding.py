"""What a block codec can be made to return: inputs that push DCT coefficients over a boundary."""

import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._checks import check_option
from rainjax.defenses._base import Candidates, Sample
from rainjax.transforms.blocks import (
    BLOCK,
    block_dct,
    dct_matrix,
    inverse_block_dct,
    pad_to_blocks,
)
from rainjax.transforms.jpeg import TO_YCBCR, Subsampling
from rainjax.typing import Image

QuantizerNorm = Literal["linf", "l2"]

# Pairs are taken of that many of the lowest frequencies: those that a classifier looks at.
_NUM_PAIRED = 8
# How far beyond a boundary an L2 move goes, as a share of the way to it: for the rounding of
# floats, and for codecs that round grey levels first and so lose a part of a small move.
_BEYOND = (1.02, 1.5)


def plane_candidates(
    image: Image, radius: float, norm: str, *,
    steps: Float[Array, "8 8"], shift: float = 0.0, sample: Sample | None = None,
) -> tuple[Candidates, ...]:  # fmt: skip
    """Returns candidates where the coefficients of every channel are rounded by themselves."""
    weights = np.eye(image.shape[-1])
    inputs = _inputs(image, radius, norm, steps, weights, shift, scale=1, sample=sample)
    return (Candidates(inputs, (BLOCK, BLOCK, 1)),)


def colour_candidates(
    image: Image,
    radius: float,
    norm: str,
    *,
    steps: Float[Array, "8 8"],
    colour_steps: Float[Array, "8 8"],
    subsampling: Subsampling,
    sample: Sample | None = None,
) -> tuple[Candidates, ...]:
    """Returns candidates of a codec as JPEG is one: luminance and two colours, or one grey plane.

    Where colours are halved their cells have twice the side, and a filter that smooths the edges
    of cells is left out of account.
    """
    if image.shape[-1] == 1:
        return plane_candidates(image, radius, norm, steps=steps, shift=128.0, sample=sample)
    luminance = _inputs(image, radius, norm, steps, TO_YCBCR[:1], 128.0, scale=1, sample=sample)
    scale = 2 if subsampling == "4:2:0" else 1
    colours = [
        _inputs(
            image,
            radius,
            norm,
            colour_steps,
            TO_YCBCR[i : i + 1],
            0.0,
            scale=scale,
            paired=False,
            sample=sample,
            salt=i,
        )
        for i in (1, 2)
    ]
    side = BLOCK * scale
    if scale == 1:
        return (Candidates(jnp.concatenate([luminance, *colours]), (side, side, 3)),)
    return (
        Candidates(luminance, (BLOCK, BLOCK, 3)),
        Candidates(jnp.concatenate(colours), (side, side, 3)),
    )


def level_candidates(
    image: Image, radius: float, norm: str, *, levels: int
) -> Float[Array, "k h w c"]:
    """Returns inputs, `k h w c`, that move every value over a boundary of its own rounding."""
    check_option("norm", norm, QuantizerNorm)
    if norm == "linf":
        moves = jnp.array([-1.0, -0.5, 0.5, 1.0])[:, None, None, None] * radius
    else:
        nearest = jnp.round(image * levels)
        ends = jnp.stack([nearest - 0.501, nearest + 0.501])
        moves = ends / levels - image[None]
        moves = jnp.where(jnp.abs(moves) <= radius, moves, 0.0)
    return jnp.clip(image[None] + moves, 0.0, 1.0)


def _inputs(
    image: Image, radius: float, norm: str, steps, weights: Float[np.ndarray, "p c"],
    shift: float, *, scale: int, paired: bool = True, sample: Sample | None = None, salt: int = 0,
) -> Float[Array, "k h w c"]:  # fmt: skip
    """Returns inputs that push coefficients of `weights @ colours`, averaged over `scale`."""
    check_option("norm", norm, QuantizerNorm)
    height, width, _ = image.shape
    side = BLOCK * scale
    if norm == "linf":
        # Nothing in the ball moves a coefficient further than the signs of its basis do.
        signs = np.kron(_signs(paired), np.ones((1, scale, scale)))
        signs = jnp.asarray(signs, image.dtype)
        signs = signs if sample is None else sample.rows(signs, salt)
        colour = np.sign(weights.sum(0))
        tiles = (1, -(-height // side), -(-width // side))
        pattern = jnp.tile(signs, tiles)[:, :height, :width]
        moves = radius * pattern[..., None] * jnp.asarray(colour, image.dtype)[None, None, None]
        return jnp.clip(image[None] + moves, 0.0, 1.0)
    wide = pad_to_blocks(image, (side, side))
    planes = jnp.einsum("hwc,pc->hwp", wide, weights, precision="highest") * 255 - shift
    rows, cols, num = wide.shape[0] // scale, wide.shape[1] // scale, len(weights)
    planes = planes.reshape(rows, scale, cols, scale, num).mean((1, 3))
    coefficients = block_dct(planes)
    steps = jnp.asarray(steps, image.dtype)[None, None, :, :, None]
    position = coefficients / steps
    nearest = jnp.round(position)
    up, down = (nearest + 0.5 - position) * steps, (nearest - 0.5 - position) * steps
    back = np.linalg.pinv(weights)
    # How long a move of one grey level in a coefficient is, in the image's own range.
    lengths = jnp.asarray(scale * np.linalg.norm(back, axis=0) / 255, image.dtype)[
        None, None, None, None
    ]

    def moved(towards, share):
        towards = towards.reshape(1, 1, BLOCK, BLOCK, 1)
        across = share * jnp.where(towards > 0, up, jnp.where(towards < 0, down, 0.0))
        length = jnp.sqrt(jnp.sum(across**2, axis=(2, 3), keepdims=True)) * lengths
        move = inverse_block_dct(jnp.where(length <= radius, across, 0.0)) / 255
        move = jnp.einsum("hwp,cp->hwc", move, jnp.asarray(back, image.dtype), precision="highest")
        return jnp.repeat(jnp.repeat(move, scale, axis=0), scale, axis=1)[:height, :width]

    each = jax.vmap(jax.vmap(moved, (0, None)), (None, 0))
    directions = jnp.asarray(_directions(paired))
    directions = directions if sample is None else sample.rows(directions, salt)
    moves = each(directions, jnp.asarray(_BEYOND)).reshape(-1, *image.shape)
    return jnp.clip(image[None] + moves, 0.0, 1.0)


@functools.cache
def _directions(paired: bool) -> Float[np.ndarray, "k 64"]:
    """Returns which coefficients are moved, and which way: each alone, and low ones in pairs."""
    single = [sign * row for row in np.eye(BLOCK**2) for sign in (1, -1)]
    low = sorted(range(BLOCK**2), key=lambda place: (sum(divmod(place, BLOCK)), place))
    pairs = [
        one * np.eye(BLOCK**2)[a] + other * np.eye(BLOCK**2)[b]
        for a, b in itertools.combinations(low[:_NUM_PAIRED], 2)
        for one in (1, -1)
        for other in (1, -1)
    ]
    return np.stack(single + pairs * paired).astype(np.float32)


@functools.cache
def _signs(paired: bool) -> Float[np.ndarray, "k 8 8"]:
    """Returns the signs of those combinations of basis images."""
    basis = np.einsum("uy,vx->uvyx", dct_matrix(), dct_matrix()).reshape(-1, BLOCK, BLOCK)
    # Cosines that cancel leave the noise of float arithmetic, which is no sign.
    combined = np.round(np.einsum("kj,jyx->kyx", _directions(paired), basis), 9)
    return np.sign(combined).astype(np.float32)
