"""What an image looks like without a reference: BRISQUE's features, gradients and sharpness."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from rainjax._checks import check_option
from rainjax.metrics._images import luminance, one_image, square_root, stencil
from rainjax.transforms import gaussian_kernel, separable
from rainjax.typing import Image

LocalBorder = Literal["zeros", "edge"]

# BRISQUE's window, and the grey level that keeps flat regions from being divided by nothing.
_WINDOW = gaussian_kernel(7 / 6, 7)
_CONSTANT = 1 / 255

# A pixel one grey level off moves the mean under the window by at least 6.2e-7.
_ROUNDING = 3e-7

# Keys' cubic kernel (a = -0.5), stretched to twice its width, between two pixels: the taps of
# MATLAB's imresize(image, 0.5). They add up to 1.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256

# Neighbours, as steps down and right: across, below, and on either diagonal.
_STEPS = ((0, 1), (1, 0), (1, 1), (-1, 1))


def mscn(image: Image, *, border: LocalBorder = "zeros") -> Float[Array, "h w"]:
    """Returns mean-subtracted, contrast-normalised coefficients (Mittal et al., 2012).

    The luminance (Rec. ITU-R BT.601, as in MATLAB's `rgb2gray`), less its local mean and over its
    local standard deviation plus one grey level. Both are weighted by a Gaussian of 7/6 pixels,
    cut to 7x7 pixels, as in the paper. Of photographs the coefficients are nearly normal; what
    distorts a photograph makes them heavier- or lighter-tailed.

    `border` says what the window finds outside: "zeros", as in the authors' program, or "edge",
    the border's own pixels, which falsifies nothing where a third of a picture of 32 pixels is
    border. In a flat region every coefficient is exactly 0. Differentiable; the slope of a local
    standard deviation of 0 counts as 0.

    >>> import jax.numpy as jnp
    >>> from rainjax.metrics import mscn
    >>> float(jnp.max(jnp.abs(mscn(jnp.full((32, 32, 3), 0.3), border="edge"))))
    0.0

    Raises:
        ValueError: it is no image of floats in [0, 1] with 1 or 3 channels, or has fewer than 7
            pixels a side, or `border` is no such name.
    """
    image = one_image("mscn", image)
    check_option("border", border, LocalBorder)
    if min(image.shape[:2]) < len(_WINDOW):
        raise ValueError(f"mscn needs at least {len(_WINDOW)} pixels a side, but {image.shape=}.")
    return _mscn(luminance("mscn", image), border)


def brisque_features(image: Image, *, border: LocalBorder = "zeros") -> Float[Array, "36"]:
    """Returns the 36 features of BRISQUE, 18 at either scale (Mittal et al., 2012).

    First come two numbers of the `mscn` coefficients, the shape and the variance of
    `fit_generalized_gaussian`; then four of the products of neighbours, the shape, mean, left and
    right variance of `fit_asymmetric_gaussian`: of neighbours across, below, and on the falling
    and the rising diagonal. The second scale is the luminance at half its size, a side rounded up,
    by the kernel of MATLAB's `imresize`, bicubic with anti-aliasing.

    Colour weights, window, constants and halving are those of the paper and of its authors'
    program, so that features can be compared with what is published. With `border="zeros"` its
    borders are, too: a pixel on the border is multiplied with one of the opposite border.
    "edge" leaves such pairs out; take it for small pictures. What maps the features to a score, a
    trained regression, is not part of this.

    Differentiable where `mscn` and the fits are: their shape is interpolated in a table, in which
    the authors take the nearest entry, 0.001 apart.

    >>> import jax
    >>> from rainjax.metrics import brisque_features
    >>> image = jax.random.uniform(jax.random.key(0), (32, 32, 3))
    >>> brisque_features(image, border="edge").shape
    (36,)

    Raises:
        ValueError: as `mscn`, but with fewer than 13 pixels a side: the window must fit into half.
    """
    image = one_image("brisque_features", image)
    check_option("border", border, LocalBorder)
    fewest = 2 * len(_WINDOW) - 1
    if min(image.shape[:2]) < fewest:
        raise ValueError(
            f"brisque_features needs at least {fewest} pixels a side, but {image.shape=}."
        )
    values, features = luminance("brisque_features", image), []
    for scale in range(2):
        if scale:
            values = _halve_bicubic(values)
        coefficients = _mscn(values, border)
        features += fit_generalized_gaussian(coefficients)
        for step in _STEPS:
            features += fit_asymmetric_gaussian(_products(coefficients, step, border))
    return jnp.stack(features)


def fit_generalized_gaussian(
    values: Float[Array, "..."],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns shape and variance of a generalised Gaussian of mean 0, by matching moments.

    The shape is 2 for a normal distribution, 1 for Laplace's, and lies in [0.2, 10], as in
    BRISQUE's table (Sharifi and Leon-Garcia, 1995; Mittal et al., 2012). Values that are all 0
    have the shape 0.2. Differentiable within these limits; beyond them the shape's gradient is 0.
    """
    variance = jnp.mean(jnp.square(values))
    return _shape(_ratio(jnp.square(jnp.mean(jnp.abs(values))), variance)), variance


def fit_asymmetric_gaussian(
    values: Float[Array, "..."],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Returns shape, mean, left and right variance of an asymmetric generalised Gaussian.

    Its mode is at 0, and either side has a variance of its own, that of the values there (Lasmar
    et al., 2009; Mittal et al., 2012). A side without values has the variance 0. Limits are as for
    `fit_generalized_gaussian`. Differentiable while no value changes its sign: there the means of
    both sides jump, because one has a value less, and no gradient tells of that.
    """
    left_variance, right_variance = (
        _ratio(jnp.sum(jnp.where(side, jnp.square(values), 0.0)), jnp.sum(side))
        for side in (values < 0, values > 0)
    )
    left, right = square_root(left_variance), square_root(right_variance)
    ratio = _ratio(jnp.square(jnp.mean(jnp.abs(values))), jnp.mean(jnp.square(values)))
    # The papers write this in terms of left / right, which a side without values would spoil.
    ratio *= _ratio(
        (left**3 + right**3) * (left + right), jnp.square(left_variance + right_variance)
    )
    # The mean's factor, gamma(2/a) / sqrt(gamma(1/a) gamma(3/a)), is the root of that ratio.
    _, ratios = _shape_table()
    factor = jnp.sqrt(jnp.clip(ratio, ratios[0], ratios[-1]))
    return _shape(ratio), (right - left) * factor, left_variance, right_variance


class GradientStatistics(NamedTuple):
    """What `gradient_statistics` returns; every field is one number.

    `mean` and `variance` are of the gradient's length, in units of [0, 1] per pixel: their
    marginal tells distorted photographs apart (Xue et al., 2014, "Blind image quality assessment
    using joint statistics of gradient magnitude and Laplacian features"), and `mean**2 +
    variance` is the Tenengrad (Tenenbaum, 1970; Krotkov, 1987). `kurtosis` is the excess kurtosis
    about 0 of both derivatives together: far above 0 in sharp photographs, whose derivatives are
    mostly small and sometimes large (Huang and Mumford, 1999), and lower where they are blurred
    (Shi et al., 2014). `laplacian_variance` is a measure of focus (Pech-Pacheco et al., 2000).
    """

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    kurtosis: Float[Array, ""]
    laplacian_variance: Float[Array, ""]


def gradient_statistics(image: Image) -> GradientStatistics:
    """Returns statistics of the gradient and the Laplacian of an image's luminance.

    Derivatives are Sobel's, divided by 8, so that a ramp has its slope per pixel; the Laplacian is
    the sum of both second differences. Both are taken where their 3x3 pixels are inside, of the
    luminance of Rec. ITU-R BT.601. The kurtosis of an image without a gradient is 0.
    Differentiable; the slope of a gradient of length 0 counts as 0.

    >>> import jax.numpy as jnp
    >>> from rainjax.metrics import gradient_statistics
    >>> ramp = jnp.broadcast_to(jnp.arange(16)[:, None, None] / 16, (16, 16, 1))
    >>> float(gradient_statistics(ramp).mean)
    0.0625

    Raises:
        ValueError: it is no image of floats in [0, 1] with 1 or 3 channels, or has fewer than 3
            pixels a side.
    """
    image = one_image("gradient_statistics", image)
    if min(image.shape[:2]) < 3:
        raise ValueError(f"gradient_statistics needs 3 pixels a side, but {image.shape=}.")
    values = luminance("gradient_statistics", image)
    mean, slope = np.array([1, 2, 1]) / 4, np.array([-1, 0, 1]) / 2
    middle, bend = np.array([0, 1, 0]), np.array([1, -2, 1])
    down, right = stencil(values, slope, mean), stencil(values, mean, slope)
    laplacian = stencil(values, bend, middle) + stencil(values, middle, bend)
    squared = down * down + right * right
    length = square_root(squared)
    power = jnp.mean(squared) / 2
    fourth = jnp.mean(down**4 + right**4) / 2
    return GradientStatistics(
        mean=jnp.mean(length),
        variance=jnp.var(length),
        kurtosis=jnp.where(power > 0, _ratio(fourth, power * power) - 3, 0.0),
        laplacian_variance=jnp.var(laplacian),
    )


def _mscn(values: Float[Array, "h w"], border: LocalBorder) -> Float[Array, "h w"]:
    rows, columns = (_sliding(side, border) for side in values.shape)
    # What the window has outside the image, where the zeros are.
    outside = (1 - np.outer(rows.sum(1), columns.sum(1))).astype(np.float32)
    # About mid-grey, squares are smaller, and lose less where the mean's is taken from them.
    values = values - 0.5
    both = jnp.stack([values, values * values], axis=-1)
    means = separable(both, jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32))
    mean = means[:, :, 0] - 0.5 * outside
    variance = means[:, :, 1] + 0.25 * outside - mean * mean
    centred = values - mean
    # In flat regions there is rounding, by whose sign products of neighbours would be sorted. Its
    # value is taken away and its slope is kept.
    rounding = jnp.where(jnp.abs(centred) < _ROUNDING, centred, 0.0)
    centred = centred - jax.lax.stop_gradient(rounding)
    return centred / (square_root(variance) + _CONSTANT)


@functools.cache
def _sliding(side: int, border: LocalBorder) -> Float[np.ndarray, "side side"]:
    """Returns the matrix that averages a line about every pixel; zeros outside weigh nothing."""
    reach, matrix = len(_WINDOW) // 2, np.zeros((side, side))
    for row in range(side):
        places = np.arange(row - reach, row + reach + 1)
        inside = (places >= 0) & (places < side) | (border == "edge")
        np.add.at(matrix[row], np.clip(places[inside], 0, side - 1), _WINDOW[inside])
    return matrix


def _products(values: Float[Array, "h w"], step: tuple[int, int], border: LocalBorder) -> Array:
    """Multiplies every value with its neighbour."""
    if border == "zeros":
        return values * jnp.roll(values, step, (0, 1))
    down, right = step
    height, width = values.shape
    first = values[max(down, 0) : height + min(down, 0), max(right, 0) :]
    second = values[max(-down, 0) : height - max(down, 0), : width - right]
    return first * second


def _halve_bicubic(values: Float[Array, "h w"]) -> Float[Array, "h2 w2"]:
    rows, columns = (_halving(side) for side in values.shape)
    return separable(values[:, :, None], jnp.asarray(rows), jnp.asarray(columns))[:, :, 0]


@functools.cache
def _halving(side: int) -> Float[np.ndarray, "half side"]:
    """Returns the matrix that halves a line; beyond its ends it is mirrored, ends repeated."""
    taps, half = len(_HALVING), (side + 1) // 2
    places: np.ndarray = np.pad(np.arange(side), taps // 2, mode="symmetric")
    matrix = np.zeros((half, side), np.float32)
    for row in range(half):
        # It lies between pixels 2 * row and the next, and its taps begin three before; four are
        # padded.
        first = 2 * row + 1
        np.add.at(matrix[row], places[first : first + taps], _HALVING)
    return matrix


def _ratio(above: Array, below: Array) -> Array:
    """Divides, and returns 0 where there is nothing to divide by."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0.0)


def _shape(ratio: Float[Array, ""]) -> Float[Array, ""]:
    shapes, ratios = _shape_table()
    return jnp.interp(ratio, jnp.asarray(ratios), jnp.asarray(shapes))


@functools.cache
def _shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Returns shapes of generalised Gaussians, and for each E|x|^2 / E x^2, which rises with it.

    Between 1024 shapes 0.4 % apart, a straight line is off by less than the authors' steps.
    """
    shapes = np.geomspace(0.2, 10, 1024)
    log_gamma = scipy.special.gammaln
    logs = 2 * log_gamma(2 / shapes) - log_gamma(1 / shapes) - log_gamma(3 / shapes)
    return shapes.astype(np.float32), np.exp(logs).astype(np.float32)
