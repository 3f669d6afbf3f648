"""The stages of transfer attacks against SciPy and loops, and one perturbation for many images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from rainjax.attacks import EOT, PGD, InputDiversity, ScaleInvariance, TranslationInvariance
from rainjax.defenses import RAIN, Chain, Identity
from rainjax.evaluation import run_attack
from rainjax.evaluation.universal import universal_perturbation
from rainjax.pipeline import Defended
from tests.tiny import EDSR_TINY, Linear, Mask, edsr_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(3)
IMAGE = jnp.asarray(RNG.uniform(size=(12, 10, 3)), jnp.float32)
KEY = jax.random.key(6)


@pytest.mark.parametrize("size", [1, 3, 7, 15])
def test_the_blurred_gradient_is_scipys_convolution(size):
    stage = TranslationInvariance(size)
    cotangent = RNG.normal(size=IMAGE.shape).astype(np.float32)
    value, vjp = jax.vjp(lambda x: stage.apply((), KEY, x), IMAGE)
    np.testing.assert_array_equal(value, IMAGE)
    kernel = np.exp(-(np.linspace(-3, 3, size) ** 2) / 2) if size > 1 else np.ones(1)
    kernel /= kernel.sum()
    blur = lambda x: scipy.ndimage.convolve(x, np.outer(kernel, kernel), mode="constant")
    expected = np.stack([blur(cotangent[..., c]) for c in range(3)], -1)
    np.testing.assert_allclose(vjp(jnp.asarray(cotangent))[0], expected, atol=1e-6)


def test_diverse_inputs_are_smaller_copies_somewhere_on_black():
    white = jnp.ones((20, 20, 1))
    show = jax.jit(jax.vmap(lambda key: InputDiversity(smallest=0.7).apply((), key, white)))
    shown = np.asarray(show(jax.random.split(KEY, 400)))[..., 0]
    changed = (shown < 0.5).any(axis=(1, 2))
    assert scipy.stats.binomtest(int(changed.sum()), 400, 0.5).pvalue > 1e-4
    sides, rows = [], []
    for picture in shown[changed]:
        inside = np.argwhere(picture > 0.5)
        low, high = inside.min(0), inside.max(0) + 1
        assert (picture[low[0] : high[0], low[1] : high[1]] > 0.5).all()  # one square
        sides.append(high - low)
        rows.append(low)
    sides, rows = np.array(sides), np.array(rows)
    assert (np.abs(sides[:, 0] - sides[:, 1]) <= 1).all()
    assert sides.min() in (14, 13)
    assert len(np.unique(sides)) >= 5
    assert rows.min() == 0
    assert rows.max() >= 4
    untouched = jax.jit(lambda key: InputDiversity(probability=0.0).apply((), key, IMAGE))
    np.testing.assert_array_equal(untouched(KEY), IMAGE)


def test_scaled_copies_are_enumerated():
    """The gradient of SI-NI-FGSM: the mean over five copies, each darker by half."""
    target = Defended(ScaleInvariance(), Linear(IMAGE.size, 3))
    kernel = jnp.asarray(RNG.normal(size=(IMAGE.size, 3)), jnp.float32)
    params = {"defense": (), "classifier": {"kernel": kernel}}

    def loss(x):
        logits = jnp.stack([(x / 2**i).reshape(-1) @ kernel for i in range(5)])
        return jnp.mean(-jax.nn.log_softmax(logits, axis=1)[:, 1])

    attack = PGD(
        norm="l2", radius=0.1, step_size=0.1, num_steps=1, random_start=False,
        eot=EOT(5, draws="enumerated"),
    )  # fmt: skip
    keys, labels = jax.random.split(KEY, 1), jnp.array([1])
    found = run_attack(target, attack, params, keys, IMAGE[None], labels)[0]
    slope = jax.grad(loss)(IMAGE)
    expected = jnp.clip(IMAGE + 0.1 * slope / jnp.linalg.norm(slope), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_stages_compose_with_a_defense_and_momentum():
    """TI-DI-MI-FGSM through RAIN, from the host and as one function, is one attack."""
    front = Chain((InputDiversity(), TranslationInvariance(3), RAIN(EDSR_TINY, 0.2)))
    surrogate = Defended(front, Linear(IMAGE.size, 3))
    kernel = jnp.asarray(RNG.normal(size=(IMAGE.size, 3)), jnp.float32)
    params = {"defense": ((), (), edsr_params()), "classifier": {"kernel": kernel}}
    attack = PGD(num_steps=3, momentum=1.0, eot=EOT(2))
    keys, images, labels = jax.random.split(KEY, 1), IMAGE[None], jnp.array([2])
    host = run_attack(surrogate, attack, params, keys, images, labels)
    logits_fn = lambda draw, x: surrogate.logits(params, draw, x)
    pure = jax.jit(lambda key, x, y: attack(key, logits_fn, x, y))
    np.testing.assert_allclose(host[0], pure(keys[0], images[0], labels[0]), atol=1e-6)
    assert np.abs(host - images).max() > 4 / 255


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: InputDiversity(probability=1.5), r"probability=1.5 must lie in \[0, 1\]"),
        (lambda: InputDiversity(smallest=0.0), r"smallest=0.0 must lie in \(0, 1\]"),
        (lambda: ScaleInvariance(0), "num_copies=0 must be at least 1"),
        (lambda: TranslationInvariance(4), "size=4 must be odd"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


# -- One perturbation for many images -----------------------------------------------------

KERNEL = RNG.normal(size=(IMAGE.size, 2)).astype(np.float32)
IMAGES = (0.5 + 0.1 * RNG.uniform(-1, 1, size=(24, *IMAGE.shape))).astype(np.float32)
LABELS = np.zeros(24, np.int32)
PARAMS = {"defense": (), "classifier": {"kernel": jnp.asarray(KERNEL)}}
WORST = np.sign(KERNEL[:, 1] - KERNEL[:, 0]).reshape(IMAGE.shape)


def universal(defense=None, **options):
    target = Defended(defense or Identity(), Linear(IMAGE.size, 2))
    options = {"radius": 0.05, "step_size": 0.02, "batch_size": 8, "cap": np.inf} | options
    return universal_perturbation(target, PARAMS, 0, np.arange(24), IMAGES, LABELS, **options)


def test_the_universal_optimum_of_a_linear_classifier():
    """All images share one gradient, so the best common perturbation is that of each."""
    batches = []
    found = universal(num_epochs=3, on_batch=batches.append)
    np.testing.assert_allclose(found, 0.05 * WORST, atol=1e-6)
    assert batches == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    l2 = universal(norm="l2", radius=0.3, step_size=0.3, num_epochs=3)
    slope = (KERNEL[:, 1] - KERNEL[:, 0]).reshape(IMAGE.shape)
    np.testing.assert_allclose(l2, 0.3 * slope / np.linalg.norm(slope), atol=1e-5)


def test_images_already_lost_do_not_count():
    """With the cap below every loss nothing is climbed."""
    assert not np.asarray(universal(cap=0.0, num_epochs=1)).any()


def test_a_universal_perturbation_averages_over_draws():
    right = lambda k: np.mean(
        np.sign(universal(Mask(), eot=EOT(k), num_epochs=1, batch_size=24)) == WORST
    )
    assert right(8) > right(1) - 0.02
    assert right(8) > 0.95


def test_bad_universal_options_are_refused():
    for options, sentence in (
        ({"num_epochs": 0}, "num_epochs=0 and batch_size=8 must be at least 1"),
        ({"radius": -1.0}, "radius=-1.0 must be finite"),
        ({"loss": "hinge"}, "No loss is called 'hinge'"),
        ({"step_size": float("nan")}, "step_size=nan must be finite and positive"),
        ({"step_size": -0.1}, "step_size=-0.1 must be finite and positive"),
        ({"cap": float("nan")}, "cap=nan must not be negative"),
    ):
        with pytest.raises(ValueError, match=sentence):
            universal(**options)
