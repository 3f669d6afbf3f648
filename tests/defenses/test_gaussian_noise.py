"""Clipped noise against the normal distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax.defenses import GaussianNoise
from rainjax.defenses._base import apply_draw
from rainjax.typing import Stratum
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(5)


@pytest.mark.parametrize(("level", "sigma"), [(0.5, 0.05), (0.9, 0.25), (0.0, 0.5)])
def test_values_are_normal_and_clipped(level, sigma):
    image = jnp.full((60, 50, 3), level)
    found = np.asarray(GaussianNoise(sigma).apply((), KEY, image)).ravel()
    noise = scipy.stats.norm(level, sigma)
    for clipped, share in ((found == 0, noise.cdf(0)), (found == 1, noise.sf(1))):
        assert scipy.stats.binomtest(int(clipped.sum()), found.size, share).pvalue > 1e-3
    within = found[(found > 0) & (found < 1)]
    a, b = (np.array([0, 1]) - level) / sigma
    assert scipy.stats.kstest(within, scipy.stats.truncnorm(a, b, level, sigma).cdf).pvalue > 1e-3


def test_values_are_independent():
    grey = jnp.full((60, 50, 3), 0.5)
    found = np.asarray(GaussianNoise(0.05).apply((), KEY, grey)) - 0.5
    for one, other in (
        (found[1:], found[:-1]),
        (found[:, 1:], found[:, :-1]),
        (found[..., 1:], found[..., :-1]),
    ):
        assert scipy.stats.pearsonr(one.ravel(), other.ravel()).pvalue > 1e-3


def test_the_slope_is_one_where_nothing_was_clipped():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(9, 8, 3)), jnp.float32)
    found, back = jax.vjp(lambda x: GaussianNoise(0.4).apply((), KEY, x), image)
    (slope,) = back(jnp.ones_like(found))
    np.testing.assert_array_equal(slope, (found > 0) & (found < 1))


def test_nan_is_not_hidden():
    image = jnp.full((3, 3, 1), jnp.nan)
    assert np.isnan(jax.jit(GaussianNoise().apply)((), KEY, image)).all()


def test_bad_input_is_refused():
    for sigma in (0.0, -1.0, float("inf"), float("nan")):
        with unchecked(), pytest.raises(ValueError, match=f"sigma={sigma} must be positive"):
            GaussianNoise(sigma)
    for draw in (Stratum(KEY, jnp.asarray(0)), jnp.asarray(0)):
        with pytest.raises(TypeError, match="draw keys, not"):
            apply_draw(GaussianNoise(), (), draw, jnp.ones((2, 2, 1)))
