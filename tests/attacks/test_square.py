"""Square against the paper's schedule, NumPy loops and linear optima."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, Square
from rainjax.attacks.queries import LossOnly
from rainjax.attacks.square import Duel, _pyramids
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(0.02, 0.98, size=(10, 12, 3)), jnp.float32)
GREY = jnp.full_like(IMAGE, 0.5)
WEIGHTS = RNG.normal(size=IMAGE.shape).astype(np.float32)
KEY = jax.random.key(4)


def linear(key, image):
    """Two logits whose margin is linear, and far below zero."""
    return jnp.stack([jnp.full((), 100.0), jnp.sum(WEIGHTS * image)])


def noisy(key, image):
    """The same with noise of the draw, as large as what a good attack gains."""
    return linear(key, image) + jnp.array([0.0, 2.0]) * jax.random.normal(key)


def margin(images):
    return np.sum(WEIGHTS * np.asarray(images, float), axis=(-3, -2, -1)) - 100


@functools.partial(jax.jit, static_argnums=(0, 1))
def history(attack, logits_fn, key, image=IMAGE, label=0):
    """Returns the attacked image, and the state before every call."""
    init_key, loop_key = jax.random.split(key)

    def call(run, t):
        return attack.step(loop_key, t, logits_fn, run), run

    run = attack.start(init_key, image, jnp.asarray(label))
    run, runs = jax.lax.scan(call, run, jnp.arange(attack.num_calls))
    return attack.finish(run), runs


def attacked(attack, logits_fn=linear, key=KEY, image=IMAGE, label=0):
    return np.asarray(history(attack, logits_fn, key, image, label)[0])


def test_schedule_is_the_papers():
    """Halved at 10, 50, 200, ... of 10,000 queries; other numbers are brought to these."""
    full = Square(num_queries=10_000)
    for step, halved in [
        (0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (200, 2), (201, 3), (500, 3), (501, 4),
        (1000, 4), (1001, 5), (2001, 6), (4001, 7), (6001, 8), (8000, 8), (8001, 9), (9999, 9),
    ]:  # fmt: skip
        assert full.share(step) == 0.8 / 2**halved
    for queries in (300, 5000, 7321):
        attack = Square(num_queries=queries, p_init=0.5)
        steps = np.arange(queries)
        scaled = (steps / queries * 10_000).astype(int)  # AutoAttack's rounding
        halved = (scaled[:, None] > [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]).sum(1)
        assert [attack.share(step) for step in range(queries)] == list(0.5 / 2.0**halved)


def test_sides_of_squares():
    """The side of a square that covers the share, as published for CIFAR-10 and ImageNet."""
    attack = Square(num_queries=10_000)
    assert [attack.side(step, 32, 32) for step in (1, 11, 51, 9999)] == [29, 20, 14, 1]
    assert [attack.side(step, 224, 224) for step in (1, 11, 9999)] == [200, 142, 9]
    pairs = dataclasses.replace(attack, norm="l2")  # odd, and no smaller than 3
    assert [pairs.side(step, 32, 32) for step in (1, 11, 51, 9999)] == [29, 21, 15, 3]
    assert [attack.side(1, 4, 40), pairs.side(1, 4, 40), pairs.side(1, 2, 2)] == [4, 3, 2]


def test_squares_have_the_size_and_the_colours_that_are_due():
    attack = Square(radius=0.1, num_queries=300)
    _, runs = history(attack, linear, KEY, GREY)
    asked, image = np.asarray(runs.state.asked), np.asarray(runs.state.image)
    stripes = asked[0] - 0.5
    assert (stripes == stripes[:1]).all()
    assert np.allclose(np.abs(stripes), 0.1)
    assert 0.2 < (stripes > 0).mean() < 0.8
    corners = set()
    for step in range(1, 300):
        side = attack.side(step, 10, 12)
        # Where a colour is changed the square shows, and elsewhere nothing is.
        rows, columns = np.nonzero((asked[step] != image[step]).any(-1))
        assert len(rows)  # never a proposal that changes nothing
        assert np.ptp(rows) < side
        assert np.ptp(columns) < side
        assert np.allclose(np.abs(asked[step] - 0.5), 0.1)
        if side == 1:
            corners.add((int(rows[0]), int(columns[0])))
    assert {row for row, _ in corners} == set(range(10))  # the borders are reached too
    assert {column for _, column in corners} == set(range(12))


@pytest.mark.parametrize("side", [1, 2, 3, 6, 7, 12])
def test_pyramids_are_the_papers(side):
    """Its equation for eta, with loops: rows and columns from 1, halves of unequal height."""
    upper, n = side // 2, side // 2
    expected = np.zeros((side, side))
    for r in range(1, side + 1):
        for s in range(1, side + 1):
            half = upper if r <= upper else side - upper
            row = r if r <= upper else r - upper
            m = n - max(abs(row - half // 2 - 1), abs(s - side // 2 - 1))
            value = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
            expected[r - 1, s - 1] = value if r <= upper else -value
    found = jax.jit(_pyramids)(jnp.arange(15) - 1, jnp.arange(14) - 2, jnp.array(side))
    found = np.asarray(found)[1 : 1 + side, 2 : 2 + side]
    np.testing.assert_allclose(found, expected[: len(found), : found.shape[1]], rtol=1e-5)


def test_l2_carries_the_perturbation_of_one_square_to_another():
    """Its length stays the radius, two squares change, and one of them is left without."""
    attack = Square(norm="l2", radius=0.7, num_queries=200)
    _, runs = history(attack, linear, KEY, GREY)
    asked, image = np.asarray(runs.state.asked) - 0.5, np.asarray(runs.state.image) - 0.5
    np.testing.assert_allclose(np.linalg.norm(asked.reshape(200, -1), axis=1), 0.7, rtol=1e-4)
    for step in range(1, 200):
        side = attack.side(step, 10, 12)
        changed = (np.abs(asked[step] - image[step]) > 1e-6).any(-1)
        assert 0 < changed.sum() <= 2 * side**2
        emptied = changed & (asked[step] == 0).all(-1)
        kept = (changed & ~emptied).sum()
        assert kept <= side**2
        for channel in range(3):  # each channel keeps its length
            lengths = [np.linalg.norm(x[..., channel]) for x in (asked[step], image[step])]
            assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


@pytest.mark.parametrize(("norm", "radius", "share"), [("linf", 0.1, 0.85), ("l2", 0.8, 0.45)])
def test_reaches_a_good_share_of_the_linear_optimum(norm, radius, share):
    attack = Square(norm=norm, radius=radius, num_queries=1500, paired=False)
    gained = margin(attacked(attack, image=GREY)) - margin(GREY)
    order = {"linf": 1, "l2": 2}[norm]
    most = radius * np.linalg.norm(WEIGHTS.ravel(), order)
    assert share * most < gained <= most * (1 + 1e-5)
    towards = dataclasses.replace(attack, targeted=True, num_queries=300)
    assert margin(attacked(towards, image=GREY)) < margin(GREY) - 0.3 * most  # label 0 wanted


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_climbs_in_its_ball(norm):
    radius = {"linf": 0.1, "l2": 0.8}[norm]
    attack = Square(norm=norm, radius=radius, num_queries=200, paired=False)
    found, runs = history(attack, linear, KEY)
    state = runs.state
    climb = margin(state.image[1:])
    assert (np.diff(climb) > -1e-4).all()
    assert 10 < (np.diff(climb) > 1e-4).sum() < 190
    np.testing.assert_allclose(state.value[1:], climb, atol=1e-3)
    assert margin(found) >= climb[-1] - 1e-3  # the last incumbent is handed out
    assert state.asked.min() >= 0
    assert state.asked.max() <= 1
    deltas = (np.asarray(state.asked, float) - np.asarray(IMAGE)).reshape(200, -1)
    reach = np.linalg.norm(deltas, {"linf": np.inf, "l2": 2}[norm], axis=1)
    assert reach.max() <= radius + 1e-6


def test_an_incumbent_is_not_kept_for_its_luck():
    """Alone, the luckiest draw of noise stays; on the same draws the better point does."""
    paired = Square(radius=0.02, num_queries=300)
    keys = jax.random.split(KEY, 8)

    def ends(attack):
        found, runs = jax.vmap(lambda key: history(attack, noisy, key, GREY))(keys)
        too_high = np.asarray(runs.state.value[:, -1]) - margin(runs.state.image[:, -1])
        return too_high.mean(), margin(found).mean() - margin(GREY)

    most = 0.02 * np.abs(WEIGHTS).sum()
    cursed_by, cursed = ends(dataclasses.replace(paired, paired=False))
    assert cursed_by > 4  # two standard deviations of the noise
    assert cursed < 0.35 * most
    bias, gained = ends(paired)
    assert abs(bias) < 2.5  # noise of standard deviation 2 / sqrt(8), measured once
    assert gained > 0.6 * most
    # Draws in common make values comparable without a second forward pass.
    common = dataclasses.replace(paired, eot=EOT(common=True))
    assert isinstance(common.query, LossOnly)
    assert ends(common)[1] > 0.6 * most


def test_pairs_are_asked_where_they_are_needed():
    assert isinstance(Square(eot=EOT(4)).query, Duel)
    for without in (
        Square(eot=EOT(4), paired=False),
        Square(eot=EOT(4, common=True)),
        Square(eot=EOT(4, draws="enumerated")),
    ):
        assert isinstance(without.query, LossOnly)
    growing = Square(eot=EOT(4, first=1, common=True))  # the draws in common are not the same
    assert isinstance(growing.query, Duel)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pairs_find_the_same_image_without_randomness(norm):
    attack = Square(norm=norm, radius=0.3, num_queries=40)
    alone = dataclasses.replace(attack, paired=False)
    np.testing.assert_allclose(attacked(attack), attacked(alone), atol=1e-6)


def test_restarts_keep_the_best_start():
    attack = Square(radius=0.1, num_queries=30, num_restarts=4)
    earlier = 0
    for key in jax.random.split(KEY, 6):
        found, runs = history(attack, linear, key)
        ends = margin(runs.state.image[jnp.array([30, 60, 90])])  # where three starts ended
        assert len(set(ends)) == 3
        assert margin(found) >= max(ends) - 1e-4
        earlier += margin(found) <= max(ends) + 1e-4
        starts = np.asarray(runs.state.asked)[[0, 30, 60, 90]]
        assert len(np.unique(starts.reshape(4, -1), axis=0)) == 4
    assert earlier  # the last start is not always the best


def test_stops_at_the_first_point_that_is_misclassified():
    edge = margin(IMAGE) + 3

    def easy(key, image):
        return jnp.stack([jnp.full((), 100.0 + edge), jnp.sum(WEIGHTS * image)])

    attack = Square(radius=0.1, num_queries=100, early_stop=True)
    found, runs = history(attack, easy, KEY)
    first = np.flatnonzero(margin(runs.state.asked) > edge)[0]
    np.testing.assert_array_equal(found, runs.state.asked[first])
    assert not runs.done[first]
    assert runs.done[first + 1 :].all()


@pytest.mark.parametrize("changes", [{}, {"num_restarts": 3}, {"paired": False}, {"norm": "l2"}])
def test_a_pipeline_that_returns_nan_does_not_look_robust(changes):
    def cracked(key, image):
        rise = jnp.sum(WEIGHTS * (image - 0.5))
        return jnp.where(rise > 0.3, jnp.nan, 1.0) * linear(key, image)

    attack = Square(radius=0.1, num_queries=60, **changes)
    assert np.isnan(attacked(attack, cracked, image=GREY)).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "l1"}, "norm='l1' has no squares here: Square knows 'linf' and 'l2'"),
        ({"radius": -1.0}, "radius=-1.0 must be finite"),
        ({"loss": "hinge"}, "loss='hinge' is none of"),
        ({"p_init": 0.0}, r"p_init=0.0 must be a share of the image in \(0, 1\]"),
        ({"p_init": float("nan")}, "p_init=nan must be a share"),
        ({"num_queries": 0}, "num_queries=0 and num_restarts=1 must be at least 1"),
        ({"num_restarts": 0}, "num_queries=5000 and num_restarts=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        Square(**options)
