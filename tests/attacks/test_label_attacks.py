"""Attacks by labels against loops written from their papers, and distances to hyperplanes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import (
    EOT,
    Boundary,
    GivenImages,
    HopSkipJump,
    RayS,
    SurFree,
    UniformNoise,
)
from rainjax.attacks._base import Run
from rainjax.attacks._watch import Watch
from rainjax.attacks.labels import RESTING, Verdict
from rainjax.attacks.surfree import _lowest
from rainjax.evaluation.describe import describe, digest
from tests.label_loops import (
    boundary_loop,
    hop_skip_jump_loop,
    length,
    rays_loop,
    surfree_loop,
)
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(0.35, 0.65, size=(4, 5, 3)), jnp.float32)
WEIGHTS = RNG.normal(size=IMAGE.shape).astype(np.float32)
BENDS = RNG.normal(size=IMAGE.shape).astype(np.float32)
OFFSET = float((WEIGHTS * np.asarray(IMAGE)).sum()) + 1.0
KEY = jax.random.key(3)
SHORTEST = {"l2": 1 / np.linalg.norm(WEIGHTS), "linf": 1 / np.abs(WEIGHTS).sum()}


def plane(key, image):
    """Two logits: the second wins beyond a hyperplane at a known distance."""
    return jnp.stack([jnp.full((), OFFSET), jnp.sum(WEIGHTS * image)])


def curved(key, image):
    """Two logits with a boundary that bends."""
    rise = jnp.sum(WEIGHTS * image) + 3 * jnp.sum(jnp.sin(4 * (image - IMAGE)) * BENDS)
    return jnp.stack([jnp.full((), OFFSET), rise])


@functools.partial(jax.jit, static_argnums=(0, 1))
def history(attack, logits_fn, key=KEY, image=IMAGE, label=0):
    """Returns the attacked image, and the state before every call and after the last."""
    init_key, loop_key = jax.random.split(key)

    def call(run, t):
        return attack.step(loop_key, t, logits_fn, run), run.state

    run = attack.start(init_key, image, jnp.asarray(label))
    run, states = jax.lax.scan(call, run, jnp.arange(attack.num_calls))
    return attack.finish(run), states, run.state


def replay(attack, loop, logits_fn=curved):
    """Goes through an attack beside a loop in NumPy, and holds their questions to each other.

    The loop is a generator of points, which is sent whether the last was a success, and the keys
    of the next start and of the next question.
    """
    _, states, _ = history(attack, logits_fn)
    loop_key = jax.random.split(KEY)[1]
    draw = jax.vmap(lambda t: jax.random.split(attack.keys(loop_key, t)[1]))
    keys = draw(jnp.arange(attack.num_calls))
    logits = jax.vmap(lambda x: logits_fn(None, x))(states.asked)
    wins = np.asarray(logits[:, 1] > logits[:, 0])
    asked = np.asarray(states.asked, float)
    expected = next(loop)
    for t in range(attack.num_calls):
        np.testing.assert_allclose(asked[t], expected, atol=2e-5, err_msg=f"at query {t}")
        expected = loop.send((wins[t], keys[t, 0], keys[t, 1]))
    return wins


@pytest.mark.parametrize(
    ("attack", "loop"),
    [
        (Boundary(num_queries=700, probe_every=2), boundary_loop),
        (HopSkipJump(num_queries=400, initial_votes=20), hop_skip_jump_loop),
        (
            HopSkipJump(num_queries=400, initial_votes=20, norm="linf", gamma=30.0),
            hop_skip_jump_loop,
        ),
        (RayS(num_queries=400), rays_loop),
        (SurFree(num_queries=300, basis="pixels", num_orthogonal=7), surfree_loop),
    ],
    ids=lambda value: getattr(value, "norm", ""),
)
def test_asks_what_a_loop_from_the_paper_asks(attack, loop):
    """Every question of some hundred, with the same random numbers and a boundary that bends."""
    wins = replay(attack, loop(attack, np.asarray(IMAGE, float)))
    assert 0.1 < wins.mean() < 0.9


@pytest.mark.parametrize(
    ("attack", "most"),
    [
        (Boundary(num_queries=2000, source_step=0.05, spherical_step=0.1), 1.25),
        (HopSkipJump(num_queries=1500), 1.1),
        (HopSkipJump(num_queries=1500, norm="linf"), 1.15),
        (RayS(num_queries=800), 1.1),
        (SurFree(num_queries=1000, frequency_share=1.0), 1.15),
    ],
    ids=["boundary", "hop_skip_jump", "hop_skip_jump_linf", "rays", "surfree"],
)
def test_comes_near_to_the_distance_of_a_hyperplane(attack, most):
    """Which is its lead over the dual norm of its weights; no success is nearer than that."""
    found, states, last = history(attack, plane)
    reach = length(found - IMAGE, attack.norm)
    assert SHORTEST[attack.norm] * (1 - 1e-4) <= reach < most * SHORTEST[attack.norm]
    assert plane(None, found).argmax() == 1
    assert found.min() >= 0
    assert found.max() <= 1
    assert last.queries == attack.num_queries == attack.num_gradients
    best = np.asarray(states.best.size)
    assert (np.diff(best[np.isfinite(best)]) <= 0).all()
    # With a radius the same image is brought into the ball.
    near = dataclasses.replace(attack, radius=0.5 * reach)
    inside = near.finish(Run(last, jnp.array(False), IMAGE, Watch.start()))
    assert length(inside - IMAGE, attack.norm) == pytest.approx(0.5 * reach, rel=1e-4)


@pytest.mark.parametrize("attack", [RayS(num_queries=60), HopSkipJump(num_queries=60)])
def test_scores_make_no_difference(attack):
    """Only the label is seen: a pipeline that tells nothing else gives the same image."""
    told = lambda key, image: jax.nn.one_hot(curved(key, image).argmax(), 2)
    np.testing.assert_array_equal(history(attack, curved)[0], history(attack, told)[0])


def test_the_budget_is_what_is_asked():
    asked = []

    def counting(key, image):
        jax.debug.callback(lambda: asked.append(1))
        return plane(key, image)

    attack = RayS(num_queries=7, eot=EOT(3, chunk_size=1))
    jax.block_until_ready(attack(KEY, counting, IMAGE, jnp.array(0)))
    jax.effects_barrier()
    assert len(asked) == attack.num_gradients == 21


def test_an_image_without_a_start_stays_as_it_is():
    """After all tries; one that is a success already, after its own."""
    attack = HopSkipJump(num_queries=12, starts=UniformNoise(num_tries=5))
    never = lambda key, image: jnp.array([1.0, 0.0]) + 0 * image.sum()
    found, states, last = history(attack, never)
    np.testing.assert_array_equal(found, IMAGE)
    assert last.queries == 1 + 5
    assert len(np.unique(np.asarray(states.asked[:6]).reshape(6, -1), axis=0)) == 6
    found, _, last = history(attack, never, KEY, IMAGE, 1)
    np.testing.assert_array_equal(found, IMAGE)
    assert last.queries == 1


@pytest.mark.parametrize("attack", [Boundary(), HopSkipJump(), RayS(), SurFree()])
def test_an_attack_at_rest_takes_no_lucky_draw(attack):
    """The driver asks on; a success of what has failed before is chance, and was not paid for."""
    state = attack.init(KEY, IMAGE, jnp.asarray(0))
    asked = jnp.clip(IMAGE + 0.01, 0, 1)
    resting = dataclasses.replace(state, phase=state.phase * 0 + RESTING, asked=asked)
    after = attack.update(KEY, resting, Verdict(jnp.asarray(1.0)))
    np.testing.assert_array_equal(attack.result(after), attack.result(state))
    assert int(after.queries) == int(state.queries)


def test_given_images_are_tried_in_their_order():
    """Each for a query; the first success of them is where the search begins."""
    near, beyond = IMAGE + 0.01, jnp.clip(IMAGE + 0.2 * np.sign(WEIGHTS), 0, 1)
    starts = GivenImages.of(jnp.stack([near - 0.02, beyond, near]), num_halvings=0)
    attack = Boundary(num_queries=6, starts=starts, targeted=True)
    found, states, last = history(attack, plane, KEY, IMAGE, 1)  # towards class 1
    np.testing.assert_array_equal(states.asked[:3], jnp.stack([IMAGE, near - 0.02, beyond]))
    assert np.isfinite(last.best.size)
    assert length(found - IMAGE) <= length(beyond - IMAGE)
    assert 0 < length(states.asked[3] - beyond) < 0.1 * length(beyond - IMAGE)
    again = GivenImages.of(np.stack([near - 0.02, beyond, near]), num_halvings=0)
    other = GivenImages.of(np.stack([near, beyond, near]), num_halvings=0)
    assert starts == again
    assert digest(describe(starts)) == digest(describe(again)) != digest(describe(other))
    assert len(str(describe(starts))) < 500  # no pixels in a record
    attack = dataclasses.replace(attack, starts=GivenImages.of(np.zeros((1, 2, 2, 3))))
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\) cannot start .* shape \(4, 5, 3\)"):
        attack(KEY, plane, IMAGE, jnp.array(1))


def test_the_lowest_frequencies_are_taken_diagonal_by_diagonal():
    assert _lowest(4, 4, 1.0).all()
    lowest = [_lowest(4, 4, count / 16) for count in range(1, 17)]
    assert [int(mask.sum()) for mask in lowest] == list(range(1, 17))
    order = [np.argwhere(a & ~b)[0] for a, b in zip(lowest[1:], lowest[:-1], strict=True)]
    assert (np.diff([row + column for row, column in order]) >= 0).all()
    assert _lowest(8, 8, 0.001).sum() == 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RayS(num_queries=0), "num_queries=0 must be at least 1"),
        (lambda: RayS(tolerance=0.0), "tolerance=0.0 must be finite and positive"),
        (lambda: RayS(radius=8.0), "radius=8.0 must lie in"),
        (lambda: RayS(norm="l2"), "norm='l2' is none of"),
        (lambda: RayS(success_share=0.0), "success_share=0.0 must lie in"),
        (lambda: Boundary(source_step=1.0), r"source_step=1.0 must lie in \(0, 1\)"),
        (lambda: Boundary(spherical_step=float("nan")), "spherical_step=nan must lie in"),
        (lambda: Boundary(step_adaptation=1.0), "step_adaptation=1.0 must be finite and above 1"),
        (lambda: Boundary(source_step_convergence=-1.0), "convergence=-1.0 must lie in"),
        (lambda: Boundary(probe_every=0), "probe_every=0 must be at least 1"),
        (lambda: HopSkipJump(norm="l1"), "norm='l1' is none of"),
        (lambda: HopSkipJump(initial_votes=0), "initial_votes=0 must be at least 1"),
        (lambda: HopSkipJump(most_votes=50), "at most most_votes=50"),
        (lambda: HopSkipJump(gamma=0.0), "gamma=0.0 must be finite and positive"),
        (lambda: SurFree(widest_degrees=90.0), r"widest_degrees=90.0 must lie in \(0, 90\)"),
        (lambda: SurFree(shrinkage=0.0), r"shrinkage=0.0 must lie in \(0, 1\]"),
        (lambda: SurFree(frequency_share=2.0), r"frequency_share=2.0 must lie in \(0, 1\]"),
        (lambda: SurFree(tolerance=0.0), r"tolerance=0.0 must lie in \(0, 1\)"),
        (lambda: SurFree(num_angles=0), "num_angles=0 and num_orthogonal=100 must be at least 1"),
        (lambda: SurFree(basis="wavelets"), "basis='wavelets' is none of"),
        (lambda: UniformNoise(num_tries=0), "num_tries=0 must be at least 1"),
        (lambda: UniformNoise(num_halvings=-1), "num_halvings=-1 must not be negative"),
        (lambda: GivenImages.of(np.zeros((4, 4, 3))), r"not an array of shape \(4, 4, 3\)"),
        (lambda: GivenImages.of(np.full((1, 4, 4, 3), 255)), "divide integers by 255"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
