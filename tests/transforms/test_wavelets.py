"""The wavelet transform against PyWavelets, BayesShrink against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
import scipy.stats
import skimage.color
import skimage.data
from jax.test_util import check_grads
from skimage.restoration import denoise_wavelet

from rainjax import transforms
from rainjax.defenses import WaveletDenoising
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

CAT = skimage.data.chelsea()[:181, 100:350] / 255  # a photograph
SMALL = CAT[100:147, 30:93]


def _shrunk(image, sigma, **options):
    shrink = jax.jit(lambda x: transforms.wavelet_shrinkage(x, sigma, **options))
    return np.asarray(shrink(jnp.asarray(image, jnp.float32)))


@pytest.mark.parametrize("wavelet", ["db1", "db2", "db8"])
@pytest.mark.parametrize("shape", [(64, 48), (61, 47)])
def test_transform_is_that_of_pywavelets(wavelet, shape):
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(2, *shape))
    num_levels = max(transforms.max_wavelet_levels(*shape, wavelet), 1)
    forward = jax.jit(
        lambda x: transforms.wavelet_transform(x, num_levels=num_levels, wavelet=wavelet)
    )
    found = forward(jnp.asarray(planes, jnp.float32))
    expected = pywt.wavedec2(planes, wavelet, level=num_levels)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)

    # Coefficients of no image: what the inverse makes of them is PyWavelets' choice as well.
    other = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), expected)
    inverse = jax.jit(lambda c: transforms.inverse_wavelet_transform(c, *shape, wavelet=wavelet))
    np.testing.assert_allclose(inverse(found), planes, atol=1e-5)
    expected = pywt.waverec2(other, wavelet)[:, : shape[0], : shape[1]]
    found = inverse(jax.tree.map(jnp.asarray, other))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_haar_is_orthogonal_where_sides_can_be_halved():
    x, y = np.random.default_rng(0).normal(size=(2, 1, 16, 24)).astype(np.float32)
    forward = lambda v: jax.tree.leaves(transforms.wavelet_transform(v, num_levels=3))
    ours, adjoint = jax.jit(lambda a, b: (forward(a), jax.vjp(forward, a)[1](forward(b))[0]))(x, y)
    np.testing.assert_allclose(sum(np.sum(c**2) for c in ours), np.sum(x**2), rtol=1e-5)
    np.testing.assert_allclose(adjoint, y, atol=1e-5)


def test_largest_number_of_levels_is_that_of_pywavelets():
    for wavelet in ("db1", "db2", "db5", "db8"):
        for height in (1, 2, 7, 8, 9, 27, 28, 96, 120, 224, 299, 512):
            for width in (32, height):
                expected = pywt.dwtn_max_level((height, width), wavelet)
                assert transforms.max_wavelet_levels(height, width, wavelet) == expected


@pytest.mark.parametrize(
    ("sigma", "colours", "options"),
    [
        (0.04, "rgb", {}),
        (0.01, "ycbcr", {}),
        (0.2, "ycbcr", {}),
        (0.04, "ycbcr", {"wavelet": "db2"}),
        (0.04, "rgb", {"wavelet": "db4", "num_levels": 2}),
        (0.04, "ycbcr", {"num_levels": 7}),
        (None, "rgb", {}),
        (None, "ycbcr", {"wavelet": "db3"}),
    ],
)
def test_shrinkage_is_that_of_scikit_image(sigma, colours, options):
    # With 8 bits the zeros that scikit-image leaves out depend on how it rounds.
    image = CAT + np.random.default_rng(0).normal(0, 1e-3, CAT.shape)
    names = {"num_levels": "wavelet_levels"}
    theirs = {names.get(name, name): value for name, value in options.items()}
    expected = denoise_wavelet(
        image, sigma, convert2ycbcr=colours == "ycbcr", channel_axis=-1, **theirs
    )
    found = _shrunk(image, sigma, colours=colours, **options)
    np.testing.assert_allclose(found, expected, atol=2e-5 if sigma is None else 4e-6)
    assert np.abs(expected - image).mean() > 3e-4


def test_no_noise_to_remove():
    np.testing.assert_allclose(_shrunk(SMALL, 0.0, colours="ycbcr"), SMALL, atol=2e-6)


def _shrunk_by_range(image, sigma):
    """What scikit-image 0.15 did with `convert2ycbcr`, out of parts of today's."""
    planes = skimage.color.rgb2ycbcr(image)
    low, high = planes.min((0, 1)), planes.max((0, 1))
    stretched = (planes - low) / (high - low)
    each = [denoise_wavelet(stretched[..., c], sigma) for c in range(3)]
    return skimage.color.ycbcr2rgb(np.clip(np.stack(each, -1), 0, 1) * (high - low) + low)


@pytest.mark.parametrize("sigma", [0.01, 0.04])
def test_defense_is_scikit_image_before_sigma_was_rescaled(sigma):
    found = jax.jit(WaveletDenoising(sigma).purify)(jnp.asarray(CAT, jnp.float32))
    expected = np.clip(_shrunk_by_range(CAT, sigma), 0, 1)
    np.testing.assert_allclose(found, expected, atol=4e-6)
    rescaled = denoise_wavelet(CAT, sigma, convert2ycbcr=True, channel_axis=-1)
    assert np.abs(expected - rescaled).mean() > 1e-3  # which is another defense


def test_noise_is_looked_for_where_the_image_is_not_flat():
    image = np.full((64, 48, 1), 0.3)
    image[:, :20] += np.random.default_rng(0).normal(0, 0.05, (64, 20, 1))
    expected = denoise_wavelet(image, None, channel_axis=-1)
    np.testing.assert_allclose(_shrunk(image, None), expected, atol=2e-6)
    assert np.abs(expected - image)[:, :20].mean() > 0.02


def test_noise_of_eight_bits():
    """The zeros of a quantised image count as zeros, whatever float64 made of them."""
    finest = np.abs(pywt.dwt2(CAT, "db1", axes=(0, 1))[1][2])
    assert (finest < 1e-6).mean() > 0.05
    sigma = [
        np.median(d[d > 1e-6]) / scipy.stats.norm.ppf(0.75) for d in np.moveaxis(finest, 2, 0)
    ]
    expected = denoise_wavelet(CAT, sigma, channel_axis=-1)
    np.testing.assert_allclose(_shrunk(CAT, None), expected, atol=4e-6)


@pytest.mark.parametrize("sigma", [None, 0.04])
@pytest.mark.parametrize("sigma_scale", ["image", "range"])
def test_flat_images_stay_and_have_gradients(sigma, sigma_scale):
    options = {"colours": "ycbcr", "sigma_scale": sigma_scale}
    shrink = jax.vmap(lambda x: transforms.wavelet_shrinkage(x, sigma, **options))
    flat = jnp.stack([jnp.full((17, 24, 3), level) for level in (0.0, 0.3, 1.0)])
    slope = jax.jit(jax.grad(lambda x: jnp.sum(shrink(x) ** 2)))(flat)
    np.testing.assert_allclose(jax.jit(shrink)(flat), flat, atol=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("sigma", [None, 0.05])
def test_gradient_is_that_of_differences(sigma):
    """Thresholds move with the image, and the estimate of the noise does."""
    image = SMALL[:12, :10] + np.random.default_rng(0).normal(0, 0.05, (12, 10, 3))
    with jax.enable_x64(True):
        shrink = jax.jit(lambda x: transforms.wavelet_shrinkage(x, sigma, num_levels=2))
        check_grads(shrink, (jnp.asarray(image),), 1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize("sigma", [None, 0.04])
def test_nan_is_not_denoised_away(sigma):
    broken = jnp.asarray(SMALL, jnp.float32).at[5, 6, 1].set(jnp.nan)
    purify = jax.jit(WaveletDenoising(sigma).purify)
    assert np.isnan(purify(broken)).all()
    assert np.isnan(jax.jit(lambda x: jnp.sum(purify(x)))(broken))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: WaveletDenoising(-0.1), "sigma=-0.1 must be finite and not negative, or None"),
        (lambda: WaveletDenoising(float("nan")), "sigma=nan must be finite"),
        (lambda: WaveletDenoising(num_levels=0), "num_levels=0 must be at least 1, or None"),
        (lambda: WaveletDenoising(colours="lab"), "colours='lab' is none of 'rgb', 'ycbcr'"),
        (lambda: WaveletDenoising(sigma_scale="plane"), "sigma_scale='plane' is none of"),
        (lambda: WaveletDenoising(wavelet="haar"), "wavelet='haar' is none of"),
        (lambda: WaveletDenoising().purify(jnp.zeros((8, 8, 1))), "three channels, not 1: give"),
        (lambda: _shrunk(SMALL, 0.1, colours="lab"), "colours='lab' is none of 'rgb'"),
        (lambda: _shrunk(SMALL, 0.1, sigma_scale="plane"), "sigma_scale='plane' is none"),
        (lambda: _shrunk(SMALL, 0.1, wavelet="db9"), "wavelet='db9' is none of 'db1', 'db2'"),
        (lambda: _shrunk(SMALL, 0.1, num_levels=0), "num_levels=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
