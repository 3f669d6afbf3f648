"""Transforms against NumPy loops, SciPy's statistics and Pillow."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.stats
from jax.test_util import check_grads

from rainjax import transforms

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = np.random.default_rng(0).uniform(size=(8, 12, 3)).astype(np.float32)
JAX_IMAGE = jnp.asarray(IMAGE)
SHIFT = jax.jit(transforms.circular_shift)
NUM_KEYS = 4000
KEYS = jax.random.split(jax.random.key(0), NUM_KEYS)


@pytest.fixture(scope="module")
def picks():
    """`random_pixel_downsample` of one image under many keys."""
    pick = jax.jit(jax.vmap(transforms.random_pixel_downsample, (0, None)))
    return np.asarray(pick(KEYS, IMAGE))


def test_picked_pixels_come_from_their_own_cell(picks):
    for low in picks[:50]:
        for i, j, c in np.ndindex(low.shape):
            assert low[i, j, c] in IMAGE[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]


def test_mean_of_picks_is_the_cell_average(picks):
    cells = IMAGE.reshape(4, 2, 6, 2, 3)
    error = picks.mean(0) - cells.mean((1, 3))
    # Each value is within 5 standard errors of the mean of four equally likely pixels.
    assert (np.abs(error) < 5 * cells.std((1, 3)) / np.sqrt(NUM_KEYS) + 1e-6).all()


def test_the_four_pixels_of_a_cell_are_equally_likely(picks):
    counts = _counts(picks)
    assert counts.sum(-1).tolist() == np.full((4, 6, 3), NUM_KEYS).tolist()
    p_values = scipy.stats.chisquare(counts, axis=-1).pvalue
    # 72 tests of a true hypothesis: none below 1e-5, and together they look uniform.
    assert p_values.min() > 1e-5
    assert scipy.stats.kstest(p_values.ravel(), "uniform").pvalue > 1e-4


def test_channels_and_neighbours_pick_independently(picks):
    places = _places(picks)
    for first, second in (
        (places[:, 0, 0, 0], places[:, 0, 0, 1]),
        (places[:, 0, 0, 1], places[:, 0, 0, 2]),
        (places[:, 0, 0, 0], places[:, 0, 1, 0]),
        (places[:, 0, 0, 0], places[:, 1, 0, 0]),
    ):
        table = np.histogram2d(first, second, bins=(4, 4))[0]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


def test_constant_blocks_pass_unchanged():
    low = np.random.default_rng(1).uniform(size=(5, 4, 3)).astype(np.float32)
    blocks = low.repeat(2, 0).repeat(2, 1)
    for key in KEYS[:5]:
        np.testing.assert_array_equal(
            transforms.random_pixel_downsample(key, jnp.asarray(blocks)), low
        )


def test_gradient_of_a_pick_is_its_mask():
    weights = np.random.default_rng(2).uniform(1, 2, size=(4, 6, 3)).astype(np.float32)
    weigh = lambda x, key: jnp.sum(weights * transforms.random_pixel_downsample(key, x))
    masks = np.asarray(jax.jit(jax.vmap(jax.grad(weigh), (None, 0)))(IMAGE, KEYS))
    shares = masks / weights.repeat(2, 0).repeat(2, 1)
    assert set(np.unique(shares)) == {0.0, 1.0}
    # One pixel of each cell, and each of them in a quarter of the draws.
    np.testing.assert_array_equal(shares.reshape(-1, 4, 2, 6, 2, 3).sum((2, 4)), 1.0)
    assert np.abs(shares.mean(0) - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / NUM_KEYS)


def test_average_downsample_is_the_mean_of_each_cell():
    expected = np.zeros((4, 6, 3))
    for i, j, c in np.ndindex(expected.shape):
        expected[i, j, c] = np.mean(IMAGE[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c], dtype=float)
    np.testing.assert_allclose(transforms.average_downsample(JAX_IMAGE), expected, atol=1e-7)


@pytest.mark.parametrize("shape", [(7, 8, 3), (8, 7, 3)])
def test_odd_sizes_are_refused(shape):
    odd = jnp.zeros(shape)
    sentence = rf"An image of {shape[0]} x {shape[1]} has no whole number of 2x2 cells"
    with pytest.raises(ValueError, match=sentence):
        transforms.average_downsample(odd)
    with pytest.raises(ValueError, match=sentence):
        transforms.random_pixel_downsample(jax.random.key(0), odd)


def test_every_shift_is_numpys_roll():
    for amount in itertools.product(range(-8, 9, 2), range(-12, 13, 3)):
        moved = SHIFT(IMAGE, jnp.array(amount))
        np.testing.assert_array_equal(moved, np.roll(IMAGE, amount, (0, 1)))
        np.testing.assert_array_equal(SHIFT(moved, -jnp.array(amount)), IMAGE)


@hypothesis.given(
    size=st.sampled_from([(1, 1), (1, 4), (5, 2)]),
    amount=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
)
def test_shifts_beyond_the_image_wrap(size, amount):
    image = np.random.default_rng(3).uniform(size=(*size, 1)).astype(np.float32)
    moved = SHIFT(image, jnp.array(amount))
    np.testing.assert_array_equal(moved, np.roll(image, amount, (0, 1)))


def test_random_shifts_are_uniform():
    width = 2
    marked = jnp.zeros((7, 9, 1)).at[3, 4].set(1.0)  # the pixel that shows where all went
    move = lambda key: transforms.random_circular_shift(key, marked, max_shift=width)
    moved = np.asarray(jax.jit(jax.vmap(move))(KEYS))
    places = moved.reshape(NUM_KEYS, -1).argmax(1)
    rows, columns = places // 9 - 3, places % 9 - 4
    assert set(rows) == set(columns) == set(range(-width, width + 1))
    table = np.histogram2d(rows, columns, bins=2 * width + 1)[0]
    assert scipy.stats.chisquare(table.ravel()).pvalue > 1e-4


def test_no_shift_is_no_change():
    for key in KEYS[:3]:
        moved = transforms.random_circular_shift(key, JAX_IMAGE, max_shift=0)
        np.testing.assert_array_equal(moved, IMAGE)


@pytest.mark.parametrize("max_shift", [-1, 8])
def test_impossible_shifts_are_refused(max_shift):
    with pytest.raises(ValueError, match=rf"max_shift={max_shift} must be at least 0 and below"):
        transforms.random_circular_shift(KEYS[0], JAX_IMAGE, max_shift=max_shift)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (16, 24), (8, 12), (3, 20), (19, 5)])
def test_bicubic_is_pillows(size):
    resized = np.asarray(transforms.resize_bicubic(JAX_IMAGE, *size))
    for channel in range(3):
        plane = PIL.Image.fromarray(IMAGE[..., channel])
        assert plane.mode == "F"
        expected = plane.resize(size[::-1], PIL.Image.Resampling.BICUBIC)
        np.testing.assert_allclose(resized[..., channel], np.asarray(expected), atol=2e-6)


def test_bicubic_refuses_an_empty_size():
    with pytest.raises(ValueError, match="Cannot resize to 0 x 4: both must be at least 1"):
        transforms.resize_bicubic(JAX_IMAGE, 0, 4)


def test_halving_in_8_bits_is_matlabs_imresize():
    """In plain sums: Keys' cubic, twice as wide, at the middle of each pair of pixels."""
    image = np.random.default_rng(1).integers(0, 256, (24, 30, 3), np.uint8)

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def halved(line):
        reflected = np.concatenate([line[::-1], line, line[::-1]])
        taps = np.array([cubic(d / 2) for d in np.arange(-3.5, 4)])
        starts = range(len(line) - 3, 2 * len(line) - 3, 2)
        return [taps @ reflected[start : start + 8] / taps.sum() for start in starts]

    rows = np.apply_along_axis(halved, 0, image.astype(float))
    expected = np.clip(np.apply_along_axis(halved, 1, rows), 0, 255)
    found = 255 * np.asarray(transforms.halve_bicubic(jnp.asarray(image, jnp.float32) / 255))
    np.testing.assert_allclose(found, np.rint(found), atol=1e-4)
    np.testing.assert_allclose(found[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.501)
    assert np.abs(found - expected).mean() < 1.5  # the border is treated otherwise
    with pytest.raises(ValueError, match="of 9 x 12 has no whole number of 2x2 cells"):
        transforms.halve_bicubic(jnp.zeros((9, 12, 3)))


@pytest.mark.parametrize(
    "transform",
    [
        lambda x: transforms.random_pixel_downsample(KEYS[0], x),
        lambda x: transforms.random_circular_shift(KEYS[0], x, max_shift=3),
        lambda x: transforms.circular_shift(x, jnp.array([1, -2])),
        transforms.average_downsample,
        lambda x: transforms.resize_bicubic(x, 5, 9),
    ],
    ids=["pick", "random_shift", "shift", "average", "bicubic"],
)
def test_transforms_are_linear_and_differentiable(transform):
    other = jnp.asarray(IMAGE[::-1, ::-1])
    mixed = transform(0.25 * JAX_IMAGE + 0.5 * other)
    parts = 0.25 * transform(JAX_IMAGE) + 0.5 * transform(other)
    np.testing.assert_allclose(mixed, parts, atol=1e-6)
    check_grads(jax.jit(transform), (JAX_IMAGE,), order=1, atol=0.02, rtol=0.02)


def _places(picks):
    """Returns which of a cell's four pixels each output value is: all of them differ."""
    cells = IMAGE.reshape(4, 2, 6, 2, 3).transpose(0, 2, 4, 1, 3).reshape(4, 6, 3, 4)
    return (picks[..., None] == cells).argmax(-1)


def _counts(picks):
    places = _places(picks)
    return np.stack([(places == k).sum(0) for k in range(4)], axis=-1)
