"""BRISQUE's features against piq and a loop over pixels, and gradients against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import scipy.stats

from rainjax import metrics
from tests.golden import quality_piq, seeded
from tests.metrics.pictures import GREY
from tests.tiny import unchecked

BRISQUE = jax.jit(metrics.brisque_features, static_argnames="border")

# Shapes come from a table 0.001 apart in piq, as in the authors' program, and means from shapes.
TABLE = {"atol": 6e-4, "rtol": 1e-4}


def test_features_agree_with_piq():
    with np.load(quality_piq.GOLDEN) as theirs:
        for name, (image, _) in quality_piq.pairs().items():
            np.testing.assert_allclose(
                BRISQUE(image), theirs[f"{name}/brisque"], err_msg=name, **TABLE
            )


def _loop(image, border):
    """BRISQUE's features as the paper has them, by loops and its authors' table of shapes."""
    grey, features = 255 * (image.astype(np.float64) @ [0.299, 0.587, 0.114]), []
    offsets = np.arange(-3, 4)
    window = np.exp(-0.5 * (offsets / (7 / 6)) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    table = np.arange(0.2, 10.001, 0.001)
    gamma = scipy.special.gamma
    ratios = gamma(2 / table) ** 2 / (gamma(1 / table) * gamma(3 / table))
    for scale in range(2):
        grey = quality_piq.halved(grey) if scale else grey
        height, width = grey.shape
        mean = scipy.ndimage.correlate(grey, window, **border)
        padded = np.pad(grey, 3, mode={"constant": "constant", "nearest": "edge"}[border["mode"]])
        mscn = np.empty_like(grey)
        for i, j in np.ndindex(height, width):
            part = padded[i : i + 7, j : j + 7]
            deviation = np.sqrt((window * (part - mean[i, j]) ** 2).sum())
            mscn[i, j] = (grey[i, j] - mean[i, j]) / (deviation + 1)
        ratio = np.abs(mscn).mean() ** 2 / (mscn**2).mean()
        features += [table[np.abs(ratios - ratio).argmin()], (mscn**2).mean()]
        for down, right in ((0, 1), (1, 0), (1, 1), (-1, 1)):
            products = []
            for i, j in np.ndindex(height, width):
                other = i - down, j - right
                inside = 0 <= other[0] < height and 0 <= other[1] < width
                if inside or border["mode"] == "constant":
                    products.append(mscn[i, j] * mscn[other[0] % height, other[1] % width])
            products = np.array(products)
            left, right = (
                np.sqrt((products[s] ** 2).mean()) for s in (products < 0, products > 0)
            )
            g = left / right
            ratio = np.abs(products).mean() ** 2 / (products**2).mean()
            ratio *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
            shape = table[np.abs(ratios - ratio).argmin()]
            scale_of = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
            mean_of = (right - left) * scale_of * gamma(2 / shape) / gamma(1 / shape)
            features += [shape, mean_of, left**2, right**2]
    return np.array(features)


@pytest.mark.parametrize(
    ("border", "scipys"),
    [("zeros", {"mode": "constant", "cval": 0.0}), ("edge", {"mode": "nearest"})],
)
def test_features_of_odd_sides_agree_with_a_loop(border, scipys):
    image = seeded.picture(33, 25, seed=8)
    np.testing.assert_allclose(BRISQUE(image, border=border), _loop(image, scipys), **TABLE)


def test_flat_regions_have_no_coefficients_and_true_slopes():
    """Rounding would give their products signs, and sort them to either side."""
    image = np.full((32, 32, 3), 200 / 255, np.float32)
    image[:, 20:] = seeded.picture(32, 12, seed=1)
    coefficients = jax.jit(lambda x: metrics.mscn(x, border="edge"))
    assert (np.asarray(coefficients(image))[:, :17] == 0).all()
    assert (np.asarray(coefficients(image))[:, 20:] != 0).mean() > 0.99
    # In a flat region a pixel's coefficient moves by what it does not share with its mean.
    slope = jax.jit(jax.grad(lambda x: coefficients(x)[8, 8]))(image)
    centre = 1 / np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2).sum()
    assert float(slope[8, 8].sum()) == pytest.approx(255 * (1 - centre**2), rel=0.05)


@pytest.mark.parametrize("shape", [0.5, 1, 2, 4])
def test_a_generalised_gaussian_is_known_again(shape):
    values = scipy.stats.gennorm.rvs(shape, scale=0.3, size=40_000, random_state=1)
    found, variance = jax.jit(metrics.fit_generalized_gaussian)(jnp.asarray(values, jnp.float32))
    assert float(found) == pytest.approx(shape, rel=0.05)
    assert float(variance) == pytest.approx(scipy.stats.gennorm.var(shape, scale=0.3), rel=0.05)


@pytest.mark.parametrize(("left", "right"), [(0.5, 0.5), (0.2, 0.9)])
def test_an_asymmetric_gaussian_is_known_again(left, right):
    """Either side is half a normal distribution; a side's weight is as its deviation."""
    rng = np.random.default_rng(2)
    side = rng.random(40_000) < left / (left + right)
    values = np.abs(rng.normal(size=40_000)) * np.where(side, -left, right)
    fit = jax.jit(metrics.fit_asymmetric_gaussian)
    shape, mean, below, above = fit(jnp.asarray(values, jnp.float32))
    assert float(shape) == pytest.approx(2, rel=0.05)
    assert float(mean) == pytest.approx(values.mean(), abs=0.01)
    np.testing.assert_allclose([below, above], [left**2, right**2], rtol=0.05)
    shape, mean, below, above = fit(jnp.asarray(np.abs(values), jnp.float32))
    assert (float(below), np.isfinite(shape), float(mean) > 0) == (0, True, True)


def test_gradients_agree_with_scipy():
    image = seeded.picture(33, 25, seed=9)
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    down, right = (scipy.ndimage.sobel(grey, axis)[1:-1, 1:-1] / 8 for axis in (0, 1))
    laplacian = scipy.ndimage.laplace(grey)[1:-1, 1:-1]
    both = np.concatenate([down.ravel(), right.ravel()])
    both = np.concatenate([both, -both])  # about 0
    found = jax.jit(metrics.gradient_statistics)(image)
    assert float(found.mean) == pytest.approx(np.hypot(down, right).mean(), rel=1e-4)
    assert float(found.variance) == pytest.approx(np.hypot(down, right).var(), rel=1e-4)
    assert float(found.kurtosis) == pytest.approx(scipy.stats.kurtosis(both), rel=1e-3)
    assert float(found.laplacian_variance) == pytest.approx(laplacian.var(), rel=1e-4)


@pytest.mark.parametrize(
    "measure", [metrics.mscn, metrics.brisque_features, metrics.gradient_statistics]
)
@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (GREY.astype(np.uint8), "takes floats in .0, 1., not uint8: divide by 255 first"),
        (200 * GREY, r"values in \[0, 1\], and the image's lie in \[100, 100\]: divide by 255"),
        (GREY - 1, r"the image's lie in \[-0.5, -0.5\]: clip it\."),
        (GREY * np.nan, "the image holds NaN"),
        (np.stack([GREY] * 2), "use jax.vmap for a batch"),
        (np.moveaxis(GREY, -1, 0), "channels first"),
        (GREY[..., :2], r"has 2: give image\[..., :3\]"),
        (GREY[:2], r"image.shape=\(2, 16, 3\)"),
    ],
)
def test_what_has_no_statistics_is_refused(measure, image, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        measure(image)
    assert "\n" not in str(raised.value)
    assert measure.__name__ in str(raised.value)


def test_features_refuse_other_borders_and_small_images():
    with unchecked(), pytest.raises(ValueError, match="image=None is no array"):
        metrics.mscn(None)
    with unchecked(), pytest.raises(ValueError, match="border='wrap' is none of 'zeros', 'edge'"):
        metrics.mscn(GREY, border="wrap")
    with pytest.raises(ValueError, match="at least 13 pixels a side"):
        metrics.brisque_features(jnp.zeros((12, 16, 3)))
