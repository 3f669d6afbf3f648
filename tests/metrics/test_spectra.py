"""Spectra, their slope and their high frequencies: NumPy loops and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import metrics
from tests.metrics.pictures import GREY, pair
from tests.tiny import unchecked


@pytest.mark.parametrize("shape", [(16, 16, 3), (12, 17, 1)])
def test_plain_spectrum_agrees_with_a_loop(shape):
    image = pair(shape)[0]
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


def _coloured_noise(exponent, shape=(64, 48, 8)):
    """Noise whose power falls with frequency to the power of `exponent`."""
    rng = np.random.default_rng(4)
    white = np.fft.fft2(rng.normal(size=shape), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    frequency[0, 0] = np.inf
    coloured = np.fft.ifft2(white * frequency[..., None] ** (exponent / 2), axes=(0, 1)).real
    return jnp.asarray(coloured, jnp.float32)


SLOPE, SHARE = jax.jit(metrics.spectral_slope), jax.jit(metrics.high_frequency_share)


@pytest.mark.parametrize("exponent", [0, -1, -2, -3])
def test_slope_is_the_exponent_of_coloured_noise(exponent):
    assert float(SLOPE(_coloured_noise(exponent))) == pytest.approx(exponent, abs=0.15)


def test_slope_and_share_agree_with_numpy():
    image = np.asarray(_coloured_noise(-1.5))
    power = np.asarray(metrics.radial_spectrum(jnp.asarray(image)), np.float64)
    frequency = metrics.radial_frequencies(64, 48)
    band = frequency >= 0.05
    expected = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert float(SLOPE(jnp.asarray(image))) == pytest.approx(expected, abs=1e-4)

    window = [np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (64, 48)]
    tapered = (image - image.mean((0, 1))) * np.outer(*window)[..., None]
    energy = (np.abs(np.fft.fft2(tapered, axes=(0, 1))) ** 2).mean(-1)
    rows, columns = np.fft.fftfreq(64)[:, None], np.fft.fftfreq(48)
    ring = np.round(48 * np.hypot(rows, columns))
    ring[np.hypot(rows, columns) > 0.5] = -1
    expected = energy[ring >= 12].sum() / energy[ring >= 1].sum()
    assert float(SHARE(jnp.asarray(image))) == pytest.approx(expected, rel=1e-4)


def test_white_noise_has_the_share_of_the_area():
    noise = _coloured_noise(0)
    assert float(SHARE(noise)) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("measure", "options", "sentence"),
    [
        (
            metrics.spectral_slope,
            {"lowest": 0.45},
            r"1/16 cycles per pixel, 1 lie between lowest=",
        ),
        (metrics.spectral_slope, {"highest": float("nan")}, "0 lie between .*highest=nan"),
        (metrics.spectral_slope, {"lowest": "0"}, "lowest='0' must be a number"),
        (metrics.high_frequency_share, {"cutoff": 0.6}, "cutoff=0.6 must lie above 0 and .* 0.5 "),
        (metrics.high_frequency_share, {"cutoff": 0.0}, "cutoff=0.0 must lie above 0"),
        (metrics.high_frequency_share, {"cutoff": None}, "cutoff=None must be a number"),
    ],
)
def test_options_without_a_frequency_are_refused(measure, options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        measure(GREY, **options)
    with unchecked(), pytest.raises(ValueError, match=f"{measure.__name__} takes floats, not u"):
        measure(GREY.astype(np.uint8))
