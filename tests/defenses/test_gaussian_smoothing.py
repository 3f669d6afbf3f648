"""Gaussian smoothing against SciPy: one convolution, and many of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from rainjax import data, transforms
from rainjax.defenses import GaussianSmoothing
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
SCIPY = {"reflect": "mirror", "edge": "nearest"}  # their names of the same borders
SETTINGS = [(0.5, 3), (1.0, 5), (2.0, 11), (30.0, 7), (1.0, 1)]


@pytest.fixture(scope="module")
def image():
    images, _ = data.load("builtin", "test").get(np.arange(1))
    return (images[0, :27, :19] / 255).astype(np.float32)


def _scipy(image, sigma, size, border):
    out = image.astype(np.float64)
    for axis in (0, 1):
        options = {"mode": SCIPY[border], "radius": size // 2, "axis": axis}
        out = scipy.ndimage.gaussian_filter1d(out, sigma, **options)
    return out


@pytest.mark.parametrize(("sigma", "size"), SETTINGS)
def test_kernel_is_scipys_answer_to_one_point(sigma, size):
    point = np.zeros(size + 4)
    point[len(point) // 2] = 1
    wanted = scipy.ndimage.gaussian_filter1d(point, sigma, radius=size // 2)[2:-2]
    np.testing.assert_allclose(transforms.gaussian_kernel(sigma, size), wanted, atol=1e-15)


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize(("sigma", "size"), SETTINGS)
def test_smoothing_is_scipys(image, sigma, size, border):
    smooth = jax.jit(lambda x: transforms.gaussian_smooth(x, sigma, size, border))
    wanted = _scipy(image, sigma, size, border)
    np.testing.assert_allclose(smooth(jnp.asarray(image)), wanted, atol=1e-6)
    np.testing.assert_allclose(
        wanted[..., 0],
        scipy.ndimage.correlate1d(
            scipy.ndimage.correlate1d(
                image[..., 0].astype(np.float64),
                transforms.gaussian_kernel(sigma, size),
                axis=0,
                mode=SCIPY[border],
            ),
            transforms.gaussian_kernel(sigma, size),
            axis=1,
            mode=SCIPY[border],
        ),
        atol=1e-12,
    )


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("num_iterations", [1, 2, 7])
def test_iterations_are_scipy_again_and_again(image, num_iterations, border):
    defense = GaussianSmoothing(num_iterations, 1.5, 7, border)
    wanted = image
    for _ in range(num_iterations):
        wanted = _scipy(wanted, 1.5, 7, border)
    found = jax.jit(defense.apply)((), KEY, jnp.asarray(image))
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert not defense.is_random


@pytest.mark.parametrize(("num_iterations", "sigma", "size"), [(3, 1.0, 5), (6, 0.7, 3)])
def test_away_from_borders_iterations_are_one_kernel_and_its_variance(num_iterations, sigma, size):
    defense = GaussianSmoothing(num_iterations, sigma, size)
    once = transforms.gaussian_kernel(sigma, size)
    kernel = np.ones(1)
    for _ in range(num_iterations):
        kernel = np.convolve(kernel, once)
    point = np.zeros((2 * len(kernel) + 1,) * 2 + (1,), np.float32)
    point[len(kernel), len(kernel)] = 1
    found = jax.jit(defense.apply)((), KEY, jnp.asarray(point))
    reach = slice(len(kernel) - len(kernel) // 2, len(kernel) + len(kernel) // 2 + 1)
    np.testing.assert_allclose(found[reach, reach, 0], np.outer(kernel, kernel), atol=1e-7)
    distances = np.arange(len(kernel)) - len(kernel) // 2
    spread = math.sqrt((kernel * distances**2).sum())
    assert defense.effective_sigma == pytest.approx(spread, rel=1e-12)
    assert defense.effective_sigma < sigma * math.sqrt(num_iterations)
    wide = GaussianSmoothing(num_iterations, sigma, kernel_size=41)
    # At whole pixels a Gaussian's variance is that of the continuous one to half a percent.
    assert wide.effective_sigma == pytest.approx(sigma * math.sqrt(num_iterations), rel=5e-3)


def test_gradient_is_exact_where_an_image_is_white():
    defense = GaussianSmoothing(2)
    white = jnp.ones((7, 6, 1))
    slope = jax.grad(lambda x: defense.apply((), KEY, x).sum())(white)
    np.testing.assert_allclose(slope.sum(), white.size, rtol=1e-5)
    assert float(defense.apply((), KEY, white).max()) <= 1
    smooth = lambda x: transforms.gaussian_smooth(jnp.asarray(x), 1.0, 3)
    check_grads(smooth, (0.3 * white,), order=1)


def test_large_images_of_one_colour_stay_as_they_are():
    flat = jnp.full((40, 3, 3), 0.3)
    found = GaussianSmoothing(20, 4.0, 5, "edge").apply((), KEY, flat)
    np.testing.assert_allclose(found, flat, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianSmoothing(0), "num_iterations=0 must be at least 1"),
        (lambda: GaussianSmoothing(sigma=0.0), "sigma=0.0 must be positive and finite"),
        (lambda: GaussianSmoothing(sigma=float("inf")), "sigma=inf must be positive"),
        (lambda: GaussianSmoothing(sigma=float("nan")), "sigma=nan must be positive"),
        (lambda: GaussianSmoothing(kernel_size=4), "kernel_size=4 must be odd"),
        (lambda: GaussianSmoothing(kernel_size=-1), "kernel_size=-1 must be odd"),
        (lambda: GaussianSmoothing(border="wrap"), "border='wrap' is none of 'reflect', 'edge'"),
        (lambda: transforms.gaussian_kernel(-1.0, 3), "sigma=-1.0 must be positive"),
        (lambda: transforms.gaussian_kernel(1.0, 2), "kernel_size=2 must be odd"),
        (
            lambda: transforms.gaussian_smooth(jnp.zeros((9, 9, 3)), 1.0, 3, "mirror"),
            "border='mirror' is none of 'reflect', 'edge'",
        ),
        (
            lambda: GaussianSmoothing(kernel_size=9).apply((), KEY, jnp.zeros((9, 4, 3))),
            "mirrors the 4 pixels that kernel_size=9 .* image of 9 x 4 has too few",
        ),
    ],
)
def test_what_is_impossible_is_refused(make, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        make()
