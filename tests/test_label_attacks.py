"""Attacks by labels against loops written from their papers, and distances to hyperplanes."""

import dataclasses
import functools
import itertools

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
from rainjax.attacks.surfree import _lowest
from rainjax.evaluation.describe import describe, digest
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


def length(delta, norm="l2"):
    return np.linalg.norm(np.asarray(delta, float).ravel(), {"l2": 2, "linf": np.inf}[norm])


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


def normal(key):
    return np.asarray(jax.random.normal(key, IMAGE.shape), float)


def begins(origin, num_halvings=10):
    """Noise until one is a success, and bisection; returns the start and the key after it."""
    won, key, _ = yield origin
    assert not won
    while True:
        point = np.asarray(jax.random.uniform(key, IMAGE.shape), float)
        won, key, last = yield point
        if won:
            break
    low, high = origin, point
    for _ in range(num_halvings):
        won, _, last = yield (low + high) / 2
        low, high = (low, (low + high) / 2) if won else ((low + high) / 2, high)
    return high, last


def boundary_loop(attack, origin):
    """Brendel et al. (2018) as their implementation in Foolbox has it."""
    image, key = yield from begins(origin)
    spherical, source = attack.spherical_step, attack.source_step
    spheres, steps = [], []
    for step in itertools.count(1):
        inward = origin - image
        distance = length(inward)
        eta = normal(key)
        eta -= np.sum(eta * inward) / distance**2 * inward
        eta *= spherical * distance / length(eta)
        on_sphere = np.clip(origin + (eta - inward) / np.sqrt(spherical**2 + 1), 0, 1)
        left = origin - on_sphere
        move = max(source * distance + length(left) - distance, 0)
        candidate = np.clip(on_sphere + move / length(left) * left, 0, 1)
        won, _, key = yield candidate
        if step % attack.probe_every == 0:
            on, _, key = yield on_sphere
            spheres, steps = [*spheres[-99:], on], [*steps[-29:], won]
        if won and length(origin - candidate) < distance:
            image = candidate
        if step % attack.probe_every:
            continue
        if len(spheres) == 100 and not 0.2 <= np.mean(spheres) <= 0.5:
            factor = attack.step_adaptation ** (1 if np.mean(spheres) > 0.5 else -1)
            spherical, source, spheres = spherical * factor, source * factor, []
        if len(steps) == 30 and not 0.1 <= np.mean(steps) <= 0.25:
            source *= attack.step_adaptation ** (1 if np.mean(steps) > 0.25 else -1)
            steps = []


def hop_skip_jump_loop(attack, origin):
    """Chen et al. (2020), algorithm 2, with the details of the authors' code."""
    image, key = yield from begins(origin)
    linf, size = attack.norm == "linf", origin.size
    theta = attack.gamma / (size**2 if linf else size**1.5)
    between = lambda far, a: (
        np.clip(far, origin - a, origin + a) if linf else (1 - a) * origin + a * far
    )
    far = image
    for number in itertools.count(1):
        reach = length(far - origin, attack.norm)
        low, high = 0, reach if linf else 1
        while high - low > (min(theta, theta * reach) if linf else theta):
            middle = (low + high) / 2
            won, _, key = yield between(far, middle)
            low, high = (low, middle) if won else (middle, high)
        image = between(far, high)
        delta = 0.1 if number == 1 else (size if linf else np.sqrt(size)) * theta * reach
        directions, verdicts = [], []
        for _ in range(min(int(attack.initial_votes * np.sqrt(number)), attack.most_votes)):
            shape = IMAGE.shape
            noise = np.asarray(
                jax.random.uniform(key, shape, minval=-1)
                if linf
                else jax.random.normal(key, shape)
            )
            point = np.clip(image + delta * noise / length(noise), 0, 1)
            won, _, key = yield point
            directions.append((point - image) / delta)
            verdicts.append(1 if won else -1)
        verdicts, directions = np.array(verdicts, float), np.array(directions)
        if abs(verdicts.mean()) < 1:
            verdicts -= verdicts.mean()
        normal_ = np.tensordot(verdicts, directions, 1) / len(verdicts)
        update = np.sign(normal_) if linf else normal_ / length(normal_)
        step = length(image - origin, attack.norm) / np.sqrt(number)
        while True:
            far = np.clip(image + step * update, 0, 1)
            won, _, key = yield far
            if won:
                break
            step /= 2


def rays_loop(attack, origin):
    """Chen and Gu (2020), as the authors' code for one image has it: channels first, in L2."""
    won, _, _ = yield origin
    assert not won
    first = np.moveaxis(origin, -1, 0)
    root = np.sqrt(origin.size)
    there = lambda signs, d: np.moveaxis(np.clip(first + d * signs / root, 0, 1), 0, -1)
    best, nearest = np.ones(first.shape), np.inf
    level = block = 0
    while True:
        size = int(np.ceil(origin.size / 2**level))
        signs = best.copy().ravel()
        signs[block * size : (block + 1) * size] *= -1
        signs = signs.reshape(first.shape)
        low, high = 0, min(nearest, root)
        won, _, _ = yield there(signs, high)
        while won and high - low > attack.tolerance:
            inside, _, _ = yield there(signs, (low + high) / 2)
            low, high = (low, (low + high) / 2) if inside else ((low + high) / 2, high)
        if won and high < nearest:
            best, nearest = signs, high
        block += 1
        if block == 2**level or block * size >= origin.size:
            level, block = level + 1, 0


def surfree_loop(attack, origin):
    """Maho et al. (2021), section 3, with the numbers of the authors' code."""
    image, key = yield from begins(origin)
    widest, earlier = attack.widest_degrees, []
    cos, sin = (lambda a: np.cos(np.radians(a))), (lambda a: np.sin(np.radians(a)))
    angles = [
        sign * (1 - i / attack.num_angles) for i in range(attack.num_angles) for sign in (1, -1)
    ]
    while True:
        outward = image - origin
        distance = length(outward)
        across = normal(key)
        across -= sum(np.sum(across * v) * v for v in earlier)
        across -= np.sum(across * outward) / distance**2 * outward
        across /= length(across)
        earlier = [*earlier, across][-attack.num_orthogonal :]
        arc = lambda a, u=outward / distance, v=across, d=distance: np.clip(
            origin + d * cos(a) * (u * cos(a) + v * sin(a)), 0, 1
        )
        held = None
        for share in angles:
            won, _, key = yield arc(share * widest)
            if won:
                held = share * widest
                break
        if held is None:
            widest *= attack.shrinkage
            continue
        part = np.sign(held) * widest / attack.num_angles
        wider = np.sign(held) * widest / attack.shrinkage / attack.num_angles
        fails = held + part
        while abs(share) == 1:
            won, _, key = yield arc(fails)
            if not won:
                break
            held, fails = fails, fails + wider
        widest /= attack.shrinkage
        for _ in range(10):
            if abs(cos(fails) - cos(held)) <= attack.tolerance:
                break
            won, _, key = yield arc((held + fails) / 2)
            held, fails = ((held + fails) / 2, fails) if won else (held, (held + fails) / 2)
        if length(arc(held) - origin) < distance:
            image = arc(held)


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
