"""PGD against closed-form optima, NumPy loops and SciPy's statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax import transforms
from rainjax.attacks import EOT, PGD, balls, fgsm, losses
from rainjax.defenses import Identity
from rainjax.evaluation import run_attack
from rainjax.pipeline import Defended
from tests.tiny import RESNET_TINY, Mask, resnet_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(0.02, 0.98, size=(6, 6, 3)), jnp.float32)
WEIGHTS = RNG.normal(size=IMAGE.shape).astype(np.float32)
KEY = jax.random.key(2)


def linear(key, image):
    """Two logits of which a linear classifier's attacker wants the second."""
    return jnp.stack([jnp.zeros(()), jnp.sum(WEIGHTS * image)])


def wavy(key, image):
    """A surface with many hills, whose margin is `_wave`."""
    return jnp.stack([jnp.zeros(()), jnp.sum(WEIGHTS * jnp.sin(40 * image))])


def _wave(image):
    return np.sum(WEIGHTS * np.sin(40 * np.asarray(image, float)))


def attacked(attack, logits_fn=linear, image=IMAGE, key=KEY, label=0):
    return np.asarray(jax.jit(attack, static_argnums=1)(key, logits_fn, image, jnp.array(label)))


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_linf_optimum_of_a_linear_classifier(loss):
    attack = PGD(radius=0.1, step_size=0.05, num_steps=6, loss=loss)
    expected = np.clip(IMAGE + 0.1 * np.sign(WEIGHTS), 0, 1)
    np.testing.assert_allclose(attacked(attack), expected, atol=1e-6)
    # For the other label the other way.
    expected = np.clip(IMAGE - 0.1 * np.sign(WEIGHTS), 0, 1)
    np.testing.assert_allclose(attacked(attack, label=1), expected, atol=1e-6)


def test_l2_optimum_of_a_linear_classifier():
    grey = jnp.full_like(IMAGE, 0.5)  # far from the borders of [0, 1]
    attack = PGD(norm="l2", radius=0.4, step_size=0.2, num_steps=40)
    expected = grey + 0.4 * WEIGHTS / np.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(attacked(attack, image=grey), expected, atol=1e-3)
    plain = dataclasses.replace(attack, random_start=False, num_steps=3)
    np.testing.assert_allclose(attacked(plain, image=grey), expected, atol=1e-6)


def test_fgsm_is_one_signed_step():
    slope = 40 * WEIGHTS * np.cos(40 * np.asarray(IMAGE, float))
    expected = np.clip(IMAGE + 0.03 * np.sign(slope), 0, 1)
    np.testing.assert_allclose(attacked(fgsm(0.03), wavy), expected, atol=1e-6)
    assert fgsm(0.03, eot=EOT(4)).eot.num_samples == 4
    assert fgsm(0.03).num_calls == 1


@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_are_those_of_a_plain_loop(norm, momentum):
    """The formula of MI-FGSM, in float64, with a gradient known in closed form."""
    radius, step_size = {"linf": (0.06, 0.02), "l2": (0.5, 0.2)}[norm]
    attack = PGD(
        norm=norm, radius=radius, step_size=step_size, num_steps=5,
        momentum=momentum, loss="margin", random_start=False,
    )  # fmt: skip
    origin = np.asarray(IMAGE, float)
    x, accumulated = origin.copy(), np.zeros(IMAGE.shape)
    for _ in range(5):
        slope = 40 * WEIGHTS * np.cos(40 * x)
        accumulated = momentum * accumulated + slope / np.abs(slope).mean()
        if norm == "linf":
            x = x + step_size * np.sign(accumulated)
            x = np.clip(x, origin - radius, origin + radius)
        else:
            x = x + step_size * accumulated / np.linalg.norm(accumulated)
            length = np.linalg.norm(x - origin)
            x = origin + (x - origin) * min(1, radius / length)
        x = np.clip(x, 0, 1)
    np.testing.assert_allclose(attacked(attack, wavy), x, atol=1e-4)


@pytest.fixture(scope="module")
def network():
    """Two small images and parameters of a ResNet that tells them apart."""
    images = RNG.uniform(size=(40, 12, 12, 3)).astype(np.float32)
    return images[:2], resnet_params(images, np.arange(40) % 10)


def test_agrees_with_a_plain_loop_on_a_network(network):
    """Loss, gradient and projection written out again, for a ResNet, from the same start."""
    images, params = network
    keys, labels, radius = jax.random.split(KEY, 2), np.array([3, 7]), 8 / 255

    def loss(images):
        logits = jax.vmap(RESNET_TINY.apply, (None, 0))(params, images)
        values = jax.scipy.special.logsumexp(logits, axis=1) - logits[np.arange(2), labels]
        return values.sum(), values

    attack = PGD(radius=radius, step_size=radius / 4, num_steps=6)
    init = lambda key, x: attack.init(jax.random.split(key)[0], x, jnp.array(0)).image
    x = np.asarray(jax.vmap(init)(keys, images))
    slope = jax.jit(jax.grad(loss, has_aux=True))
    before = slope(x)[1]
    for _ in range(6):
        x = x + np.float32(radius / 4) * np.sign(slope(x)[0])
        x = np.minimum(np.maximum(x, images - radius), images + radius)
        x = np.minimum(np.maximum(x, 0), 1).astype(np.float32)
    assert (slope(x)[1] > before + 0.05).all()  # the attack gets somewhere

    target = Defended(Identity(), RESNET_TINY)
    params = {"defense": (), "classifier": params}
    found = run_attack(target, attack, params, keys, jnp.asarray(images), jnp.asarray(labels))
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_restarts_keep_the_best_start():
    """Two hills around the origin, the right one higher: only some starts climb it."""
    origin, radius = jnp.full((1, 1, 1), 0.5), 0.25

    def hills(key, image):
        u = (image[0, 0, 0] - 0.5) / radius
        return jnp.stack([jnp.zeros(()), jnp.where(u > 0, 3 * u, -u)])

    once = PGD(radius=radius, step_size=0.1, num_steps=8)
    often = dataclasses.replace(once, num_restarts=8)
    assert often.num_calls == 8 * (8 + 1)
    keys = jax.random.split(KEY, 64)
    run = lambda attack: np.ravel(
        jax.jit(jax.vmap(lambda k: attack(k, hills, origin, jnp.array(0))))(keys)
    )
    ends = run(once)
    right_once = np.isclose(ends, 0.75)
    assert (right_once | np.isclose(ends, 0.25)).all()
    assert scipy.stats.binomtest(int(right_once.sum()), 64, 0.5).pvalue > 1e-4
    # All of 8 starts are on the left once in 256 runs.
    assert np.isclose(run(often), 0.75).sum() >= 62


def test_best_iterate_is_the_best_one_visited():
    attack = PGD(radius=0.2, step_size=0.15, num_steps=8, loss="margin")
    origin, overshot = np.asarray(IMAGE, float), 0
    for key in jax.random.split(KEY, 4):
        start = attack.init(jax.random.split(key)[0], IMAGE, jnp.array(0)).image
        visited = [np.asarray(start, float)]
        for _ in range(8):
            x = visited[-1] + 0.15 * np.sign(WEIGHTS * np.cos(40 * visited[-1]))
            visited.append(np.clip(np.clip(x, origin - 0.2, origin + 0.2), 0, 1))
        losses = [_wave(x) for x in visited]
        best = attacked(dataclasses.replace(attack, best_iterate=True), wavy, key=key)
        np.testing.assert_allclose(best, visited[np.argmax(losses)], atol=1e-5)
        overshot += max(losses) > losses[-1] + 1e-3
    assert overshot  # steps this large do not end at their best


def test_linf_starts_are_uniform():
    attack = PGD(radius=0.1)
    grey = jnp.full((10, 10, 3), 0.5)
    deltas = np.asarray(_starts(attack, grey, 20)) - 0.5
    assert np.abs(deltas).max() <= 0.1 + 1e-7
    assert scipy.stats.kstest(deltas.ravel(), "uniform", args=(-0.1, 0.2)).pvalue > 1e-4


def test_l2_starts_fill_the_ball_uniformly():
    """In d dimensions (length / radius) ** d is uniform, and no direction is preferred."""
    attack, grey = PGD(norm="l2", radius=0.3), jnp.full((2, 2, 1), 0.5)
    deltas = np.asarray(_starts(attack, grey, 3000)).reshape(3000, 4) - 0.5
    lengths = np.linalg.norm(deltas, axis=1) / 0.3
    assert lengths.max() <= 1 + 1e-6
    assert scipy.stats.kstest(lengths**4, "uniform").pvalue > 1e-4
    # The square of one coordinate of a random direction in 4 dimensions is Beta(1/2, 3/2).
    squares = deltas**2 / (deltas**2).sum(1, keepdims=True)
    for axis in range(4):
        assert scipy.stats.kstest(squares[:, axis], "beta", args=(0.5, 1.5)).pvalue > 1e-4
        assert scipy.stats.binomtest(int((deltas[:, axis] > 0).sum()), 3000).pvalue > 1e-4


def _starts(attack, image, num):
    init = jax.jit(jax.vmap(attack.init, (0, None, None)))
    return init(jax.random.split(KEY, num), image, jnp.array(0)).image


def test_projection_is_to_the_nearest_point():
    delta = jnp.asarray(RNG.normal(size=(3, 3, 1)), jnp.float32)
    length = np.linalg.norm(delta)
    np.testing.assert_allclose(balls.project(delta, "l2", 0.5), delta / length / 2, rtol=1e-6)
    np.testing.assert_array_equal(balls.project(delta, "l2", 2 * float(length)), delta)
    np.testing.assert_array_equal(balls.project(delta, "linf", 0.5), np.clip(delta, -0.5, 0.5))
    for norm in ("linf", "l2"):  # nothing is divided by zero
        assert not balls.project(0 * delta, norm, 0.0).any()
        assert not balls.steepest(0 * delta, norm).any()


def test_a_flat_loss_leaves_a_finite_image():
    flat = lambda key, image: jnp.array([1.0, 0.0]) + 0 * jnp.sum(image)
    for norm in ("linf", "l2"):
        attack = PGD(norm=norm, num_steps=2, momentum=0.5, random_start=False)
        np.testing.assert_array_equal(attacked(attack, flat), IMAGE)


def test_radius_zero_leaves_the_image():
    attack = PGD(radius=0.0, step_size=0.1, num_steps=2)
    np.testing.assert_allclose(attacked(attack, wavy), IMAGE, atol=1e-7)


def test_losses_by_their_definition():
    logits = RNG.normal(0, 30, size=(6, 5))
    for row, label in zip(logits, [0, 1, 2, 3, 4, 0], strict=True):
        values = jnp.asarray(row, jnp.float32)
        exact = np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[label]
        assert losses.cross_entropy(values, jnp.array(label)) == pytest.approx(exact, abs=1e-4)
        exact = max(np.delete(row, label)) - row[label]
        assert losses.margin(values, jnp.array(label)) == pytest.approx(exact, abs=1e-4)
    for missing in (-1, 5):  # JAX would take the nearest class there is
        assert np.isnan(losses.cross_entropy(values, jnp.array(missing)))
        assert np.isnan(losses.margin(values, jnp.array(missing)))
    for name in ("cross_entropy", "margin"):  # one NaN is seen among any number of classes
        broken = jnp.zeros((16, 1000)).at[:, 3].set(jnp.nan)
        values = jax.jit(jax.vmap(losses.by_name(name), (0, None)))(broken, jnp.array(1))
        assert np.isnan(values).all()
    # Far from a tie the loss is linear, where log(softmax) of float32 would be infinite.
    sure = jnp.array([1000.0, 0.0])
    assert losses.cross_entropy(sure, jnp.array(1)) == 1000.0


def test_more_draws_find_the_common_slope():
    """One draw of a random mask shows half the pixels; the mean of 32 shows them all."""

    def masked(key, image):
        return linear(key, Mask().apply((), key, image))

    one, many = (fgsm(0.01, eot=EOT(k)) for k in (1, 32))
    right = lambda attack: np.sign(attacked(attack, masked) - IMAGE) == np.sign(WEIGHTS)
    assert 0.3 < right(one).mean() < 0.7
    assert right(many).all()


def test_a_pipeline_that_returns_nan_does_not_look_robust():
    """One NaN on the way, and the image handed out is NaN, which no score takes for right."""
    grey = jnp.full_like(IMAGE, 0.5)

    def cracked(key, image):
        return jnp.where(image[0, 0, 0] > 0.55, jnp.nan, 1.0) * linear(key, image)

    towards = PGD(radius=0.1, step_size=0.04, num_steps=4, random_start=False)
    label = jnp.array(0 if WEIGHTS[0, 0, 0] > 0 else 1)  # climbs into the crack
    for changes in ({}, {"best_iterate": True}):
        attack = dataclasses.replace(towards, **changes)
        assert np.isnan(attacked(attack, cracked, grey, label=label)).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "l0"}, "norm='l0' is none of 'linf', 'l2', 'l1'"),
        ({"radius": -0.1}, "radius=-0.1 must be finite and not negative"),
        ({"radius": float("nan")}, "radius=nan must be finite and not negative"),
        ({"radius": float("inf")}, "radius=inf must be finite and not negative"),
        ({"step_size": -0.01}, "step_size=-0.01 must be finite and positive"),
        ({"step_size": float("nan")}, "step_size=nan must be finite and positive"),
        ({"momentum": -0.5}, r"momentum=-0.5 must lie in \[0, 1\]"),
        ({"momentum": float("nan")}, r"momentum=nan must lie in \[0, 1\]"),
        ({"num_steps": 0}, "num_steps=0, num_restarts=1 and block=1 must be at least 1"),
        ({"num_restarts": 0}, "num_steps=40, num_restarts=0 and block=1 must be at least 1"),
        ({"num_restarts": 2, "random_start": False}, "num_restarts=2 without random_start"),
        ({"momentum": (0.5, 1.5)}, r"momentum=\(0.5, 1.5\) must lie in"),
        ({"momentum": ()}, r"momentum=\(\) must lie in"),
        ({"nesterov": True}, "nesterov looks ahead along a momentum, and it is 0.0"),
        ({"schedule": "steps"}, "schedule='steps' is none of 'constant', 'linear', 'cosine'"),
        ({"block": 0}, "block=0 must be at least 1"),
        ({"loss": "hinge"}, "loss='hinge' is none of 'cross_entropy', 'margin'"),
        ({"momentum": [0.9]}, r"momentum=\[0.9\] must be a number or a tuple"),
        ({"num_steps": 2.5}, "num_steps=2.5 must be a whole number"),
        ({"eot": 4}, r"takes an EOT, not 4: give eot=EOT\(16\)"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        PGD(**options)


# -- What PGD can be told beyond the paper's ----------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.8, True), ((0.0, 0.9), False), ((0.5, 0.99), True)]
)
def test_momenta_and_schedules_are_those_of_a_plain_loop(schedule, momentum, nesterov):
    """Nesterov's look-ahead, AggMo's several momenta and falling steps, in float64."""
    radius, step_size, num_steps = 0.06, 0.02, 5
    attack = PGD(
        radius=radius, step_size=step_size, num_steps=num_steps, momentum=momentum,
        nesterov=nesterov, schedule=schedule, loss="margin", random_start=False,
    )  # fmt: skip
    betas = np.atleast_1d(momentum)[:, None, None, None]
    origin = np.asarray(IMAGE, float)
    into = lambda x: np.clip(np.clip(x, origin - radius, origin + radius), 0, 1)
    x, velocity = origin.copy(), np.zeros((len(betas), *origin.shape))
    for t in range(num_steps):
        done = t / num_steps
        left = {"constant": 1, "linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2}
        step = step_size * left[schedule]
        ahead = into(x + step * np.sign((betas * velocity).mean(0))) if nesterov else x
        slope = 40 * WEIGHTS * np.cos(40 * ahead)
        velocity = betas * velocity + slope / np.abs(slope).mean()
        x = into(x + step * np.sign(velocity.mean(0)))
    np.testing.assert_allclose(attacked(attack, wavy), x, atol=1e-4)


def test_l1_optimum_of_a_linear_classifier():
    """The best use of an L1 budget is to push the steepest values to the border of [0, 1]."""
    grey = jnp.full_like(IMAGE, 0.5)
    attack = PGD(norm="l1", radius=2.0, step_size=0.3, num_steps=60, schedule="linear")
    order = np.argsort(-np.abs(WEIGHTS).ravel())
    best = 0.5 * np.abs(WEIGHTS).ravel()[order[:4]].sum()  # four values, half a unit each
    found = attacked(attack, image=grey) - 0.5
    assert np.abs(found).sum() <= 2.0 + 1e-5
    assert np.sum(WEIGHTS * found) > 0.9 * best


@pytest.mark.parametrize("radius", [0.3, 1.0, 50.0])
def test_l1_projection_is_that_of_a_search(radius):
    """The threshold by bisection, instead of by sorting."""
    delta = RNG.normal(size=(4, 5, 3))
    low, high = 0.0, np.abs(delta).max()
    for _ in range(80):
        middle = (low + high) / 2
        over = np.maximum(np.abs(delta) - middle, 0).sum() > radius
        low, high = (middle, high) if over else (low, middle)
    expected = np.sign(delta) * np.maximum(np.abs(delta) - high, 0)
    found = balls.project(jnp.asarray(delta, jnp.float32), "l1", radius)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_l1_starts_fill_the_ball_uniformly():
    """In d dimensions (length / radius) ** d is uniform, and no value is preferred."""
    attack, grey = PGD(norm="l1", radius=0.3), jnp.full((2, 2, 1), 0.5)
    deltas = np.asarray(_starts(attack, grey, 3000)).reshape(3000, 4) - 0.5
    lengths = np.abs(deltas).sum(1) / 0.3
    assert lengths.max() <= 1 + 1e-6
    assert scipy.stats.kstest(lengths**4, "uniform").pvalue > 1e-4
    # A share of a uniform point on the simplex of 4 values is Beta(1, 3).
    shares = np.abs(deltas) / np.abs(deltas).sum(1, keepdims=True)
    for axis in range(4):
        assert scipy.stats.kstest(shares[:, axis], "beta", args=(1, 3)).pvalue > 1e-4
        assert scipy.stats.binomtest(int((deltas[:, axis] > 0).sum()), 3000).pvalue > 1e-4


@pytest.mark.parametrize("loss", ["cross_entropy", "margin", "logit"])
def test_a_targeted_attack_climbs_towards_its_label(loss):
    """Three classes; towards class 2 is up its own kernel, less so that of the others."""
    kernels = RNG.normal(size=(3, *IMAGE.shape)).astype(np.float32)
    three = lambda key, image: jnp.einsum("khwc,hwc->k", kernels, image)
    attack = PGD(radius=0.2, step_size=0.05, num_steps=10, targeted=True, loss=loss)
    grey = jnp.full_like(IMAGE, 0.5)
    for target in range(3):
        found = attacked(attack, three, grey, label=target)
        assert np.argmax(three(None, found)) == target
        if loss == "logit":
            np.testing.assert_allclose(found - 0.5, 0.2 * np.sign(kernels[target]), atol=1e-6)


def test_blocks_are_constant_and_pass_a_random_pick():
    """What is the same in every 2x2 cell, RAIN's random pick cannot filter."""
    attack = PGD(radius=0.1, step_size=0.05, num_steps=4, block=2)
    grey = jnp.full_like(IMAGE, 0.5)
    found = attacked(attack, image=grey)
    small = found[::2, ::2]
    np.testing.assert_array_equal(np.repeat(np.repeat(small, 2, 0), 2, 1), found)
    cells = WEIGHTS.reshape(3, 2, 3, 2, 3).sum((1, 3))
    np.testing.assert_allclose(small - 0.5, 0.1 * np.sign(cells), atol=1e-6)
    picked = transforms.random_pixel_downsample(KEY, jnp.asarray(found))
    np.testing.assert_array_equal(picked, small)
    with pytest.raises(ValueError, match="block=4 does not divide an image of 6 x 6"):
        attacked(PGD(block=4))


def test_dlr_losses_by_their_definition():
    for label, target in ((0, 1), (3, 0), (4, 2)):
        logits = RNG.normal(0, 5, size=6)
        ordered = np.sort(logits)[::-1]
        others = np.delete(logits, label).max()
        ratio = (others - logits[label]) / (ordered[0] - ordered[2])
        values = jnp.asarray(logits, jnp.float32)
        assert losses.dlr(values, jnp.array(label)) == pytest.approx(ratio, rel=1e-4)
        ratio = (logits[target] - logits[label]) / (ordered[0] - ordered[2:4].mean())
        found = losses.evaluate("targeted_dlr", values, jnp.array(label), jnp.array(target))
        assert found == pytest.approx(ratio, rel=1e-4)
        assert losses.logit(values, jnp.array(label)) == pytest.approx(-logits[label], rel=1e-5)
    for name, classes in (("dlr", 2), ("targeted_dlr", 3)):
        with pytest.raises(ValueError, match=f"'{name}' compares {classes + 1} classes"):
            losses.evaluate(name, jnp.zeros(classes), jnp.array(0), jnp.array(1))
    broken = jnp.array([1.0, jnp.nan, 0.0, 2.0])
    assert np.isnan(losses.dlr(broken, jnp.array(0)))
