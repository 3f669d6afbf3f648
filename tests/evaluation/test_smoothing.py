"""Randomized smoothing: its statistics against statsmodels and SciPy, its radii against geometry.

The smoothed class of a linear classifier is its own, and the true radius is the distance to the
hyperplane, so every certificate can be checked against what it claims to bound.
"""

import dataclasses
import fractions
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from rainjax.defenses import Defense, Identity
from rainjax.devices import data_mesh
from rainjax.evaluation import smoothing
from rainjax.evaluation.smoothing import (
    ABSTAINED,
    Smoothed,
    certificates,
    certify,
    count_classes,
    predict,
)
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Defended
from tests.tiny import Linear, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
SIDE, SIZE, SIGMA = 2, 12, 0.25
# Class 1 lies on the side that NORMAL points to, of the plane through PLANE.
NORMAL = RNG.normal(size=SIZE)
NORMAL /= np.linalg.norm(NORMAL)
PLANE = np.where(NORMAL > 0, 0.0, 1.0)  # a corner: clipped noise would lean to one side


@dataclasses.dataclass(frozen=True)
class Plane(Linear):
    """Two classes on either side of the plane through PLANE."""

    def apply(self, params, *inputs):
        return super().apply(params, inputs[0] - PLANE.reshape(SIDE, SIDE, 3).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Mirror(Defense):
    """With a chance of `flip`, reflects the image about the plane: the other class."""

    flip: float

    def apply(self, params, key, image):
        normal = jnp.asarray(NORMAL.reshape(image.shape), jnp.float32)
        plane = jnp.asarray(PLANE.reshape(image.shape), jnp.float32)
        mirrored = image - 2 * jnp.sum(normal * (image - plane)) * normal
        return jnp.where(jax.random.bernoulli(key, self.flip), mirrored, image)


PARAMS = {
    "defense": (),
    "classifier": {"kernel": jnp.asarray(np.stack([-NORMAL, NORMAL], 1), jnp.float32)},
}
LINEAR = Smoothed(Defended(Identity(), Plane(SIZE, 2)), SIGMA)


def images_at(distances):
    """Images in [0, 1] at signed distances from the plane: one of them is a corner."""
    found = PLANE + np.asarray(distances)[:, None] * NORMAL
    assert found.min() >= 0
    assert found.max() <= 1
    return found.reshape(-1, SIDE, SIDE, 3).astype(np.float32)


def keys_of(count, seed=0):
    return example_keys(seed, Purpose.SCORE, np.arange(count))


def exactly(distances, flip=0.0):
    """The exact chance of class 1 under noise."""
    chance = scipy.stats.norm.cdf(np.asarray(distances) / SIGMA)
    return (1 - flip) * chance + flip * (1 - chance)


# -- Statistics -------------------------------------------------------------------------------


def test_lower_bound_is_that_of_statsmodels():
    for num_draws, alpha in ((10, 0.05), (1000, 0.001), (100_000, 0.001)):
        counts = np.unique(np.linspace(0, num_draws, 41).astype(int))
        found = smoothing.lower_bound(counts, num_draws, alpha)
        # Both ends at twice the level are one end at it.
        expected, _ = proportion_confint(counts, num_draws, alpha=2 * alpha, method="beta")
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_at_the_lower_bound_as_many_successes_have_the_chance_alpha():
    """What defines the bound, in exact arithmetic."""
    num_draws, alpha = 60, 0.001
    counts = np.array([1, 30, 47, 60])
    for count, low in zip(counts, smoothing.lower_bound(counts, num_draws, alpha), strict=True):
        p = fractions.Fraction(float(low))
        tail = sum(
            math.comb(num_draws, k) * p**k * (1 - p) ** (num_draws - k)
            for k in range(count, num_draws + 1)
        )
        assert float(tail) == pytest.approx(alpha, rel=1e-9)


def test_certificates_are_the_papers_procedure():
    num_draws = 1000
    counts = np.array([0, 400, 500, 540, 560, 900, 1000])
    selected = np.array([3, 1, 4, 1, 5, 2, 6])
    found = certificates(selected, counts, num_draws=num_draws, sigma=0.5)
    for place, count in enumerate(counts.tolist()):
        low = scipy.stats.binomtest(count, num_draws).proportion_ci(0.998, "exact").low
        if low > 0.5:
            assert found.classes[place] == selected[place]
            assert found.radii[place] == pytest.approx(0.5 * scipy.stats.norm.ppf(low), rel=1e-6)
        else:
            assert (found.classes[place], found.radii[place]) == (ABSTAINED, 0)
    assert (found.classes == ABSTAINED).sum() == 4  # 540 of 1000 is not enough
    assert found.radii[-1] == pytest.approx(0.5 * scipy.stats.norm.ppf(0.001**0.001))


def test_certified_accuracy_is_a_count():
    found = certificates(
        np.array([0, 1, 1, 2]), np.array([1000, 1000, 800, 400]), num_draws=1000, sigma=1.0
    )
    largest = found.radii[0]
    radii = np.array([0.0, 0.5, 1.0, largest, largest + 1e-9])
    curve = smoothing.certified_accuracy(found, np.array([0, 2, 1, 2]), radii)
    assert curve.accuracy.tolist() == [0.5, 0.5, 0.25, 0.25, 0.0]
    for place, hits in enumerate([2, 2, 1, 1, 0]):
        assert (curve.low[place], curve.high[place]) == wilson_interval(hits, 4)
    assert curve.accuracy[0] == 0.5  # whoever abstains is not right, whatever the label
    empty = smoothing.certified_accuracy(found, np.array([0, 2, 1, 2]), np.array([]))
    assert empty.accuracy.shape == empty.high.shape == (0,)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_predict_abstains_where_a_binomial_test_does(monkeypatch, num_classes):
    """Three and more classes as two: only the first two are compared."""
    splits = [(50, 50), (60, 40), (66, 34), (67, 33), (73, 27), (100, 0), (40, 60), (20, 80)]
    counts = np.zeros((len(splits), num_classes), np.int64)
    counts[:, [0, num_classes - 1]] = splits
    if num_classes > 2:
        counts[:, 1] = 10
    monkeypatch.setattr(smoothing, "count_classes", lambda *args, **options: counts)
    keys, images = keys_of(len(splits)), images_at(np.zeros(len(splits)))
    for alpha in (0.001, 0.05):
        found = predict(LINEAR, PARAMS, keys, images, num_draws=110, alpha=alpha)
        for answer, row in zip(found.classes, counts, strict=True):
            second, first = sorted(row.tolist())[-2:]
            chance = scipy.stats.binomtest(first, first + second, 0.5).pvalue
            assert answer == (row.argmax() if chance <= alpha else ABSTAINED)
        assert 2 <= (found.classes == ABSTAINED).sum() <= 5


# -- Against geometry -------------------------------------------------------------------------


def test_counts_have_the_exact_chance_also_where_a_clip_would_change_it():
    """The image at the corner is on the plane: clipped noise would never leave class 1."""
    distances = np.array([0.0, 0.05, 0.2, 0.4])
    for flip in (0.0, 0.2):
        defense = Mirror(flip) if flip else Identity()
        smoothed = dataclasses.replace(LINEAR, target=Defended(defense, Plane(SIZE, 2)))
        counts = count_classes(
            smoothed, PARAMS, keys_of(4), images_at(distances), num_draws=4000, chunk_size=500
        )
        assert (counts.sum(1) == 4000).all()
        for count, chance in zip(counts[:, 1], exactly(distances, flip), strict=True):
            assert scipy.stats.binomtest(int(count), 4000, chance).pvalue > 1e-3


def test_radii_reach_the_plane_and_hardly_ever_cross_it():
    """Closed form: the true radius is the distance. It may fail, as often as it says."""
    alpha, distances = 0.05, np.tile(np.linspace(0.02, 0.55, 50), 8)
    images, keys = images_at(distances), keys_of(400)
    found = certify(
        LINEAR, PARAMS, keys, images, num_estimate=2000, alpha=alpha, batch_size=400,
        chunk_size=100,
    )  # fmt: skip
    crossed = int((found.radii > distances).sum())
    assert scipy.stats.binomtest(crossed, 400, alpha, alternative="greater").pvalue > 1e-3
    certain = found.classes != ABSTAINED
    assert certain.mean() > 0.9
    assert (found.classes[certain] == 1).all()

    # Nothing within the radius changes the exactly known class; the plane's side is the worst.
    sound = certain & (found.radii <= distances)
    assert sound.mean() > 0.85
    worst = -found.radii[:, None] * NORMAL * (1 - 1e-6)
    other = RNG.normal(size=(400, SIZE))
    other *= found.radii[:, None] / np.linalg.norm(other, axis=1, keepdims=True)
    for step in (worst, other):
        moved = images.reshape(400, SIZE).astype(np.float64) + step - PLANE
        assert (exactly(moved @ NORMAL)[sound] > 0.5).all()


def test_radii_are_close_for_many_draws():
    distances = np.array([0.1, 0.5])
    found = certify(LINEAR, PARAMS, keys_of(2), images_at(distances), chunk_size=2000)
    assert found.num_draws == 100_000
    assert found.classes.tolist() == [1, 1]
    assert (found.radii <= distances).all()
    np.testing.assert_allclose(found.radii, distances, atol=0.05 * SIGMA)


def test_a_random_pipeline_keeps_its_certificates():
    """With a mirror in one of five draws: the chance falls, the plane is where it was."""
    distances = np.linspace(0.1, 0.5, 20)
    smoothed = dataclasses.replace(LINEAR, target=Defended(Mirror(0.2), Plane(SIZE, 2)))
    found = certify(
        smoothed, PARAMS, keys_of(20), images_at(distances), num_estimate=4000, chunk_size=500
    )
    expected = SIGMA * scipy.stats.norm.ppf(exactly(distances, 0.2))
    assert (found.radii <= distances).all()
    # Within what 4000 draws can tell of the chance, and never above it but for luck of 1 in 1000.
    assert (found.radii <= expected + 1e-6).all()
    np.testing.assert_allclose(found.radii, expected, atol=0.15 * SIGMA)
    assert (found.classes == 1).all()


def test_predictions_are_the_exact_class_or_none():
    distances = np.concatenate([np.full(100, 0.0), np.full(50, 0.2)])
    found = predict(
        LINEAR, PARAMS, keys_of(150), images_at(distances), num_draws=200, alpha=0.01,
        batch_size=150, chunk_size=50,
    )  # fmt: skip
    assert (found.classes[100:] == 1).all()
    # On the plane both classes are as likely, and an answer has a chance of alpha.
    answered = int((found.classes[:100] != ABSTAINED).sum())
    assert scipy.stats.binomtest(answered, 100, 0.01, alternative="greater").pvalue > 1e-3
    assert found.counts.sum(1).tolist() == [200] * 150


# -- Draws ------------------------------------------------------------------------------------


def test_counts_do_not_depend_on_batches_chunks_or_devices():
    images, keys = images_at(np.linspace(0, 0.3, 7)), keys_of(7)
    smoothed = dataclasses.replace(LINEAR, target=Defended(Mirror(0.3), Plane(SIZE, 2)))
    ticks = []
    count = lambda num, **options: count_classes(
        smoothed, PARAMS, keys, images, num_draws=num, **options
    )
    found = count(50, batch_size=7, chunk_size=50, on_draw=ticks.append)
    assert ticks == [7 * 50]
    assert len(np.unique(found[:, 1])) > 1
    for batch_size, chunk_size, mesh in ((3, 7, None), (64, 100, None), (4, 16, data_mesh(2))):
        options = {"batch_size": batch_size, "chunk_size": chunk_size, "mesh": mesh}
        ticks.clear()
        np.testing.assert_array_equal(count(50, on_draw=ticks.append, **options), found)
        assert sum(ticks) == 7 * 50
    lone = count_classes(smoothed, PARAMS, keys[4:5], images[4:5], num_draws=50)
    np.testing.assert_array_equal(lone, found[4:5])
    fewer = count(20, chunk_size=8)  # the first draws stay what they were
    assert (fewer.sum(1) == 20).all()
    assert (found - fewer >= 0).all()


def test_selection_and_estimation_share_no_draw():
    """On the plane, the class that was ahead in one half is behind as often in the other."""
    images, keys = images_at(np.zeros(300)), keys_of(300)
    found = certify(
        LINEAR, PARAMS, keys, images, num_select=51, num_estimate=51, batch_size=300,
        chunk_size=51,
    )  # fmt: skip
    assert 0.3 < (found.counts > 25).mean() < 0.7  # the very same draws: all of them
    assert len(np.unique(found.selected)) == 2
    counts = predict(LINEAR, PARAMS, keys, images, num_draws=51, chunk_size=51).counts
    estimated = np.where(found.selected == 1, found.counts, 51 - found.counts)
    assert abs(np.corrcoef(counts[:, 1], estimated)[0, 1]) < 0.2


# -- Errors -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cracked(Plane):
    """NaN in one class for images far beyond the plane."""

    beyond: float = 1.0

    def apply(self, params, *inputs):
        logits = super().apply(params, *inputs)
        return logits.at[1].set(jnp.where(logits[1] > self.beyond, jnp.nan, logits[1]))


def test_a_nan_is_no_vote_for_class_0():
    smoothed = Smoothed(Defended(Identity(), Cracked(SIZE, 2)), SIGMA)
    images = images_at([0.1, 0.1, 0.5])
    with pytest.raises(ValueError, match=r"NaN under noise for 1 of 1 images, .* number 2"):
        count_classes(smoothed, PARAMS, keys_of(3), images, num_draws=300, batch_size=1)


def test_draws_that_only_fill_a_chunk_are_nobodys():
    """The fourth is NaN for some image, and fills the second chunk of two for it."""
    smoothed = Smoothed(Defended(Identity(), Cracked(SIZE, 2, beyond=0.8)), SIGMA)
    keys, images = keys_of(40), images_at(np.full(40, 0.5))
    broken = np.zeros(40, bool)
    for num_draws in (3, 4):
        sound = ~broken
        for place in range(40):
            try:
                lone = keys[place : place + 1], images[place : place + 1]
                count_classes(smoothed, PARAMS, *lone, num_draws=num_draws, chunk_size=2)
            except ValueError:
                broken[place] = True
    place = int(np.flatnonzero(broken & sound)[0])
    lone = keys[place : place + 1], images[place : place + 1]
    counts = count_classes(smoothed, PARAMS, *lone, num_draws=3, chunk_size=2)
    assert counts.sum() == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sigma": 0.0}, "sigma=0.0 must be positive"),
        ({"sigma": math.nan}, "sigma=nan must be positive"),
        ({"alpha": 0.0}, "alpha=0.0 must lie between 0 and 1"),
        ({"num_select": 0}, "num_draws=0 must be a whole number, and at least 1"),
        ({"num_estimate": 9}, r"num_estimate=9 can only abstain .* take at least 10"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
        ({"chunk_size": 2.0}, "chunk_size=2.0 must be a whole number"),
        ({"num_estimate": 1e5}, "num_estimate=100000.0 must be a whole number"),
        ({"sigma": "0.25"}, "sigma=.0.25. must be a number"),
        ({"images": 2 + np.zeros((1, 2, 2, 3), np.float32)}, r"Images must lie in \[0, 1\]"),
        ({"keys": keys_of(2)}, "1 images came with 2 keys"),
        ({"keys": jax.random.key(0)}, "Keys must be an array of one key per image"),
        ({"params": ()}, "Parameters must be"),
        ({"target": Defended(Identity(), Linear(SIZE, 1))}, "Linear returns 1 logit for an image"),
    ],
)
def test_bad_options_are_refused(changes, sentence):
    given = {
        "target": LINEAR.target, "sigma": SIGMA, "params": PARAMS, "keys": keys_of(1),
        "images": images_at([0.1]), "num_estimate": 10,
    } | changes  # fmt: skip
    if given["target"] is not LINEAR.target:
        given["params"] = {"defense": (), "classifier": {"kernel": jnp.ones((SIZE, 1))}}
    arrays = [given.pop(name) for name in ("params", "keys", "images")]
    with unchecked(), pytest.raises(ValueError, match=sentence):
        certify(Smoothed(given.pop("target"), given.pop("sigma")), *arrays, **given)


def test_bad_numbers_are_refused():
    ten = np.array([10])
    with pytest.raises(ValueError, match=r"num_draws=10 can only abstain .* take at least 11"):
        predict(LINEAR, PARAMS, keys_of(1), images_at([0.1]), num_draws=10)
    with pytest.raises(ValueError, match=r"counts=\[10\] must lie in 0..num_draws=9"):
        certificates(ten, ten, num_draws=9, sigma=1.0)
    with pytest.raises(ValueError, match=r"sigma=-1.0 must be positive"):
        certificates(ten, ten, num_draws=10, sigma=-1.0)
    with pytest.raises(ValueError, match=r"alpha=1.0 must lie between 0 and 1"):
        smoothing.lower_bound(ten, 10, 1.0)
    with pytest.raises(ValueError, match="1 certificates came with 2 labels"):
        smoothing.certified_accuracy(
            certificates(ten, ten, num_draws=10, sigma=1.0), np.zeros(2, np.int64), np.zeros(1)
        )


def test_a_full_device_is_told_what_to_lower(monkeypatch):
    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(smoothing, "_count_chunk", full)
    with pytest.raises(MemoryError, match=r"1 images of \(2, 2\) with chunk_size=3 .* lower the"):
        count_classes(LINEAR, PARAMS, keys_of(1), images_at([0.1]), num_draws=5, chunk_size=3)


def test_parameters_are_those_of_the_pipeline():
    target = Defended(Identity(), Linear(SIZE, 2))
    found = Smoothed(target, SIGMA).init(jax.random.key(0))
    expected = target.init(jax.random.key(0))
    np.testing.assert_array_equal(found["classifier"]["kernel"], expected["classifier"]["kernel"])
