"""ZOO against a loop in NumPy, and its spaces against JAX's own resizing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import ZOO
from rainjax.attacks._spaces import AttackSpace
from tests.asking import IMAGE, KEY, WEIGHTS, curved, curved_margin, history, linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

ORIGIN = np.asarray(IMAGE, float)
SIZES = ((0, 2), (1, 4))


def resized(change, shape):
    return np.asarray(jax.image.resize(jnp.asarray(change, jnp.float32), shape, "bilinear"), float)


@pytest.mark.parametrize(
    ("solver", "sizes"), [("adam", ()), ("newton", ()), ("adam", SIZES)], ids=str
)
def test_whole_attacks_are_loops_in_numpy(solver, sizes):
    """Three rounds of three steps each, the last of fewer coordinates, and a last question."""
    num, probe, step_size = 6, 0.05, 0.2
    atol = 5e-5 if solver == "adam" else 2e-3  # second differences of float32
    attack = ZOO(
        solver=solver, attack_sizes=sizes, num_coordinates=num, probe_size=probe,
        step_size=step_size, num_search_steps=3, num_queries=3 * 35, initial_const=0.5,
        confidence=0.1,
    )  # fmt: skip
    found, runs, asked = history(attack, curved, label=2)
    chosen = np.asarray(runs.state.chosen)
    assert len(asked) == 3 * 34  # 13 + 13 + 7 + 1: a query of each round is not worth asking

    best, size, strongest, const, low, high = None, np.inf, -np.inf, 0.5, 0.0, np.inf
    constants = []
    for turn in range(3):
        constants.append(const)
        success, side = False, sizes[0][1] if sizes else None
        shape = (side, side, 3) if sizes else ORIGIN.shape
        y, m, v, t = (np.zeros(shape) for _ in range(4))

        def image(y):
            return np.clip(ORIGIN + (resized(y, ORIGIN.shape) if sizes else y), 0, 1)

        def loss(y, const=const):
            lack = min(curved_margin(image(y)) - 0.1, 0.0)
            return ((image(y) - ORIGIN) ** 2).sum() - const * lack

        for step, pairs in enumerate((6, 6, 3, 0)):
            if sizes and step == 1:
                y = resized(y, (4, 4, 3))
                m, v, t = (np.zeros(y.shape) for _ in range(3))
            call = 34 * turn + 13 * step if pairs else 34 * turn + 33
            np.testing.assert_allclose(asked[call], image(y), atol=atol)
            margin, distance = curved_margin(image(y)), np.linalg.norm(image(y) - ORIGIN)
            if margin > 0.1:
                success = True
                if distance < size:
                    best, size = image(y), distance
            elif size == np.inf and distance > 0 and margin > strongest:
                best, strongest = image(y), margin
            following = y.copy()
            for number in chosen[call][:pairs] if pairs else ():
                # In a smaller space than the largest, rows are as long as in that.
                place = np.unravel_index(number, (4, 4, 3) if sizes else ORIGIN.shape)
                ahead, behind = y.copy(), y.copy()
                ahead[place] += probe
                behind[place] -= probe
                g = (loss(ahead) - loss(behind)) / (2 * probe)
                h = (loss(ahead) - 2 * loss(y) + loss(behind)) / probe**2
                t[place] += 1
                m[place] = 0.9 * m[place] + 0.1 * g
                v[place] = 0.999 * v[place] + 0.001 * g**2
                mean, square = m[place] / (1 - 0.9 ** t[place]), v[place] / (1 - 0.999 ** t[place])
                newton = g / h if h > 0 else g
                move = mean / (np.sqrt(square) + 1e-8) if solver == "adam" else newton
                following[place] = y[place] - step_size * move
            y = following
            if not sizes:
                y = np.clip(y, -ORIGIN, 1 - ORIGIN)
        if success:
            high = const
        else:
            low = const
        const = 10 * const if high == np.inf else (low + high) / 2
    np.testing.assert_allclose(found, best, atol=atol)
    np.testing.assert_allclose(runs.state.search.constant[::34], constants, rtol=1e-6)
    assert len(set(constants)) == 3


def test_it_comes_near_the_nearest_image_that_a_linear_classifier_gets_wrong():
    """That is as far away as the margin is large, over the length of its gradient."""
    lead = np.sum(WEIGHTS * ORIGIN) + 2.0

    def near(key, image):
        return jnp.stack([jnp.full((), lead), linear(key, image)[1]])

    attack = ZOO(
        num_coordinates=20, probe_size=0.01, step_size=0.01, initial_const=0.1,
        num_search_steps=3, num_queries=3 * 60 * 41,
    )  # fmt: skip
    found, _, _ = history(attack, near)
    delta = np.asarray(found) - ORIGIN
    assert (delta * WEIGHTS).sum() > 2.0
    least = 2.0 / np.linalg.norm(WEIGHTS)
    assert least <= np.linalg.norm(delta) < 1.25 * least


def test_spaces_are_resized_as_jax_resizes():
    space = AttackSpace(((0, 3), (2, 5), (9, 8)))
    large = jnp.zeros((11, 16, 3))
    assert space.shape(large) == (8, 8, 3)
    assert [int(space.stage(jnp.array(step))) for step in (0, 1, 2, 8, 9, 99)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    values = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    for stage, side in enumerate((3, 5, 8)):
        change = np.zeros_like(values)
        change[:side, :side] = values[:side, :side]
        found = space.to_image(jnp.asarray(change), jnp.array(stage), large)
        np.testing.assert_allclose(found, resized(values[:side, :side], (11, 16, 3)), atol=1e-5)
        if stage < 2:
            following = (5, 8)[stage]
            found = np.asarray(space.grown(jnp.asarray(change), jnp.array(stage + 1)))
            expected = resized(values[:side, :side], (following, following, 3))
            np.testing.assert_allclose(found[:following, :following], expected, atol=1e-5)
            assert not found[following:].any()
            assert not found[:, following:].any()


def test_coordinates_are_chosen_without_replacement_and_by_importance():
    """In proportion to the largest change of a region, and only in the space of the stage."""
    space = AttackSpace(((0, 8), (5, 16)))
    change = np.zeros((32 // 2, 16, 1), np.float32)
    change[:16:5, :16:3, 0] = np.random.default_rng(2).normal(size=(4, 6))
    keys = jax.random.split(KEY, 4000)

    def frequencies(stage, num, importance):
        choose = lambda key: space.choose(
            key, num, jnp.asarray(change), jnp.array(stage), importance=importance
        )
        chosen = np.asarray(jax.jit(jax.vmap(choose))(keys))
        assert all(len(set(row)) == num for row in chosen[:50].tolist())
        return np.bincount(chosen.ravel(), minlength=256).reshape(16, 16) / len(keys)

    first = frequencies(0, 3, True)  # importance waits for the second space
    assert not first[8:].any()
    assert not first[:, 8:].any()
    np.testing.assert_allclose(first[:8, :8], 3 / 64, atol=0.02)
    expected = np.zeros((16, 16))
    for row, column in itertools.product(range(0, 16, 2), repeat=2):
        region = slice(row, row + 2), slice(column, column + 2)
        expected[region] = np.abs(change[..., 0][region]).max()
    np.testing.assert_allclose(frequencies(1, 1, True), expected / expected.sum(), atol=0.012)
    np.testing.assert_allclose(frequencies(1, 1, False), 1 / 256, atol=0.006)
