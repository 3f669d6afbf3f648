"""Zero gradients are counted for every attack, and logits that are a softmax's are named."""

import contextlib
import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from rainjax import report
from rainjax.attacks import EOT, PGD, LabelAttack, NoisyAPGD, ScoreAttack, Square
from rainjax.defenses import Identity
from rainjax.evaluation import (
    Knowledge,
    ThreatModel,
    attack_batch,
    evaluate,
    run_attack,
    score,
    universal,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.driver import watched_attack
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.evaluation.watch import zero_gradients
from rainjax.nets._network import Network
from rainjax.pipeline import Defended
from tests.attack_contracts import ATTACKS
from tests.small_studies import CLEAN, Round, linear, study_of
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
SHAPE, SIZE = (4, 4, 3), 48
IMAGES = RNG.uniform(0.3, 0.7, size=(8, *SHAPE)).astype(np.float32)
KERNEL = RNG.normal(size=(SIZE, 5)).astype(np.float32)
PARAMS = {"defense": (), "classifier": {"kernel": jnp.asarray(KERNEL)}}
LABELS = (IMAGES.reshape(8, -1) @ KERNEL).argmax(1)
KEYS = jax.random.split(jax.random.key(3), 8)
# Every second image is of the flat half, whose pixels below tell the two apart.
IMAGES[:, 0, 0, 0] = np.tile([0.1, 0.9], 4)
FLAT = IMAGES[:, 0, 0, 0] > 0.5
# One attack for each question that is asked.
BY_QUESTION = {type(case.attack.query): case for case in ATTACKS}.values()


@dataclasses.dataclass(frozen=True)
class HalfFlat(Linear):
    """Linear, but without a gradient where the first value is above one half."""

    mark: str = ""  # programs of one mark are compiled once

    def apply(self, params, *inputs):
        (image,) = inputs
        counted = _flat_above(image, self.mark)
        return super().apply(params, counted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _flat_above(image, mark):
    return image


ASKED = set()


def _forward(image, mark):
    ASKED.add(mark)
    return image, image[0, 0, 0] > 0.5


def _backward(mark, flat, cotangent):
    return (jnp.where(flat, 0.0, cotangent),)


_flat_above.defvjp(_forward, _backward)


def smaller(attack):
    """Returns the attack in a ball so small that nothing is won in it, and with few steps."""
    names = {field.name for field in dataclasses.fields(attack)}
    least = {"radius": 1e-3, "step_size": 1e-4, "num_steps": 3, "num_queries": 8}
    return dataclasses.replace(attack, **{k: v for k, v in least.items() if k in names})


@pytest.mark.parametrize("case", BY_QUESTION, ids=lambda case: case.name)
def test_zero_gradients_are_counted_image_by_image(case):
    """Of every attack that takes gradients, and of no other."""
    attack = smaller(case.attack)
    target = Defended(Identity(), HalfFlat(SIZE, 5, case.name))
    labels = LABELS
    if getattr(attack, "targeted", False):
        labels = (LABELS + 1) % 5
    _, watch = watched_attack(target, attack, PARAMS, KEYS, IMAGES, labels)
    found = zero_gradients(watch)
    if case.name in ASKED:
        np.testing.assert_array_equal(found, FLAT)
        with pytest.warns(UserWarning, match=f"of {type(attack).__name__} for 4 of 8 images"):
            run_attack(target, attack, PARAMS, KEYS, IMAGES, labels)
    else:
        assert found is None
        assert isinstance(attack, Square | ScoreAttack | LabelAttack)


@pytest.mark.parametrize("size", [3, 8])
def test_the_count_does_not_depend_on_the_batch_or_on_who_leaves_it(size):
    """With early stopping some images are done at the first call, and some never."""
    target = Defended(Identity(), HalfFlat(SIZE, 5))
    labels = np.where(np.arange(8) < 3, (LABELS + 1) % 5, LABELS)  # three are wrong already
    attack = PGD(radius=1e-3, step_size=1e-4, num_steps=4, early_stop=True, eot=EOT(2))
    found = []
    for start in range(0, 8, size):
        rows = slice(start, start + size)
        _, watch = watched_attack(target, attack, PARAMS, KEYS[rows], IMAGES[rows], labels[rows])
        found.append(zero_gradients(watch))
    np.testing.assert_array_equal(np.concatenate(found), FLAT & (np.arange(8) >= 3))
    run = jax.vmap(lambda key, x, y: attack.run(key, _logits(target), x, y))
    scanned = run(KEYS, jnp.asarray(IMAGES), jnp.asarray(labels)).watch
    np.testing.assert_array_equal(zero_gradients(scanned), np.concatenate(found))


def _logits(target):
    return lambda key, image: target.logits(PARAMS, key, image)


def test_a_softmax_that_is_sure_leaves_no_gradient_of_the_cross_entropy():
    """In float32 its other entries are zero from a margin of about 104 on; the margin is not."""
    logits = np.sort(IMAGES.reshape(8, -1) @ KERNEL, axis=1).astype(np.float64)
    margins = logits[:, -1] - logits[:, -2]
    factor = 200 / margins.max()
    sure = factor * margins > 110
    params = {"defense": (), "classifier": {"kernel": jnp.asarray(factor * KERNEL, jnp.float32)}}
    target = Defended(Identity(), Linear(SIZE, 5))
    for factor_, expected in ((factor, sure), (0.1 * factor, np.zeros(8, bool))):
        params["classifier"]["kernel"] = jnp.asarray(factor_ * KERNEL)
        attack = PGD(radius=1e-6, step_size=1e-7, num_steps=2)
        _, watch = watched_attack(target, attack, params, KEYS, IMAGES, LABELS)
        found = zero_gradients(watch)
        if factor_ == factor:
            assert found[expected].all()
            assert not found[factor * margins < 80].any()
        else:
            assert not found.any()
        margin = dataclasses.replace(attack, loss="margin")
        assert not zero_gradients(
            watched_attack(target, margin, params, KEYS, IMAGES, LABELS)[1]
        ).any()
    assert 0 < sure.sum() < 8


def test_an_ensemble_tells_of_each_member_and_of_all_together():
    target = Defended(Identity(), HalfFlat(SIZE, 5))
    still = {"radius": 1e-3, "early_stop": False}
    step = PGD(step_size=1e-4, num_steps=2, **still)
    square = Member("Square", Square(num_queries=2, paired=False, **still))
    bare = Defended(Identity(), Linear(SIZE, 5))
    run = functools.partial(
        run_ensemble, target, params=PARAMS, seed=0, indices=np.arange(8), images=IMAGES,
        labels=LABELS, num_select_draws=1, batch_size=3,
    )  # fmt: skip
    result = run((Member("PGD", step), square))
    assert [member.num_zero_gradient for member in result.members] == [4, 0]
    np.testing.assert_array_equal(result.zero_gradient, FLAT)
    result = run((Member("PGD", step), Member("bare", step, bare)))
    assert [member.num_zero_gradient for member in result.members] == [4, 0]
    assert not result.zero_gradient.any()
    assert run((square,)).zero_gradient is None


def test_a_universal_perturbation_without_a_gradient_says_so():
    target = Defended(Identity(), HalfFlat(SIZE, 5))
    learn = functools.partial(
        universal.universal_perturbation, target, PARAMS, 0, num_epochs=1, radius=1e-3
    )
    learn(np.arange(8), IMAGES, LABELS)
    with pytest.warns(UserWarning, match="exactly zero for every image"):
        learn(np.arange(4), IMAGES[FLAT], LABELS[FLAT])


# -- Studies ------------------------------------------------------------------------------


def _threats():
    pgd = PGD(radius=0.02, step_size=0.01, num_steps=2, random_start=False)
    rand = AutoAttack(version="rand", radius=0.02, num_steps=2, eot=EOT(1))
    return (
        CLEAN,
        ThreatModel("white box", pgd),
        ThreatModel("ensemble", rand),
        ThreatModel(
            "scores", Square(radius=0.02, num_queries=3, paired=False), knowledge=Knowledge.SCORES
        ),
    )


def test_records_tables_and_the_verdict_tell(tmp_path):
    """Rounding has no gradient, so every image counts that it gets right."""
    study = study_of(linear(Round()), linear(Identity(), "bare"), threats=_threats(), batch_size=5)
    records = evaluate(study, tmp_path, progress=False)
    of = {(record.subject, record.threat): record for record in records}
    told = {place: record.num_zero_gradient for place, record in of.items()}
    right = int((of["Round", "clean"].correct_draws == 1).sum())
    assert 0 < right < 12
    assert told["Round", "white box"] == right
    assert told["Round", "ensemble"] > 0
    assert told["Round", "clean"] is None is told["Round", "scores"] is told["bare", "clean"]
    assert told["bare", "white box"] == 0 == told["bare", "ensemble"]
    members = of["Round", "ensemble"].result["members"]
    counts = {member["name"]: member["num_zero_gradient"] for member in members}
    assert counts["APGD-CE"] >= told["Round", "ensemble"] > 0
    text = report.report(records).text()
    assert text.count("‡") >= 3
    assert f"Round under white box, {told['Round', 'white box']} of 12" in text
    assert "bare under" not in text
    summary = report.summary(tmp_path / study.name)
    assert "Round: the gradient was exactly zero at every call for" in summary
    assert "bare: the gradient" not in summary


# -- Logits that are a softmax's ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Softmaxed(Network):
    """Returns probabilities, or their logarithm."""

    log: bool = False

    def init(self, key):
        return {"kernel": jnp.asarray(KERNEL)}

    def apply(self, params, *inputs):
        logits = inputs[0].reshape(SIZE) @ params["kernel"]
        return jax.nn.log_softmax(logits) if self.log else jax.nn.softmax(logits)


def _entries():
    attack = PGD(radius=1e-3, step_size=1e-4, num_steps=2)
    return {
        "run_attack": lambda t: run_attack(t, attack, PARAMS, KEYS, IMAGES, LABELS),
        "NoisyAPGD": lambda t: run_attack(
            t, NoisyAPGD(num_steps=2, eot=EOT(2)), PARAMS, KEYS, IMAGES, LABELS
        ),
        "attack_batch": lambda t: attack_batch(
            t, t, attack, PARAMS, KEYS, KEYS, IMAGES, LABELS
        ),
        "score": lambda t: score(t, PARAMS, KEYS, IMAGES, num_draws=2),
        "run_ensemble": lambda t: run_ensemble(
            t, (Member("PGD", attack),), PARAMS, 0, np.arange(8), IMAGES, LABELS,
            num_select_draws=1,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("entry", _entries())
@pytest.mark.parametrize("log", [False, True])
def test_probabilities_for_logits_are_named(entry, log):
    target = Defended(Identity(), Softmaxed(log))
    probabilities = scipy.special.softmax(IMAGES.reshape(8, -1) @ KERNEL, axis=1)
    np.testing.assert_allclose(
        score_quietly(target), np.log(probabilities) if log else probabilities, atol=1e-4
    )
    expected = contextlib.nullcontext() if log else pytest.warns(UserWarning, match="softmax's")
    with expected:
        _entries()[entry](target)


def score_quietly(target):
    with warnings.catch_warnings(action="ignore"):
        return np.asarray(score(target, PARAMS, KEYS, IMAGES, num_draws=1))[:, 0]


def test_one_row_that_is_no_softmax_is_enough():
    """An honest classifier may sum to one by chance, on some image."""
    target = Defended(Identity(), Softmaxed())
    score_quietly(target)
    moved = {**PARAMS, "classifier": {"kernel": jnp.asarray(KERNEL)}}

    @dataclasses.dataclass(frozen=True)
    class Some(Softmaxed):
        def apply(self, params, *inputs):
            return super().apply(params, *inputs) * jnp.where(inputs[0][0, 0, 0] > 0.5, 1.0, 1.1)

    score(Defended(Identity(), Some()), moved, KEYS, IMAGES, num_draws=1)
