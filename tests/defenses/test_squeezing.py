"""Feature squeezers against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from rainjax.defenses.squeezing import BitDepth, MedianFilter
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = np.random.default_rng(0).uniform(size=(11, 14, 3)).astype(np.float32)
KEY = jax.random.key(0)


@pytest.mark.parametrize("bits", [1, 3, 5])
def test_levels(bits):
    found = np.asarray(BitDepth(bits).apply((), KEY, jnp.asarray(IMAGE)))
    most = 2**bits - 1
    np.testing.assert_allclose(found, np.round(IMAGE * most) / most, atol=1e-6)
    assert len(np.unique(np.round(found * most))) == 2**bits


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_median_is_that_of_scipy(size):
    found = jax.jit(MedianFilter(size).apply)((), KEY, IMAGE)
    expected = scipy.ndimage.median_filter(IMAGE, size=(size, size, 1), mode="reflect")
    np.testing.assert_array_equal(found, expected)


def test_median_of_nan_is_nan():
    image = IMAGE.copy()
    image[5, 6, 1] = np.nan
    expected = np.zeros(IMAGE.shape, bool)
    expected[4:7, 5:8, 1] = True
    found = jax.jit(MedianFilter(3).apply)((), KEY, image)
    np.testing.assert_array_equal(np.isnan(found), expected)


def test_bad_options_are_refused():
    for make, sentence in (
        (lambda: BitDepth(0), r"bits=0 must lie in 1\.\.16"),
        (lambda: BitDepth(rounding="up"), "rounding='up' is none of"),
        (lambda: MedianFilter(0), "size=0 must be at least 1"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()
