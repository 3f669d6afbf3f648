"""Pixel deflection against a loop, and what chance says of its places."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax.defenses import PixelDeflection, WaveletDenoising
from rainjax.defenses._base import apply_draw
from rainjax.typing import Stratum
from tests.tiny import unchecked
from tests.transforms.test_wavelets import SMALL, _shrunk_by_range

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(5)
IMAGE = np.random.default_rng(0).uniform(size=(13, 9, 3)).astype(np.float32)


def _places(key, shape, length, window):
    """Where pixels are written along an axis, and where they come from: JAX's generator alone."""
    to_key, from_key = jax.random.split(key)
    to = np.asarray(jax.random.randint(to_key, shape, 0, length))
    low, high = np.maximum(to - window, 0), np.minimum(to + window, length - 1)
    return to, np.asarray(jax.random.randint(from_key, shape, low, high + 1))


def _draws(key, shape, window, image):
    """For each channel, the steps `(row, column, from row, from column)`."""
    row_key, column_key = jax.random.split(key)
    rows, from_rows = _places(row_key, shape, image.shape[0], window)
    columns, from_columns = _places(column_key, shape, image.shape[1], window)
    steps = np.stack([rows, columns, from_rows, from_columns], -1)
    return np.broadcast_to(steps, (image.shape[2], *steps.shape[-2:]))


def _loop(image, draws):
    """The authors' loop: it reads the image as it is changed."""
    image, chains = image.copy(), 0
    for c, steps in enumerate(draws):
        written = set()
        for row, column, from_row, from_column in steps:
            chains += (from_row, from_column) in written
            image[row, column, c] = image[from_row, from_column, c]
            written.add((row, column))
    return image, chains


CASES = [
    (PixelDeflection(200, window=3), (3, 67)),
    (PixelDeflection(90, window=20), (3, 30)),
    (PixelDeflection(70, window=2, channels="together"), (70,)),
    (PixelDeflection(1, channels="together"), (1,)),
]


@pytest.mark.parametrize(("defense", "shape"), CASES)
def test_is_the_loop(defense, shape):
    deflect = jax.jit(defense.deflect)
    for key in jax.random.split(KEY, 4):
        expected, chains = _loop(IMAGE, _draws(key, shape, defense.window, IMAGE))
        np.testing.assert_array_equal(deflect(key, IMAGE), expected)
        assert chains > 3 or defense.num_deflections == 1


def test_gradient_counts_copies():
    """The loop, run on the numbers of pixels, says where every value came from."""
    defense, shape = CASES[0]
    numbers = np.broadcast_to(np.arange(13 * 9).reshape(13, 9, 1), IMAGE.shape)
    origin, _ = _loop(numbers, _draws(KEY, shape, defense.window, IMAGE))
    weights = np.random.default_rng(1).normal(size=IMAGE.shape).astype(np.float32)
    expected = np.zeros((13 * 9, 3))
    for c in range(3):
        np.add.at(expected[:, c], origin[..., c].ravel(), weights[..., c].ravel())
    total = lambda x: jnp.sum(weights * defense.deflect(KEY, x))
    slope = jax.jit(jax.grad(total))(jnp.asarray(IMAGE))
    np.testing.assert_allclose(slope, expected.reshape(IMAGE.shape), atol=1e-5)
    assert (np.asarray(slope) == 0).mean() > 0.1  # values that nobody kept


def test_places_are_uniform():
    """One deflection of an image whose values are all different tells where from and where to."""
    height, width, window, num = 5, 4, 2, 20_000
    image = np.arange(1.0, 21.0, dtype=np.float32).reshape(height, width, 1)
    defense = PixelDeflection(1, window)
    deflect = jax.jit(jax.vmap(defense.deflect, (0, None)))
    moved = np.asarray(deflect(jax.random.split(KEY, num), image))[..., 0].reshape(num, -1)
    changed = moved != image.ravel()
    seen = collections.Counter(
        (int(np.argmax(row)), int(values[row][0])) if row.any() else "itself"
        for row, values in zip(changed, moved, strict=True)
    )
    expected = collections.Counter()
    for to in range(height * width):
        row, column = divmod(to, width)
        near = [
            (r, c)
            for r in range(height)
            for c in range(width)
            if abs(r - row) <= window and abs(c - column) <= window
        ]
        for r, c in near:
            case = "itself" if (r, c) == (row, column) else (to, int(image[r, c, 0]))
            expected[case] += num / (height * width * len(near))
    assert set(seen) <= set(expected)
    cases = list(expected)
    counts = [[table[case] for case in cases] for table in (seen, expected)]
    assert scipy.stats.chisquare(*counts).pvalue > 1e-3


def test_denoising_follows():
    defense = PixelDeflection()
    deflected, _ = _loop(SMALL.astype(np.float32), _draws(KEY, (3, 67), 10, SMALL))
    expected = np.clip(_shrunk_by_range(deflected.astype(np.float64), 0.04), 0, 1)
    found = jax.jit(defense.apply)((), KEY, jnp.asarray(SMALL, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=4e-6)
    assert defense.denoiser == WaveletDenoising(0.04)


def test_nan_that_is_overwritten_is_not_hidden():
    """Nearly every one of these pixels is."""
    image = np.full((2, 2, 3), 0.5, np.float32)
    image[0, 1, 2] = np.nan
    apply = jax.jit(jax.vmap(PixelDeflection(60).apply, (None, 0, None)))
    assert np.isnan(apply((), jax.random.split(KEY, 9), image)).any(axis=(1, 2, 3)).all()


def test_draws_that_are_no_keys_are_refused():
    for draw in (jnp.array(3), Stratum(KEY, jnp.array(3))):
        with pytest.raises(TypeError, match="draw keys, not"):
            apply_draw(PixelDeflection(), (), draw, jnp.asarray(IMAGE))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_deflections": 0}, "num_deflections=0 must be at least 1"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"channels": "both"}, "channels='both' is none of 'apart', 'together'"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        PixelDeflection(**options)
