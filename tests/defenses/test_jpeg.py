"""JPEG and SHIELD against the transform, Pillow, and what chance says of the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax import data, transforms
from rainjax.defenses import JPEG, SHIELD
from rainjax.typing import Stratum
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUALITIES = (20, 40, 60, 80)


@pytest.fixture(scope="module")
def image():
    images, _ = data.load("builtin", "test").get(np.arange(1))
    return jnp.asarray(images[0] / 255, jnp.float32)


@pytest.fixture(scope="module")
def compressed(image):
    return np.stack([np.asarray(transforms.jpeg(image, quality)) for quality in QUALITIES])


def test_jpeg_is_the_transform(image):
    found = JPEG(40, subsampling="4:4:4").apply((), jax.random.key(0), image)
    expected = transforms.jpeg(image, 40, subsampling="4:4:4")
    np.testing.assert_array_equal(found, expected)


def _qualities(images, compressed):
    """Which of the four results each block of each image is."""
    off = np.abs(images[:, None] - compressed[None])  # n q h w c
    off = off.reshape(*off.shape[:2], 4, 8, 4, 8, 3).max((3, 5, 6))
    assert (off.min(1) < 1e-6).all()  # every block is one of them, whole
    return off.argmin(1)


def test_every_block_is_of_a_quality_of_its_own(image, compressed):
    apply = jax.jit(jax.vmap(SHIELD().apply, (None, 0, None)))
    keys = jax.random.split(jax.random.key(1), 400)
    found = _qualities(np.asarray(apply((), keys, image)), compressed)
    counts = np.stack([(found == i).sum(0) for i in range(4)], -1).reshape(-1, 4)
    p_values = scipy.stats.chisquare(counts, axis=-1).pvalue
    assert p_values.min() > 1e-4
    together = np.histogram2d(found[:, 0, 0], found[:, 0, 1], bins=4)[0]
    assert scipy.stats.chi2_contingency(together).pvalue > 1e-3  # neighbours are independent


def test_three_qualities_are_as_likely(image):
    defense = SHIELD((20, 40, 80))
    apply = jax.jit(jax.vmap(defense.apply, (None, 0, None)))
    compressed = np.stack([JPEG(quality).purify(image) for quality in defense.qualities])
    found = _qualities(
        np.asarray(apply((), jax.random.split(jax.random.key(3), 300), image)), compressed
    )
    assert scipy.stats.chisquare(np.bincount(found.ravel(), minlength=3)).pvalue > 1e-3
    draws = Stratum(jnp.stack([jax.random.key(3)] * 3), jnp.arange(3))
    spread = jax.jit(jax.vmap(defense.apply_stratum, (None, 0, None)))
    places = np.sort(_qualities(np.asarray(spread((), draws, image)), compressed), axis=0)
    assert (places == np.arange(3)[:, None, None]).all()


def test_one_quality_is_jpeg(image):
    assert not SHIELD((60,)).is_random
    np.testing.assert_array_equal(
        SHIELD((60,)).apply((), jax.random.key(3), image), JPEG(60).purify(image)
    )


def test_four_stratified_draws_take_every_quality_once(image, compressed):
    draws = Stratum(jnp.stack([jax.random.key(2)] * 4), jnp.arange(4))
    found = jax.jit(jax.vmap(SHIELD().apply_stratum, (None, 0, None)))((), draws, image)
    places = np.sort(_qualities(np.asarray(found), compressed), axis=0)
    assert (places == np.arange(4)[:, None, None]).all()


def test_other_sizes(image):
    odd = image[:27, :19]
    assert SHIELD().apply((), jax.random.key(0), odd).shape == odd.shape


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: JPEG(0), r"whole number in 1..100, and \(0,\) holds another"),
        (lambda: JPEG(subsampling="4:2:2"), "subsampling='4:2:2' is none of '4:4:4', '4:2:0'"),
        (lambda: SHIELD(rounding="up"), "rounding='up' is none of"),
        (lambda: SHIELD(()), r"\(\) holds another"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
