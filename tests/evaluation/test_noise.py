"""How noisy gradients are: against closed forms for gradients whose noise is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.evaluation.noise import gradient_noise, num_draws_for, settled
from rainjax.pipeline import Defended
from tests.small_studies import SIZE, SMALL, Stopped
from tests.tiny import Linear, Mask

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM = 12
IMAGES = SMALL[:NUM].astype(np.float32) / 255
LABELS = np.arange(NUM, dtype=np.int32) % 2
# Of two classes the margin has one gradient everywhere: the difference of the columns, of which
# Mask keeps each entry with probability one half.
PARAMS = {
    "defense": (),
    "classifier": {"kernel": jnp.asarray(np.random.default_rng(1).normal(size=(SIZE, 2)), "f4")},
}


def given(defense):
    return Defended(defense, Linear(SIZE, 2)), PARAMS, 3, np.arange(NUM), IMAGES, LABELS


def test_cosines_and_zeros_are_those_of_the_closed_form():
    """A mean of K draws has the square g² of its mean, and g²/K for its variance."""
    noise = gradient_noise(*given(Mask()), loss="margin", enough=lambda num, cosine: num == 16)
    assert noise.num_draws.tolist() == [1, 2, 4, 8, 16]
    assert noise.num_gradients == 32
    assert noise.cosine.mean() == pytest.approx(1 / 2, abs=0.01)
    assert noise.zeros.mean() == pytest.approx(1 / 2, abs=0.01)
    np.testing.assert_allclose(
        noise.stability.mean(0), [num / (num + 1) for num in noise.num_draws], atol=0.05
    )


def test_draws_are_doubled_until_the_direction_is_stable():
    find = lambda **options: num_draws_for(*given(Mask()), loss="margin", **options)
    assert find(stability=0.92) == 16  # 16/17 is more, and 8/9 is less
    assert find(stability=0.6) == 2
    assert find(stability=0.6, first=3) == 3
    assert find(stability=0.92, most=8) == 8
    assert find(stability=0.92, most=15) == 8


def test_batches_change_nothing():
    once = lambda num, cosine: num == 2
    one, other = (
        gradient_noise(*given(Mask()), loss="margin", enough=once, batch_size=size)
        for size in (12, 5)
    )
    np.testing.assert_allclose(one.stability, other.stability, atol=1e-6)
    np.testing.assert_allclose(one.cosine, other.cosine, atol=1e-6)
    np.testing.assert_array_equal(one.zeros, other.zeros)


def test_a_gradient_that_is_not_there_has_no_direction():
    noise = gradient_noise(*given(Stopped()), loss="margin", enough=settled_at(0.9))
    assert np.isnan(noise.cosine).all()
    assert np.isnan(noise.stability).all()
    assert (noise.zeros == 1).all()
    assert num_draws_for(*given(Stopped()), loss="margin", first=2) == 2


def settled_at(stability):
    return lambda num, cosine: settled(cosine, stability)
