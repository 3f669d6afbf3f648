"""SimBA against the published loop in NumPy, and SciPy's cosines."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from rainjax.attacks import SimBA
from tests.asking import IMAGE, KEY, WEIGHTS, curved, curved_logits, history, linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

ORIGIN = np.asarray(IMAGE, float)


def direction(basis, number, low):
    shape = ORIGIN.shape if basis == "pixel" else (low, low, 3)
    coefficients = np.zeros(ORIGIN.shape)
    coefficients[np.unravel_index(number, shape)] = 1.0
    if basis == "pixel":
        return coefficients
    return scipy.fft.idctn(coefficients, axes=(0, 1), norm="ortho")


def label_probability(image, label):
    powers = np.exp(curved_logits(image))
    return powers[label] / powers.sum()


@pytest.mark.parametrize(
    ("basis", "norm", "targeted"),
    [("pixel", "linf", False), ("dct", "l2", False), ("dct", "linf", True)],
)
def test_it_is_the_published_loop(basis, norm, targeted):
    """Their algorithm 1: the probability of the label falls, or rises where it is wanted."""
    radius, low = {"linf": 0.1, "l2": 0.6}[norm], 3 if basis == "dct" else None
    attack = SimBA(
        norm=norm, radius=radius, basis=basis, low_frequencies=low, num_queries=75,
        targeted=targeted, paired=False,
    )  # fmt: skip
    label = 0 if targeted else 2
    found, runs, asked = history(attack, curved, label=label)
    order = np.asarray(runs.state.order[0])
    assert sorted(order) == list(range(27 if basis == "dct" else 60))

    def into_ball(image):
        delta = image - ORIGIN
        if norm == "linf":
            delta = np.clip(delta, -radius, radius)
        else:
            delta = delta * min(1.0, radius / np.linalg.norm(delta))
        return np.clip(ORIGIN + delta, 0, 1)

    x, left, expected, accepted = ORIGIN, 75 - 1, [ORIGIN], 0
    last = label_probability(x, label)
    for place in range(75):
        q = 0.2 * direction(basis, order[place % len(order)], low)
        for alpha in (1, -1):
            if not left:
                break
            left -= 1
            proposal = into_ball(x + alpha * q)
            expected.append(proposal)
            probability = label_probability(proposal, label)
            if (probability > last) if targeted else (probability < last):
                x, last, accepted = proposal, probability, accepted + 1
                break
    np.testing.assert_allclose(asked, expected, atol=1e-5)
    np.testing.assert_allclose(found, x, atol=1e-5)
    assert 10 < accepted < 60


def test_asking_for_the_incumbent_again_changes_nothing_without_randomness():
    alone = SimBA(radius=0.1, num_queries=41, paired=False)
    paired = SimBA(radius=0.1, num_queries=60)  # two proposals in three queries
    found, _, _ = history(alone, curved, label=2)
    again, runs, asked = history(paired, curved, label=2)
    np.testing.assert_allclose(again, found, atol=1e-6)
    np.testing.assert_array_equal(asked[::3], runs.state.image[::3])


def test_it_reaches_the_optimum_of_a_linear_function():
    """Every value of the image moves to its border of the ball, within two queries each."""
    attack = SimBA(radius=0.1, loss="margin", num_queries=121, paired=False)
    found, runs, _ = history(attack, linear)
    delta = np.asarray(found) - ORIGIN
    np.testing.assert_allclose(delta, 0.1 * np.sign(WEIGHTS), atol=1e-5)
    first = np.flatnonzero(np.asarray(runs.state.tried) == 120)[0]
    assert first == 1 + 60 + (WEIGHTS < 0).sum()  # one query more where adding was wrong


def test_it_stops_at_the_first_point_that_is_misclassified():
    lead = np.sum(WEIGHTS * ORIGIN) + 1.0

    def easy(key, image):
        return jnp.stack([jnp.full((), lead), linear(key, image)[1]])

    attack = SimBA(radius=0.1, num_queries=120, early_stop=True)
    found, runs, asked = history(attack, easy)
    gains = ((np.asarray(asked) - ORIGIN) * WEIGHTS).sum((1, 2, 3))
    first = np.flatnonzero(gains > 1.0)[0]
    np.testing.assert_array_equal(found, asked[first])
    assert not runs.done[first]
    assert runs.done[first + 1 :].all()


def test_by_default_an_eighth_of_the_frequencies_is_used():
    large = jnp.zeros((32, 48, 3))
    state = SimBA(basis="dct").init(KEY, large, jnp.array(0))
    assert state.order.shape == (4 * 6 * 3,)
    one = dataclasses.replace(SimBA(basis="dct"), low_frequencies=1, norm="l2", radius=5.0)
    found, _, _ = history(dataclasses.replace(one, num_queries=20), linear)
    channels = np.asarray(found) - ORIGIN
    np.testing.assert_allclose(
        channels, np.broadcast_to(channels[:1, :1], channels.shape), atol=1e-6
    )
