"""Random subsets: the order is read off marks that the stages leave in the image."""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax.defenses import (
    Defense,
    GaussianNoise,
    Identity,
    MedianFilter,
    RandomCrop,
    RandomSubset,
)
from rainjax.defenses._base import apply_draw
from rainjax.typing import Stratum
from tests.tiny import Mask, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.zeros((1, 1, 1))
KEYS = jax.random.split(jax.random.key(3), 4800)


@dataclasses.dataclass(frozen=True)
class Digit(Defense):
    """Writes a digit behind those that are there, the first one being the last decimal."""

    digit: int

    def apply(self, params, key, image):
        return (image + self.digit) / 8


@dataclasses.dataclass(frozen=True)
class Power(Defense):
    """Has a parameter, a draw and a slope of its own."""

    def init(self, key):
        return {"power": jax.random.uniform(key, minval=1.0, maxval=3.0)}

    def apply(self, params, key, image):
        return image ** params["power"] * jax.random.uniform(key)


def written(values):
    """Returns the digits of each value, as they were written: eighths are exact."""
    found = []
    for value in np.asarray(values).ravel():
        digits = []
        while value:
            digit, value = divmod(value * 8, 1)
            digits.append(int(digit))
        found.append(tuple(reversed(digits)))
    return found


STAGES = tuple(Digit(digit) for digit in (1, 2, 3, 4))


@pytest.mark.parametrize(("least", "most"), [(4, None), (2, 2), (1, 3), (0, 2)])
def test_every_subset_and_every_order_is_equally_likely(least, most):
    subset = RandomSubset(STAGES, least, most)
    apply = jax.jit(jax.vmap(lambda key: subset.apply(((),) * 4, key, IMAGE)))
    counts = collections.Counter(written(apply(KEYS)))
    sizes = range(least, (most or 4) + 1)
    chances = {
        order: 1 / len(sizes) / len(list(itertools.permutations(range(4), size)))
        for size in sizes
        for order in itertools.permutations((1, 2, 3, 4), size)
    }
    assert set(counts) == set(chances)
    observed = [counts[order] for order in chances]
    expected = [len(KEYS) * chance for chance in chances.values()]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_order_that_is_told_is_the_order_that_is_taken():
    subset = RandomSubset(STAGES, 0, 3)
    apply = jax.jit(jax.vmap(lambda key: subset.apply(((),) * 4, key, IMAGE)))
    orders = np.asarray(jax.jit(jax.vmap(subset.order))(KEYS[:200]))
    assert orders.shape == (200, 3)
    told = [tuple(int(number) + 1 for number in order if number < 4) for order in orders]
    assert told == written(apply(KEYS[:200]))


def test_random_stages_with_parameters_are_replayed_by_hand():
    stages = (Power(), Mask(), MedianFilter(3), Power())
    subset = RandomSubset(stages, num_max=3)
    params = subset.init(jax.random.key(1))
    assert float(params[0]["power"]) != float(params[3]["power"])
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 5, 3)), jnp.float32)
    apply = {
        # One image alone, where a switch runs one branch; and a batch, where it runs them all.
        "alone": jax.jit(subset.apply),
        "batch": jax.jit(
            lambda p, k, x: jax.vmap(subset.apply, (None, 0, None))(p, k[None], x)[0]
        ),
    }
    stage_applies = [jax.jit(stage.apply) for stage in stages]
    drawn = set()
    for key in KEYS[:6]:
        order = [number for number in subset.order(key).tolist() if number < 4]
        drawn |= set(order)
        stage_keys = jax.random.split(key, 5)[1:]

        def by_hand(x, order=order, stage_keys=stage_keys):
            for number in order:
                x = stage_applies[number](params[number], stage_keys[number], x)
            return x

        expected, back = jax.vjp(by_hand, image)
        for way, fn in apply.items():
            found, found_back = jax.vjp(functools.partial(fn, params, key), image)
            np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=way)
            np.testing.assert_allclose(found_back(image)[0], back(image)[0], atol=1e-5)
    assert drawn == {0, 1, 2, 3}


def test_groups_of_which_one_is_applied():
    """A stage may be a choice of one among others."""
    groups = (RandomSubset(STAGES[:2], 1, 1), RandomSubset(STAGES[2:], 1, 1))
    subset = RandomSubset(groups, 2, 2)
    params = subset.init(KEYS[0])
    apply = jax.jit(jax.vmap(lambda key: subset.apply(params, key, IMAGE)))
    counts = collections.Counter(written(apply(KEYS[:1600])))
    ordered = set(itertools.product((1, 2), (3, 4))) | set(itertools.product((3, 4), (1, 2)))
    assert set(counts) == ordered
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_what_is_random():
    assert RandomSubset((Identity(), MedianFilter())).is_random
    assert RandomSubset((MedianFilter(),), num_min=0).is_random
    assert RandomSubset((GaussianNoise(),)).is_random
    assert not RandomSubset((MedianFilter(),)).is_random


def test_one_stage_takes_any_draw_that_it_knows():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 6, 3)), jnp.float32)
    subset = RandomSubset((MedianFilter(),))
    assert subset.stratifies
    expected = MedianFilter().purify(image)
    for draw in (KEYS[0], Stratum(KEYS[0], jnp.asarray(0)), jnp.asarray(0)):
        np.testing.assert_array_equal(apply_draw(subset, ((),), draw, image), expected)
    assert not RandomSubset((RandomCrop(),)).stratifies


def test_bad_input_is_refused():
    for make, sentence in (
        (lambda: RandomSubset(()), r"stages=\(\) must hold at least one"),
        (lambda: RandomSubset(STAGES, 3, 2), "num_min=3 and num_max=2 must be in order"),
        (
            lambda: RandomSubset(STAGES, 0, 5),
            r"num_max=5 must be in order, with num_max in 1\.\.4",
        ),
        (lambda: RandomSubset(STAGES, 0, 0), "num_min=0 and num_max=0"),
        (lambda: RandomSubset(STAGES, -1), "num_min=-1 and num_max=4"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()
    for draw in (Stratum(KEYS[0], jnp.asarray(0)), jnp.asarray(0)):
        with pytest.raises(TypeError, match="draw keys, not"):
            apply_draw(RandomSubset(STAGES), ((),) * 4, draw, IMAGE)
