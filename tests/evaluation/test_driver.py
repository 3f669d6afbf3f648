"""The runner drops what is already broken, and refuses what is broken in another way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, PGD
from rainjax.defenses import Identity
from rainjax.devices import data_mesh
from rainjax.evaluation import driver
from rainjax.evaluation.driver import run_attack
from rainjax.pipeline import Defended
from tests.tiny import Linear, Mask

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(1)
SIZE = 4 * 4 * 3
IMAGES = np.full((16, 4, 4, 3), 0.5, np.float32)
KERNEL = np.stack([RNG.permutation(np.resize([-1.0, 1.0], SIZE))] * 2, 1).astype(np.float32)
KERNEL[:, 1] = -KERNEL[:, 0]
LABELS = np.zeros(16, np.int32)
PARAMS = {"defense": (), "classifier": {"kernel": jnp.asarray(KERNEL)}}
KEYS = jax.random.split(jax.random.key(0), 16)
# Steps it takes until image i is broken: it starts that far inside its class, on whose border
# the grey image lies. Two never are.
NEEDED = np.array([1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 99, 99])
STEP = 0.01
START = IMAGES + ((NEEDED - 0.5) * STEP)[:, None, None, None] * np.sign(
    KERNEL[:, 0].reshape(4, 4, 3)
)
START = np.clip(START, 0, 1).astype(np.float32)
TARGET = Defended(Identity(), Linear(SIZE, 2))
STOPS = PGD(radius=0.2, step_size=STEP, num_steps=8, random_start=False, early_stop=True)


@pytest.fixture
def sizes(monkeypatch):
    """The size of the batch in every call to the pipeline."""
    seen, real = [], driver._add_chunk

    def spy(*args):
        seen.append(len(args[6]))
        return real(*args)

    monkeypatch.setattr(driver, "_add_chunk", spy)
    return seen


@pytest.mark.parametrize("devices", [1, 2])
def test_broken_images_leave_the_batch_and_are_handed_out_where_they_broke(sizes, devices):
    ticks = []
    found = run_attack(
        TARGET, STOPS, PARAMS, KEYS, START, LABELS,
        mesh=data_mesh(devices), on_gradient=ticks.append,
    )  # fmt: skip
    # 4 are broken after the first step, 7 after two, 10 after three, 12, 13, 14; 2 stand.
    # Whether a point is broken is seen one call after the step that led there.
    assert sizes == [16, 16, 12, 12, 6, 4, {1: 3, 2: 4}[devices], 2]
    assert sum(ticks) == STOPS.num_gradients
    steps = np.minimum(NEEDED, 8)[:, None, None, None]
    expected = START - np.float32(STEP) * steps * np.sign(KERNEL[:, 0].reshape(4, 4, 3))
    expected = np.clip(np.clip(expected, START - 0.2, START + 0.2), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_results_with_and_without_a_mesh_can_be_compared():
    """What no mesh placed is bound to no device, and JAX moves it to where the other lies."""
    alone, spread = (
        run_attack(TARGET, STOPS, PARAMS, KEYS, START, LABELS, mesh=mesh)
        for mesh in (None, data_mesh(2))
    )
    assert float(jnp.abs(jnp.asarray(spread) - alone).max()) < 1e-6
    attack = dataclasses.replace(STOPS, early_stop=False, eot=EOT(2, chunk_size=1))
    alone, spread = (
        run_attack(TARGET, attack, PARAMS, KEYS, START, LABELS, mesh=mesh)
        for mesh in (None, data_mesh(2))
    )
    assert float(jnp.abs(spread - alone).max()) < 1e-6


def test_a_batch_that_is_all_broken_costs_nothing_more(sizes):
    ticks = []
    run_attack(TARGET, STOPS, PARAMS, KEYS[:4], START[:4], LABELS[:4], on_gradient=ticks.append)
    assert sizes == [4, 4]
    assert sum(ticks) == STOPS.num_gradients  # the bar still ends full


def test_stopping_early_is_the_same_however_the_attack_is_driven():
    logits_fn = lambda draw, x: TARGET.logits(PARAMS, draw, x)
    pure = jax.jit(jax.vmap(lambda key, x, y: STOPS(key, logits_fn, x, y)))
    found = run_attack(TARGET, STOPS, PARAMS, KEYS, START, LABELS)
    np.testing.assert_allclose(found, pure(KEYS, START, LABELS), atol=1e-6)
    alone = [
        run_attack(TARGET, STOPS, PARAMS, KEYS[i : i + 1], START[i : i + 1], LABELS[i : i + 1])
        for i in (0, 7, 15)
    ]
    np.testing.assert_allclose(np.concatenate(alone), found[jnp.array([0, 7, 15])], atol=1e-6)


def test_one_lucky_draw_does_not_stop_an_attack(sizes):
    """Behind a random mask some draw is soon wrong; all of 16 are wrong much later."""
    target = Defended(Mask(), Linear(SIZE, 2))
    for num, least in ((1, 0), (16, 3)):
        sizes.clear()
        attack = dataclasses.replace(STOPS, eot=EOT(num))
        run_attack(target, attack, PARAMS, KEYS, START, LABELS)
        calls_at_full_size = sizes.count(16) // num
        assert calls_at_full_size >= least
    one = dataclasses.replace(STOPS, eot=EOT(1))
    sizes.clear()
    run_attack(target, one, PARAMS, KEYS, START, LABELS)
    assert sizes.count(16) < 16 * 3


def test_attacks_that_do_not_stop_keep_their_batch(sizes):
    attack = dataclasses.replace(STOPS, early_stop=False)
    run_attack(TARGET, attack, PARAMS, KEYS, START, LABELS)
    assert sizes == [16] * 8


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("best_iterate", [False, True])
def test_a_nan_is_reported_with_its_image(early_stop, best_iterate):
    images = START.copy()
    images[5, 0, 0, 0] = 0.75

    @dataclasses.dataclass(frozen=True)
    class Cracked(Linear):
        """Has no value where one pixel has one value."""

        def apply(self, params, *inputs):
            broken = jnp.abs(inputs[0][0, 0, 0] - 0.75) < 1e-3
            return jnp.where(broken, jnp.nan, super().apply(params, *inputs))

    attack = dataclasses.replace(STOPS, early_stop=early_stop, best_iterate=best_iterate)
    sentence = "gradient is NaN for 1 of 16 images, the first of them number 5 of the batch"
    with pytest.raises(ValueError, match=sentence):
        run_attack(Defended(Identity(), Cracked(SIZE, 2)), attack, PARAMS, KEYS, images, LABELS)
