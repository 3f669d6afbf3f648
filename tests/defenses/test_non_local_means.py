"""Non-local means against scikit-image and against its definition, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from skimage.restoration import denoise_nl_means

from rainjax import data
from rainjax.defenses import NonLocalMeans
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def image():
    images, _ = data.load("builtin", "test").get(np.arange(1))
    return (images[0, :21, :17] / 255).astype(np.float32)


def purified(defense, image):
    return np.asarray(jax.jit(defense.apply)((), KEY, jnp.asarray(image)))


def by_definition(image, patch_size, distance, h, sigma):
    """Every pair of pixels in turn, in float64."""
    height, width, channels = image.shape
    reach, pixels = patch_size // 2, image.astype(np.float64)
    wide = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    gauss = np.exp(-(rows**2 + columns**2) / (2 * ((patch_size - 1) / 4) ** 2)) if reach else [[1]]
    gauss = np.asarray(gauss)[..., None] / (channels * np.sum(gauss))
    patch = lambda i, j: wide[i : i + patch_size, j : j + patch_size]
    found = np.zeros_like(pixels)
    for i, j in np.ndindex(height, width):
        total = 0.0
        for k in range(max(i - distance, 0), min(i + distance + 1, height)):
            for m in range(max(j - distance, 0), min(j + distance + 1, width)):
                square = (gauss * (patch(i, j) - patch(k, m)) ** 2).sum()
                weight = np.exp(-max(square - 2 * sigma**2, 0) / h**2)
                found[i, j] += weight * pixels[k, m]
                total += weight
        found[i, j] /= total
    return found


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ((3, 3, 0.1, 0.0), (21, 17, 3)),
        ((5, 2, 0.05, 0.03), (9, 17, 3)),
        ((1, 2, 0.2, 0.0), (9, 7, 1)),
        ((7, 1, 0.1, 0.0), (9, 8, 1)),
        ((5, 4, 0.3, 0.02), (3, 4, 3)),  # nowhere a whole window, hardly a whole patch
        ((5, 2, 0.3, 0.0), (1, 2, 3)),
    ],
)
def test_it_is_its_definition(image, options, size):
    image = image[: size[0], : size[1], : size[2]]
    expected = by_definition(image, *options)
    np.testing.assert_allclose(purified(NonLocalMeans(*options), image), expected, atol=2e-6)
    assert np.abs(expected - image).mean() > 1e-3


@pytest.mark.parametrize(
    ("options", "channels"),
    [((3, 5, 0.08, 0.0), 3), ((3, 3, 0.1, 0.0), 3), ((5, 5, 0.05, 0.04), 3), ((7, 4, 0.3, 0.0), 3),
     ((5, 3, 1.0, 0.0), 1)],
)  # fmt: skip
def test_it_is_scikit_images(image, options, channels):
    """As far as that drops small weights, and approximates its exponential."""
    image = image[..., :channels]
    patch_size, distance, h, sigma = options
    expected = denoise_nl_means(
        image.astype(np.float64),
        patch_size=patch_size,
        patch_distance=distance,
        h=h,
        sigma=sigma,
        fast_mode=False,
        channel_axis=-1,
    ).reshape(image.shape)
    off = np.abs(purified(NonLocalMeans(*options), image) - expected)
    assert off.max() < 0.006
    assert off.mean() < 5e-4 < 0.01 < np.abs(expected - image).mean()


def test_the_defaults_filter_little_noise_and_leave_edges():
    step = np.repeat(np.repeat([[0.1, 0.9]], 12, axis=0), 6, axis=1)[..., None]
    noisy = (step + np.random.default_rng(0).normal(0, 0.02, step.shape)).astype(np.float32)
    off = purified(NonLocalMeans(), noisy) - step
    assert np.abs(off).max() < 0.02
    assert off.std() < 0.25 * (noisy - step).std()


def test_a_loop_over_offsets_keeps_memory_and_programs_small():
    """Neither what a gradient holds nor the program's text grows with the number of offsets."""
    held, text = [], []
    for distance in (2, 8):
        loss = lambda x, distance=distance: NonLocalMeans(3, distance).purify(x).sum()
        lowered = jax.jit(jax.grad(loss)).lower(jnp.zeros((64, 64, 3)))
        held.append(lowered.compile().memory_analysis().temp_size_in_bytes)
        text.append(len(lowered.as_text()))
    assert held[1] < 2.5 * held[0]  # 12 times as many offsets, and a frame 2.5 times the area
    assert text[1] < 1.5 * text[0]


def test_the_slope_is_that_of_differences():
    image = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=(5, 6, 3)), jnp.float32)
    smooth = jax.jit(lambda x: NonLocalMeans(3, 2, 0.4, 0.05).apply((), KEY, jnp.asarray(x)))
    check_grads(smooth, (image,), 1, modes=["rev"], atol=0.02, rtol=0.02)
    # Also where nothing varies, and at the ends of the range.
    for level in (0.0, 0.5, 1.0):
        slope = jax.grad(lambda x: smooth(x).sum())(jnp.full((5, 6, 3), level))
        np.testing.assert_allclose(slope.sum(), slope.size, rtol=1e-5)


def test_nan_is_not_hidden(image):
    image = image.copy()
    image[3, 4] = np.nan
    assert np.isnan(purified(NonLocalMeans(), image)).any()


def test_bad_options_are_refused():
    for make, sentence in (
        (lambda: NonLocalMeans(4), "patch_size=4 must be odd and at least 1"),
        (lambda: NonLocalMeans(-1), "patch_size=-1 must be odd"),
        (lambda: NonLocalMeans(patch_distance=0), "patch_distance=0 must be at least 1"),
        (lambda: NonLocalMeans(h=0.0), "h=0.0 must be positive and finite"),
        (lambda: NonLocalMeans(h=float("inf")), "h=inf must be"),
        (lambda: NonLocalMeans(sigma=-0.1), "sigma=-0.1 must be finite and not negative"),
        (lambda: NonLocalMeans(sigma=float("nan")), "sigma=nan must be"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()
