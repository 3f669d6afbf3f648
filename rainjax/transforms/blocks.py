"""The 8x8 block DCT that JPEG is made of, as two matrix products, and rounding to steps in it."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._checks import check_option
from rainjax.typing import Image

BLOCK = 8

Blocks = Float[Array, "rows cols 8 8 c"]
Rounding = Literal["true", "straight_through", "sine", "cubic"]


def dct_matrix(size: int = BLOCK) -> Float[np.ndarray, "n n"]:
    """Returns the orthonormal DCT-II of `size` values: row `k` is the cosine of frequency `k`."""
    n, k = np.arange(size), np.arange(size)[:, None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (2 * n + 1) * k / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    return matrix


def block_dct(image: Image) -> Blocks:
    """Returns the orthonormal 2-D DCT-II of the disjoint 8x8 blocks, channel by channel.

    `coefficients[r, s, u, v, c]` is vertical frequency `u` and horizontal frequency `v` of the
    block in row `r` and column `s`. Linear in `image`, and orthogonal.

    Raises:
        ValueError: the height or the width is no multiple of 8.
    """
    height, width, channels = image.shape
    _check_whole(height, width)
    image = _along_rows(_along_columns(image, dct_matrix()), dct_matrix())
    cells = image.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    return cells.transpose(0, 2, 1, 3, 4)


def inverse_block_dct(coefficients: Blocks) -> Image:
    """Returns the image whose `block_dct` is `coefficients`."""
    rows, cols, _, _, channels = coefficients.shape
    image = coefficients.transpose(0, 2, 1, 3, 4).reshape(rows * BLOCK, cols * BLOCK, channels)
    return _along_columns(_along_rows(image, dct_matrix().T), dct_matrix().T)


def pad_to_blocks(
    image: Image, multiples: tuple[int, int] = (BLOCK, BLOCK)
) -> Float[Array, "h2 w2 c"]:
    """Repeats the last row and column until height and width are multiples of `multiples`."""
    below, right = (-side % of for side, of in zip(image.shape[:2], multiples, strict=True))
    return jnp.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")


def rounded(values: Float[Array, "..."], rounding: Rounding = "true") -> Float[Array, "..."]:
    """Returns `values` rounded to whole numbers, half to even, or what an attacker puts for that.

    `"true"` has the gradient that rounding has, zero; `"straight_through"` returns the same and
    has gradient one. `"sine"` returns `x - sin(2 pi x) / (2 pi)`, and `"cubic"` the rounded
    value plus the cube of what was rounded off (Shin and Song, 2017): both come near to rounding,
    and have gradients of their own, zero where it is exact and steepest where it jumps.

    Raises:
        ValueError: no rounding is called so.
    """
    check_option("rounding", rounding, Rounding)
    if rounding == "true":
        return jnp.round(values)
    if rounding == "straight_through":
        return values + jax.lax.stop_gradient(jnp.round(values) - values)
    if rounding == "sine":
        return values - jnp.sin(2 * jnp.pi * values) / (2 * jnp.pi)
    whole = jax.lax.stop_gradient(jnp.round(values))
    return whole + (values - whole) ** 3


def _along_columns(image: Image, matrix: np.ndarray) -> Image:
    """Multiplies every column of eight values by `matrix`."""
    height, width, channels = image.shape
    strips = image.reshape(height // BLOCK, BLOCK, width * channels)
    product = jnp.einsum(
        "uv,rvk->ruk", jnp.asarray(matrix, image.dtype), strips, precision="highest"
    )
    return product.reshape(image.shape)


def _along_rows(image: Image, matrix: np.ndarray) -> Image:
    """Multiplies every row of eight values by `matrix`, all channels in one product.

    Channels lie beside each other in memory: a matrix that is three times as wide, and mostly
    zero, costs less than to move them apart.
    """
    channels = image.shape[-1]
    wide = jnp.asarray(_wide(matrix.tobytes(), channels), image.dtype)
    product = jnp.matmul(image.reshape(-1, BLOCK * channels), wide, precision="highest")
    return product.reshape(image.shape)


@functools.cache
def _wide(matrix: bytes, channels: int) -> np.ndarray:
    square = np.frombuffer(matrix).reshape(BLOCK, BLOCK)
    return np.kron(square.T, np.eye(channels))


def _check_whole(height: int, width: int) -> None:
    if height % BLOCK or width % BLOCK:
        raise ValueError(
            f"An image of {height} x {width} has no whole number of 8x8 blocks: pad it with "
            "pad_to_blocks."
        )
