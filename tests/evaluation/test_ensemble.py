"""Ensembles: bookkeeping against a plain loop, and choices made on draws of their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, PGD, fgsm
from rainjax.attacks.queries import LossAndGradient
from rainjax.defenses import Identity
from rainjax.devices import data_mesh
from rainjax.evaluation import ensemble, run_attack, score
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from tests.tiny import RESNET_TINY, Linear, Mask, resnet_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(2)
INDICES = np.arange(100, 111)
IMAGES = RNG.uniform(size=(11, 12, 12, 3)).astype(np.float32)
LABELS = np.arange(11, dtype=np.int32) % 10
WEAK = Member("weak", fgsm(0.5 / 255))
STRONG = Member("strong", PGD(radius=4 / 255, step_size=1 / 255, num_steps=6))
# Of one ball, and each stronger than the one before.
BALL = {"radius": 6 / 255, "random_start": False}
MEMBERS = (
    Member("first", PGD(step_size=0.5 / 255, num_steps=1, **BALL)),
    Member("second", PGD(step_size=1.5 / 255, num_steps=2, **BALL)),
    Member("third", PGD(step_size=2 / 255, num_steps=8, **BALL)),
)


@pytest.fixture(scope="module")
def params():
    images = RNG.uniform(size=(40, 12, 12, 3)).astype(np.float32)
    images[:11] = IMAGES
    labels = np.arange(40) % 10
    labels[:11] = LABELS
    return {"defense": (), "classifier": resnet_params(images, labels)}


TARGET = Defended(Identity(), RESNET_TINY)


@pytest.fixture(scope="module")
def result(params):
    return run_ensemble(
        TARGET, MEMBERS, params, 3, INDICES, IMAGES, LABELS, num_select_draws=1, batch_size=4
    )


def _right(params, images):
    keys = example_keys(0, Purpose.SCORE, INDICES)
    logits = np.asarray(score(TARGET, params, keys, images, num_draws=1))[:, 0]
    return logits.argmax(-1) == LABELS


def test_every_member_attacks_what_the_others_left(params, result):
    """The oracle: each member alone on everything, and minima over members."""
    standing = _right(params, IMAGES)
    assert standing.sum() > 6
    for place, (member, record) in enumerate(zip(MEMBERS, result.members, strict=True)):
        keys = example_keys(3, Purpose.ATTACK, INDICES)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2 + place)
        alone = run_attack(TARGET, member.attack, params, keys, IMAGES, LABELS)
        falls = standing & ~_right(params, alone)
        assert (record.name, record.num_attacked) == (member.name, standing.sum())
        assert record.num_broken == falls.sum()
        assert record.num_gradients == standing.sum() * member.attack.num_gradients
        found = np.asarray(result.images)
        np.testing.assert_allclose(found[falls], np.asarray(alone)[falls], atol=1e-6)
        assert (result.best[falls] == place).all()
        standing &= ~falls
    np.testing.assert_array_equal(result.standing, standing)
    np.testing.assert_array_equal(_right(params, result.images), standing)
    assert sum(record.num_broken > 0 for record in result.members) >= 2
    assert [r.num_best for r in result.members] == np.bincount(
        result.best[result.best >= 0], minlength=3
    ).tolist()


def test_batches_and_devices_change_nothing(params, result):
    # A batch of 3 on two devices is padded to 4, and 11 images leave one over.
    for options in (
        {"batch_size": 11},
        {"batch_size": 2, "mesh": data_mesh(2)},
        {"batch_size": 3, "mesh": data_mesh(2)},
    ):
        ticks, seen = [], []
        again = run_ensemble(
            TARGET, MEMBERS, params, 3, INDICES, IMAGES, LABELS, num_select_draws=1,
            on_gradient=ticks.append, on_member=seen.append, **options,
        )  # fmt: skip
        np.testing.assert_allclose(again.images, result.images, atol=1e-5)
        np.testing.assert_array_equal(again.best, result.best)
        assert [r.num_broken for r in seen] == [r.num_broken for r in result.members]
        assert sum(ticks) >= sum(record.num_gradients for record in seen)


def test_an_unbeaten_image_is_handed_out_at_its_strongest_attempt(params):
    """Never clean, and never at a version with a lower margin than the original."""
    weaker = PGD(radius=0.5 / 255, step_size=0.2 / 255, num_steps=1, random_start=False)
    members = (WEAK, Member("weaker", weaker))
    result = run_ensemble(TARGET, members, params, 3, INDICES, IMAGES, LABELS, num_select_draws=1)
    stands = result.standing
    assert stands.sum() > 3
    moved = np.abs(np.asarray(result.images) - IMAGES).max(axis=(1, 2, 3))
    assert (moved[stands] > 0.1 / 255).all()
    assert (result.best[stands] == 0).all()
    keys = example_keys(0, Purpose.SCORE, INDICES)
    own = lambda x: np.asarray(score(TARGET, params, keys, x, num_draws=1))[
        np.arange(11), 0, LABELS
    ]
    assert (own(result.images)[stands] < own(IMAGES)[stands]).all()


def test_nothing_is_made_worse_than_the_original():
    """An attack that walks the wrong way leaves the image as it was."""
    kernel = jnp.asarray(RNG.normal(size=(IMAGES[0].size, 10)), jnp.float32)
    params = {"defense": (), "classifier": {"kernel": kernel}}
    target = Defended(Identity(), Linear(IMAGES[0].size, 10))
    logits = np.asarray(IMAGES).reshape(11, -1) @ np.asarray(kernel)
    labels = logits.argmax(1).astype(np.int32)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Backwards(PGD):
        @property
        def query(self):
            return LossAndGradient(self.loss, targeted=True)  # towards the label

    attack = Backwards(radius=1 / 255, step_size=1 / 255, num_steps=1)
    result = run_ensemble(
        target,
        (Member("backwards", attack),),
        params,
        0,
        INDICES,
        IMAGES,
        labels,
        num_select_draws=1,
    )
    np.testing.assert_array_equal(result.images, IMAGES)
    assert (result.best == -1).all()
    assert result.members[0].num_broken == 0


def test_on_a_random_pipeline_draws_of_selection_decide(monkeypatch):
    """Neither the attack's draws nor those of the score choose what is kept."""
    target = Defended(Mask(), Linear(IMAGES[0].size, 10))
    kernel = jnp.asarray(RNG.normal(size=(IMAGES[0].size, 10)), jnp.float32)
    params = {"defense": (), "classifier": {"kernel": kernel}}
    logits = np.asarray(IMAGES).reshape(11, -1) @ np.asarray(kernel)
    labels = logits.argmax(1).astype(np.int32)
    seen = []

    def spy(target, params, keys, images, **options):
        seen.append((np.asarray(jax.random.key_data(keys)), options["num_draws"]))
        return score(target, params, keys, images, **options)

    monkeypatch.setattr(ensemble, "score", spy)
    members = tuple(
        dataclasses.replace(m, attack=dataclasses.replace(m.attack, eot=EOT(2)))
        for m in MEMBERS[:2]
    )
    result = run_ensemble(target, members, params, 7, INDICES, IMAGES, labels, num_select_draws=8)
    expected = jax.random.key_data(example_keys(7, Purpose.SELECT, INDICES))
    assert {num for _, num in seen} == {8}
    for keys, _ in seen:
        assert {tuple(k) for k in keys} <= {tuple(k) for k in np.asarray(expected)}
    # An image stands while any of the eight draws is right.
    keys = example_keys(7, Purpose.SELECT, INDICES)
    found = np.asarray(score(target, params, keys, result.images, num_draws=8)).argmax(-1)
    np.testing.assert_array_equal(result.standing, (found == labels[:, None]).any(1))


def test_what_does_not_fit_is_refused(params):
    with pytest.raises(ValueError, match="at least one member"):
        run_ensemble(TARGET, (), params, 0, INDICES, IMAGES, LABELS, num_select_draws=1)
    with pytest.raises(ValueError, match="The members are not of one ball"):
        run_ensemble(
            TARGET, (WEAK, STRONG), params, 0, INDICES, IMAGES, LABELS, num_select_draws=1
        )
    namesakes = (WEAK, dataclasses.replace(STRONG, name=WEAK.name))
    with pytest.raises(ValueError, match="The members are not of one ball"):
        run_ensemble(TARGET, namesakes, params, 0, INDICES, IMAGES, LABELS, num_select_draws=1)
    with unchecked(), pytest.raises(ValueError, match=r"tuple of Member\(name, attack\)"):
        run_ensemble(TARGET, AutoAttack(), params, 0, INDICES, IMAGES, LABELS, num_select_draws=1)
    back = (Member("back", fgsm(targeted=True)),)
    with pytest.raises(ValueError, match=r"The members \['back'\] are targeted"):
        run_ensemble(TARGET, back, params, 0, INDICES, IMAGES, LABELS, num_select_draws=1)
    with pytest.raises(ValueError, match=r"Labels lie in -1\.\.-1"):
        run_ensemble(
            TARGET, (WEAK,), params, 0, INDICES, IMAGES, 0 * LABELS - 1, num_select_draws=1
        )
    sentence = "11 images came with 11 labels and 3 indices"
    with unchecked(), pytest.raises(ValueError, match=sentence):
        run_ensemble(TARGET, (WEAK,), params, 0, INDICES[:3], IMAGES, LABELS, num_select_draws=1)
    outcomes = Member("listed", fgsm(eot=EOT(draws="enumerated")))
    with pytest.raises(ValueError, match="The member 'listed': draws='enumerated' takes every"):
        run_ensemble(TARGET, (outcomes,), params, 0, INDICES, IMAGES, LABELS, num_select_draws=1)
