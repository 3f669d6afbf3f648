"""What all measures of images promise: batches, gradients, and real photographs in order."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from rainjax import metrics
from tests.golden import quality_piq, seeded

SHORT = metrics.MS_SSIM_WEIGHTS[:3]


def measures(image, reference):
    """Returns every measure of an image, and of it beside its reference."""
    return {
        "ssim": metrics.ssim(image, reference),
        "ms_ssim": metrics.ms_ssim(image, reference, weights=SHORT, window=7),
        "gmsd": metrics.gmsd(image, reference),
        "mscn": metrics.mscn(image, border="edge"),
        "brisque": metrics.brisque_features(image, border="edge"),
        "gradients": jnp.stack(metrics.gradient_statistics(image)),
        "slope": metrics.spectral_slope(image),
        "share": metrics.high_frequency_share(image),
    }


many = jax.jit(jax.vmap(measures))  # of four at a time, so that it is compiled once


@pytest.fixture(scope="module")
def batch():
    pictures = quality_piq.pairs()
    given = [pictures[name] for name in ("noise", "blur", "much_noise", "negative")]
    return tuple(jnp.stack(side) for side in zip(*given, strict=True))


def test_a_batch_changes_nothing(batch):
    together, one = many(*batch), jax.jit(measures)
    for i in range(4):
        for name, values in one(batch[0][i], batch[1][i]).items():
            np.testing.assert_allclose(
                together[name][i], values, rtol=2e-4, atol=2e-5, err_msg=name
            )


def test_gradients_are_what_a_small_step_does(batch):
    image, reference = 0.1 + 0.8 * batch[0][0], batch[1][0]
    direction, step = jnp.asarray(seeded.picture(*image.shape[:2], seed=3)) - 0.5, 2e-3
    beside = jnp.stack([reference] * 4)
    found = many(jnp.stack([image + s * direction for s in (-step, 0, 0, step)]), beside)
    pushed = jax.jit(lambda x: jax.jvp(lambda y: measures(y, reference), (x,), (direction,))[1])
    for name, slope in pushed(image).items():
        expected = (found[name][3] - found[name][0]) / (2 * step)
        size = float(jnp.abs(expected).max())
        assert size > 1e-3, name
        agrees = np.isclose(slope, expected, rtol=0.02, atol=0.02 * size)
        # BRISQUE's variances jump where a product of neighbours changes its side.
        assert agrees.mean() > 0.85 if name == "brisque" else agrees.all(), name


def test_gradients_are_finite_where_roots_and_ratios_are_zero(batch):
    image = batch[0][0]
    colours = [jnp.full_like(image, value) for value in (0.0, 0.3, 1.0)]
    halves = image.at[:24].set(1.0)
    given = jnp.stack([*colours, image, halves, 1 - image])
    beside = jnp.stack([*colours, image, halves, image])

    def total(image, reference):
        return sum(jnp.sum(values) for values in measures(image, reference).values())

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(total, (0, 1))))(given, beside)
    assert np.isfinite(values).all()
    assert all(np.isfinite(slope).all() for slope in slopes)


def _distorted(photograph):
    """Returns a photograph, and with it each distortion's three severities."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=photograph.shape)

    def compressed(quality):
        stream = io.BytesIO()
        picture = PIL.Image.fromarray(np.round(255 * photograph).astype(np.uint8))
        picture.save(stream, "JPEG", quality=quality)
        return np.asarray(PIL.Image.open(stream)) / 255

    blur = lambda sigma: scipy.ndimage.gaussian_filter(photograph, (sigma, sigma, 0))
    rows = {
        "blur": [blur(sigma) for sigma in (0.7, 1.4, 2.8)],
        "noise": [np.clip(photograph + size * noise, 0, 1) for size in (0.03, 0.08, 0.2)],
        "jpeg": [compressed(quality) for quality in (70, 25, 6)],
    }
    return {name: np.stack([photograph, *given]) for name, given in rows.items()}


def test_quality_of_photographs_falls_with_every_distortion(shared_data):
    with np.load(shared_data / "nips2017_224.npz") as data:
        raw, ends = data["data"].tobytes(), data["offsets"]
    files = [raw[ends[i] : ends[i + 1]] for i in range(0, 60, 10)]
    photographs = [
        PIL.Image.open(io.BytesIO(file)).convert("RGB").resize((56, 56)) for file in files
    ]
    photographs = [np.asarray(p, np.float64)[4:52, 8:48] / 255 for p in photographs]
    rows = [_distorted(photograph) for photograph in photographs]
    found = {}
    for name in rows[0]:
        given = [row[name].astype(np.float32) for row in rows]
        parts = [many(four, np.stack([four[0]] * 4)) for four in given]
        found[name] = {key: np.stack([part[key] for part in parts]) for key in parts[0]}
    rises = lambda values: (np.diff(values, axis=1) > 0).all()
    for name, values in found.items():
        for likeness in ("ssim", "ms_ssim"):
            assert rises(-values[likeness]), (name, likeness)
        assert rises(values["gmsd"]), name
        # Natural statistics are left: by more with every step, on average over photographs.
        natural = found["blur"]["brisque"][:, 0]
        spread = natural.std(0) + 1e-3
        away = np.abs(values["brisque"] - natural[:, None]) / spread
        assert (np.diff(away.mean((0, 2))) > 0).all(), name
    blur, noise = found["blur"], found["noise"]
    assert rises(-blur["slope"][:, :3])  # of the last, little is left but rounding
    assert rises(noise["slope"])
    assert rises(-blur["share"])
    assert rises(noise["share"])
    assert rises(-blur["gradients"][:, :, 3])  # the Laplacian's variance
    assert rises(noise["gradients"][:, :, 3])
    assert rises(-blur["gradients"][:, :, 0])  # the gradient's mean
    slopes, kurtosis = found["blur"]["slope"][:, 0], found["blur"]["gradients"][:, 0, 2]
    assert -4 < np.median(slopes) < -1.5  # nature's is about -2
    assert (kurtosis > 0).all()
