"""VMI and Admix against the published updates, written out with NumPy on a small classifier."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from rainjax.attacks import EOT, PGD, VMI, Admix, ImagePool
from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import run_attack
from rainjax.pipeline import Defended
from tests.golden import vmi_torchattacks
from tests.tiny import Linear, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(8)
SHAPE, NUM_CLASSES, HIDDEN, RADIUS = (4, 5, 3), 4, 7, 0.1
SIZE = int(np.prod(SHAPE))
FIRST, SECOND = RNG.normal(size=(SIZE, HIDDEN)), 3 * RNG.normal(size=(HIDDEN, NUM_CLASSES))
IMAGE = RNG.uniform(size=SHAPE).astype(np.float32)
LABEL = 2
KEY = jax.random.key(11)
POOL = RNG.uniform(size=(12, *SHAPE)).astype(np.float32)
CLASSES = np.array([0, 1, 2, 3] * 3)


def logits_fn(draw, image):
    """A network of two layers, whose gradient `slope` has in closed form."""
    hidden = jnp.tanh(image.ravel() @ jnp.asarray(FIRST, jnp.float32) - 1.0)
    return hidden @ jnp.asarray(SECOND, jnp.float32)


def slope(image, label=LABEL):
    """The gradient of the cross-entropy at an image, in float64."""
    hidden = np.tanh(image.ravel() @ FIRST - 1.0)
    wrong = scipy.special.softmax(hidden @ SECOND)
    wrong[label] -= 1
    return (FIRST @ ((SECOND @ wrong) * (1 - hidden**2))).reshape(SHAPE)


def asked(attack, image=IMAGE, label=LABEL, key=KEY, logits_fn=logits_fn):
    """Runs an attack call by call; returns the image, and the points it asked about."""
    init_key, loop_key = jax.random.split(key)
    run = attack.start(init_key, jnp.asarray(image), jnp.array(label))
    step = jax.jit(lambda t, run: attack.step(loop_key, t, logits_fn, run))
    points = []
    for call in range(attack.num_calls):
        points.append(np.asarray(attack.ask(run.state)[0], float))
        run = step(jnp.array(call), run)
    return np.asarray(attack.finish(run)), points


@pytest.mark.parametrize("nesterov", [False, True], ids=["VMI", "VNI"])
@pytest.mark.parametrize("momentum", [1.0, 0.7])
def test_variance_tuning_is_the_published_loop(nesterov, momentum):
    """Algorithm 1 and equation 7, with the neighbours that the attack drew."""
    num, steps, alpha = 4, 3, 0.03
    attack = VMI(
        radius=RADIUS, step_size=alpha, num_steps=steps, momentum=momentum, num_neighbors=num,
        nesterov=nesterov,
    )  # fmt: skip
    found, points = asked(attack)
    neighbours = [point for call, point in enumerate(points) if call % (num + 1)]
    x, g, v = IMAGE.astype(float), np.zeros(SHAPE), np.zeros(SHAPE)
    for t in range(steps):
        ahead = x + alpha * momentum * g if nesterov else x
        np.testing.assert_allclose(points[t * (num + 1)], ahead, atol=1e-5)
        own = slope(ahead)
        g = momentum * g + (own + v) / np.abs(own + v).mean()
        if t < steps - 1:
            around = neighbours[num * t : num * (t + 1)]
            assert np.abs(np.array(around) - x).max() <= 1.5 * RADIUS + 1e-6
            v = np.mean([slope(point) for point in around], axis=0) - own
        x = x + alpha * np.sign(g)
        x = np.clip(np.clip(x, IMAGE - RADIUS, IMAGE + RADIUS), 0, 1)
    np.testing.assert_allclose(found, x, atol=1e-5)
    plain = PGD(
        radius=RADIUS, step_size=alpha, num_steps=steps, momentum=momentum, nesterov=nesterov,
        random_start=False,
    )  # fmt: skip
    untuned = jax.jit(plain, static_argnums=1)(KEY, logits_fn, jnp.asarray(IMAGE), LABEL)
    assert np.abs(found - np.asarray(untuned)).max() > 0.5 * alpha


def test_neighbours_are_uniform_and_fresh():
    beta = 2.0
    attack = VMI(radius=RADIUS, num_steps=3, num_neighbors=30, beta=beta)
    _, points = asked(attack)
    around = np.array([point for call, point in enumerate(points) if call % 31])
    centres = np.repeat([points[0], points[31]], 30, axis=0)
    away = ((around - centres) / (beta * RADIUS)).ravel()
    assert scipy.stats.kstest(away, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert len(np.unique(away)) > 0.9 * away.size
    l2 = VMI(norm="l2", radius=0.3, step_size=0.1, num_steps=2, num_neighbors=30)
    _, points = asked(l2)
    lengths = np.linalg.norm((np.array(points[1:31]) - IMAGE).reshape(30, -1), axis=1)
    assert lengths.max() <= 1.5 * 0.3 + 1e-6
    assert lengths.min() > 0.3  # in 60 dimensions a ball is nearly all shell


def test_variance_costs_what_it_says():
    attack = VMI(num_steps=10)
    assert attack.num_calls == 10 + 9 * 20
    assert dataclasses.replace(attack, eot=EOT(3)).num_gradients == 3 * 190
    _, points = asked(VMI(num_steps=2, num_neighbors=3))
    assert len(points) == 2 + 3


def test_admix_is_the_published_loop():
    """Algorithm 1, with the images of the pool that the attack drew."""
    steps, alpha, portion, mixed, scales = 3, 0.03, 0.2, 3, 5
    pool = ImagePool.of(POOL, CLASSES)
    attack = Admix(pool=pool, radius=RADIUS, step_size=alpha, num_steps=steps)
    assert (attack.portion, attack.num_mixed, attack.num_scales) == (portion, mixed, scales)
    assert attack.num_gradients == attack.num_calls == steps * mixed * scales
    found, points = asked(attack)
    x, g, drawn = IMAGE.astype(float), np.zeros(SHAPE), []
    for t in range(steps):
        own = points[t * mixed * scales : (t + 1) * mixed * scales]
        mean = np.zeros(SHAPE)
        others = []
        for j in range(mixed):
            unscaled = own[j * scales]
            away = np.abs(POOL - (unscaled - x) / portion).reshape(len(POOL), -1).max(1)
            others.append(int(np.argmin(away)))
            for i in range(scales):
                point = (x + portion * POOL[others[-1]]) / 2**i
                np.testing.assert_allclose(own[j * scales + i], point, atol=1e-5)
                mean += slope(point) / 2**i / (mixed * scales)
        assert len(set(others)) == mixed
        assert LABEL not in CLASSES[others]
        drawn.append(others)
        g = g + mean / np.abs(mean).mean()
        x = np.clip(np.clip(x + alpha * np.sign(g), IMAGE - RADIUS, IMAGE + RADIUS), 0, 1)
    np.testing.assert_allclose(found, x, atol=1e-5)
    assert len({tuple(others) for others in drawn}) == steps


def test_admix_draws_every_image_of_another_class():
    attack = Admix(pool=ImagePool.of(POOL, CLASSES), num_mixed=2)
    init = jax.jit(jax.vmap(lambda key: attack.init(key, jnp.asarray(IMAGE), jnp.array(1)).others))
    others = np.asarray(init(jax.random.split(KEY, 600)))
    allowed = np.flatnonzero(CLASSES != 1)
    counts = np.bincount(others.ravel(), minlength=len(CLASSES))
    assert counts[CLASSES == 1].sum() == 0
    assert scipy.stats.chisquare(counts[allowed]).pvalue > 1e-3
    assert (others[:, 0] != others[:, 1]).all()


def test_admix_does_not_look_at_the_batch():
    """What is found for an image is the same among others as alone, by whichever driver."""
    attack = Admix(pool=ImagePool.of(POOL, CLASSES), num_steps=2, num_scales=2, eot=EOT(2))
    target = Defended(GaussianNoise(0.05), Linear(SIZE, NUM_CLASSES))
    params = target.init(jax.random.key(1))
    images = np.stack([IMAGE, *POOL[:3]])
    keys, labels = jax.random.split(KEY, 4), jnp.array([2, 0, 1, 3])
    together = run_attack(target, attack, params, keys, images, labels)
    alone = run_attack(target, attack, params, keys[2:3], images[2:3], labels[2:3])
    np.testing.assert_allclose(together[2], alone[0], atol=1e-6)
    assert np.abs(together - images).max() > 1e-3


def test_a_pool_is_known_by_its_content():
    pool, again = ImagePool.of(POOL, CLASSES), ImagePool.of(POOL.copy(), jnp.asarray(CLASSES))
    assert pool == again
    assert hash(Admix(pool=pool)) == hash(Admix(pool=again))
    other = POOL.copy()
    other[0, 0, 0, 0] = 1 - other[0, 0, 0, 0]
    assert pool != ImagePool.of(other, CLASSES)
    assert pool != ImagePool.of(POOL, CLASSES[::-1])
    np.testing.assert_array_equal(pool.images, POOL)


def _pool(num=12):
    return ImagePool.of(POOL[:num], CLASSES[:num])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: VMI(num_neighbors=0), "num_neighbors=0 must be at least 1"),
        (lambda: VMI(beta=0.0), "beta=0.0 must be positive"),
        (lambda: VMI(beta=float("inf")), "beta=inf must be positive and finite"),
        (lambda: VMI(nesterov=True, momentum=0.0), "nesterov looks ahead along a momentum"),
        (lambda: VMI(momentum=1.5), r"momentum=1.5 must lie in \[0, 1\]"),
        (lambda: VMI(num_steps=0), "num_steps=0 must be at least 1"),
        (lambda: VMI(early_stop=True), "VMI asks about points that are no adversarial images"),
        (lambda: VMI(step_size=0.0), "step_size=0.0 must be finite and positive"),
        (lambda: Admix(pool=_pool(), portion=1.5), r"portion=1.5 must lie in \[0, 1\]"),
        (lambda: Admix(pool=_pool(), num_scales=0), "num_mixed=3 and num_scales=0"),
        (lambda: Admix(pool=_pool(3)), "num_mixed=3, but .* has 2 of others"),
        (lambda: Admix(pool=_pool(), early_stop=True), "Admix asks about points"),
        (lambda: ImagePool.of(POOL[0], CLASSES), "a label for each"),
        (lambda: ImagePool.of(POOL, CLASSES[:3]), "a label for each"),
        (lambda: ImagePool.of(255 * POOL, CLASSES), "divide integers by 255"),
        (
            lambda: Admix(pool=_pool()).init(KEY, jnp.zeros((6, 6, 3)), jnp.array(0)),
            r"images of shape \(4, 5, 3\), and the attacked one is of shape \(6, 6, 3\)",
        ),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


def test_a_flat_classifier_moves_nothing():
    """And the driver says that there was no gradient to follow."""
    target = Defended(Identity(), Linear(SIZE, NUM_CLASSES))
    params = {"defense": (), "classifier": {"kernel": jnp.zeros((SIZE, NUM_CLASSES))}}
    with pytest.warns(UserWarning, match="zero"):
        found = run_attack(
            target, VMI(num_steps=2, num_neighbors=2), params, jax.random.split(KEY, 1),
            IMAGE[None], jnp.array([0]),
        )  # fmt: skip
    np.testing.assert_array_equal(found[0], IMAGE)


@pytest.mark.parametrize("case", vmi_torchattacks.CASES)
def test_variance_tuning_is_torchattacks_on_the_same_draws(case):
    with np.load(pathlib.Path(vmi_torchattacks.__file__).with_suffix(".npz")) as stored:
        attacked, drawn = vmi_torchattacks.ours(case)
        np.testing.assert_allclose(drawn, stored[f"{case}/drawn"], atol=1e-6)
        moved = np.abs(stored[case] - vmi_torchattacks.IMAGES) * 255 / 1.6
        assert 0.2 < (moved > 5.5).mean() < 0.8  # all the way, or turned on it
        # A gradient of nearly zero may have another sign here: a step or two for a pixel.
        assert (np.abs(attacked - stored[case]) > 1e-6).mean() < 0.01
