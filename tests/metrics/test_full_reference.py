"""PSNR and SSIM against scikit-image, MS-SSIM and GMSD against piq and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import skimage.metrics

from rainjax import metrics
from tests.golden import quality_piq
from tests.metrics.pictures import GREY, pair
from tests.tiny import unchecked


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 33, 1)])
def test_psnr_agrees_with_scikit_image(shape):
    image, copy = pair(shape)
    expected = skimage.metrics.peak_signal_noise_ratio(image, copy, data_range=1.0)
    assert float(metrics.psnr(jnp.asarray(image), jnp.asarray(copy))) == pytest.approx(
        expected, abs=1e-3
    )


def test_psnr_of_equal_images_is_infinite_and_of_a_known_error_is_known():
    image = jnp.full((8, 8, 3), 0.5)
    assert float(metrics.psnr(image, image)) == float("inf")
    assert float(metrics.psnr(image, image + 0.1)) == pytest.approx(20.0, abs=1e-4)


@pytest.mark.parametrize("shape", [(11, 11, 3), (32, 32, 3), (40, 23, 1)])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_ssim_agrees_with_scikit_image(shape, noise):
    image, copy = pair(shape, noise)
    # In float64, so that the oracle adds no rounding of its own.
    expected = skimage.metrics.structural_similarity(
        image.astype(np.float64),
        copy.astype(np.float64),
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    ours = jax.jit(metrics.ssim)(jnp.asarray(image), jnp.asarray(copy))
    assert float(ours) == pytest.approx(expected, abs=2e-5)


def test_ssim_with_another_window_agrees_with_scikit_image():
    image, copy = pair((24, 24, 3))
    expected = skimage.metrics.structural_similarity(
        image.astype(np.float64),
        copy.astype(np.float64),
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=0.7,  # scikit-image cuts at 3.5 sigma: five pixels
        use_sample_covariance=False,
    )
    ours = metrics.ssim(jnp.asarray(image), jnp.asarray(copy), sigma=0.7, window=5)
    assert float(ours) == pytest.approx(expected, abs=2e-5)


def test_ssim_of_equal_images_is_one():
    image = jnp.asarray(pair((16, 16, 3))[0])
    assert float(metrics.ssim(image, image)) == pytest.approx(1.0, abs=1e-6)


def _whole(shape=(16, 17, 3)):
    image, copy = pair(shape)
    return (np.round(255 * values).astype(np.uint8) for values in (image, copy))


def test_grey_levels_have_a_range_of_255():
    image, copy = _whole()
    psnr = skimage.metrics.peak_signal_noise_ratio(image, copy, data_range=255)
    ssim = skimage.metrics.structural_similarity(
        image,
        copy,
        channel_axis=-1,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    levels = (
        (image, copy),
        (image.astype(np.float32), copy.astype(np.float32)),
        (image, 1.0 * copy),
    )
    for each in levels:
        for given in (each, tuple(map(jnp.asarray, each))):
            assert float(metrics.psnr(*given, data_range=255)) == pytest.approx(psnr, abs=1e-3)
            assert float(metrics.ssim(*given, data_range=255.0)) == pytest.approx(ssim, abs=2e-5)
    program = jax.jit(lambda *pair: metrics.psnr(*pair, data_range=255))
    assert float(program(image, copy)) == pytest.approx(psnr, abs=1e-3)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.ms_ssim, metrics.gmsd])
@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ((np.zeros((16, 16, 3), np.uint8),) * 2, {}, "image is of uint8: give data_range=255, or"),
        (
            (GREY, np.zeros((16, 16, 3), np.uint8)),
            {},
            "reference is of uint8: give data_range=255",
        ),
        ((200 * GREY, GREY), {}, r"the image's lie in \[100, 100\]: give data_range=255, or div"),
        ((GREY, GREY - 1), {}, r"reference's lie in \[-0.5, -0.5\]: clip it"),
        ((GREY, GREY + 0.50002), {}, r"reference's lie in \[1.00002, 1.00002\]: clip it"),
        (
            (600 * GREY, GREY),
            {"data_range": 255},
            r"data_range=255\], and the image's lie in .300",
        ),
        ((GREY, GREY * np.nan), {}, "the reference holds NaN"),
        ((GREY > 0, GREY), {}, "real numbers, and the image is of bool"),
        ((GREY * 1j, GREY), {}, "real numbers, and the image is of complex"),
        ((GREY[..., 0], GREY), {}, r"of shape \(16, 16\): .*image\[..., None\]"),
        ((GREY[None], GREY[None]), {}, "use jax.vmap for a batch"),
        ((GREY[:0], GREY[:0]), {}, r"of shape \(0, 16, 3\)"),
        ((np.moveaxis(GREY, -1, 0), GREY), {}, r"\(3, 16, 16\) has its channels first: give"),
        ((None, GREY), {}, "image=None is no array of numbers"),
        ((GREY, "text"), {}, r"images `h w c`, and this is of shape \(\)"),
        ((GREY, [[1.0], [1.0, 2.0]]), {}, "reference=.* is no array of numbers"),
        ((GREY, GREY), {"data_range": 0}, "data_range=0 must be positive and finite"),
        ((GREY, GREY), {"data_range": float("nan")}, "data_range=nan must be positive"),
        ((GREY, GREY), {"data_range": "255"}, "data_range='255' must be a number"),
        ((GREY, GREY), {"data_range": True}, "data_range=True must be a number"),
    ],
)
def test_what_has_no_likeness_is_refused(metric, given, options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        metric(*given, **options)
    assert "\n" not in str(raised.value)


def test_types_are_looked_at_within_jit():
    with unchecked(), pytest.raises(ValueError, match="uint8: give data_range=255"):
        jax.jit(metrics.psnr)(np.zeros((16, 16, 3), np.uint8), GREY)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigma": 0.0}, "sigma=0.0 must be positive"),
        ({"sigma": "1"}, "sigma='1' must be a number"),
        ({"k1": -1.0}, "k1=-1.0 must be positive"),
        ({"k2": float("inf")}, "k2=inf must be positive and finite"),
        ({"window": 11.0}, "window=11.0 must be a whole number"),
    ],
)
def test_ssim_refuses_options_out_of_range(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        metrics.ssim(GREY, GREY, **options)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_two_shapes_are_refused_in_words(metric):
    with pytest.raises(ValueError, match=r"image.shape=\(16, 16, 3\).*\(16, 15, 3\).*equal"):
        metric(jnp.zeros((16, 16, 3)), jnp.zeros((16, 15, 3)))


def test_ssim_refuses_an_image_smaller_than_its_window():
    small = jnp.zeros((10, 32, 3))
    with pytest.raises(ValueError, match="window of 11 pixels does not fit"):
        metrics.ssim(small, small)
    with pytest.raises(ValueError, match="window=4 must be a positive odd"):
        metrics.ssim(small, small, window=4)


@pytest.fixture(scope="module")
def theirs():
    with np.load(quality_piq.GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def small_ms_ssim():
    """MS-SSIM with the options of the golden file's small pictures, compiled once."""
    weights = np.array(quality_piq.WEIGHTS)
    options = {"weights": tuple(weights / weights.sum()), "window": quality_piq.WINDOW}
    return jax.jit(lambda *pair: metrics.ms_ssim(*pair, **options))


def test_ms_ssim_and_gmsd_agree_with_piq(theirs, small_ms_ssim):
    gmsd = jax.jit(metrics.gmsd)
    for name, given in quality_piq.pairs().items():
        ms_ssim = jax.jit(metrics.ms_ssim) if name == "large" else small_ms_ssim
        assert float(ms_ssim(*given)) == pytest.approx(theirs[f"{name}/ms_ssim"], abs=2e-5)
        assert float(gmsd(*given)) == pytest.approx(theirs[f"{name}/gmsd"], abs=2e-5)
    assert theirs["negative/ms_ssim"] == 0  # a structure that has no power


def test_odd_sides_are_halved_as_the_authors_halve_them():
    """Theirs are MATLAB's: a box filter with mirrored or with zero borders, then every second."""
    image, copy = (values.astype(np.float64) for values in pair((33, 25, 3)))
    weights, options = (0.3, 0.5), {"gaussian_weights": True, "use_sample_covariance": False}
    half = [
        scipy.ndimage.uniform_filter(values, (2, 2, 1), mode="reflect", origin=(-1, -1, 0))[
            ::2, ::2
        ]
        for values in (image, copy)
    ]
    expected = []
    for channel in range(3):
        fine, coarse = image[..., channel], half[0][..., channel]
        blur = lambda x: scipy.ndimage.gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]
        x, y = fine, copy[..., channel]
        covariance = blur(x * y) - blur(x) * blur(y)
        spread = blur(x * x) - blur(x) ** 2 + blur(y * y) - blur(y) ** 2
        contrast = ((2 * covariance + 0.03**2) / (spread + 0.03**2)).mean()
        whole = skimage.metrics.structural_similarity(
            coarse, half[1][..., channel], data_range=1, sigma=1.5, **options
        )
        expected.append(contrast ** weights[0] * whole ** weights[1])
    ours = metrics.ms_ssim(*map(np.float32, (image, copy)), weights=weights)
    assert float(ours) == pytest.approx(np.mean(expected), abs=2e-5)

    lengths = []
    for values in (image, copy):
        grey = values @ [0.299, 0.587, 0.114]
        padded = np.pad(grey, [(0, 1), (0, 1)])
        grey = (padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:])[
            ::2, ::2
        ] / 4
        slopes = [scipy.ndimage.prewitt(grey, axis, mode="constant") / 3 for axis in (0, 1)]
        lengths.append(np.hypot(*slopes))
    constant = 170 / 255**2
    likeness = (2 * lengths[0] * lengths[1] + constant) / (
        lengths[0] ** 2 + lengths[1] ** 2 + constant
    )
    ours = metrics.gmsd(*map(np.float32, (image, copy)))
    assert float(ours) == pytest.approx(likeness.std(), abs=2e-5)


def test_equal_pictures_are_as_good_as_can_be(small_ms_ssim):
    image = quality_piq.pairs()["noise"][0]
    assert float(small_ms_ssim(image, image)) == pytest.approx(1, abs=1e-6)
    assert float(metrics.gmsd(image, image)) == 0
    levels = np.round(255 * image).astype(np.uint8)
    assert float(metrics.gmsd(levels, levels[::-1], data_range=255)) == pytest.approx(
        float(metrics.gmsd(np.float32(levels / 255), np.float32(levels[::-1] / 255))), abs=1e-6
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": ()}, r"weights=\(\) must hold a positive and finite number"),
        ({"weights": (0.5, -0.5)}, r"weights=\(0.5, -0.5\) must hold a positive"),
        ({"weights": 0.5}, "weights=0.5 must be a tuple"),
        ({"window": 10}, "window=10 must be a positive odd"),
        ({"sigma": 0}, "sigma=0 must be positive"),
        ({}, r"window of 11 pixels, 5 scales need 161 .*\(16, 16, 3\) has fewer: give fewer"),
        ({"weights": (0.5, 0.5)}, "2 scales need 21 pixels"),
        ({"data_range": -1}, "data_range=-1 must be positive"),
    ],
)
def test_ms_ssim_refuses_what_it_cannot_do(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        metrics.ms_ssim(GREY, GREY, **options)


def test_gmsd_refuses_other_channels_and_small_images():
    with pytest.raises(ValueError, match=r"has 4: give image\[..., :3\]"):
        metrics.gmsd(jnp.zeros((16, 16, 4)), jnp.zeros((16, 16, 4)))
    with pytest.raises(ValueError, match=r"at least 5 pixels a side, but image.shape=\(4, 9, 3\)"):
        metrics.gmsd(jnp.zeros((4, 9, 3)), jnp.zeros((4, 9, 3)))
