"""Random resizing, padding and cropping against Pillow, fractions, and what chance says."""

import collections
import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.stats

from rainjax.defenses import RandomCrop, RandomResizePad
from rainjax.defenses._base import apply_draw
from rainjax.typing import Stratum
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(4)
KEYS = jax.random.split(jax.random.key(11), 4000)


def shown(defense, image, keys):
    """Returns what the defense makes of one image under each key."""
    return np.asarray(compiled(defense)(keys, jnp.asarray(image, jnp.float32)))


@functools.cache
def compiled(defense):
    apply = functools.partial(apply_draw, defense, ())
    return jax.jit(jax.vmap(apply, (0, None)))


def resized(image, height, width, box=None, *, how):
    """Pillow's answer, channel by channel, in floats."""
    pictures = [PIL.Image.fromarray(channel) for channel in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(p.resize((width, height), how, box=box)) for p in pictures], -1)


def frame(picture):
    """Returns top, left, height and width of what is not mid-grey."""
    inside = np.argwhere((picture != 0.5).any(-1))
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    return top, left, bottom - top, right - left


# -- Resizing and padding -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(21, 21, 3), (17, 33, 1)])
def test_the_copy_is_pillows(shape):
    """At odd sizes, where no centre of a new pixel lies between two old ones."""
    image = RNG.uniform(0.6, 1.0, size=shape).astype(np.float32)
    sides = set()
    for picture in shown(RandomResizePad(0.6), image, KEYS[:100]):
        top, left, height, width = frame(picture)
        copy = picture[top : top + height, left : left + width]
        expected = resized(image, height, width, how=PIL.Image.Resampling.NEAREST)
        np.testing.assert_array_equal(copy, expected)
        assert np.count_nonzero(picture != 0.5) == copy.size  # the rest is mid-grey, to the bit
        sides.add((height, width))
    longer = max(shape)
    for height, width in sides:
        side = height if shape[0] == longer else width
        assert abs(height - side * shape[0] / longer) <= 0.5
        assert abs(width - side * shape[1] / longer) <= 0.5


def test_a_centre_between_two_pixels_shows_the_later_one():
    image = RNG.uniform(0.6, 1.0, size=(32, 32, 1)).astype(np.float32)
    for picture in shown(RandomResizePad(0.7), image, KEYS[:60]):
        top, left, height, width = frame(picture)
        assert height == width
        source = [int(Fraction(32, height) * (i + Fraction(1, 2))) for i in range(height)]
        copy = picture[top : top + height, left : left + width]
        np.testing.assert_array_equal(copy, image[source][:, source])


def test_every_side_and_every_place_is_equally_likely():
    pictures = shown(RandomResizePad(15 / 21), np.ones((21, 21, 1)), KEYS)
    frames = np.array([frame(picture) for picture in pictures])
    assert (frames[:, 2] == frames[:, 3]).all()
    counts = collections.Counter(frames[:, 2].tolist())
    assert set(counts) == set(range(15, 21))
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3
    for side in counts:
        places = 21 - side + 1
        found = frames[frames[:, 2] == side]
        table = np.histogram2d(found[:, 0], found[:, 1], np.arange(places + 1) - 0.5)[0]
        assert scipy.stats.chisquare(table.ravel()).pvalue > 1e-3, side


def test_the_papers_sides_on_the_papers_field():
    column = jnp.ones((331, 1, 1))
    height = lambda key: jnp.sum(RandomResizePad().apply((), key, column) == 1)
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(height, keys, batch_size=50))(KEYS[:600]))
    assert set(found) == set(range(310, 331))


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 1, 1)])
def test_the_smallest_images_keep_a_pixel(shape):
    pictures = shown(RandomResizePad(0.01), np.ones(shape), KEYS[:30])
    assert pictures.shape == (30, *shape)
    assert (pictures == 1).any(axis=(1, 2, 3)).all()


# -- Cropping -----------------------------------------------------------------------------


def landmarks(height, width):
    """An image that tells where a part of it was taken: rows, columns, and noise."""
    rows, columns = np.indices((height, width))
    noise = RNG.uniform(size=(height, width))
    return np.stack([rows / height, columns / width, noise], -1).astype(np.float32)


def corners(pictures):
    """The first value is that of the part's first pixel: there is no other as near."""
    height, width = pictures.shape[1:3]
    return np.rint(pictures[:, 0, 0, :2] * [height, width]).astype(int)


@pytest.mark.parametrize(("size", "share"), [((24, 24), 90 / 224), ((17, 30), 0.6)])
def test_the_part_is_enlarged_as_pillow_does(size, share):
    height, width = size
    image = landmarks(height, width)
    part = [max(round(share * side), 1) for side in size]
    pictures = shown(RandomCrop(share), image, KEYS[:40])
    for picture, (top, left) in zip(pictures, corners(pictures), strict=True):
        cut = image[top : top + part[0], left : left + part[1]]
        expected = resized(cut, height, width, how=PIL.Image.Resampling.BILINEAR)
        np.testing.assert_allclose(picture, expected, atol=1e-6)


def test_the_papers_part():
    picture = shown(RandomCrop(), landmarks(224, 224), KEYS[:1])[0]
    np.testing.assert_allclose(np.ptp(picture[..., 0]), 89 / 224, atol=1e-6)  # 90 pixels


def test_every_part_is_equally_likely():
    found = corners(shown(RandomCrop(0.6), landmarks(10, 12), KEYS))
    table = np.histogram2d(*found.T, (np.arange(6) - 0.5, np.arange(7) - 0.5))[0]
    assert table.sum() == len(KEYS)
    assert scipy.stats.chisquare(table.ravel()).pvalue > 1e-3


def test_stratified_draws_take_every_row_and_column_once():
    draws = Stratum(jnp.stack([jax.random.key(2)] * 5), jnp.arange(5))
    found = corners(shown(RandomCrop(0.6), landmarks(10, 10), draws))
    np.testing.assert_array_equal(np.sort(found, axis=0), np.arange(5)[:, None] * [1, 1])
    assert (found[:, 0] != found[:, 1]).any()


def test_the_whole_image_is_left_alone():
    image = RNG.uniform(size=(7, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(shown(RandomCrop(1.0), image, KEYS[:1])[0], image, atol=1e-6)
    assert not RandomCrop(1.0).is_random


def test_white_stays_white_and_keeps_its_slope():
    """Weights that add up to one but for rounding are not clipped away."""
    white = jnp.ones((23, 19, 1))
    total = jax.jit(jax.value_and_grad(lambda x: RandomCrop(0.7).apply((), KEYS[0], x).sum()))
    value, slope = total(white)
    assert value == 23 * 19
    np.testing.assert_allclose(slope.sum(), 23 * 19, rtol=1e-5)


@pytest.mark.parametrize("defense", [RandomCrop(0.5), RandomResizePad(0.7)])
def test_the_slope_is_that_of_differences(defense):
    """Which are exact for what is affine."""

    @jax.jit
    def both(key, there, back):
        apply = lambda x: defense.apply((), key, x)
        moved = apply(there) - apply(jnp.zeros_like(there))
        (slope,) = jax.vjp(apply, jnp.full_like(there, 0.3))[1](back)
        return jnp.vdot(moved, back), jnp.vdot(there, slope)

    for key in KEYS[:5]:
        there, back = (RNG.uniform(size=(12, 14, 3)).astype(np.float32) for _ in range(2))
        np.testing.assert_allclose(*both(key, there, back), rtol=1e-5)


@pytest.mark.parametrize("defense", [RandomCrop(0.5), RandomResizePad(0.7)])
def test_nan_is_not_hidden(defense):
    image = jnp.full((9, 9, 3), jnp.nan)
    assert np.isnan(shown(defense, image, KEYS[:4])).any(axis=(1, 2, 3)).all()


def test_bad_options_are_refused():
    for make, sentence in (
        (lambda: RandomResizePad(0.0), r"smallest=0.0 must lie in \(0, 1\)"),
        (lambda: RandomResizePad(1.0), r"smallest=1.0 must lie in \(0, 1\)"),
        (lambda: RandomCrop(0.0), r"share=0.0 must lie in \(0, 1\]"),
        (lambda: RandomCrop(float("nan")), "share=nan must lie in"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()


def test_other_draws_are_refused():
    image, stratum = jnp.ones((4, 4, 1)), Stratum(KEYS[0], jnp.asarray(0))
    for defense, draw in (
        (RandomResizePad(), stratum),
        (RandomResizePad(), jnp.asarray(0)),
        (RandomCrop(), jnp.asarray(0)),
    ):
        with unchecked(), pytest.raises(TypeError, match="draw keys, not"):
            apply_draw(defense, (), draw, image)
