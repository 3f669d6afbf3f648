"""The bilateral filter against scikit-image, SciPy and a loop; the low pass against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from jax.test_util import check_grads
from skimage.restoration import denoise_bilateral

from rainjax import data
from rainjax.defenses import BilateralFilter, LowPass
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def image():
    images, _ = data.load("builtin", "test").get(np.arange(1))
    return (images[0, :27, :19] / 255).astype(np.float32)


def purified(defense, image):
    return np.asarray(jax.jit(defense.apply)((), KEY, jnp.asarray(image)))


# -- Bilateral ----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "sigma", "channels"), [(3, 0.1, 3), (5, 0.3, 3), (7, 0.2, 1)])
def test_colours_weigh_as_in_scikit_image(image, size, sigma, channels):
    """Far apart in space is near: scikit-image's spatial weights are out of order."""
    image = image[..., :channels]
    found = purified(BilateralFilter(size, sigma, sigma_spatial=1e6), image)
    expected = denoise_bilateral(
        image.astype(np.float64) if channels > 1 else image[..., 0].astype(np.float64),
        win_size=size,
        sigma_color=sigma / channels,  # theirs is of the distance over the number of channels
        sigma_spatial=1e6,
        bins=1_000_000,
        mode="symmetric",
        channel_axis=-1 if channels > 1 else None,
    ).reshape(image.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - image).mean() > 0.01


@pytest.mark.parametrize(("size", "sigma"), [(3, 0.7), (5, 1.0), (9, 2.5)])
def test_without_colours_it_is_scipys_gaussian(image, size, sigma):
    found = purified(BilateralFilter(size, sigma_color=1e6, sigma_spatial=sigma), image)
    options = {"mode": "reflect", "radius": size // 2, "axes": (0, 1)}
    expected = scipy.ndimage.gaussian_filter(image.astype(np.float64), sigma, **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_both_weights_together(image):
    """In the order of the definition, pixel by pixel."""
    size, sigma_color, sigma_spatial = 5, 0.15, 1.2
    wide = np.pad(image.astype(np.float64), ((2, 2), (2, 2), (0, 0)), mode="symmetric")
    expected = np.zeros(image.shape)
    for row, column in np.ndindex(image.shape[:2]):
        square, total = wide[row : row + size, column : column + size], 0.0
        for i, j in np.ndindex(size, size):
            space = np.hypot(i - 2, j - 2) / sigma_spatial
            colour = np.linalg.norm(square[i, j] - square[2, 2]) / sigma_color
            weight = np.exp(-(space**2) / 2) * np.exp(-(colour**2) / 2)
            expected[row, column] += weight * square[i, j]
            total += weight
        expected[row, column] /= total
    found = purified(BilateralFilter(size, sigma_color, sigma_spatial), image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # It is neither of the two alone.
    blurred = purified(BilateralFilter(size, 1e6, sigma_spatial), image)
    assert np.abs(found - blurred).mean() > 0.01


def test_an_edge_that_is_steep_enough_stays():
    step = np.repeat(np.repeat([[0.1, 0.9]], 8, axis=0), 4, axis=1)[..., None].astype(np.float32)
    np.testing.assert_allclose(purified(BilateralFilter(5, 0.1, 2.0), step), step, atol=1e-6)


def test_the_bilateral_slope_is_that_of_differences():
    image = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=(5, 6, 3)), jnp.float32)
    smooth = jax.jit(lambda x: BilateralFilter(3, 0.4).apply((), KEY, jnp.asarray(x)))
    check_grads(smooth, (image,), 1, modes=["rev"], atol=0.02, rtol=0.02)
    # Also where nothing varies, and at the ends of the range.
    for level in (0.0, 0.5, 1.0):
        slope = jax.grad(lambda x: smooth(x).sum())(jnp.full((5, 6, 3), level))
        np.testing.assert_allclose(slope.sum(), slope.size, rtol=1e-5)


# -- Low pass -----------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff", [1, 2, 5, 9, 14])
def test_low_frequencies_are_scipys(cutoff):
    image = np.random.default_rng(1).uniform(size=(24, 16, 3)).astype(np.float32)
    blocks = image.astype(np.float64).reshape(3, 8, 2, 8, 3)
    coefficients = scipy.fft.dctn(blocks, axes=(1, 3), norm="ortho")
    for u, v in np.ndindex(8, 8):
        if u + v >= cutoff:
            coefficients[:, u, :, v] = 0
    expected = scipy.fft.idctn(coefficients, axes=(1, 3), norm="ortho").reshape(image.shape)
    np.testing.assert_allclose(
        purified(LowPass(cutoff), image), np.clip(expected, 0, 1), atol=2e-6
    )


def test_all_frequencies_are_the_image_at_any_size(image):
    np.testing.assert_allclose(purified(LowPass(15), image), image, atol=2e-6)
    assert purified(LowPass(), image).shape == image.shape


def test_the_low_pass_is_a_projection_with_a_symmetric_slope():
    """Within the range: what it drops is orthogonal to what it keeps."""
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.uniform(0.4, 0.6, size=(16, 16, 1)), jnp.float32)
    once, back = jax.vjp(jax.jit(lambda x: LowPass().apply((), KEY, x)), image)
    np.testing.assert_allclose(purified(LowPass(), once), once, atol=1e-6)
    np.testing.assert_allclose(back(image)[0], once, atol=1e-6)


@pytest.mark.parametrize("defense", [BilateralFilter(), LowPass()])
def test_nan_is_not_hidden(defense):
    image = np.full((8, 8, 1), 0.5, np.float32)
    image[3, 4] = np.nan
    assert np.isnan(purified(defense, image)).any()


def test_bad_options_are_refused():
    for make, sentence in (
        (lambda: BilateralFilter(4), "size=4 must be odd and at least 1"),
        (lambda: BilateralFilter(sigma_color=0.0), "sigma_color=0.0 must be positive"),
        (lambda: BilateralFilter(sigma_spatial=float("nan")), "sigma_spatial=nan must be"),
        (lambda: LowPass(0), r"cutoff=0 must lie in 1\.\.15"),
        (lambda: LowPass(16), "cutoff=16 must lie"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()
