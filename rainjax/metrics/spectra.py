"""Where in the spectrum an image has its power."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._arrays import as_array, is_traced
from rainjax._checks import as_plain
from rainjax.metrics._images import check_shape
from rainjax.typing import Image

# Power below this, a deviation of a hundred-thousandth of the range, is the rounding of float32.
_LEAST_POWER = 1e-10


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
    image = _finite("radial_spectrum", image)
    height, width, _ = image.shape
    weights = np.ones((height, width, 1), np.float32)
    if as_plain("taper", taper, bool):
        image = image - jnp.mean(image, axis=(0, 1), keepdims=True)
        weights = np.outer(_hann(height), _hann(width)).astype(np.float32)[:, :, None]
    spectrum = jnp.fft.fft2(image * weights, axes=(0, 1))
    power = jnp.mean(jnp.square(jnp.abs(spectrum)), axis=-1) / np.sum(weights**2)

    ring, count = _rings(height, width)
    num_bins = len(count)
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


def spectral_slope(
    image: Image, *, lowest: float = 0.05, highest: float = 0.5
) -> Float[Array, ""]:
    """Returns the exponent of the power law nearest to an image's spectrum; about -2 in nature.

    The slope of the straight line through the logarithms of frequency and of `radial_spectrum`'s
    power, by least squares over the rings from `lowest` to `highest` cycles per pixel, each of
    which counts the same. Photographs have slopes about -2, white noise 0 (Field, 1987; fitted to
    single images by Tolhurst et al., 1992, whose amplitudes have half the slope); blur makes it
    steeper, and local slopes measure sharpness (Vu et al., 2012). Power below 1e-10 counts as
    that, so that an image of one colour has slope 0. Differentiable. Values may have any size.

    >>> import jax
    >>> from rainjax.metrics import spectral_slope
    >>> noise = jax.random.uniform(jax.random.key(0), (64, 64, 3))
    >>> round(float(spectral_slope(noise)))
    0

    Raises:
        ValueError: as `radial_spectrum`, or fewer than two rings of a frequency above 0 lie
            between `lowest` and `highest`.
    """
    image = _finite("spectral_slope", image)
    lowest, highest = as_plain("lowest", lowest), as_plain("highest", highest)
    frequencies = radial_frequencies(*image.shape[:2])
    band = (frequencies > 0) & (frequencies >= lowest) & (frequencies <= highest)
    if band.sum() < 2:
        raise ValueError(
            f"A slope needs two frequencies, and of {image.shape=}'s, multiples of "
            f"1/{min(image.shape[:2])} cycles per pixel, {band.sum()} lie between {lowest=} and "
            f"{highest=}: give a wider band."
        )
    logs = np.log(frequencies[band]) - np.log(frequencies[band]).mean()
    power = jnp.maximum(radial_spectrum(image)[np.flatnonzero(band)], _LEAST_POWER)
    return jnp.sum(jnp.log(power) * (logs / np.sum(logs**2)).astype(np.float32))


def high_frequency_share(image: Image, *, cutoff: float = 0.25) -> Float[Array, ""]:
    """Returns the share of an image's energy at frequencies from `cutoff` on, in cycles per pixel.

    Of the energy of `radial_spectrum`'s rings above frequency 0, each times its number of
    frequencies, as Yin et al. (2019) describe corruptions by it. White noise has about
    `1 - 4 * cutoff**2`, photographs a few percent; blur leaves less, noise makes it more. An image
    of one colour has 0. Differentiable. Values may have any size.

    >>> import jax.numpy as jnp
    >>> from rainjax.metrics import high_frequency_share
    >>> float(high_frequency_share(jnp.full((32, 32, 3), 0.5)))
    0.0

    Raises:
        ValueError: as `radial_spectrum`, or `cutoff` is not above 0, or no ring lies beyond it.
    """
    image = _finite("high_frequency_share", image)
    cutoff = as_plain("cutoff", cutoff)
    height, width, _ = image.shape
    frequencies = radial_frequencies(height, width)
    if not 0 < cutoff <= frequencies[-1]:
        raise ValueError(
            f"{cutoff=} must lie above 0 and at most at the image's highest frequency, "
            f"{frequencies[-1]:g} cycles per pixel."
        )
    count = _rings(height, width)[1].astype(np.float32)
    count[0] = 0
    energy = radial_spectrum(image) * count
    high = jnp.sum(jnp.where(frequencies >= cutoff, energy, 0.0))
    return high / jnp.maximum(jnp.sum(energy), _LEAST_POWER * count.sum())


def _finite(name: str, image: Image) -> Array:
    """Returns an image as float32, or refuses what does not hold finite floats."""
    given = as_array("image", image)
    check_shape(name, given)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"{name} takes floats, not {given.dtype}: divide by 255 first.")
    if not is_traced(given) and not np.isfinite(np.asarray(given, np.float32)).all():
        raise ValueError(f"{name} takes finite numbers, and the image holds others.")
    return jnp.asarray(given, jnp.float32)


@functools.cache
def _rings(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each frequency's ring, one too many for the corners, and how many each ring has."""
    rows, columns = np.fft.fftfreq(height), np.fft.fftfreq(width)
    distance = np.hypot(rows[:, None], columns[None, :])
    num_bins = len(radial_frequencies(height, width))
    ring = np.rint(distance * min(height, width)).astype(np.int32)
    ring = np.where(distance <= 0.5, ring, num_bins).ravel()
    count = np.bincount(ring, minlength=num_bins + 1)[:num_bins]
    return ring, count


def _hann(size: int) -> np.ndarray:
    """A Hann window without its zero ends, so that an image of 2 pixels keeps something."""
    return np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
