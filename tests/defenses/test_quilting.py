"""Image quilting against SciPy's nearest neighbours and shortest paths, and a plain loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.spatial
import scipy.stats
import skimage.data

from rainjax.defenses import Identity, Quilting, patch_bank, quilting
from rainjax.defenses._base import apply_draw
from rainjax.gradients import BPDA
from rainjax.typing import Stratum
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PICTURE = skimage.data.astronaut()


def _image(height, width):
    """A part of the picture that has a face, with a little noise: no two distances are equal."""
    part = PICTURE[80 : 80 + height, 190 : 190 + width] / 255
    noise = np.random.default_rng(1).uniform(0, 0.04, part.shape)
    return jnp.asarray(0.96 * part + noise, jnp.float32)


@functools.cache
def _bank(count, size):
    bank = np.asarray(patch_bank(jax.random.key(3), skimage.data.coffee()[None], count, size))
    noise = np.random.default_rng(2).uniform(0, 0.04, bank.shape)
    return jnp.asarray(0.96 * bank + noise, jnp.float32)


def _grid(side, size, stride):
    """Where patches start: the first at 0, the last where the side is covered."""
    starts = [0]
    while starts[-1] + size < side:
        starts.append(starts[-1] + stride)
    return starts


def _cut(error):
    """The textbook: accumulate from the top, then walk back up. One column for each row."""
    rows, cols = error.shape
    total = error.copy()
    for i in range(1, rows):
        for j in range(cols):
            total[i, j] += total[i - 1, max(j - 1, 0) : j + 2].min()
    path = [int(np.argmin(total[-1]))]
    for i in range(rows - 2, -1, -1):
        low = max(path[0] - 1, 0)
        path.insert(0, low + int(np.argmin(total[i, low : path[0] + 2])))
    return path


def _quilt(image, bank, picks, size, overlap, num):
    """Guo et al.'s loop over a canvas, with SciPy's neighbours and the textbook's cuts."""
    height, width = image.shape[:2]
    stride = size - overlap
    tops, lefts = _grid(height, size, stride), _grid(width, size, stride)
    below, right = tops[-1] + size - height, lefts[-1] + size - width
    image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge").astype(np.float64)
    bank = np.asarray(bank, np.float64)
    tree = scipy.spatial.cKDTree(bank.reshape(len(bank), -1))
    canvas = np.zeros_like(image)
    for n, (top, left) in enumerate((t, s) for t in tops for s in lefts):
        window = np.s_[top : top + size, left : left + size]
        near = tree.query(image[window].ravel(), k=np.arange(1, num + 1))[1]
        patch, there = bank[near[picks[n]]], canvas[window].copy()
        error = ((patch - there) ** 2).sum(-1)
        old = np.zeros((size, size), bool)
        if left:
            for i, j in enumerate(_cut(error[:, :overlap])):
                old[i, :j] = True
        if top:
            for j, i in enumerate(_cut(error[:overlap].T)):
                old[:i, j] = True
        canvas[window] = np.where(old[..., None], there, patch)
    return canvas[:height, :width]


@pytest.mark.parametrize(
    ("height", "width", "size", "overlap", "num"),
    [(38, 31, 5, 2, 10), (27, 30, 5, 1, 3), (33, 30, 9, 4, 5), (20, 33, 8, 3, 2), (5, 9, 5, 2, 4)],
)
def test_is_the_loop_of_the_paper(monkeypatch, height, width, size, overlap, num):
    image, bank = _image(height, width), _bank(700, size)
    stride = size - overlap
    count = len(_grid(height, size, stride)) * len(_grid(width, size, stride))
    picks = RNG.integers(0, num, count)
    monkeypatch.setattr(quilting, "choices", lambda draw, shape, n: jnp.reshape(picks, shape))
    found = jax.jit(Quilting(size, overlap, num).apply)(bank, KEY, image)
    expected = _quilt(image, bank, picks, size, overlap, num)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - image).mean() > 0.01


def test_neighbours_are_those_of_scipy():
    """Over several blocks of the bank, one of them in part, and several of the queries."""
    bank = np.asarray(_bank(4500, 5)).reshape(4500, -1)
    queries = np.asarray(_image(100, 75)).reshape(-1, 75)
    found = jax.jit(quilting._nearest, static_argnums=2)(bank, queries, 10)
    assert len(queries) > quilting._POSITIONS
    assert len(bank) > 2 * quilting._BLOCK > len(bank) / 2
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    distances, expected = scipy.spatial.cKDTree(bank).query(queries, k=10)
    own = np.linalg.norm(bank[np.asarray(found)] - queries[:, None], axis=-1)
    np.testing.assert_allclose(own, distances, rtol=1e-5)
    assert (np.asarray(found) == expected).mean() > 0.999


@pytest.mark.parametrize("count", [10, 15, 17, 50])
def test_small_banks_have_no_neighbours_beyond_their_end(count):
    bank, queries = RNG.uniform(size=(count, 12)), RNG.uniform(size=(7, 12))
    found = quilting._nearest(jnp.float32(bank), jnp.float32(queries), 10)
    expected = scipy.spatial.cKDTree(bank).query(queries, k=10)[1]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("length", "width"), [(5, 2), (9, 4), (6, 1), (1, 3)])
def test_cuts_are_shortest_paths(length, width):
    errors = RNG.uniform(0.1, 1, size=(20, length, width))
    before = np.asarray(quilting._before_cut(jnp.asarray(errors, jnp.float32)))
    cuts = before.sum(-1)
    assert (before == (np.arange(width) < cuts[..., None])).all()
    assert (np.abs(np.diff(cuts, axis=1)) <= 1).all()
    for error, cut in zip(errors, cuts, strict=True):
        found = error[np.arange(length), cut].sum()
        assert found == pytest.approx(_shortest(error))


def _shortest(error):
    """SciPy's shortest way from above the first line to below the last."""
    length, width = error.shape
    end = length * width
    edges = scipy.sparse.lil_array((end + 2, end + 2))
    number = np.arange(end).reshape(length, width)
    edges[end, number[0]] = error[0]
    edges[number[-1], [end + 1]] = 1.0
    for i in range(1, length):
        for j in range(width):
            edges[number[i - 1, max(j - 1, 0) : j + 2], [number[i, j]]] = error[i, j]
    return scipy.sparse.csgraph.dijkstra(edges.tocsr(), indices=end)[end + 1] - 1


@pytest.mark.parametrize("shape", [(32, 32), (29, 18), (5, 5), (3, 4)])
def test_a_bank_of_its_own_patches_gives_the_image_back(shape):
    """Also where two patches differ by one grey level in one value."""
    image = PICTURE[80 : 80 + shape[0], 190 : 190 + shape[1]]
    wide = np.pad(image, ((0, 4), (0, 4), (0, 0)), mode="edge")
    own = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), (0, 1)).reshape(-1, 3, 5, 5)
    own = own.transpose(0, 2, 3, 1)
    other = own.copy()
    other[:, 2, 2, 1] += np.where(own[:, 2, 2, 1] < 255, 1, -1).astype(np.uint8)
    bank = RNG.permutation(np.concatenate([own, other])).astype(np.float32) / 255
    image = image.astype(np.float32) / 255
    found = jax.jit(Quilting(num_neighbours=1).apply)(jnp.asarray(bank), KEY, image)
    np.testing.assert_array_equal(found, image)


def test_every_neighbour_is_as_likely():
    """The middle of a patch is nobody else's: it tells which of the neighbours was picked."""
    bank = jnp.broadcast_to(jnp.linspace(0, 1, 7)[:, None, None, None], (7, 5, 5, 3))
    image = jnp.full((11, 8, 3), 0.5)
    apply = jax.jit(jax.vmap(Quilting(num_neighbours=5).apply, (None, 0, None)))
    spread = jax.jit(jax.vmap(Quilting(num_neighbours=5).apply_stratum, (None, 0, None)))
    middles = lambda draws, fn=apply: np.asarray(fn(bank, draws, image))[:, 2::3, 2::3, 0] * 6
    found = middles(jax.random.split(KEY, 500))
    counts = np.stack([(np.abs(found - i) < 1e-3).sum(0) for i in range(7)], -1)
    assert (counts[..., [0, 6]] == 0).all()  # the two that are farther than five others
    p_values = scipy.stats.chisquare(counts[..., 1:6], axis=-1).pvalue
    assert p_values.min() > 1e-3
    one, other = found[:, 0, 0], found[:, 0, 1]
    together = np.histogram2d(one, other, bins=5)[0]
    assert scipy.stats.chi2_contingency(together).pvalue > 1e-3  # neighbours are independent
    for first in (0, 5):
        stratified = Stratum(jnp.stack([KEY] * 5), first + jnp.arange(5))
        places = np.sort(middles(stratified, spread), axis=0)
        np.testing.assert_allclose(places, np.arange(1, 6)[:, None, None] + 0 * places, atol=1e-5)


def test_gradient_is_zero_and_the_attackers_choice_is_the_identitys():
    image, bank = _image(14, 17), _bank(60, 5)
    true, choice = Quilting(), Quilting(gradient="straight_through")
    weight = jnp.asarray(RNG.normal(size=image.shape), jnp.float32)
    total = lambda defense: lambda x: jnp.sum(weight * defense.apply(bank, KEY, x))
    values = [jax.jit(d.apply)(bank, KEY, image) for d in (true, choice)]
    np.testing.assert_array_equal(values[0], values[1])
    assert not jax.jit(jax.grad(total(true)))(image).any()
    for surrogate in (choice, BPDA(true, Identity())):
        np.testing.assert_array_equal(jax.jit(jax.grad(total(surrogate)))(image), weight)


@pytest.mark.parametrize("gradient", ["true", "straight_through"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_stays_nan(gradient, value):
    image, bank = _image(14, 17), _bank(60, 5)
    image = image.at[6, 9, 1].set(value)
    found = jax.jit(Quilting(gradient=gradient).apply)(bank, KEY, image)
    assert np.isnan(found[6, 9, 1])


def test_bank_holds_what_the_images_hold_everywhere_alike():
    # Every value tells its image, its row and its column.
    index = np.indices((3, 7, 9))
    images = np.stack(index, axis=-1).astype(np.uint8)
    bank = np.asarray(patch_bank(KEY, images, 4000, 4)) * 255
    which, row, col = np.rint(bank[:, 0, 0]).astype(int).T
    windows = np.lib.stride_tricks.sliding_window_view(images, (4, 4), (1, 2))
    expected = windows[which, row, col].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(bank, expected, atol=1e-4)
    counts = np.zeros((3, 4, 6))
    np.add.at(counts, (which, row, col), 1)
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_memory_does_not_grow_with_positions_times_bank():
    """A million patches for 5476 positions are 22 GB of scores."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    lowered = jax.jit(Quilting().apply).lower(shape(10**6, 5, 5, 3), key, shape(224, 224, 3))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 5e8


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Quilting(overlap=3), r"overlap=3 must lie in 1\.\.2, at most half"),
        (lambda: Quilting(overlap=0), r"overlap=0 must lie in 1\.\.2"),
        (lambda: Quilting(num_neighbours=0), "num_neighbours=0 must be at least 1"),
        (lambda: Quilting(gradient="sine"), "gradient='sine' is none of"),
        (lambda: Quilting().init(KEY), "give it a bank that patch_bank cut"),
        (lambda: patch_bank(KEY, np.zeros((2, 4, 9, 3), np.uint8), 9), "fits into none of 2"),
        (lambda: patch_bank(KEY, np.zeros((0, 9, 9, 3), np.uint8), 9), "none of 0 images"),
        (lambda: patch_bank(KEY, np.zeros((2, 9, 9, 3), np.uint8), 0), "num_patches=0"),
        (lambda: patch_bank(KEY, np.zeros((2, 9, 9, 3)), 9), "uint8, not float64"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


def test_bad_banks_and_draws_are_refused():
    image, bank = jnp.zeros((9, 9, 3)), _bank(9, 5)
    for params, sentence in (
        ((), r"shape \(0,\) are no patches of \(5, 5, 3\): patch_bank cuts them"),
        (_bank(9, 4), r"shape \(9, 4, 4, 3\) are no patches of \(5, 5, 3\)"),
        ((255 * _bank(12, 5)).astype(jnp.uint8), "holds uint8, not floats"),
        (bank, "num_neighbours=10 is more than a bank of 9 has"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Quilting().apply(params, KEY, image)
    with unchecked(), pytest.raises(TypeError, match="draw keys"):
        apply_draw(Quilting(num_neighbours=2), bank, jnp.array(1), image)
    assert not dataclasses.replace(Quilting(), num_neighbours=1).is_random
