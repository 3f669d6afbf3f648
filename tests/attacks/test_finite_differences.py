"""NES and SPSA against closed forms and loops in NumPy on the same random numbers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import NES, SPSA
from tests.asking import IMAGE, WEIGHTS, curved, curved_margin, history, linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

ORIGIN = np.asarray(IMAGE, float)
QUADRATIC = np.random.default_rng(3).normal(size=(IMAGE.size, IMAGE.size)) / 10


def bowl(key, image):
    """Two logits whose margin is quadratic, and far below zero."""
    x = image.ravel()
    return jnp.stack([jnp.full((), 50.0), x @ QUADRATIC.astype(np.float32) @ x])


def first_estimate(attack, logits_fn):
    """Returns the directions of the first step's pairs, and what it takes for the gradient."""
    _, runs, _ = history(attack, logits_fn)
    memory, pairs = runs.state.memory, 2 * attack.num_pairs
    estimate = memory.momentum[pairs] if isinstance(attack, NES) else memory.mean[pairs] / 0.1
    return np.asarray(runs.state.direction[:pairs:2], float), np.asarray(estimate, float)


def test_the_estimate_of_a_linear_function_is_its_gradient_seen_through_the_directions():
    """(1/n) sum of u (u . w), whatever sigma is, and as near to w as n of d directions come."""
    num, size = 120, IMAGE.size
    attack = NES(
        num_pairs=num, num_queries=2 * num + 2, probe_size=0.03, momentum=0.0, loss="margin"
    )
    directions, estimate = first_estimate(attack, linear)
    through = np.einsum("nhwc,n->hwc", directions, (directions * WEIGHTS).sum((1, 2, 3))) / num
    np.testing.assert_allclose(estimate, through, atol=2e-3)
    cosine = (estimate * WEIGHTS).sum() / np.linalg.norm(estimate) / np.linalg.norm(WEIGHTS)
    assert cosine == pytest.approx(np.sqrt(num / (num + size + 1)), abs=0.06)
    assert abs(directions.mean()) < 0.05  # Gaussian, of deviation one
    assert directions.std() == pytest.approx(1.0, abs=0.03)
    assert (directions**4).mean() == pytest.approx(3.0, abs=0.3)


def test_the_estimate_of_a_quadratic_function_is_exact_along_every_direction():
    """A central difference of it is v . gradient, however far apart its sides are."""
    attack = SPSA(num_pairs=20, num_queries=42, probe_size=0.25)
    directions, estimate = first_estimate(attack, bowl)
    assert set(np.unique(directions)) == {-1.0, 1.0}
    gradient = ((QUADRATIC + QUADRATIC.T) @ ORIGIN.ravel()).reshape(ORIGIN.shape)
    along = (directions * gradient).sum((1, 2, 3))
    np.testing.assert_allclose(
        estimate, np.einsum("nhwc,n->hwc", directions, along) / 20, atol=2e-3
    )


class LoopNES:
    """The step of Ilyas et al.'s program: momentum, annealing on a plateau, a signed step."""

    def __init__(self, attack):
        self.attack, self.g, self.step_size = attack, 0.0, attack.step_size
        self.losses, self.annealed = [], 0

    def __call__(self, gradient, loss):
        attack = self.attack
        self.g = attack.momentum * self.g + (1 - attack.momentum) * gradient
        self.losses = [*self.losses, loss][-attack.plateau_length :]
        if len(self.losses) == attack.plateau_length and self.losses[-1] < self.losses[0]:
            if self.step_size > attack.min_step_size:
                self.step_size = max(self.step_size / attack.plateau_drop, attack.min_step_size)
                self.annealed += 1
            self.losses = []
        if attack.norm == "linf":
            return self.step_size * np.sign(self.g)
        return self.step_size * self.g / np.linalg.norm(self.g)


class LoopAdam:
    """Adam as Kingma and Ba write it."""

    def __init__(self, attack):
        self.step_size, self.m, self.v, self.t = attack.step_size, 0.0, 0.0, 0

    def __call__(self, gradient, loss):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return self.step_size * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", [NES, SPSA])
def test_whole_attacks_are_loops_in_numpy(kind, norm):
    """With 31 queries: three steps of four pairs, one of three, and a query that is not asked."""
    radius = {"linf": 0.1, "l2": 0.5}[norm]
    attack = kind(
        norm=norm, radius=radius, loss="margin", num_pairs=4, num_queries=31, probe_size=0.05,
        step_size=radius / 2,
    )  # fmt: skip
    if kind is NES:
        attack = dataclasses.replace(attack, plateau_length=2, momentum=0.5)
    found, runs, asked = history(attack, curved, label=2)
    directions = np.asarray(runs.state.direction, float)
    step, x = {NES: LoopNES, SPSA: LoopAdam}[kind](attack), ORIGIN.copy()
    for pairs in np.split(np.arange(15), [4, 8, 12]):
        gradient, losses = 0.0, []
        for pair in pairs:
            u = directions[2 * pair]
            sides = [np.clip(x + sign * 0.05 * u, 0, 1) for sign in (1, -1)]
            np.testing.assert_allclose(asked[2 * pair : 2 * pair + 2], sides, atol=1e-5)
            ahead, behind = (curved_margin(side) for side in sides)
            gradient = gradient + (ahead - behind) / (2 * 0.05) * u / len(pairs)
            losses += [ahead, behind]
        delta = x + step(gradient, np.mean(losses)) - ORIGIN
        if norm == "linf":
            delta = np.clip(delta, -radius, radius)
        else:
            delta = delta * min(1.0, radius / np.linalg.norm(delta))
        x = np.clip(ORIGIN + delta, 0, 1)
    np.testing.assert_allclose(found, x, atol=2e-5)
    assert len(asked) == 30
    assert curved_margin(x) > curved_margin(ORIGIN)


def test_the_step_is_divided_where_the_loss_falls():
    attack = NES(
        loss="margin", radius=0.2, num_pairs=2, num_queries=200, probe_size=0.05, step_size=0.1,
        plateau_length=3, momentum=0.0, min_step_size=0.02,
    )  # fmt: skip
    _, runs, _ = history(attack, curved, label=2)
    state, step = runs.state, LoopNES(attack)
    sizes, losses = np.asarray(state.memory.step_size)[::4], np.asarray(state.memory.values)[::4]
    expected = [0.1]
    for values in losses[1:]:
        step(WEIGHTS, values[-1])
        expected.append(step.step_size)
    np.testing.assert_allclose(sizes, expected, rtol=1e-5)
    assert step.annealed >= 3
    assert sizes.min() == np.float32(0.02)


def test_probes_are_images():
    edges = jnp.round(IMAGE)
    _, _, asked = history(NES(num_pairs=4, num_queries=16, probe_size=0.3), linear, image=edges)
    assert asked.min() == 0
    assert asked.max() == 1


def test_a_success_outside_of_the_ball_does_not_end_an_attack():
    """Probes are far outside; only an iterate that the label loses is handed out."""
    lead, most = np.sum(WEIGHTS * ORIGIN), 0.02 * np.abs(WEIGHTS).sum()

    def beaten_from(gain):
        def logits_fn(key, image):
            return jnp.stack([jnp.full((), lead + gain), linear(key, image)[1]])

        return logits_fn

    attack = SPSA(
        radius=0.02, num_pairs=10, num_queries=400, probe_size=0.2, early_stop=True
    )  # fmt: skip
    found, runs, asked = history(attack, beaten_from(1.5 * most))
    gains = ((np.asarray(asked) - ORIGIN) * WEIGHTS).sum((1, 2, 3))
    assert gains.max() > 1.5 * most
    assert not runs.done.any()
    found, runs, asked = history(attack, beaten_from(0.6 * most))
    assert runs.done[-1]
    place = int(np.argmax(runs.done)) - 1  # the last call that was made
    assert place % 21 == 0  # which asks about the iterate
    np.testing.assert_array_equal(found, asked[place])
    delta = np.asarray(found) - ORIGIN
    assert np.abs(delta).max() <= 0.02 + 1e-6
    assert (delta * WEIGHTS).sum() > 0.6 * most
