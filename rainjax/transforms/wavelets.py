"""The orthogonal wavelet transform of an image, and soft thresholds that remove noise in it.

Written to do what PyWavelets does at its default border and scikit-image's `denoise_wavelet` does
with BayesShrink, as sums of slices: nothing is convolved.
"""

import functools
import math
import operator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from rainjax._checks import as_plain, check_option
from rainjax.transforms.jpeg import TO_RGB, TO_YCBCR
from rainjax.typing import Image

Wavelet = Literal["db1", "db2", "db3", "db4", "db5", "db6", "db7", "db8"]
WaveletColours = Literal["rgb", "ycbcr"]
SigmaScale = Literal["image", "range"]

Planes = Float[Array, "*batch h w"]
Coefficients = PyTree[Array]  # [coarse, (horizontal, vertical, diagonal), ...]

_DEVIATION = 0.6744897501960817  # the median of |x| for a standard normal x


def max_wavelet_levels(height: int, width: int, wavelet: Wavelet = "db1") -> int:
    """Returns how often both sides can be halved before borders reach every coefficient."""
    reach = len(_scaling_filter(wavelet)) - 1
    return max(0, int(math.log2(min(height, width) / reach)))


def wavelet_transform(
    planes: Planes, *, num_levels: int, wavelet: Wavelet = "db1"
) -> Coefficients:
    """Returns the 2-D wavelet coefficients of the last two axes, in the layout of `wavedec2`.

    First what is left after `num_levels` halvings, then from the coarsest level to the finest
    the details `(horizontal, vertical, diagonal)`: of high frequency down the rows, along the
    columns, and both. `wavelet` is Daubechies' with 1 (Haar) to 8 vanishing moments, of 2 to 16
    taps. Sides may have any length: borders are mirrored, the last value repeated, so that
    `db1` is orthogonal where sides can be halved, and all others keep a few coefficients more
    than there are pixels. Linear.

    Raises:
        ValueError: no wavelet is called so, or there are no levels.
    """
    taps = _scaling_filter(wavelet)
    if as_plain("num_levels", num_levels, int) < 1:
        raise ValueError(f"{num_levels=} must be at least 1.")
    rows, columns = planes.ndim - 2, planes.ndim - 1
    details = []
    for _ in range(num_levels):
        low, high = _split(planes, rows, taps)
        planes, vertical = _split(low, columns, taps)
        horizontal, diagonal = _split(high, columns, taps)
        details.append((horizontal, vertical, diagonal))
    return [planes, *reversed(details)]


def inverse_wavelet_transform(
    coefficients: Coefficients, height: int, width: int, *, wavelet: Wavelet = "db1"
) -> Planes:
    """Returns planes of `height` and `width` with the `coefficients` of `wavelet_transform`.

    Linear, and the inverse of it to rounding.

    Raises:
        ValueError: no wavelet is called so.
    """
    taps = _scaling_filter(wavelet)
    planes, *details = coefficients
    rows, columns = planes.ndim - 2, planes.ndim - 1
    for horizontal, vertical, diagonal in details:
        # An odd side came back with a value more than it had.
        low = planes[..., : vertical.shape[-2], : vertical.shape[-1]]
        low = _join(low, vertical, columns, taps)
        high = _join(horizontal, diagonal, columns, taps)
        planes = _join(low, high, rows, taps)
    return planes[..., :height, :width]


def wavelet_shrinkage(
    image: Image,
    sigma: float | None = None,
    *,
    colours: WaveletColours = "rgb",
    sigma_scale: SigmaScale = "image",
    wavelet: Wavelet = "db1",
    num_levels: int | None = None,
) -> Image:
    """Returns the image with BayesShrink's soft thresholds applied to its wavelet details.

    Each band of each plane has a threshold of its own, the noise's variance over the signal's
    standard deviation (Chang et al., 2000): the band's mean square is the sum of both
    variances, and a band that holds no more than noise is zeroed. It may leave [0, 1].

    `sigma` is the noise's standard deviation; None estimates it for each plane by the median
    size of the finest diagonal details (Donoho and Johnstone, 1994), those left out that are
    zero to rounding; scikit-image leaves out exact zeros, and rounding keeps few zeros of an
    8-bit image exact. With `sigma_scale="image"` sigma is in units of the image, and in YCbCr
    what independent noise of that size in R, G and B comes to. With `"range"` it is a share of
    the distance between the smallest and the largest value of each plane, and the result is
    clipped to lie between them, as scikit-image before 0.16 had it in YCbCr.

    `colours="ycbcr"` works on JFIF's YCbCr: the scale of a plane cancels out, so this is
    scikit-image's result with its other YCbCr, too. `num_levels` is three less than
    `max_wavelet_levels` by default, but at least one, as there.

    Differentiable almost everywhere; the gradient counts what a value does to the thresholds.

    Args:
        image: `h w c` in [0, 1].
        sigma: Standard deviation of the noise; estimated for None.
        colours: The planes that are shrunk.
        sigma_scale: What `sigma` is a share of.
        wavelet: The wavelet by name.
        num_levels: How often the image is halved.

    Raises:
        ValueError: an option is unknown, `sigma` is negative, or an image for YCbCr has not three
            channels.
    """
    height, width, channels = image.shape
    check_option("colours", colours, WaveletColours)
    check_option("sigma_scale", sigma_scale, SigmaScale)
    if sigma is not None and not 0 <= as_plain("sigma", sigma) < math.inf:
        raise ValueError(f"{sigma=} must be finite and not negative.")
    if colours == "ycbcr" and channels != 3:
        raise ValueError(f"YCbCr needs three channels, not {channels}: give colours='rgb'.")
    if num_levels is None:
        num_levels = max(max_wavelet_levels(height, width, wavelet) - 3, 1)
    gains = np.ones(channels)
    planes = image.transpose(2, 0, 1)  # on CPU twice as fast as with the colours last
    if colours == "ycbcr":
        gains = np.linalg.norm(TO_YCBCR, axis=1)
        planes = _mixed(planes, TO_YCBCR)  # details do not see that JFIF adds a constant
    low, high = planes.min((1, 2)), planes.max((1, 2))
    coarse, *details = wavelet_transform(planes, num_levels=num_levels, wavelet=wavelet)
    if sigma is None:
        # Rounding leaves no exact zeros where the image is flat.
        silence = 4 * jnp.finfo(planes.dtype).eps * jnp.maximum(high, -low)
        noise = jax.vmap(_median_deviation)(details[-1][2], silence)
    elif sigma_scale == "range":
        noise = sigma * (high - low)
    else:
        noise = jnp.asarray(sigma * gains, planes.dtype)
    shrunk = [tuple(_shrunk(band, noise) for band in level) for level in details]
    planes = inverse_wavelet_transform([coarse, *shrunk], height, width, wavelet=wavelet)
    if sigma_scale == "range":
        planes = jnp.clip(planes, low[:, None, None], high[:, None, None])
    planes = _mixed(planes, TO_RGB) if colours == "ycbcr" else planes
    return planes.transpose(1, 2, 0)


def _mixed(planes: Float[Array, "3 h w"], matrix: np.ndarray) -> Float[Array, "3 h w"]:
    return jnp.einsum(
        "ij,jhw->ihw", jnp.asarray(matrix, planes.dtype), planes, precision="highest"
    )


def _shrunk(band: Float[Array, "c h w"], noise: Float[Array, "c"]) -> Float[Array, "c h w"]:
    """Soft-thresholds the band of each plane; NaN spreads over all of it."""
    variance = noise[:, None, None] ** 2
    signal = jnp.mean(band**2, axis=(1, 2), keepdims=True) - variance
    # Below, no band of a million values has one above the threshold, and slopes stay finite.
    empty = signal <= 1e-6 * variance + 1e-20
    threshold = variance / jnp.sqrt(jnp.where(empty, 1.0, signal))
    # Compares false with NaN, which so stays.
    return jnp.where(empty | (jnp.abs(band) <= threshold), 0.0, band - jnp.sign(band) * threshold)


def _median_deviation(band: Float[Array, "h w"], silence: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the noise that the median of values above `silence` tells of; 0 without any."""
    sizes = jnp.abs(band).ravel()
    heard = ~(sizes <= silence)
    order = jnp.sort(jax.lax.stop_gradient(jnp.where(heard, sizes, jnp.inf)))
    count = jnp.sum(heard)
    median = order[jnp.stack([jnp.maximum(count - 1, 0) // 2, count // 2])]
    # One gradient for two values: a sort's would be a scatter.
    middle = sizes[jnp.argmax(sizes[None] == median[:, None], axis=1)]
    return jnp.where(count > 0, middle.mean() / _DEVIATION, 0.0)


def _split(planes: Planes, axis: int, taps: tuple[float, ...]) -> tuple[Array, Array]:
    """Returns low and high frequencies along an axis: `PyWavelets.dwt`, mirrored."""
    num_taps, length = len(taps), planes.shape[axis]
    size = (length + num_taps - 1) // 2
    margins = [(0, 0)] * planes.ndim
    margins[axis] = (num_taps - 2, 2 * size - length)
    wide = jnp.pad(planes, margins, mode="symmetric")
    shape = wide.shape
    pairs = wide.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    phases = [jax.lax.index_in_dim(pairs, p, axis + 1, keepdims=False) for p in (0, 1)]

    def filtered(weights):
        parts = (
            weight * jax.lax.slice_in_dim(phases[s % 2], s // 2, s // 2 + size, axis=axis)
            for s, weight in enumerate(weights)
        )
        return functools.reduce(operator.add, parts)

    return filtered(taps), filtered(_mirror(taps))


def _join(low: Array, high: Array, axis: int, taps: tuple[float, ...]) -> Array:
    """Returns what `_split` took apart; with an odd length, and one value more."""
    half, size = len(taps) // 2, low.shape[axis] - len(taps) // 2 + 1

    def phase(p):
        parts = (
            weights[2 * j + p]
            * jax.lax.slice_in_dim(part, half - 1 - j, half - 1 - j + size, axis=axis)
            for part, weights in ((low, taps), (high, _mirror(taps)))
            for j in range(half)
        )
        return functools.reduce(operator.add, parts)

    pairs = jnp.stack([phase(0), phase(1)], axis + 1)
    return pairs.reshape(*low.shape[:axis], 2 * size, *low.shape[axis + 1 :])


def _mirror(taps: tuple[float, ...]) -> tuple[float, ...]:
    """Returns the high-pass filter that is orthogonal to `taps`."""
    return tuple(tap * (-1) ** s for s, tap in enumerate(reversed(taps)))


@functools.cache
def _scaling_filter(wavelet: Wavelet) -> tuple[float, ...]:
    """Returns Daubechies' low-pass filter: the spectral factor with roots inside the circle."""
    check_option("wavelet", wavelet, Wavelet)
    moments = int(wavelet.removeprefix("db"))
    y, z = np.poly1d([-0.25, 0.5, -0.25]), np.poly1d([1.0, 0.0])  # y = (2 - z - 1/z) / 4, times z
    square = sum(
        (math.comb(moments - 1 + k, k) * y**k * z ** (moments - 1 - k) for k in range(moments)),
        np.poly1d([0.0]),
    )
    taps = np.poly1d([1.0, 1.0]) ** moments
    for root in square.roots[np.abs(square.roots) < 1]:
        taps = taps * np.poly1d([1.0, -root])
    taps = np.real(taps.coeffs)
    return tuple(map(float, taps * math.sqrt(2) / taps.sum()))
