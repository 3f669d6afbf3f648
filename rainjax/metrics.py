"""How results are measured: intervals for counted successes, and how far apart two images are."""

import functools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from rainjax._arrays import as_array, is_traced
from rainjax._checks import as_plain, channels_first
from rainjax.typing import Image

# The shapes of two images are compared below, in words, so they share no axis names here.
_Picture = Real[Array | np.ndarray, "h w c"]
_Reference = Real[Array | np.ndarray, "_ _ _"]

# What the rounding of an image's arithmetic may add to a border of its range.
_ROUNDING = 1e-5


def wilson_interval(
    successes: float | int, total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the ends of Wilson's score interval for a proportion (Wilson, 1927).

    `successes` may be a fraction of a count, such as a mean over random draws; the interval
    then covers the choice of the `total` examples, not the draws.

    Raises:
        ValueError: `total` is no whole number of at least 1, `successes` do not lie in 0..`total`,
            or `confidence` does not lie between 0 and 1.
    """
    successes, total = as_plain("successes", successes), as_plain("total", total, int)
    confidence = as_plain("confidence", confidence)
    if total < 1:
        raise ValueError(f"An interval needs at least one example, but {total=}.")
    if not 0 <= successes <= total:
        raise ValueError(f"{successes=} does not lie between 0 and {total=}.")
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} does not lie between 0 and 1; 95 % is 0.95.")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # At either end the interval touches its limit exactly; rounding must not undo that.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high


def psnr(
    image: _Picture, reference: _Reference, *, data_range: float | int = 1.0
) -> Float[Array, ""]:
    """Returns the peak signal-to-noise ratio in decibels; infinite for equal images.

    Values lie in [0, `data_range`]: 255 for uint8, or for floats that count grey levels.

    Raises:
        ValueError: the images are not two of one shape, of numbers in that range; where they are
            traced, only shapes and types are looked at.
    """
    image, reference = _comparable("psnr", image, reference, data_range)
    return -10.0 * jnp.log10(jnp.mean(jnp.square(image - reference)))


def ssim(
    image: _Picture,
    reference: _Reference,
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

    Raises:
        ValueError: as `psnr`, or the window does not fit into the image, or `sigma`, `k1` or `k2`
            is not positive and finite.
    """
    image, reference = _comparable("ssim", image, reference, data_range)
    window = as_plain("window", window, int)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"{window=} must be a positive odd number of pixels.")
    if min(image.shape[:2]) < window:
        raise ValueError(f"A window of {window} pixels does not fit into {image.shape=}.")
    sigma, k1, k2 = _positive("sigma", sigma), _positive("k1", k1), _positive("k2", k2)
    offset = np.arange(window) - window // 2
    weights = np.exp(-0.5 * (offset / sigma) ** 2)
    weights = weights / weights.sum()

    mean_x, mean_y = _blur(image, weights), _blur(reference, weights)
    var_x = _blur(image * image, weights) - mean_x * mean_x
    var_y = _blur(reference * reference, weights) - mean_y * mean_y
    covariance = _blur(image * reference, weights) - mean_x * mean_y
    c1, c2 = k1**2, k2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return jnp.mean(luminance * structure)


def radial_spectrum(image: Image, *, taper: bool = True) -> Float[Array, "bins"]:
    """Returns the mean power in each ring of spatial frequencies, averaged over channels.

    Ring `i` holds the frequencies nearest to `radial_frequencies(h, w)[i]`; those beyond half a
    cycle per pixel, the corners of the spectrum, are left out. White noise of variance `v` has
    power `v` in every ring. The `taper` (a Hann window, after subtracting each channel's mean)
    keeps the jump between opposite borders from leaking into all frequencies. Values may have any
    size, those of a perturbation for instance.

    Raises:
        ValueError: it is no image of finite floats, or smaller than 2 pixels a side.
    """
    given = as_array("image", image)
    _check_shape("radial_spectrum", given)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"radial_spectrum takes floats, not {given.dtype}: divide by 255 first.")
    if not is_traced(given) and not np.isfinite(np.asarray(given, np.float32)).all():
        raise ValueError("radial_spectrum takes finite numbers, and the image holds others.")
    image = jnp.asarray(given, jnp.float32)
    height, width, _ = image.shape
    weights = np.ones((height, width, 1), np.float32)
    if as_plain("taper", taper, bool):
        image = image - jnp.mean(image, axis=(0, 1), keepdims=True)
        weights = np.outer(_hann(height), _hann(width)).astype(np.float32)[:, :, None]
    spectrum = jnp.fft.fft2(image * weights, axes=(0, 1))
    power = jnp.mean(jnp.square(jnp.abs(spectrum)), axis=-1) / np.sum(weights**2)

    rows, columns = np.fft.fftfreq(height), np.fft.fftfreq(width)
    distance = np.hypot(rows[:, None], columns[None, :])
    num_bins = len(radial_frequencies(height, width))
    ring = np.rint(distance * min(height, width)).astype(np.int32)
    ring = np.where(distance <= 0.5, ring, num_bins).ravel()
    count = np.bincount(ring, minlength=num_bins + 1)[:num_bins]
    total = jax.ops.segment_sum(power.ravel(), jnp.asarray(ring), num_segments=num_bins + 1)
    return total[:num_bins] / jnp.asarray(count, jnp.float32)


def radial_frequencies(height: int, width: int) -> np.ndarray:
    """Returns the centres of `radial_spectrum`'s rings, in cycles per pixel from 0 to 0.5.

    Raises:
        ValueError: a side is no whole number of at least 2 pixels.
    """
    shorter = min(as_plain("height", height, int), as_plain("width", width, int))
    if shorter < 2:
        raise ValueError(f"A spectrum needs at least 2 pixels a side, but {height=}, {width=}.")
    return np.arange(shorter // 2 + 1) / shorter


def _comparable(
    name: str, image: _Picture, reference: _Reference, data_range: float | int
) -> tuple[Array, Array]:
    """Returns two images as float32 in [0, 1], or refuses them."""
    data_range = _positive("data_range", data_range)
    image, reference = as_array("image", image), as_array("reference", reference)
    for given, values in (("image", image), ("reference", reference)):
        _check_shape(name, values)
        if not _is_real(values.dtype):
            raise ValueError(f"{name} takes real numbers, and the {given} is of {values.dtype}.")
        if data_range == 1 and not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(
                f"{name} takes floats in [0, 1] for data_range=1, and the {given} is of "
                f"{values.dtype}: give data_range=255, or divide by 255."
            )
        if not is_traced(values):
            _check_range(name, given, np.asarray(values, np.float32), data_range)
    if image.shape != reference.shape:
        raise ValueError(f"{image.shape=} and {reference.shape=} must be equal.")
    as_share = lambda values: jnp.asarray(values, jnp.float32) / data_range
    return as_share(image), as_share(reference)


def _check_shape(name: str, image: Array | np.ndarray) -> None:
    if image.ndim != 3 or not image.size:
        raise ValueError(
            f"{name} takes images `h w c`, and this is of shape {image.shape}: use jax.vmap for a "
            "batch, and image[..., None] where there is no axis of channels."
        )
    if channels_first(image.shape):
        raise ValueError(
            f"{name} takes images `h w c`, and {image.shape} has its channels first: give "
            "jnp.moveaxis(image, 0, -1)."
        )


def _check_range(name: str, given: str, values: np.ndarray, data_range: float) -> None:
    if np.isnan(values).any():
        raise ValueError(f"{name} takes numbers, and the {given} holds NaN.")
    low, high = float(values.min()), float(values.max())
    if low >= -_ROUNDING * data_range and high <= (1 + _ROUNDING) * data_range:
        return
    grey = data_range != 255 and low >= 0 and 2 < high <= 255
    mend = "give data_range=255, or divide by 255" if grey else "clip it, or give its data_range"
    raise ValueError(
        f"{name} takes values in [0, data_range={data_range:g}], and the {given}'s lie in "
        f"[{low:.7g}, {high:.7g}]: {mend}."
    )


def _is_real(kind: np.dtype) -> bool:
    return jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)


def _positive(name: str, given: float | int) -> float:
    number = as_plain(name, given)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={number} must be positive and finite.")
    return float(number)


def _blur(image: Array, weights: np.ndarray) -> Array:
    """Filters both axes where the window fits; shifted sums beat a convolution on CPU."""
    size = len(weights)
    height, width = image.shape[0] - size + 1, image.shape[1] - size + 1
    shifts = [float(w) * image[i : i + height] for i, w in enumerate(weights)]
    image = functools.reduce(jnp.add, shifts)
    shifts = [float(w) * image[:, i : i + width] for i, w in enumerate(weights)]
    return functools.reduce(jnp.add, shifts)


def _hann(size: int) -> np.ndarray:
    """A Hann window without its zero ends, so that an image of 2 pixels keeps something."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
