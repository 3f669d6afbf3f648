"""The measures against SciPy, scikit-image, NumPy loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import skimage.metrics

from rainjax import metrics


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
    ],
)
def test_wilson_names_what_is_wrong(arguments, words):
    with pytest.raises(ValueError, match=words):
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
