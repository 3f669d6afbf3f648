"""Wilson's interval against SciPy, and against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax import metrics
from tests.tiny import unchecked


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (531, 1000), (999, 1000)]
)
def test_wilson_agrees_with_scipy(successes, total, confidence):
    test = scipy.stats.binomtest(successes, total)
    expected = test.proportion_ci(confidence_level=confidence, method="wilson")
    ours = metrics.wilson_interval(successes, total, confidence)
    assert ours == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_a_mean_over_draws_lies_between_its_neighbours():
    below, between, above = (metrics.wilson_interval(k, 100) for k in (40, 40.4, 41))
    assert below[0] < between[0] < above[0]
    assert below[1] < between[1] < above[1]
    # The ends are where the score statistic equals z: the definition, not the formula.
    for end in between:
        assert abs(0.404 - end) / np.sqrt(end * (1 - end) / 100) == pytest.approx(1.959964)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 0), "total=0"),
        ((11, 10), "successes=11"),
        ((-1, 10), "successes=-1"),
        ((float("nan"), 10), "successes=nan"),
        ((1, 10, 95.0), "confidence=95.0"),
        ((1, 10, "0.95"), "confidence='0.95' must be a number"),
        ((1, 2.5), "total=2.5 must be a whole number"),
        ((1, True), "total=True must be a whole number"),
        (("1", 10), "successes='1' must be a number"),
        ((np.ones(3), 10), r"successes=an array of shape \(3,\) must be a number"),
    ],
)
def test_wilson_names_what_is_wrong(arguments, words):
    with unchecked(), pytest.raises(ValueError, match=words):
        metrics.wilson_interval(*arguments)


def test_wilson_takes_numbers_of_jax():
    with unchecked():
        assert metrics.wilson_interval(jnp.int32(3), np.int64(7)) == metrics.wilson_interval(3, 7)
