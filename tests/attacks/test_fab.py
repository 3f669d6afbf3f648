"""FAB against linear programs and nearest points in closed form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rainjax.attacks import EOT, FAB, hyperplane
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
GREY = jnp.full((4, 5, 3), 0.5)
WEIGHTS = RNG.normal(size=(*GREY.shape, 5)).astype(np.float32)
KEY = jax.random.key(4)
ORDER = {"linf": np.inf, "l2": 2}
DUAL = {"linf": 1, "l2": 2}


def linear(key, image):
    """Five linear logits, of which the first leads by one at the grey image."""
    bias = jnp.array([1.0, 0.0, 0.0, 0.0, 0.0])
    return jnp.tensordot(image - 0.5, jnp.asarray(WEIGHTS), 3) + bias


def length(image, norm, origin=GREY):
    return np.linalg.norm((np.asarray(image, float) - np.asarray(origin)).ravel(), ORDER[norm])


@functools.partial(jax.jit, static_argnums=(0, 1))
def history(attack, logits_fn, key=KEY, image=GREY, label=0):
    """Returns the attacked image, and the state before every call."""
    init_key, loop_key = jax.random.split(key)

    def call(run, t):
        return attack.step(loop_key, t, logits_fn, run), run

    run = attack.start(init_key, image, jnp.asarray(label))
    run, runs = jax.lax.scan(call, run, jnp.arange(attack.num_calls))
    return attack.finish(run), runs


def attacked(attack, logits_fn=linear, **places):
    return np.asarray(history(attack, logits_fn, **places)[0])


@pytest.fixture(scope="module")
def problems():
    """Points, some at the border, and hyperplanes that they can reach in [0, 1]."""
    points, normals, rises = [], [], []
    for row in range(24):
        point = RNG.uniform(size=(2, 2, 3)).astype(np.float32)
        point[0] = np.round(point[0]) if row % 3 == 0 else point[0]
        normal = (RNG.normal(size=point.shape) * 10.0 ** RNG.integers(-6, 4)).astype(np.float32)
        normal[1, 0] *= row % 4 > 0
        most = np.sum(np.abs(normal) * np.where(normal > 0, 1 - point, point))
        least = -np.sum(np.abs(normal) * np.where(normal > 0, point, 1 - point))
        points.append(point)
        normals.append(normal)
        rises.append(np.float32(RNG.uniform(0.99 * least, 0.99 * most)))
    return np.stack(points), np.stack(normals), np.array(rises)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_that_of_a_solver(problems, norm):
    onto = jax.jit(jax.vmap(functools.partial(hyperplane.step_onto, norm=norm)))
    steps = np.asarray(onto(*map(jnp.asarray, problems)), float)
    for point, normal, rise, step in zip(*problems, steps, strict=True):
        unit = np.abs(normal).max()
        gained = np.sum(normal.astype(float) * step)
        assert gained / unit == pytest.approx(rise / unit, rel=1e-5, abs=1e-6)
        assert (point + step).min() >= -1e-6
        assert (point + step).max() <= 1 + 1e-6
        solve = _nearest_linf if norm == "linf" else _nearest_l2
        expected = solve(point.ravel().astype(float), normal.ravel() / unit, rise / unit)
        assert np.linalg.norm(step.ravel(), ORDER[norm]) == pytest.approx(expected, abs=1e-5)


def _nearest_linf(point, normal, rise):
    """A linear program in the step and its largest value."""
    eye, ones = np.eye(point.size), np.ones((point.size, 1))
    solved = scipy.optimize.linprog(
        np.append(np.zeros(point.size), 1),
        A_ub=np.block([[eye, -ones], [-eye, -ones]]),
        b_ub=np.zeros(2 * point.size),
        A_eq=np.append(normal, 0)[None],
        b_eq=[rise],
        bounds=[*zip(-point, 1 - point, strict=True), (0, None)],
    )
    assert solved.success
    return solved.fun


def _nearest_l2(point, normal, rise):
    solved = scipy.optimize.minimize(
        lambda step: step @ step,
        np.zeros(point.size),
        jac=lambda step: 2 * step,
        method="SLSQP",
        bounds=[*zip(-point, 1 - point, strict=True)],
        constraints={"type": "eq", "fun": lambda s: normal @ s - rise, "jac": lambda s: normal},
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert solved.success
    return np.sqrt(solved.fun)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_at_its_limits(problems, norm):
    point, normal = jnp.asarray(problems[0][1]), jnp.asarray(problems[1][1])
    onto = jax.jit(functools.partial(hyperplane.step_onto, norm=norm))
    corner = np.where(normal > 0, 1 - point, -point)  # nothing else comes as near
    far = onto(point, normal, 1e4 * jnp.sum(jnp.abs(normal)))
    np.testing.assert_allclose(far, corner, atol=1e-6)
    assert not onto(point, normal, jnp.array(0.0)).any()
    assert not onto(point, 0 * normal, jnp.array(1.0)).any()
    wide = jnp.asarray(RNG.uniform(size=(96, 96, 3)), jnp.float32)
    heavy = jnp.asarray(1e-5 * RNG.standard_t(2, size=wide.shape), jnp.float32)
    for share in (1e-4, 0.5, 0.999):  # sums over many values stay exact
        room = np.where(heavy > 0, 1 - np.asarray(wide, float), wide)
        rise = share * np.sum(np.abs(heavy) * room)
        step = np.asarray(onto(wide, heavy, jnp.float32(rise)), float)
        assert np.sum(np.asarray(heavy, float) * step) == pytest.approx(rise, rel=1e-5)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_nearest_boundary_of_a_linear_classifier(norm, together):
    """The nearest of four hyperplanes, at its lead over the dual norm of its normal."""
    normals = [(WEIGHTS[..., k] - WEIGHTS[..., 0]).ravel() for k in range(1, 5)]
    nearest = min(1 / np.linalg.norm(normal, DUAL[norm]) for normal in normals)
    attack = FAB(norm=norm, radius=1.0, num_steps=10, num_targets=4, together=together)
    assert attack.num_calls == 1 + (1 if together else 4) * 11
    assert attack.num_gradients == (4 * 12 if together else 45)
    found = attacked(attack)
    assert linear(None, jnp.asarray(found)).argmax() != 0
    assert nearest < length(found, norm) < 1.02 * nearest
    # Towards one class alone, its hyperplane: the highest of the other logits at the image.
    tilted = lambda key, image: linear(key, image) + jnp.array([0, 0, 0, 0.1, 0])
    found = attacked(dataclasses.replace(attack, num_targets=1), tilted)
    expected = 0.9 / np.linalg.norm(normals[2], DUAL[norm])
    assert expected * 0.999 < length(found, norm) < 1.02 * expected


def test_together_every_step_takes_the_boundary_that_is_nearest_there():
    """The class with the lowest logit gains fastest: a ranking by logits would put it last."""
    bias, gains = np.array([1.0, 0.5, 0.0, -0.5]), np.array([0.0, 0.02, 0.1, 2.0])

    def logits_fn(key, image):
        rise = jnp.sum(image - 0.5)
        return jnp.asarray(bias) + jnp.asarray(gains) * rise

    attack = FAB(radius=1.0, num_steps=6, num_targets=3, together=True)
    found = attacked(attack, logits_fn)
    assert logits_fn(None, jnp.asarray(found)).argmax() == 3
    assert length(found, "linf") == pytest.approx(1.5 / 2 / GREY.size, rel=0.02)
    one = dataclasses.replace(attack, together=False, num_targets=1)
    alone = attacked(one, logits_fn)  # FAB-T towards the highest logit needs more
    assert length(alone, "linf") > 5 * length(found, "linf")


def test_the_box_is_respected_on_the_way():
    """Half of the values are at the border they would cross: the others go further."""
    normal = (WEIGHTS[..., 1] - WEIGHTS[..., 0]).astype(float)
    origin = np.where(np.arange(60).reshape(4, 5, 3) % 2, 0.5, (normal > 0) * 1.0)
    two = lambda key, image: jnp.stack([jnp.ones(()), jnp.sum((image - origin) * normal)])
    attack = FAB(radius=1.0, num_steps=10, num_targets=1)
    found = attacked(attack, two, image=jnp.asarray(origin, jnp.float32))
    expected = 1 / np.abs(normal.ravel()[1::2]).sum()
    assert expected < length(found, "linf", origin) < 1.02 * expected


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_beyond_its_ball_the_nearest_point_is_brought_back(norm):
    attack = FAB(norm=norm, radius=0.001, num_steps=6, num_targets=4)
    found = attacked(attack)
    assert length(found, norm) == pytest.approx(0.001, rel=1e-3)
    far = attacked(dataclasses.replace(attack, radius=1.0)) - np.asarray(GREY)
    expected = np.clip(far, -0.001, 0.001) if norm == "linf" else 0.001 * far / np.linalg.norm(far)
    np.testing.assert_allclose(found - np.asarray(GREY), expected, atol=1e-6)


def test_an_unbeaten_image_is_handed_out_at_its_strongest():
    """No point is misclassified: the largest margin of those visited, never the image."""

    def safe(key, image):  # the margin is at most -1, and highest along a ridge
        along = jnp.sum(WEIGHTS[..., 0] * (image - 0.5))
        return jnp.stack([jnp.ones(()), -jnp.abs(along - 0.3), jnp.full((), -9.0)])

    attack = FAB(radius=0.5, num_steps=8, num_targets=2)
    found, runs = history(attack, safe)
    margins = jax.vmap(safe, (None, 0))(None, runs.state.image)[:, 1] - 1
    went = np.asarray([length(image, "linf") > 0 for image in runs.state.image])
    assert went.sum() >= 8
    best = np.flatnonzero(went)[np.argmax(np.asarray(margins)[went])]
    np.testing.assert_allclose(found, runs.state.image[best], atol=1e-6)
    assert 0 < length(found, "linf") <= 0.5
    assert safe(None, found)[1] > safe(None, GREY)[1]


def test_beyond_the_ball_a_margin_counts_for_nothing():
    """The further out the higher the margin; brought back, such a point would have another."""

    def far(key, image):  # rises towards a boundary that is never met, in waves
        u = 40 * jnp.mean((image - 0.5) * jnp.sign(WEIGHTS[..., 0]))
        return jnp.stack([jnp.zeros(()), -2 - jnp.exp(-u) + 0.3 * jnp.sin(9 * u)])

    attack = FAB(radius=0.5, num_steps=12, num_targets=1)
    _, runs = history(attack, far)  # the radius does not decide where it goes
    visited = np.asarray(runs.state.image)
    reach = np.array([length(image, "linf") for image in visited])
    margins = np.asarray(jax.vmap(far, (None, 0))(None, runs.state.image))[:, 1]
    radius = float(np.median(reach[reach > 0])) * 1.001
    inside = (reach > 0) & (reach <= radius)
    assert 3 <= inside.sum() <= len(reach) - 3
    found = attacked(dataclasses.replace(attack, radius=radius), far)
    best = visited[inside][np.argmax(margins[inside])]
    np.testing.assert_allclose(found, best, atol=1e-6)


@pytest.mark.parametrize("together", [False, True])
def test_the_highest_lead_is_raised_where_the_image_is_lost(together):
    """The label is fourth of five: the nearest boundary may be that of the class below it."""
    order = np.asarray(linear(None, GREY + 0.01 * jnp.asarray(WEIGHTS[..., 2]))).argsort()[::-1]
    start, label = GREY + 0.01 * jnp.asarray(WEIGHTS[..., 2]), int(order[3])
    attack = FAB(radius=0.02, num_steps=1, num_targets=4, together=together)
    found = attacked(attack, linear, image=start, label=label)
    logits = np.asarray(linear(None, jnp.asarray(found)))
    slope = WEIGHTS[..., order[0]] - WEIGHTS[..., label]
    before = np.asarray(linear(None, start))
    most = before[order[0]] - before[label] + 0.02 * np.abs(slope).sum()
    assert logits.max() - logits[label] == pytest.approx(most, rel=0.02)


def test_without_a_gradient_only_chance_moves():
    """And where every move makes the margin smaller, the image itself is still not an attack."""

    def peaked(key, image):
        return jnp.stack([jnp.ones(()), -jnp.round(20 * jnp.sum(jnp.abs(image - 0.5)))])

    found = attacked(FAB(radius=0.05, num_steps=4, num_targets=1), peaked)
    assert 0 < length(found, "linf") <= 0.05


def test_an_image_that_is_wrong_already_is_made_worse():
    """Its nearest boundary is the way back: it is handed out at a larger margin instead."""
    two = lambda key, image: linear(key, image)[jnp.array([1, 0])]  # label 0 trails by one
    attack = FAB(radius=0.05, num_steps=6, num_targets=1)
    found = attacked(attack, two)
    lead = lambda image: np.diff(two(None, jnp.asarray(image)))[0]
    most = 1 + 0.05 * np.abs(WEIGHTS[..., 0] - WEIGHTS[..., 1]).sum()
    assert lead(found) == pytest.approx(most, rel=1e-4)


def test_restarts_begin_near_the_image():
    attack = FAB(radius=0.2, num_steps=3, num_targets=2, num_restarts=3)
    assert attack.num_calls == 1 + 3 * 2 * 4
    _, runs = history(attack, linear)
    starts = np.asarray(runs.state.image)[1::4]
    assert [length(start, "linf") == 0 for start in starts] == [True] * 2 + [False] * 4
    nearest = float(runs.state.distance[9])
    for start in starts[2:]:  # half of what was reached
        assert 0 < length(start, "linf") <= 0.5 * nearest * (1 + 1e-5)
    assert len(np.unique(starts[2:].reshape(4, -1), axis=0)) == 4


def test_success_is_that_of_most_draws():
    """The label's lead is one, give or take 20: a draw says nothing, their mean the boundary."""

    def shaky(key, image):
        return linear(key, image) + 2 * jax.random.normal(key, (5,))

    normals = [(WEIGHTS[..., k] - WEIGHTS[..., 0]).ravel() for k in range(1, 5)]
    nearest = min(1 / np.abs(normal).sum() for normal in normals)
    attack = FAB(radius=1.0, num_steps=10, num_targets=4, eot=EOT(512))
    # Of five noisy logits another than the label's is the largest well before its mean is.
    draws = jax.random.split(jax.random.key(9), 4000)
    wrong = lambda image: np.mean(jax.vmap(shaky, (0, None))(draws, image).argmax(1) != 0)
    found = attacked(attack, shaky)
    assert wrong(jnp.asarray(found)) > 0.45
    assert length(found, "linf") < 1.5 * nearest


def test_stops_only_within_its_ball():
    attack = FAB(radius=0.5, num_steps=10, num_targets=4, early_stop=True)
    found, runs = history(attack, linear)
    first = np.flatnonzero(np.asarray(runs.done))[0]
    assert first < 10
    np.testing.assert_array_equal(found, runs.state.image[first - 1])
    assert linear(None, found).argmax() != 0
    outside = dataclasses.replace(attack, radius=0.001)
    found, runs = history(outside, linear)
    assert not runs.done.any()
    assert length(found, "linf") <= 0.001 + 1e-7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "l1"}, "norm='l1' has no projection here: FAB knows 'linf' and 'l2'"),
        ({"radius": float("nan")}, "radius=nan must be finite"),
        ({"targeted": True}, "targeted=True has no meaning here"),
        ({"num_steps": 0}, "num_steps=0, num_restarts=1 and num_targets=9 must be at least 1"),
        ({"num_restarts": 0}, "num_restarts=0 and num_targets=9 must be at least 1"),
        ({"num_targets": 0}, "num_restarts=1 and num_targets=0 must be at least 1"),
        ({"alpha_max": 1.5}, r"alpha_max=1.5 and beta=0.9 are shares, in \[0, 1\]"),
        ({"beta": float("nan")}, "alpha_max=0.1 and beta=nan are shares"),
        ({"eta": 0.9}, "eta=0.9 must be at least 1 to reach the boundary"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        FAB(**options)


def test_a_norm_without_a_projection_is_refused():
    with unchecked(), pytest.raises(ValueError, match="norm='l1' has no projection here"):
        hyperplane.step_onto(GREY, GREY, jnp.array(1.0), "l1")
