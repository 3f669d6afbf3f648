"""Distortions against SciPy, scikit-image, Pillow, NumPy loops, and imagecorruptions' outputs."""

import functools
import io
import itertools
import math
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import scipy.stats
import skimage.color

from rainjax.metrics import psnr, ssim
from rainjax.transforms import DISTORTIONS, SEVERITIES, Distortion, distort
from rainjax.transforms.distortions import DistortionName
from rainjax.transforms.distortions.blur import dragged
from tests.distorted import (
    CONTRASTS,
    DEVIATIONS,
    DISKS,
    IMPULSES,
    KEYS,
    OTHER_KEYS,
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
    everything,
    of_flat,
    of_pair,
)
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

GOLDEN = pathlib.Path(__file__).parent / "golden" / "distortions_imagecorruptions.npz"


# -- What all of them promise -----------------------------------------------------------------


def test_every_name_has_a_definition():
    assert typing.get_args(DistortionName) == tuple(DISTORTIONS)
    for definition in DISTORTIONS.values():
        assert len(definition.imagenet_c) == len(definition.cifar10_c) == len(SEVERITIES)


@both_scales
def test_constants_are_the_benchmarks(scale):
    """Read twice: a noise that is a little too strong is within what a sample of it may be."""
    typed = {
        "gaussian_noise": DEVIATIONS,
        "shot_noise": PHOTONS,
        "impulse_noise": IMPULSES,
        "gaussian_blur": SIGMAS,
        "motion_blur": STREAKS,
        "defocus_blur": DISKS,
        "jpeg_compression": QUALITIES,
        "pixelate": SHARES,
        "contrast": CONTRASTS,
        "brightness": VALUES,
        "saturate": SATURATIONS,
    }
    assert set(typed) == {name for name, one in DISTORTIONS.items() if one.in_benchmark}
    for name, constants in typed.items():
        assert getattr(DISTORTIONS[name], scale) == constants[scale], name


@both_scales
@everything
def test_results_are_images_and_every_severity_is_another(name, scale):
    results = of_pair(name, scale)
    assert results.dtype == np.float32
    assert results.shape == (2, 5, 48, 44, 3)
    assert np.isfinite(results).all()
    assert results.min() >= 0
    assert results.max() <= 1
    for result, original in zip(results, PAIR, strict=True):
        assert (np.abs(result - original).max((1, 2, 3)) > 1e-3).all()
        for one, other in itertools.combinations(SEVERITIES, 2):
            # CIFAR-10-C's two streaks of sigma 2 differ where their weights are below 1e-9.
            same = (name, scale, one, other) == ("motion_blur", "cifar10_c", 3, 4)
            assert same == (np.abs(result[one - 1] - result[other - 1]).max() < 1e-3)


@everything
def test_a_value_is_what_batches_and_traced_severities_give(name):
    value = Distortion(name, 4, "imagenet_c")
    found = jax.jit(value.apply)(KEYS[1], PAIR[1])
    np.testing.assert_allclose(found, of_pair(name, "imagenet_c")[1, 3], atol=2e-6)


@everything
def test_only_what_is_random_sees_the_key(name):
    same = np.stack([PAIR[1]] * 2)
    one, other = compiled(name, "cifar10_c")(OTHER_KEYS, same)
    definition = Distortion(name, 1, "cifar10_c").definition
    assert definition.is_random == bool((np.abs(one - other).max((1, 2, 3)) > 1e-3).all())
    assert definition.is_random != bool((one == other).all())


@everything
def test_gradients_are_what_is_said_of_them(name):
    """Along a direction, against a difference, where no value is clipped, grey or tied."""
    rng = np.random.default_rng(0)
    image = (np.array([0.35, 0.45, 0.55]) + rng.uniform(-0.04, 0.04, (12, 10, 3))).astype(
        np.float32
    )
    weights = rng.normal(size=image.shape).astype(np.float32)
    along = rng.uniform(-1, 1, image.shape).astype(np.float32)
    value = Distortion(name, 1, "cifar10_c")
    loss = lambda x: jnp.sum(weights * value.apply(KEYS[0], x))
    both = jax.jit(jax.value_and_grad(loss))
    slope = np.sum(np.asarray(both(image)[1]) * along)
    if value.definition.gradient == "zero":
        assert slope == 0
        return
    ahead, behind = (float(both(image + step * along)[0]) for step in (0.01, -0.01))
    assert slope == pytest.approx((ahead - behind) / 0.02, rel=0.02)
    assert abs(slope) > 0.1


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


# -- On photographs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(shared_data):
    """Four photographs in colour at 48 x 44: Imagenette's, made smaller."""
    path = shared_data / "imagenette224_val.npz"
    if not path.is_file():
        pytest.skip(f"needs photographs in {path}")
    stored = np.load(path)
    data, offsets = stored["data"].tobytes(), stored["offsets"]
    images = []
    for start, end in zip(offsets[::150], offsets[1::150], strict=False):
        photograph = PIL.Image.open(io.BytesIO(data[start:end])).convert("RGB")
        small = np.asarray(photograph.resize((44, 48), PIL.Image.Resampling.BICUBIC))
        if np.ptp(small, axis=-1).mean() > 10:
            images.append(small)
    return np.float32(np.stack(images[:4]) / 255)


@functools.cache
def qualities_of_pair():
    both = lambda image, original: jnp.stack([psnr(image, original), ssim(image, original)])
    return jax.jit(jax.vmap(jax.vmap(both, (0, None))))


@both_scales
def test_photographs_get_worse_with_severity(photographs, scale):
    """In the mean over four, by PSNR and by SSIM.

    The benchmark takes saturation away first, and adds some afterwards; and CIFAR-10-C's third and
    fourth motion blur differ in the tail of the kernel alone.
    """
    keys = jax.random.split(jax.random.key(4), len(photographs)).reshape(-1, 2)
    for name in DISTORTIONS:
        run, measure = compiled(name, scale), qualities_of_pair()
        qualities = np.concatenate(
            [
                measure(run(pair_keys, pair), pair)
                for pair_keys, pair in zip(
                    keys, photographs.reshape(-1, 2, 48, 44, 3), strict=True
                )
            ]
        ).mean(0)
        worse = np.diff(qualities, axis=0) < 0
        if name == "saturate":
            worse = worse[[0, 2, 3]]
        if (name, scale) == ("motion_blur", "cifar10_c"):
            assert np.abs(np.diff(qualities[2:4], axis=0)).max() < 0.01
            worse = worse[[0, 1, 3]]
        assert worse.all(), (name, qualities)


# -- Bad input --------------------------------------------------------------------------------


def _noise(image=PAIR[0], key=KEYS[0], name="gaussian_noise", severity=1, scale="cifar10_c"):
    return distort(key, image, name=name, severity=severity, scale=scale)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: _noise(severity=0), "severity=0 must be 1, 2, 3, 4 or 5"),
        (lambda: _noise(severity=6), "severity=6 must be"),
        (lambda: _noise(severity=2.5), "severity=2.5 must be a whole number"),
        (lambda: _noise(severity=True), "severity=True must be a whole number"),
        (lambda: Distortion("contrast", 6, "cifar10_c"), "severity=6 must be"),
        (lambda: Distortion("contrast", 2.5, "cifar10_c"), "severity=2.5 must be a whole number"),
        (lambda: _noise(name="fog"), "name='fog' is none of 'gaussian_noise', 'shot_noise'"),
        (lambda: Distortion("fog", 1, "cifar10_c"), "name='fog' is none of"),
        (lambda: _noise(scale="cifar"), "scale='cifar' is none of 'imagenet_c', 'cifar10_c'"),
        (lambda: _noise(image=PAIR), r"got float32 of shape \(2, 48, 44, 3\).*use jax.vmap"),
        (lambda: _noise(image=PICTURE), "got uint8 of shape .*divide integers by 255"),
        (lambda: _noise(image=255 * PAIR[0]), r"in \[0, 1\], not one in \[0, 255\]: divide"),
        (lambda: _noise(image=PAIR[0] - 0.5), r"not one in \[-0.5, 0.5\]: clip it"),
        (lambda: _noise(image=PAIR[0] * np.nan), "replace its NaN"),
        (lambda: _noise(image=np.moveaxis(PAIR[0], -1, 0)), "has its channels first"),
        (lambda: _noise(key=0), r"distort takes a key, not 0: jax.random.key\(0\) makes one"),
        (lambda: _noise(key=KEYS), "distort takes one key, not an array"),
        (
            lambda: _noise(PAIR[0, ..., :1], name="saturate"),
            r"saturate takes images of 3 channels",
        ),
        (lambda: _noise(PAIR[0, ..., :1], name="colour_shift"), "colour_shift takes .*jnp.repeat"),
        (lambda: _noise(PAIR[0, ..., :2], name="jpeg_compression"), "1 channel or 3"),
    ],
)
def test_what_is_impossible_is_refused(call, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        call()


def test_a_traced_severity_outside_counts_as_the_nearest():
    image = jnp.asarray(PAIR[0])
    run = jax.jit(lambda severity: _noise(image, name="contrast", severity=severity))
    np.testing.assert_array_equal(run(0), run(1))
    np.testing.assert_array_equal(run(9), run(5))


@pytest.mark.parametrize(
    "name", ["gaussian_blur", "motion_blur", "defocus_blur", "pixelate", "brightness"]
)
def test_grey_and_tiny_images_are_distorted_too(name):
    """The strongest blur reaches further than such an image is wide."""
    image = jnp.full((3, 1, 1), 0.5).at[0].set(0.25)
    found = jax.jit(Distortion(name, 5, "imagenet_c").apply)(KEYS[0], image)
    assert found.shape == image.shape
    assert jnp.isfinite(found).all()


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
