"""Blur, and what else spreads pixels over their neighbours: linear in the image, all of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax.transforms.distortions.strength import Strength
from rainjax.transforms.geometry import separable
from rainjax.transforms.resampling import clip_rounding
from rainjax.transforms.smoothing import convolve_lines, gaussian_kernel
from rainjax.typing import Image, PRNGKey


def gaussian_blur(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Convolves with a Gaussian cut off at 4 sigma, scikit-image's; the constant is sigma."""
    del key
    kernel = strength(lambda sigma: gaussian_kernel(float(sigma), 2 * int(4 * sigma + 0.5) + 1))
    return clip_rounding(convolve_lines(image, kernel, "edge"))


def defocus_blur(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Convolves with a disk; the constants are its radius, and the sigma that softens its edge."""
    del key
    # A true clip, for the widest disks add up to more than 1.
    return jnp.clip(_filtered(image, strength(lambda constants: disk(*constants))), 0.0, 1.0)


def motion_blur(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Drags every pixel along a line, within 45 degrees of a row, in a direction that is drawn.

    The constants are ImageMagick's radius and sigma, and the weights its: one half of a Gaussian
    of sigma, over `2 * radius + 1` steps of a pixel, each rounded to a whole pixel.
    """
    kernel = strength(lambda constants: gaussian_kernel(float(constants[1]), 4 * constants[0] + 1))
    half = kernel[len(kernel) // 2 :]
    angle = jax.random.uniform(key, (), minval=-math.pi / 4, maxval=math.pi / 4)
    return clip_rounding(dragged(image, half / jnp.sum(half), angle))


def pixelate(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Makes each side smaller and large again by Pillow's box filter; the constant is the share.

    A cell is the mean of the pixels whose middle it covers, and a pixel becomes the cell that
    covers its middle.
    """
    del key
    small = strength(lambda share: [max(int(side * share), 1) for side in image.shape[:2]])
    rows, columns = (_cell_means(side, small[axis]) for axis, side in enumerate(image.shape[:2]))
    return clip_rounding(separable(image, rows, columns))


def disk(radius: int | float, sigma: float) -> Float[np.ndarray, "side side"]:
    """Returns the benchmark's disk of `radius` pixels, softened by a small Gaussian of `sigma`.

    It is drawn on at least 17 x 17 pixels, and softened with that border mirrored, which adds up
    to 1.3 % to a disk that reaches it (radius 8 and more): such a blur is a little brighter.
    """
    reach = max(8, math.ceil(radius))
    line = np.arange(-reach, reach + 1) ** 2
    sharp = (line[:, None] + line <= radius**2).astype(np.float64)
    edge = gaussian_kernel(sigma, 3 if radius <= 8 else 5)
    wide = np.pad(sharp / sharp.sum(), len(edge) // 2, mode="reflect")
    side = len(line)
    soft = np.zeros_like(sharp)
    for (row, column), weight in np.ndenumerate(np.outer(edge, edge)):
        soft += weight * wide[row : row + side, column : column + side]
    # Zeros around it cost as much as what is not zero.
    empty = int(np.argmax(soft.any(axis=1)))
    return soft[empty : side - empty, empty : side - empty]


def dragged(image: Image, weights: Float[Array, " steps"], angle: Float[Array, ""]) -> Image:
    """Returns the weighted sum of an image's copies, each one step further to the left.

    Steps are a pixel long, at `angle` to the rows, at most 45 degrees; a positive one leads
    upwards. Beyond a border its last pixel is repeated. Linear in `image`.
    """
    steps = jnp.arange(len(weights))
    down = jnp.ceil(steps * jnp.sin(angle) - 0.5).astype(jnp.int32)
    right = jnp.ceil(steps * jnp.cos(angle) - 0.5).astype(jnp.int32)
    reach = len(weights) - 1
    wide = jnp.pad(image, ((reach, reach), (0, reach), (0, 0)), mode="edge")

    def add_copy(total, step):
        weight, row, column = step
        copy = jax.lax.dynamic_slice(wide, (reach + row, column, 0), image.shape)
        return total + weight * copy, None

    total, _ = jax.lax.scan(add_copy, jnp.zeros_like(image), (weights, down, right))
    return total


def _filtered(image: Image, kernel: Float[Array, "side side"]) -> Image:
    """Correlates every channel with a kernel, the border mirrored about its last pixel."""
    reach = len(kernel) // 2
    wide = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    planes = jax.lax.conv_general_dilated(
        wide.transpose(2, 0, 1)[:, None],
        kernel.astype(image.dtype)[None, None],
        window_strides=(1, 1),
        padding="VALID",
        precision=jax.lax.Precision.HIGHEST,  # accelerators would round to bfloat16
    )
    return planes[:, 0].transpose(1, 2, 0)


def _cell_means(side: int, small: Int[Array, ""]) -> Float[Array, "{side} {side}"]:
    """Returns the matrix that puts the mean of its cell, one of `small`, into each pixel.

    In whole numbers, for the middle of a pixel may lie on the border of two cells.
    """
    middles = 2 * jnp.arange(side) + 1
    cells = middles * small // (2 * side)
    distance = middles[None] * small - (2 * cells[:, None] + 1) * side
    inside = ((-side < distance) & (distance <= side)).astype(jnp.float32)
    return inside / jnp.sum(inside, axis=1, keepdims=True)
