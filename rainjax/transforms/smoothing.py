"""Gaussian smoothing: a convolution with a kernel of a few pixels."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._checks import as_plain, check_option
from rainjax.transforms.geometry import separable
from rainjax.typing import Image

Border = Literal["reflect", "edge"]


def gaussian_kernel(sigma: float, size: int) -> Float[np.ndarray, " size"]:
    """Returns a Gaussian of standard deviation `sigma` pixels at `size` whole pixels.

    Its middle is the Gaussian's, and the values add up to 1. What lies outside is cut off, so its
    own standard deviation is below `sigma`.

    Raises:
        ValueError: `sigma` is not positive and finite, or `size` not odd and positive.
    """
    sigma, size = as_plain("sigma", sigma, float), as_plain("kernel_size", size, int)
    check_gaussian(sigma, size)
    values = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return values / values.sum()


def gaussian_smooth(
    image: Image, sigma: float, kernel_size: int, border: Border = "reflect"
) -> Image:
    """Convolves every channel with a `kernel_size` squared Gaussian of `sigma` pixels.

    A border is mirrored about its last pixel, which is not repeated ("reflect": NumPy's name, and
    SciPy's "mirror"), or its last pixel is ("edge", SciPy's "nearest"). The output is a mean of
    the input, and keeps to its range up to rounding. Linear in `image`: its gradient is exact.

    Raises:
        ValueError: as `gaussian_kernel`, `border` is no such name, or the image has too few
            pixels for the kernel's half to be mirrored.
    """
    kernel = gaussian_kernel(sigma, kernel_size)
    check_option("border", border, Border)
    reach = len(kernel) // 2
    if border == "reflect" and min(image.shape[:2]) <= reach:
        raise ValueError(
            f"border='reflect' mirrors the {reach} pixels that kernel_size={len(kernel)} reaches "
            f"beyond the border, and an image of {image.shape[0]} x {image.shape[1]} has too few: "
            "take a smaller kernel, or border='edge'."
        )
    return convolve_lines(image, kernel, border)


def convolve_lines(
    image: Image, kernel: Float[Array | np.ndarray, " taps"], border: Border
) -> Image:
    """Convolves rows and columns of every channel with a symmetric kernel, which may be traced.

    Its length is odd, and its border as `gaussian_smooth`'s. Linear in `image`.
    """
    # Products with a matrix of each side. Sums of shifted images are faster by themselves on CPU,
    # but their gradient is not: with 11 taps it takes three to ten times as long.
    rows, columns = (_smoothing(kernel, size, border, image.dtype) for size in image.shape[:2])
    return separable(image, rows, columns)


def check_gaussian(sigma: float, kernel_size: int) -> None:
    """Raises ValueError as `gaussian_kernel`."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma={sigma} must be positive and finite.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd and at least 1.")


def _smoothing(
    kernel: Float[Array | np.ndarray, " taps"], size: int, border: Border, dtype: Any
) -> Float[Array, "{size} {size}"]:
    """Returns the matrix whose row `i` weighs the pixels of a line for its pixel `i`."""
    places: Any = np.pad(np.arange(size), len(kernel) // 2, mode=border)
    weights = jnp.asarray(kernel, dtype)
    return sum(
        (
            weights[tap] * jax.nn.one_hot(places[tap : tap + size], size, dtype=dtype)
            for tap in range(len(kernel))
        ),
        jnp.zeros((size, size), dtype),
    )
