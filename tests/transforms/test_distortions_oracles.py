"""Distortions beside imagecorruptions, SciPy, scikit-image, Pillow and closed forms."""

import io
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import scipy.stats
import skimage.color

from rainjax.transforms import SEVERITIES, Distortion
from rainjax.transforms.distortions.blur import dragged
from tests.distorted import (
    CONTRASTS,
    DEVIATIONS,
    DISKS,
    IMPULSES,
    KEYS,
    PAIR,
    PHOTONS,
    PICTURE,
    QUALITIES,
    SATURATIONS,
    SHARES,
    SIGMAS,
    STREAKS,
    VALUES,
    both_scales,
    compiled,
    of_flat,
    of_pair,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "distortions_imagecorruptions.npz"


# -- Against the benchmark's own code in Python -----------------------------------------------


@pytest.mark.parametrize(
    "name", ["gaussian_blur", "defocus_blur", "contrast", "brightness", "saturate"]
)
def test_severities_are_imagecorruptions(name):
    """To a hundredth of a grey level."""
    stored = np.load(GOLDEN)[name] / 256
    found = 255 * of_pair(name, "imagenet_c")[0, :, ::3, ::3]
    np.testing.assert_allclose(found, stored, atol=0.01)


@pytest.mark.parametrize("name", ["jpeg_compression", "pixelate"])
def test_compression_is_imagecorruptions_to_its_rounding(name):
    """Its images are rounded to 8 bits, twice when they are made smaller and larger."""
    stored = np.load(GOLDEN)[name] / 256
    off = np.abs(255 * of_pair(name, "imagenet_c")[0, :, ::3, ::3] - stored)
    if name == "pixelate":
        assert off.max() < 1.5
    assert off.mean() < 0.4


def test_motion_blur_is_imagecorruptions():
    stored = np.load(GOLDEN)
    drag = jax.jit(dragged)
    for severity, (radius, sigma) in enumerate(STREAKS["imagenet_c"]):
        angle = jnp.float32(math.radians(stored["angles"][severity]))
        found = 255 * drag(PAIR[0], jnp.asarray(_half(radius, sigma, 41)), angle)[::3, ::3]
        np.testing.assert_allclose(found, stored["motion_blur"][severity] / 256, atol=0.01)


# -- Blur and compression against SciPy, NumPy and Pillow -------------------------------------


@both_scales
def test_gaussian_blur_is_scipys(scale):
    for found, sigma in zip(of_pair("gaussian_blur", scale)[0], SIGMAS[scale], strict=True):
        wanted = scipy.ndimage.gaussian_filter(
            PAIR[0].astype(float), (sigma, sigma, 0), mode="nearest", truncate=4.0
        )
        np.testing.assert_allclose(found, wanted, atol=2e-6)


@both_scales
def test_defocus_blur_is_scipys_correlation_with_a_softened_disk(scale):
    for found, (radius, sigma) in zip(
        of_pair("defocus_blur", scale)[0], DISKS[scale], strict=True
    ):
        side = 2 * max(8, radius) + 1
        kernel = np.array(
            [
                [
                    (row - side // 2) ** 2 + (column - side // 2) ** 2 <= radius**2
                    for column in range(side)
                ]
                for row in range(side)
            ],
            float,
        )
        kernel /= kernel.sum()
        reach = 1 if radius <= 8 else 2
        for axis in (0, 1):
            options = {"mode": "mirror", "radius": reach, "axis": axis}
            kernel = scipy.ndimage.gaussian_filter1d(kernel, sigma, **options)
        wanted = scipy.ndimage.correlate(PAIR[0].astype(float), kernel[..., None], mode="mirror")
        np.testing.assert_allclose(found, np.clip(wanted, 0, 1), atol=3e-6)


@both_scales
def test_motion_blur_drags_along_a_line_that_is_drawn(scale):
    """What becomes of one bright pixel, against steps at angles near the one that it shows."""
    point = np.zeros_like(PAIR)
    point[:, 24, 42] = 1.0
    trails = np.asarray(compiled("motion_blur", scale)(KEYS, point))[..., 0]
    for trail, (radius, sigma) in zip(trails[0], STREAKS[scale], strict=True):
        # Long trails are told apart by hundredths of a degree, and short ones have little to show.
        near = math.degrees(_direction(trail)) + np.arange(-6, 6, 0.01)
        angles = np.concatenate([near, np.arange(-45, 45, 0.25)])
        off = [np.abs(trail - _trail(radius, sigma, angle)).max() for angle in angles]
        assert min(off) < 1e-6
        assert max(off) > 1e-3
    assert np.abs(trails[0] - trails[1]).max() > 1e-3


def test_motion_has_any_direction_within_45_degrees():
    point = jnp.zeros((48, 44, 1)).at[24, 42].set(1.0)
    apply = Distortion("motion_blur", 4, "imagenet_c").apply
    keys = jax.random.split(jax.random.key(2), 300)
    trails = np.asarray(jax.jit(jax.vmap(apply, (0, None)))(keys, point))[..., 0]
    angles = [_direction(trail) for trail in trails]
    uniform = scipy.stats.uniform(-math.pi / 4, math.pi / 2)
    assert scipy.stats.kstest(angles, uniform.cdf).pvalue > 1e-3


@both_scales
def test_jpeg_is_what_pillow_reads_back(scale):
    """Most values to the grey level; a coefficient on another step moves a whole block."""
    off = []
    for found, quality in zip(
        of_pair("jpeg_compression", scale)[0], QUALITIES[scale], strict=True
    ):
        stream = io.BytesIO()
        PIL.Image.fromarray(PICTURE).save(stream, "JPEG", quality=quality)
        off.append(np.abs(255 * found - np.asarray(PIL.Image.open(stream), float)))
        assert np.mean(off[-1]) < 0.4, quality
    assert np.median(off) < 1e-4
    assert np.mean(np.array(off) > 1.5) < 0.08


@both_scales
def test_pixelation_is_pillows_box_filter_there_and_back(scale):
    for found, share in zip(of_pair("pixelate", scale)[1], SHARES[scale], strict=True):
        for channel in range(3):
            plane = PIL.Image.fromarray(PAIR[1, ..., channel])
            assert plane.mode == "F"
            small = plane.resize((int(44 * share), int(48 * share)), PIL.Image.Resampling.BOX)
            wanted = small.resize((44, 48), PIL.Image.Resampling.BOX)
            np.testing.assert_allclose(found[..., channel], np.asarray(wanted), atol=2e-6)


# -- Colours against scikit-image -------------------------------------------------------------


@both_scales
def test_contrast_is_a_share_of_the_distance_to_the_mean(scale):
    means = PAIR.astype(float).mean((1, 2), keepdims=True)
    for severity, share in enumerate(CONTRASTS[scale]):
        wanted = means + share * (PAIR - means)
        np.testing.assert_allclose(of_pair("contrast", scale)[:, severity], wanted, atol=1e-6)


@both_scales
def test_brightness_and_saturation_are_scikit_images(scale):
    for severity in range(5):
        (factor, offset), more = SATURATIONS[scale][severity], VALUES[scale][severity]
        brighter, stronger = skimage.color.rgb2hsv(PAIR), skimage.color.rgb2hsv(PAIR)
        brighter[..., 2] = np.clip(brighter[..., 2] + more, 0, 1)
        stronger[..., 1] = np.clip(stronger[..., 1] * factor + offset, 0, 1)
        for name, wanted in (("brightness", brighter), ("saturate", stronger)):
            found = of_pair(name, scale)[:, severity]
            np.testing.assert_allclose(found, skimage.color.hsv2rgb(wanted), atol=1e-5)


@both_scales
@pytest.mark.parametrize(("name", "step"), [("over_exposure", 0.5), ("under_exposure", -1.0)])
def test_exposure_multiplies_scikit_images_light(name, step, scale):
    """By way of XYZ, which is linear in light; its matrices have six digits."""
    step = step / 2 if scale == "cifar10_c" else step
    for severity in SEVERITIES:
        light = skimage.color.rgb2xyz(PAIR.astype(float)) * 2 ** (step * severity)
        found = of_pair(name, scale)[:, severity - 1]
        np.testing.assert_allclose(found, skimage.color.xyz2rgb(light), atol=1e-4)


@both_scales
def test_colour_shift_keeps_luminance_and_moves_by_its_length(scale):
    value = lambda key: Distortion("colour_shift", 5, scale).apply(key, jnp.full((1, 1, 3), 0.5))
    keys = jax.random.split(jax.random.key(3), 300)
    casts = np.asarray(jax.jit(jax.vmap(value))(keys))[:, 0, 0] - 0.5
    np.testing.assert_allclose(casts @ [0.299, 0.587, 0.114], 0, atol=1e-6)
    blue, red = casts[:, 2] / 1.772, casts[:, 0] / 1.402
    np.testing.assert_allclose(
        np.hypot(blue, red), 0.25 if scale == "imagenet_c" else 0.125, atol=1e-6
    )
    hues = (np.arctan2(red, blue) / (2 * math.pi)) % 1
    assert scipy.stats.kstest(hues, "uniform").pvalue > 1e-3
    # One cast for all pixels, five times as long at the last severity as at the first.
    moved = of_flat("colour_shift", scale)[0] - 0.5
    assert np.ptp(moved, axis=(1, 2)).max() < 1e-6
    np.testing.assert_allclose(moved[4, 0, 0], 5 * moved[0, 0, 0], atol=1e-6)


# -- Noise by its distribution ----------------------------------------------------------------


def _agree(values, share_below, at):
    """Whether the shares of values below points are a distribution's, to 5 standard errors."""
    wanted = np.array([share_below(point) for point in at])
    found = (values.ravel()[:, None] <= at).mean(0)
    error = np.sqrt(wanted * (1 - wanted) / values.size)
    assert (np.abs(found - wanted) <= 5 * error + 1e-9).all(), (found, wanted)


@both_scales
def test_gaussian_noise_is_normal_and_clipped(scale):
    results = of_flat("gaussian_noise", scale)
    for image, level in zip(results, (0.5, 0.2), strict=True):
        for values, sigma in zip(image, DEVIATIONS[scale], strict=True):
            at = level + sigma * np.linspace(-2, 2, 9)
            _agree(values, scipy.stats.norm(level, sigma).cdf, at[(at > 0) & (at < 1)])
            if 0.5 - 5 * sigma >= 0 and level == 0.5:  # nothing was clipped
                assert abs(values.std() / sigma - 1) < 5 / math.sqrt(2 * values.size)
    # Neither channels nor neighbours nor keys share anything.
    noise = results[:, 0] - np.float32([0.5, 0.2])[:, None, None, None]
    pairs = [
        (noise[0, ..., 0], noise[0, ..., 1]),
        (noise[0, 1:], noise[0, :-1]),
        (noise[0, :, 1:], noise[0, :, :-1]),
        (noise[0], noise[1]),
    ]
    for one, other in pairs:
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / math.sqrt(one.size)


@both_scales
def test_shot_noise_counts_photons(scale):
    for image, level in zip(of_flat("shot_noise", scale), (0.5, 0.2), strict=True):
        for values, photons in zip(image, PHOTONS[scale], strict=True):
            counts = values.astype(float) * photons
            np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
            law = scipy.stats.poisson(np.float32(level) * photons)
            at = np.unique(law.ppf([0.05, 0.2, 0.4, 0.6, 0.8, 0.95]))
            at = at[at < photons - 1]  # what is above is clipped to 1
            # Between two counts, which are not quite whole any more.
            _agree(
                values,
                lambda x, law=law, n=photons: law.cdf(np.floor(x * n)),
                (at + 0.5) / photons,
            )
            if law.sf(photons) < 1e-6:  # no count was clipped
                assert abs(values.mean() - level) < 5 * law.std() / photons / math.sqrt(
                    values.size
                )
                assert values.var() == pytest.approx(level / photons, rel=0.1)


@both_scales
def test_impulses_are_black_and_white_in_equal_shares(scale):
    for image, level in zip(of_flat("impulse_noise", scale), (0.5, 0.2), strict=True):
        for values, share in zip(image, IMPULSES[scale], strict=True):
            counts = [(values == wanted).sum() for wanted in (0.0, np.float32(level), 1.0)]
            assert sum(counts) == values.size
            expected = values.size * np.array([share / 2, 1 - share, share / 2])
            assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4


# -- Motion's own numbers ---------------------------------------------------------------------


def _half(radius, sigma, length):
    """ImageMagick's weights: half a Gaussian, of `2 * radius + 1` steps; zeros up to a length."""
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    return np.pad(weights / weights.sum(), (0, length - len(taps))).astype(np.float32)


def _trail(radius, sigma, degrees):
    """What ImageMagick's steps make of a pixel in row 24 and column 42: they look for it."""
    total = np.zeros((48, 44))
    for step, weight in enumerate(_half(radius, sigma, 2 * radius + 1)):
        row = 24 - math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
        if 0 <= row < 48:
            total[row, 42 - math.ceil(step * math.cos(math.radians(degrees)) - 0.5)] += weight
    return total


def _direction(trail):
    """The angle from that pixel to the middle of its trail."""
    rows, columns = 24 - np.arange(48)[:, None], 42 - np.arange(44)
    return math.atan2((trail * rows).sum(), (trail * columns).sum())
