"""Two classes, for which DLR is no loss, and one, which is no classifier."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from rainjax import nets
from rainjax.adapters._batched import Batched
from rainjax.attacks import APGD, EOT, PGD, NoisyAPGD, Square
from rainjax.defenses import Identity
from rainjax.evaluation import (
    Study,
    Subject,
    ThreatModel,
    attack_batch,
    evaluate,
    keep_worst,
    run_attack,
    score,
    universal,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.ensemble import Member, fitting_members, run_ensemble
from rainjax.evaluation.smoothing import Smoothed, certify
from rainjax.pipeline import Defended, Pipeline
from tests.attack_contracts import ATTACKS
from tests.small_studies import SMALL, Arrays
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
SIZE = 6 * 6 * 3
IMAGES = (SMALL[:6] / 255).astype(np.float32)
KERNEL = RNG.normal(size=(SIZE, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 6)


def params_of(num_classes):
    return {"defense": (), "classifier": {"kernel": jnp.asarray(KERNEL[:, :num_classes])}}


def target_of(num_classes):
    return Defended(Identity(), Linear(SIZE, num_classes))


LABELS = (IMAGES.reshape(6, -1) @ KERNEL[:, :2]).argmax(1)


# -- Two classes --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["standard", "rand", "plus"])
def test_members_that_need_three_classes_fall_back_and_no_others(version):
    attack = AutoAttack(version=version, num_steps=3)
    for num_classes in (2, 3, 10):
        members, sentence = fitting_members(attack.members, num_classes)
        for before, after in zip(attack.members, members, strict=True):
            if num_classes == 2 and "DLR" in before.name:
                assert after.attack == dataclasses.replace(before.attack, loss="margin")
                assert before.name in after.name != before.name
                assert before.name in sentence
            else:
                assert after == before
        assert (sentence is None) == (members == attack.members)


def test_an_ensemble_says_so_before_it_runs_and_climbs_the_margin():
    members = AutoAttack(version="rand", radius=0.01, num_steps=3, eot=EOT(1)).members
    ran = []
    with pytest.warns(UserWarning, match="2 classes APGD-DLR climbs the margin loss") as said:
        result = run_ensemble(
            target_of(2), members, params_of(2), 0, np.arange(6), IMAGES, LABELS,
            num_select_draws=1, on_member=lambda record: ran.append(len(said)),
        )  # fmt: skip
    assert ran == [1, 1]
    assert result.members[1].name == "APGD-DLR by the margin loss"
    by_hand = (members[0], Member("margin", NoisyAPGD(**_options(members[1].attack))))
    same = run_ensemble(
        target_of(2), by_hand, params_of(2), 0, np.arange(6), IMAGES, LABELS, num_select_draws=1
    )
    np.testing.assert_array_equal(result.images, same.images)


def _options(attack):
    names = [field.name for field in dataclasses.fields(attack)]
    return {name: getattr(attack, name) for name in names} | {"loss": "margin"}


class TwoClasses(Arrays):
    class_names = ("a", "b")


def study_of_two(*threats):
    pipeline = target_of(2)
    images = TwoClasses(SMALL[:6], LABELS)
    return Study("two", images, [Subject("bare", pipeline, params_of(2))], threats)


def test_a_study_of_two_classes_is_told_before_anything_is_made(tmp_path):
    attack = AutoAttack(version="rand", radius=0.01, num_steps=2, eot=EOT(1))
    study = study_of_two(ThreatModel("ensemble", attack, description="one and the other"))
    with pytest.raises(UserWarning, match="APGD-DLR climbs the margin loss"):
        evaluate(study, tmp_path, progress=False)  # a warning is an error here
    assert not list(tmp_path.rglob("*.npz"))
    with pytest.warns(UserWarning, match="APGD-DLR climbs the margin loss") as said:
        (record,) = evaluate(study, tmp_path, progress=False)
    assert len(said) == 1
    names = [member["name"] for member in record.result["members"]]
    assert names == ["APGD-CE", "APGD-DLR by the margin loss"]
    assert record.description == (
        "one and the other; with 2 classes APGD-DLR climbs the margin loss, for DLR compares three"
    )


@pytest.mark.parametrize(
    "attack", [PGD(loss="dlr"), APGD(loss="dlr"), NoisyAPGD(loss="dlr"), Square(loss="dlr")]
)
def test_an_attack_that_needs_three_classes_is_refused_before_anything_runs(tmp_path, attack):
    sentence = "The loss 'dlr' compares 3 classes, and there are 2: use 'margin'"
    with pytest.raises(ValueError, match=sentence):
        evaluate(study_of_two(ThreatModel("dlr", attack)), tmp_path, progress=False)
    assert not (tmp_path / "two").exists()
    ticks = []
    with pytest.raises(ValueError, match=sentence):
        run_attack(
            target_of(2), attack, params_of(2), KEYS, IMAGES, LABELS, on_gradient=ticks.append
        )
    assert not ticks
    with pytest.raises(ValueError, match=sentence):
        attack_batch(target_of(2), target_of(2), attack, params_of(2), KEYS, KEYS, IMAGES, LABELS)
    with pytest.raises(ValueError, match=sentence):
        universal.universal_perturbation(
            target_of(2), params_of(2), 0, np.arange(6), IMAGES, LABELS, loss="dlr"
        )


# -- One class ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Alone(Pipeline):
    """A pipeline of somebody's own, with one output."""

    def init(self, key):
        return params_of(1)["classifier"]["kernel"]

    def logits(self, params, key, image):
        return image.reshape(SIZE) @ params


ZEROS = np.zeros(6, np.int32)
STEP = PGD(num_steps=1)
ENTRIES = {
    "run_attack": lambda t, p: run_attack(t, STEP, p, KEYS, IMAGES, ZEROS),
    "attack_batch": lambda t, p: attack_batch(t, t, STEP, p, KEYS, KEYS, IMAGES, ZEROS),
    "score": lambda t, p: score(t, p, KEYS, IMAGES, num_draws=1),
    "keep_worst": lambda t, p: keep_worst(t, STEP, p, KEYS, IMAGES, IMAGES, ZEROS, num_draws=1),
    "run_ensemble": lambda t, p: run_ensemble(
        t, (Member("PGD", STEP),), p, 0, np.arange(6), IMAGES, ZEROS, num_select_draws=1
    ),
    "universal": lambda t, p: universal.universal_perturbation(
        t, p, 0, np.arange(6), IMAGES, ZEROS, num_epochs=1
    ),
    "certify": lambda t, p: certify(Smoothed(t, 0.1), p, KEYS, IMAGES, num_estimate=10),
    "the attack": lambda t, p: STEP(
        KEYS[0], lambda key, x: t.logits(p, key, x), jnp.asarray(IMAGES[0]), jnp.array(0)
    ),
    "a study": lambda t, p: evaluate(
        Study("one", OneClass(SMALL[:6], ZEROS), [Subject("one", t, p)], [ThreatModel("p", STEP)]),
        "never",
        progress=False,
    ),
}


class OneClass(Arrays):
    class_names = ("a",)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("own", [False, True])
def test_a_single_output_is_refused_wherever_it_comes_in(entry, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target, params = (Alone(), KERNEL[:, :1]) if own else (target_of(1), params_of(1))
    with pytest.raises(ValueError, match=r"returns? 1 logit|gives? .* 1 logit") as error:
        ENTRIES[entry](target, jax.tree.map(jnp.asarray, params))
    assert "jnp.stack([jnp.zeros(()), z])" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_other_frameworks_are_not_given_a_single_output_either():
    with pytest.raises(ValueError, match="returns 1 logit"):
        Batched(target_of(1), params_of(1), seed=0, fresh=False).num_classes((6, 6, 3))


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_no_attack_takes_one_logit_for_a_classifier(case):
    logits_fn = lambda key, image: image.sum()[None]
    with pytest.raises(ValueError, match=r"1 logit|one class"):
        jax.eval_shape(
            lambda key, image: case.attack(key, logits_fn, image, jnp.array(0)),
            KEYS[0], jnp.full((8, 8, 3), 0.5),
        )  # fmt: skip


def test_two_logits_of_a_sigmoid_are_the_same_classifier():
    kernel = jnp.asarray(KERNEL[:, 0] / 10)
    middle = float(np.median(IMAGES.reshape(6, -1) @ np.asarray(kernel)))
    shapes = (lambda z: z, lambda z: z[None])
    for make in shapes:
        model = nets.from_function(
            lambda kernel, image, make=make: make(image.reshape(SIZE) @ kernel - middle),
            kernel,
            sigmoid=True,
        )
        target = Defended(Identity(), model.network)
        params = {"defense": (), "classifier": model.params}
        logits = np.asarray(score(target, params, KEYS, IMAGES, num_draws=1))[:, 0]
        z = IMAGES.reshape(6, -1) @ np.asarray(kernel) - middle
        np.testing.assert_allclose(
            scipy.special.softmax(logits, axis=1)[:, 1], scipy.special.expit(z), rtol=1e-5
        )
        labels = (z > 0).astype(np.int32)
        assert 0 < labels.sum() < 6
        attack = PGD(radius=0.3, step_size=0.1, num_steps=4)
        attacked = np.asarray(run_attack(target, attack, params, KEYS, IMAGES, labels))
        after = attacked.reshape(6, -1) @ np.asarray(kernel) - middle
        assert ((after > 0) != labels).all()  # of class 0 as of class 1
    many = nets.from_function(lambda params, image: image.reshape(SIZE), sigmoid=True)
    with pytest.raises(ValueError, match=r"shape \(1, 108\) .* with sigmoid=True it returns one"):
        many.network.apply(many.params, jnp.asarray(IMAGES[0]))
