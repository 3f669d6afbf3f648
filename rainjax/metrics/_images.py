"""What measures share: images that are refused, luminance, and small filters."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from rainjax._arrays import as_array, is_traced
from rainjax._checks import as_plain, channels_first

# The shapes of two images are compared below, in words, so they share no axis names here.
Picture = Real[Array | np.ndarray, "h w c"]
Reference = Real[Array | np.ndarray, "_ _ _"]

# What the rounding of an image's arithmetic may add to a border of its range.
_ROUNDING = 1e-5


def comparable(
    name: str, image: Picture, reference: Reference, data_range: float | int
) -> tuple[Array, Array]:
    """Returns two images as float32 in [0, 1], or refuses them."""
    data_range = positive("data_range", data_range)
    image, reference = as_array("image", image), as_array("reference", reference)
    for given, values in (("image", image), ("reference", reference)):
        check_shape(name, values)
        if not _is_real(values.dtype):
            raise ValueError(f"{name} takes real numbers, and the {given} is of {values.dtype}.")
        if data_range == 1 and not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(
                f"{name} takes floats in [0, 1] for data_range=1, and the {given} is of "
                f"{values.dtype}: give data_range=255, or divide by 255."
            )
        if not is_traced(values):
            _check_range(name, given, values, data_range)
    if image.shape != reference.shape:
        raise ValueError(f"{image.shape=} and {reference.shape=} must be equal.")
    as_share = lambda values: jnp.asarray(values, jnp.float32) / data_range
    return as_share(image), as_share(reference)


def one_image(name: str, image: Picture) -> Float[Array, "h w c"]:
    """Returns an image as float32, or refuses what does not hold floats in [0, 1]."""
    image = as_array("image", image)
    check_shape(name, image)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"{name} takes floats in [0, 1], not {image.dtype}: divide by 255 first.")
    if not is_traced(image):
        _check_range(name, "image", image, None)
    return jnp.asarray(image, jnp.float32)


def check_shape(name: str, image: Array | np.ndarray) -> None:
    """Refuses what is not of the shape of one image, `h w c`."""
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


def positive(name: str, given: float | int) -> float:
    """Returns a number, or refuses what is none, or not positive and finite."""
    number = as_plain(name, given)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={number} must be positive and finite.")
    return float(number)


def luminance(name: str, image: Float[Array, "h w c"]) -> Float[Array, "h w"]:
    """Returns the luminance of Rec. ITU-R BT.601, which JPEG and MATLAB's `rgb2gray` take.

    A single channel is its own.
    """
    channels = image.shape[-1]
    if channels == 1:
        return image[:, :, 0]
    if channels != 3:
        raise ValueError(
            f"{name} takes the luminance of 1 or 3 channels, and {image.shape=} has {channels}: "
            "give image[..., :3] where the first three are red, green and blue."
        )
    # As sums: a product with a vector would be rounded to bfloat16 on accelerators.
    return 0.299 * image[:, :, 0] + 0.587 * image[:, :, 1] + 0.114 * image[:, :, 2]


def local_means(values: Array, weights: np.ndarray) -> Array:
    """Averages under a separable window, wherever it fits inside.

    By a product with a matrix for each side. With 11 taps, sums of shifted arrays take six times
    as long to compile on CPU, and their gradient, at 224 pixels, twelve times as long to run.
    """
    rows, columns = (_sliding(weights, side) for side in values.shape[:2])
    exact = jax.lax.Precision.HIGHEST  # accelerators would round to bfloat16
    values = jnp.tensordot(rows, values, (1, 0), precision=exact)
    return jnp.moveaxis(jnp.tensordot(columns, values, (1, 1), precision=exact), 0, 1)


def stencil(
    values: Float[Array, "h w"], rows: np.ndarray, columns: np.ndarray
) -> Float[Array, "h-2 w-2"]:
    """Weighs 3x3 neighbours, wherever all of them are inside; as sums, for they are few."""
    height, width = (side - 2 for side in values.shape)
    down = [float(w) * values[i : i + height] for i, w in enumerate(rows) if w]
    values = functools.reduce(jnp.add, down)
    right = [float(w) * values[:, i : i + width] for i, w in enumerate(columns) if w]
    return functools.reduce(jnp.add, right)


def halve_mean(values: Array, border: Literal["edge", "constant"]) -> Array:
    """Averages every 2x2 cell; where a side is odd, the last cell takes `border`, as in jnp.pad.

    A constant border is of zeros.
    """
    height, width = values.shape[:2]
    others = [(0, 0)] * (values.ndim - 2)
    values = jnp.pad(values, [(0, height % 2), (0, width % 2), *others], mode=border)
    height, width = values.shape[0] // 2, values.shape[1] // 2
    cells = values.reshape(height, 2, width, 2, *values.shape[2:])
    return jnp.mean(cells, axis=(1, 3))


def square_root(values: Array) -> Array:
    """Returns the square root, with gradient 0 at 0, where the true one is infinite."""
    positive = values > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, values, 1.0)), 0.0)


def _check_range(
    name: str, given: str, values: Array | np.ndarray, data_range: float | None
) -> None:
    """Refuses values outside [0, data_range]; None is 1 for a measure without that option."""
    values, top = np.asarray(values, np.float32), data_range or 1.0
    if np.isnan(values).any():
        raise ValueError(f"{name} takes numbers, and the {given} holds NaN.")
    low, high = float(values.min()), float(values.max())
    if low >= -_ROUNDING * top and high <= (1 + _ROUNDING) * top:
        return
    if data_range is None:
        limit, grey, clip = "1", "divide by 255", "clip it"
    else:
        limit, grey = f"data_range={top:g}", "give data_range=255, or divide by 255"
        clip = "clip it, or give its data_range"
    mend = grey if top != 255 and low >= 0 and 2 < high <= 255 else clip
    raise ValueError(
        f"{name} takes values in [0, {limit}], and the {given}'s lie in "
        f"[{low:.7g}, {high:.7g}]: {mend}."
    )


def _sliding(weights: np.ndarray, side: int) -> Float[np.ndarray, "windows side"]:
    """Returns the matrix that averages a line of `side` pixels in every window inside it."""
    windows = side - len(weights) + 1
    places = np.arange(windows)[:, None]
    matrix = np.zeros((windows, side), np.float32)
    matrix[places, places + np.arange(len(weights))] = weights
    return matrix


def _is_real(kind: np.dtype) -> bool:
    return jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)
