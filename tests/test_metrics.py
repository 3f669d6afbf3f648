"""The measures against SciPy, scikit-image, NumPy loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import skimage.metrics

from rainjax import metrics
from tests.tiny import unchecked


def _pair(shape, noise=0.1):
    """A picture with structure at several scales, and a noisy copy of it."""
    rng = np.random.default_rng(3)
    height, width, channels = shape
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (2 + c)) * np.cos(y / (3 + c)) for c in range(channels)]
    image = np.stack(waves, axis=-1) * 0.3 + 0.5 + rng.normal(0, 0.05, shape)
    copy = image + rng.normal(0, noise, shape)
    return np.clip(image, 0, 1).astype(np.float32), np.clip(copy, 0, 1).astype(np.float32)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (531, 1000), (999, 1000)]
)
def test_wilson_agrees_with_scipy(successes, total, confidence):
    test = scipy.stats.binomtest(successes, total)
    expected = test.proportion_ci(confidence_level=confidence, method="wilson")
    ours = metrics.wilson_interval(successes, total, confidence)
    assert ours == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_a_mean_over_draws_lies_between_its_neighbours():
    below, between, above = (metrics.wilson_interval(k, 100) for k in (40, 40.4, 41))
    assert below[0] < between[0] < above[0]
    assert below[1] < between[1] < above[1]
    # The ends are where the score statistic equals z: the definition, not the formula.
    for end in between:
        assert abs(0.404 - end) / np.sqrt(end * (1 - end) / 100) == pytest.approx(1.959964)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 0), "total=0"),
        ((11, 10), "successes=11"),
        ((-1, 10), "successes=-1"),
        ((float("nan"), 10), "successes=nan"),
        ((1, 10, 95.0), "confidence=95.0"),
        ((1, 10, "0.95"), "confidence='0.95' must be a number"),
        ((1, 2.5), "total=2.5 must be a whole number"),
        ((1, True), "total=True must be a whole number"),
        (("1", 10), "successes='1' must be a number"),
        ((np.ones(3), 10), r"successes=an array of shape \(3,\) must be a number"),
    ],
)
def test_wilson_names_what_is_wrong(arguments, words):
    with unchecked(), pytest.raises(ValueError, match=words):
        metrics.wilson_interval(*arguments)


@pytest.mark.parametrize("shape", [(32, 32, 3), (20, 33, 1)])
def test_psnr_agrees_with_scikit_image(shape):
    image, copy = _pair(shape)
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
    image, copy = _pair(shape, noise)
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
    image, copy = _pair((24, 24, 3))
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
    image = jnp.asarray(_pair((16, 16, 3))[0])
    assert float(metrics.ssim(image, image)) == pytest.approx(1.0, abs=1e-6)


def _whole(shape=(16, 17, 3)):
    image, copy = _pair(shape)
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
    for pair in levels:
        for given in (pair, tuple(map(jnp.asarray, pair))):
            assert float(metrics.psnr(*given, data_range=255)) == pytest.approx(psnr, abs=1e-3)
            assert float(metrics.ssim(*given, data_range=255.0)) == pytest.approx(ssim, abs=2e-5)
    program = jax.jit(lambda *pair: metrics.psnr(*pair, data_range=255))
    assert float(program(image, copy)) == pytest.approx(psnr, abs=1e-3)


GREY = np.full((16, 16, 3), 0.5, np.float32)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
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


@pytest.mark.parametrize("shape", [(16, 16, 3), (12, 17, 1)])
def test_plain_spectrum_agrees_with_a_loop(shape):
    image = _pair(shape)[0]
    height, width, channels = shape
    shorter = min(height, width)
    y, x = np.mgrid[:height, :width]
    sums, counts = np.zeros(shorter // 2 + 1), np.zeros(shorter // 2 + 1)
    for v in range(-(height // 2), (height + 1) // 2):
        for u in range(-(width // 2), (width + 1) // 2):
            frequency = np.sqrt((v / height) ** 2 + (u / width) ** 2)
            if frequency > 0.5:
                continue
            wave = np.exp(-2j * np.pi * (v * y / height + u * x / width))
            power = sum(abs((image[:, :, c] * wave).sum()) ** 2 for c in range(channels))
            ring = round(frequency * shorter)
            sums[ring] += power / channels / (height * width)
            counts[ring] += 1
    ours = jax.jit(lambda im: metrics.radial_spectrum(im, taper=False))(jnp.asarray(image))
    np.testing.assert_allclose(ours, sums / counts, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(
        metrics.radial_frequencies(height, width), np.arange(shorter // 2 + 1) / shorter
    )


@pytest.mark.parametrize("taper", [False, True])
def test_spectrum_of_white_noise_is_its_variance(taper):
    noise = np.random.default_rng(0).normal(0, 0.2, (64, 48, 20)).astype(np.float32)
    power = metrics.radial_spectrum(jnp.asarray(noise), taper=taper)
    np.testing.assert_allclose(power[2:], 0.04, rtol=0.15)


def test_taper_keeps_a_ramp_out_of_the_high_frequencies():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 32)[None, :, None], (32, 32, 1))
    plain = metrics.radial_spectrum(ramp, taper=False)
    tapered = metrics.radial_spectrum(ramp)
    assert float(tapered[10:].max()) < 1e-3 * float(plain[10:].min())


def test_spectrum_of_a_wave_sits_in_its_ring():
    wave = 0.5 + 0.5 * jnp.cos(2 * jnp.pi * 5 * jnp.arange(32) / 32)
    power = metrics.radial_spectrum(jnp.broadcast_to(wave[:, None, None], (32, 32, 3)))
    assert int(jnp.argmax(power)) == 5


def test_spectrum_refuses_a_line():
    with pytest.raises(ValueError, match="at least 2 pixels a side, but height=1"):
        metrics.radial_spectrum(jnp.zeros((1, 8, 3)))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((8, 8, 3), np.uint8), "takes floats, not uint8: divide by 255"),
        (np.full((8, 8, 3), np.nan, np.float32), "finite numbers, and the image holds others"),
        (np.zeros((2, 8, 8, 3), np.float32), "use jax.vmap for a batch"),
        (np.zeros((3, 8, 8), np.float32), "channels first"),
        (np.zeros((8, 8), np.float32), r"image\[..., None\]"),
        ("text", "radial_spectrum takes images"),
    ],
)
def test_spectrum_refuses_what_is_no_image(image, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        metrics.radial_spectrum(image)
    with unchecked(), pytest.raises(ValueError, match=r"height=8.5 must be a whole number"):
        metrics.radial_frequencies(8.5, 8)
    with unchecked(), pytest.raises(ValueError, match="taper='no' must be True or False"):
        metrics.radial_spectrum(GREY, taper="no")


def test_wilson_takes_numbers_of_jax():
    with unchecked():
        assert metrics.wilson_interval(jnp.int32(3), np.int64(7)) == metrics.wilson_interval(3, 7)
