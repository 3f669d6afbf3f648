"""How far an image is from a reference: PSNR, SSIM, MS-SSIM and GMSD."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._checks import as_plain
from rainjax.metrics._images import (
    Picture,
    Reference,
    comparable,
    halve_mean,
    local_means,
    luminance,
    positive,
    square_root,
    stencil,
)

# How much each scale counts, the finest first: as observers judged them in Wang et al. (2003).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

# GMSD's constant for grey levels, in units of [0, 1].
_GRADIENT_CONSTANT = 170 / 255**2


def psnr(
    image: Picture, reference: Reference, *, data_range: float | int = 1.0
) -> Float[Array, ""]:
    """Returns the peak signal-to-noise ratio in decibels; infinite for equal images.

    Values lie in [0, `data_range`]: 255 for uint8, or for floats that count grey levels.

    Raises:
        ValueError: the images are not two of one shape, of numbers in that range; where they are
            traced, only shapes and types are looked at.
    """
    image, reference = comparable("psnr", image, reference, data_range)
    return -10.0 * jnp.log10(jnp.mean(jnp.square(image - reference)))


def ssim(
    image: Picture,
    reference: Reference,
    *,
    data_range: float | int = 1.0,
    sigma: float = 1.5,
    window: int = 11,
    k1: float = 0.01,
    k2: float = 0.03,
) -> Float[Array, ""]:
    """Returns the mean structural similarity, 1 for equal images (Wang et al., 2004).

    Local moments are weighted by a Gaussian of `sigma` cut to `window` pixels, and taken only
    where that window fits inside the image. Channels are compared one by one and averaged. Values
    lie in [0, `data_range`], as for `psnr`.

    Args:
        image: `h w c`, values in [0, `data_range`].
        reference: Another of the same shape.
        data_range: The distance from black to white.
        sigma: Standard deviation of the window's weights, in pixels.
        window: Side of the window, in pixels.
        k1: Keeps the means' quotient finite, as a share of `data_range`.
        k2: The same of the variances.

    Raises:
        ValueError: as `psnr`, or the window does not fit into the image, or `sigma`, `k1` or `k2`
            is not positive and finite.
    """
    image, reference = comparable("ssim", image, reference, data_range)
    weights = _gaussian(sigma, window)
    if min(image.shape[:2]) < len(weights):
        raise ValueError(f"A window of {len(weights)} pixels does not fit into {image.shape=}.")
    k1, k2 = positive("k1", k1), positive("k2", k2)
    brightness, structure = _similarity(image, reference, weights, k1, k2)
    return jnp.mean(brightness * structure)


def ms_ssim(
    image: Picture,
    reference: Reference,
    *,
    data_range: float | int = 1.0,
    weights: tuple[float, ...] = MS_SSIM_WEIGHTS,
    sigma: float = 1.5,
    window: int = 11,
) -> Float[Array, ""]:
    """Returns the multi-scale structural similarity, 1 for equal images (Wang et al., 2003).

    The product over scales of `ssim`'s mean contrast and structure, and at the coarsest of its
    mean with the brightness as well, each to the power of its weight. From one scale to the next,
    cells of 2x2 pixels are averaged; where a side is odd, the last cell repeats its last pixel,
    as in the authors' program. A negative mean counts as 0: it has no such power. Channels are
    compared one by one and averaged. Differentiable wherever no such mean is 0 or less; there the
    gradient is 0.

    The five scales of the paper want images of 161 pixels a side. A smaller one has room for
    fewer, which `weights` says:

    >>> import jax.numpy as jnp
    >>> from rainjax.metrics import MS_SSIM_WEIGHTS, ms_ssim
    >>> image = jnp.linspace(0, 1, 32 * 32 * 3).reshape(32, 32, 3)
    >>> float(ms_ssim(image, image, weights=MS_SSIM_WEIGHTS[:2]))
    1.0

    Args:
        image: the image.
        reference: what it is compared with, of the same shape.
        data_range: the largest value there may be, as for `psnr`.
        weights: one for each scale, the finest first; taken as they are.
        sigma: the standard deviation of the Gaussian window, in pixels of each scale.
        window: its size, in pixels of each scale.

    Raises:
        ValueError: as `ssim`, or the image is too small for so many scales, or `weights` are not
            positive and finite numbers.
    """
    image, reference = comparable("ms_ssim", image, reference, data_range)
    weights = _scale_weights(weights)
    kernel = _gaussian(sigma, window)
    needed = (len(kernel) - 1) * 2 ** (len(weights) - 1) + 1
    if min(image.shape[:2]) < needed:
        raise ValueError(
            f"With a window of {len(kernel)} pixels, {len(weights)} scales need {needed} pixels a "
            f"side, and {image.shape=} has fewer: give fewer weights, or a smaller window."
        )
    product = jnp.ones(image.shape[-1:])
    for scale, weight in enumerate(weights):
        if scale:
            image, reference = halve_mean(image, "edge"), halve_mean(reference, "edge")
        brightness, structure = _similarity(image, reference, kernel, k1=0.01, k2=0.03)
        if scale == len(weights) - 1:
            structure = brightness * structure
        mean = jnp.mean(structure, axis=(0, 1))
        # A power below 1 has an infinite slope at 0, and the product with it would be NaN.
        product = product * jnp.where(mean > 0, jnp.where(mean > 0, mean, 1.0) ** weight, 0.0)
    return jnp.mean(product)


def gmsd(
    image: Picture, reference: Reference, *, data_range: float | int = 1.0
) -> Float[Array, ""]:
    """Returns the gradient magnitude similarity deviation, 0 for equal images (Xue et al., 2014).

    Higher is worse. The luminance (Rec. ITU-R BT.601) is averaged over cells of 2x2 pixels, its
    gradient's length taken by Prewitt's 3x3 filters, and the two lengths compared in every pixel
    with the constant 170 of the paper, for grey levels; what is returned is the standard deviation
    of that similarity, over the pixels that there are. Beyond the border there are zeros, as in
    the authors' program. The gradient is exact, but 0 where a root of 0 makes it infinite: in
    pixels without a gradient, and everywhere where the images are equal.

    Raises:
        ValueError: as `psnr`, or an image has neither 1 nor 3 channels, or fewer than 5 pixels a
            side.
    """
    image, reference = comparable("gmsd", image, reference, data_range)
    if min(image.shape[:2]) < 5:
        raise ValueError(f"gmsd needs at least 5 pixels a side, but {image.shape=}.")
    ours, theirs = (
        _prewitt(halve_mean(luminance("gmsd", picture), "constant"))
        for picture in (image, reference)
    )
    similarity = (2 * ours * theirs + _GRADIENT_CONSTANT) / (
        ours * ours + theirs * theirs + _GRADIENT_CONSTANT
    )
    return square_root(jnp.mean(jnp.square(similarity - jnp.mean(similarity))))


def _prewitt(values: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Returns the length of the gradient; beyond the border there are zeros."""
    values = jnp.pad(values, 1)
    mean, slope = np.full(3, 1 / 3), np.array([-1, 0, 1])
    down, right = stencil(values, slope, mean), stencil(values, mean, slope)
    return square_root(down * down + right * right)


def _similarity(
    image: Array, reference: Array, weights: np.ndarray, k1: float, k2: float
) -> tuple[Array, Array]:
    """Returns the similarity of brightness, and of contrast and structure, in every window."""
    mean_x, mean_y = local_means(image, weights), local_means(reference, weights)
    var_x = local_means(image * image, weights) - mean_x * mean_x
    var_y = local_means(reference * reference, weights) - mean_y * mean_y
    covariance = local_means(image * reference, weights) - mean_x * mean_y
    c1, c2 = k1**2, k2**2
    brightness = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return brightness, (2 * covariance + c2) / (var_x + var_y + c2)


def _gaussian(sigma: float, window: int) -> np.ndarray:
    window, sigma = as_plain("window", window, int), positive("sigma", sigma)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"{window=} must be a positive odd number of pixels.")
    weights = np.exp(-0.5 * ((np.arange(window) - window // 2) / sigma) ** 2)
    return weights / weights.sum()


def _scale_weights(given: tuple[float, ...]) -> tuple[float, ...]:
    weights = as_plain("weights", given, tuple[float, ...])
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"{weights=} must hold a positive and finite number for each scale.")
    return weights
