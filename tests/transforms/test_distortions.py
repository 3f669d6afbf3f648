"""Distortions keep their promises: values, draws, gradients, photographs, and what they refuse."""

import functools
import io
import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from rainjax.metrics import psnr, ssim
from rainjax.transforms import DISTORTIONS, SEVERITIES, Distortion, distort
from rainjax.transforms.distortions import DistortionName
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
    of_pair,
)
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


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
