"""Mistakes seen in other people's evaluations of random defenses, each made impossible here.

Others have tests where their subject is: scoring with the attack's draw (test_evaluation), the
gradient of mean logits taken for EOT (test_eot), unbeaten images returned clean (test_ensemble),
results that change with the batch (test_evaluation, test_ensemble).
"""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import data, zoo
from rainjax.attacks import APGD, EOT, PGD
from rainjax.defenses import RAIN
from rainjax.evaluation import run_attack, score
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from tests.attack_contracts import ATTACKS
from tests.tiny import EDSR_TINY, Linear, Mask, edsr_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(5)
IMAGES = RNG.uniform(size=(4, 8, 8, 3)).astype(np.float32)
SIZE = IMAGES[0].size
KEYS = example_keys(0, Purpose.ATTACK, np.arange(4))


def _linear(num_classes, defense=None):
    target = Defended(defense or Mask(), Linear(SIZE, num_classes))
    kernel = jnp.asarray(RNG.normal(size=(SIZE, num_classes)) / 8, jnp.float32)
    return target, {"defense": (), "classifier": {"kernel": kernel}}


def test_one_lucky_draw_is_not_the_score():
    """Every scoring draw is reported, and they are different draws."""
    target, params = _linear(3)
    keys = example_keys(0, Purpose.SCORE, np.arange(4))
    logits = np.asarray(score(target, params, keys, IMAGES, num_draws=16))
    right = logits.argmax(-1) == 0
    assert 0 < right.mean() < 1
    assert len(np.unique(logits.reshape(-1, 3), axis=0)) == 4 * 16


def test_success_at_some_step_is_not_a_success():
    """A draw that was fooled on the way says nothing; what is handed out is scored anew."""
    target, params = _linear(2)
    labels = np.zeros(4, np.int32)
    found = run_attack(target, PGD(num_steps=8, radius=0.02), params, KEYS, IMAGES, labels)
    keys = example_keys(0, Purpose.SCORE, np.arange(4))
    right = np.asarray(score(target, params, keys, found, num_draws=64)).argmax(-1) == 0
    logits_fn = lambda draw, x: target.logits(params, draw, x)
    seen = []  # whether the draw of a step was fooled, as others count it

    def spy(draw, x):
        logits = logits_fn(draw, x)
        jax.debug.callback(lambda z: seen.append(z.argmax() != 0), logits)
        return logits

    for i in range(4):
        PGD(num_steps=8, radius=0.02)(KEYS[i], spy, jnp.asarray(IMAGES[i]), jnp.array(0))
    jax.effects_barrier()
    ever = np.array(seen).reshape(4, 8).any(1)
    assert ever.mean() > 1 - right.mean() + 0.1  # that count flatters the attack


def test_every_image_of_a_batch_has_draws_of_its_own():
    """The same image four times in a batch meets four shifts and four sets of picks."""
    target = Defended(RAIN(EDSR_TINY, shift_fraction=0.25), Linear(SIZE, 3))
    _, params = _linear(3)
    params["defense"] = edsr_params()
    same = np.repeat(IMAGES[:1], 4, axis=0)
    keys = example_keys(0, Purpose.SCORE, np.arange(4))
    logits = np.asarray(score(target, params, keys, same, num_draws=1))[:, 0]
    assert len(np.unique(logits, axis=0)) == 4
    found = run_attack(target, PGD(num_steps=1), params, KEYS, same, np.zeros(4, np.int32))
    assert len(np.unique(np.asarray(found).reshape(4, -1), axis=0)) == 4


def test_no_global_generator_is_read_or_seeded():
    target, params = _linear(3)
    labels, found = np.zeros(4, np.int32), []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (is it touched?)
        before = str(np.random.get_state())  # noqa: NPY002 (is it touched?)
        found.append(run_attack(target, PGD(num_steps=2), params, KEYS, IMAGES, labels))
        assert str(np.random.get_state()) == before  # noqa: NPY002 (is it touched?)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("num_classes", [2, 3, 37])
@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_no_attack_counts_on_ten_classes(case, num_classes):
    target, params = _linear(num_classes)
    labels = (np.arange(4) % num_classes).astype(np.int32)
    if getattr(case.attack, "loss", "") == "dlr" and num_classes == 2:
        with pytest.raises(ValueError, match="compares 3 classes, and there are 2"):
            run_attack(target, case.attack, params, KEYS, IMAGES, labels)
        return
    found = run_attack(target, case.attack, params, KEYS, IMAGES, labels)
    assert np.isfinite(found).all()
    if case.moves:
        assert np.abs(np.asarray(found) - IMAGES).max() > 0


def test_autoattacks_apgd_on_a_random_defense_is_no_weaker_than_eot_pgd():
    """At equal gradients. The published rule, though its losses are means, leaves far more."""
    classifier, edsr = zoo.load("builtin_resnet"), zoo.load("builtin_edsr_rain")
    target = Defended(RAIN(edsr.network, 0.0625), classifier.network)
    params = {"defense": edsr.params, "classifier": classifier.params}
    rows = np.arange(32)
    images, labels = data.load("builtin", "test").get(rows)
    images = images.astype(np.float32) / 255
    keys = example_keys(0, Purpose.ATTACK, rows)
    score_keys = example_keys(0, Purpose.SCORE, rows)
    # A radius at which something is left to compare.
    plain = PGD(radius=4 / 255, step_size=1 / 255, num_steps=16, eot=EOT(4))
    (auto, _) = AutoAttack(version="rand", radius=4 / 255, num_steps=15, eot=EOT(4)).members
    auto, published = auto.attack, APGD(radius=4 / 255, num_steps=15, eot=EOT(4))
    assert auto.num_gradients == plain.num_gradients == published.num_gradients
    left = {}
    for name, attack in {"plain": plain, "auto": auto, "published": published}.items():
        found = run_attack(target, attack, params, keys, images, labels)
        logits = np.asarray(score(target, params, score_keys, found, num_draws=5))
        left[name] = (logits.argmax(-1) == labels[:, None]).mean()
    assert 0 < left["plain"] < 0.9
    assert left["auto"] <= left["plain"], left
    assert left["published"] > left["auto"], left


def test_attacks_are_values_that_hold_no_key():
    for case in ATTACKS:
        for leaf in jax.tree.leaves(dataclasses.asdict(case.attack)):
            assert not isinstance(leaf, jax.Array), case.name
