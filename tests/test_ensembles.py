"""Ensembles: means of logits, probabilities, losses and gradients, against NumPy loops."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from rainjax import Ensemble, Guarded
from rainjax.attacks import (
    APGD,
    EOT,
    PGD,
    VMI,
    JointDirection,
    ScaleInvariance,
    UnitGradients,
    fgsm,
)
from rainjax.defenses import GaussianNoise, Identity
from rainjax.detectors import MaxSoftmax
from rainjax.evaluation import run_attack, score
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.gradients import BPDA
from rainjax.nets._network import Network
from rainjax.pipeline import Defended, Pipeline
from rainjax.typing import Part
from tests.tiny import Linear, Mask, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(4)
SHAPE, NUM_CLASSES = (5, 4, 3), 4
SIZE = int(np.prod(SHAPE))
# Of very different steepness, so that one of them would decide alone.
KERNELS = [scale * RNG.normal(size=(SIZE, NUM_CLASSES)) for scale in (0.5, 1.0, 8.0)]
IMAGES = RNG.uniform(size=(3, *SHAPE)).astype(np.float32)
LABELS = np.array([1, 0, 3])
KEYS = jax.random.split(jax.random.key(3), 3)
RADIUS = 0.1

MEMBERS = tuple(Defended(Identity(), Linear(SIZE, NUM_CLASSES)) for _ in KERNELS)
PARAMS = tuple(
    {"defense": (), "classifier": {"kernel": jnp.asarray(kernel, jnp.float32)}}
    for kernel in KERNELS
)


def slope(kernel, weights):
    """The gradient of a cross-entropy by the logits' gradient, `weights`, in an image's shape."""
    return (kernel @ weights).reshape(SHAPE)


def mean_slope(combine, image, label):
    """The gradient that an ensemble climbs, in float64, for the cross-entropy."""
    flat, truth = image.astype(float).ravel(), np.eye(NUM_CLASSES)[label]
    logits = np.array([flat @ kernel for kernel in KERNELS])
    shares = scipy.special.softmax(logits, axis=1)
    if combine == "logits":
        wrong = scipy.special.softmax(logits.mean(0)) - truth
        return np.mean([slope(kernel, wrong) for kernel in KERNELS], axis=0)
    if combine == "probabilities":
        # d/dx -log mean_m p_m(y): each member counts by its share of the mean probability.
        shares_of_label = shares[:, label] / shares[:, label].sum()
        parts = zip(shares_of_label, KERNELS, shares, strict=True)
        return sum(part * slope(kernel, own - truth) for part, kernel, own in parts)
    each = [slope(kernel, own - truth) for kernel, own in zip(KERNELS, shares, strict=True)]
    if combine == "gradient":
        each = [own / np.abs(own).sum() for own in each]
    return np.mean(each, axis=0)


@pytest.mark.parametrize("combine", ["logits", "probabilities", "loss", "gradient"])
def test_an_attack_climbs_the_mean(combine):
    """Steps in L2, which see sizes and not only signs, as a loop makes them."""
    source = Ensemble(MEMBERS, combine)
    options = {"norm": "l2", "radius": 0.5, "step_size": 0.2, "num_steps": 4}
    attack = source.fitted(PGD(momentum=1.0, random_start=False, **options))
    found = run_attack(source, attack, PARAMS, KEYS, IMAGES, jnp.asarray(LABELS))
    for image, label, attacked in zip(IMAGES, LABELS, found, strict=True):
        x, g = image.astype(float), np.zeros(SHAPE)
        for _ in range(4):
            own = mean_slope(combine, x, label)
            g = g + own / np.abs(own).mean()
            x = x + 0.2 * g / np.linalg.norm(g)
            delta = x - image
            x = image + delta * min(1, 0.5 / np.linalg.norm(delta))
            x = np.clip(x, 0, 1)
        np.testing.assert_allclose(attacked, x, atol=2e-4)


def test_the_four_differ():
    slopes = [mean_slope(c, IMAGES[0], 1) for c in ("logits", "probabilities", "loss", "gradient")]
    unit = [s.ravel() / np.linalg.norm(s) for s in slopes]
    assert np.max(np.array(unit) @ np.array(unit).T - np.eye(4)) < 0.999


def test_the_logits_are_means():
    key, image = KEYS[0], jnp.asarray(IMAGES[0])
    logits = np.array([IMAGES[0].ravel() @ kernel for kernel in KERNELS])
    mean = Ensemble(MEMBERS).logits(PARAMS, key, image)
    np.testing.assert_allclose(mean, logits.mean(0), rtol=1e-4, atol=1e-5)
    shares = Ensemble(MEMBERS, "probabilities").logits(PARAMS, key, image)
    expected = scipy.special.softmax(logits, axis=1).mean(0)
    np.testing.assert_allclose(np.exp(shares), expected, rtol=1e-4, atol=1e-6)
    assert not Ensemble(MEMBERS).is_random
    assert not Ensemble(MEMBERS, "loss").is_random
    for combine in ("loss", "gradient"):  # as a classifier they average their logits
        found = Ensemble(MEMBERS, combine).logits(PARAMS, key, image)
        np.testing.assert_array_equal(found, mean)


def test_a_part_of_a_draw_is_of_one_member():
    source, image = Ensemble(MEMBERS, "loss"), jnp.asarray(IMAGES[0])
    assert source.num_parts == 3
    assert Ensemble(MEMBERS).num_parts == 1
    for number, kernel in enumerate(KERNELS):
        found = source.logits_of_draw(PARAMS, Part(KEYS[0], number), image)
        np.testing.assert_allclose(found, IMAGES[0].ravel() @ kernel, rtol=1e-4, atol=1e-5)
    noisy = Defended(GaussianNoise(0.1), Linear(SIZE, NUM_CLASSES))
    noisy = Ensemble((*MEMBERS[:2], noisy), "loss")
    assert noisy.is_random
    assert noisy.num_outcomes(5) is None
    with pytest.raises(TypeError, match="does not list its outcomes"):
        noisy.logits_of_draw(PARAMS, Part(jnp.array(2), 2), image)


def test_random_members_draw_apart_and_each_draw_is_fresh():
    """Two members with one kernel behind the same mask: their gradients are their draws."""
    masked = Defended(Mask(), Linear(SIZE, NUM_CLASSES))
    params = (PARAMS[0], PARAMS[0])
    source, ones = Ensemble((masked, masked)), jnp.ones(SHAPE)

    def masks(draw):
        """How many of the two members let each value through."""
        logits = lambda image: source.logits_of_draw(params, draw, image)
        jacobian = np.asarray(jax.jacrev(logits)(ones)).reshape(NUM_CLASSES, SIZE)
        return jacobian[0] / np.asarray(KERNELS[0])[:, 0]

    both = np.round(2 * masks(KEYS[0]))
    assert {0.0, 1.0, 2.0} == set(np.unique(both))
    each = [np.round(masks(Part(KEYS[0], number))) for number in range(2)]
    np.testing.assert_array_equal(sum(each), both)  # the same draws, taken apart
    seen = [np.round(masks(Part(key, n))).tobytes() for key in KEYS for n in range(2)]
    assert len(set(seen)) == 6
    spread = Ensemble((masked, masked), "loss")
    attack = spread.fitted(fgsm(RADIUS, eot=EOT(3)))
    assert attack.eot == EOT(3, num_parts=2)
    assert spread.fitted(attack) == attack
    assert not spread.stratifies


def test_scales_are_enumerated_with_the_members():
    """SI-FGSM on an ensemble: the mean over five copies of the mean loss, or of the logits'."""
    scaled = tuple(Defended(ScaleInvariance(), Linear(SIZE, NUM_CLASSES)) for _ in KERNELS)
    copies = [IMAGES[0].astype(float) / 2**i for i in range(5)]
    attack = PGD(
        norm="l2", radius=0.4, step_size=0.4, num_steps=1, random_start=False,
        eot=EOT(5, draws="enumerated"),
    )  # fmt: skip
    for combine, num in (("loss", 15), ("logits", 5)):
        source = Ensemble(scaled, combine)
        assert source.num_outcomes(5) == 5
        fitted = source.fitted(attack)
        assert fitted.num_gradients == num
        found = run_attack(source, fitted, PARAMS, KEYS[:1], IMAGES[:1], jnp.asarray(LABELS[:1]))
        own = sum(mean_slope(combine, copy, 1) / 2**i for i, copy in enumerate(copies))
        moved = np.clip(IMAGES[0] + 0.4 * own / np.linalg.norm(own), 0, 1)
        np.testing.assert_allclose(found[0], moved, atol=1e-4)


@dataclasses.dataclass(frozen=True)
class Counted(Linear):
    """A linear classifier that tells how often it is asked, and which it is."""

    number: int = 0

    def apply(self, params, *inputs):
        jax.debug.callback(COUNTS.append, self.number)
        return super().apply(params, *inputs)


COUNTS: list[int] = []


@pytest.mark.parametrize("combine", ["logits", "loss", "gradient"])
@pytest.mark.parametrize("how", ["driven", "called"])
def test_every_member_is_asked_once_in_each_answer(combine, how):
    """And no more often: three of them cost three passes a step and not nine."""
    members = tuple(Defended(Identity(), Counted(SIZE, NUM_CLASSES, n)) for n in range(3))
    source = Ensemble(members, combine)
    attack = source.fitted(PGD(num_steps=2, random_start=False))
    COUNTS.clear()
    if how == "driven":
        run_attack(source, attack, PARAMS, KEYS[:1], IMAGES[:1], jnp.asarray(LABELS[:1]))
    else:
        logits_fn = lambda draw, image: source.logits_of_draw(PARAMS, draw, image)
        run = jax.jit(jax.vmap(lambda key, x, y: attack(key, logits_fn, x, y)))
        jax.block_until_ready(run(KEYS[:1], IMAGES[:1], jnp.asarray(LABELS[:1])))
    jax.effects_barrier()
    assert np.bincount(COUNTS, minlength=3).tolist() == [2, 2, 2]
    # A gradient of the mean logits is one of all three.
    assert attack.num_gradients == (2 if combine == "logits" else 6)


def test_draws_and_members_are_multiplied_in_the_ledger():
    source = Ensemble(MEMBERS, "gradient")
    attack = source.fitted(VMI(num_steps=3, num_neighbors=2, eot=EOT(4)))
    assert attack.num_gradients == (3 + 2 * 2) * 4 * 3
    assert attack.eot.direction == UnitGradients("l1")
    assert Ensemble(MEMBERS).fitted(attack) is attack


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_unit_gradients(norm):
    gradient = RNG.normal(size=SHAPE).astype(np.float32)
    found = UnitGradients(norm).of_draw(jnp.asarray(gradient), jnp.array(0.0))
    size = np.abs(gradient).sum() if norm == "l1" else np.linalg.norm(gradient)
    np.testing.assert_allclose(found, gradient / size, rtol=1e-5)
    tiny = UnitGradients(norm).of_draw(1e-30 * jnp.asarray(gradient), jnp.array(0.0))
    np.testing.assert_allclose(tiny, gradient / size, rtol=1e-4)
    zero = UnitGradients(norm).of_draw(jnp.zeros(SHAPE), jnp.array(0.0))
    np.testing.assert_array_equal(zero, np.zeros(SHAPE))


@dataclasses.dataclass(frozen=True)
class Median(JointDirection):
    """The median over the draws, which no sum of them tells."""

    def of_all(self, gradients, values):
        return jnp.median(gradients, axis=0)


@pytest.mark.parametrize(
    "eot",
    [
        EOT(3, direction=Median()),
        EOT(4, first=2),
        EOT(4, chunk_size=2, draws="stratified"),
        EOT(2, average="logits"),
        EOT(2, common=True),
    ],
    ids=["median", "growing", "stratified", "logits", "common"],
)
@pytest.mark.parametrize("how", ["driven", "called"])
def test_members_go_with_every_way_to_average(eot, how):
    """Where nothing is random every mean over draws is the mean over members alone."""
    source = Ensemble(MEMBERS, "loss")
    options = {"norm": "l2", "radius": 0.4, "step_size": 0.4, "num_steps": 1}
    attack = source.fitted(PGD(random_start=False, eot=eot, **options))
    row = KEYS[:1], jnp.asarray(IMAGES[:1]), jnp.asarray(LABELS[:1])
    if how == "driven":
        found = run_attack(source, attack, PARAMS, *row)
    else:
        logits_fn = lambda draw, image: source.logits_of_draw(PARAMS, draw, image)
        found = jax.jit(jax.vmap(lambda key, x, y: attack(key, logits_fn, x, y)))(*row)
    own = mean_slope("loss", IMAGES[0], 1)
    expected = np.clip(IMAGES[0] + 0.4 * own / np.linalg.norm(own), 0, 1)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_progress_counts_every_member():
    source, counted = Ensemble(MEMBERS, "loss"), []
    attack = source.fitted(PGD(num_steps=3, eot=EOT(2)))
    run_attack(
        source, attack, PARAMS, KEYS, IMAGES, jnp.asarray(LABELS), on_gradient=counted.append
    )
    assert sum(counted) == attack.num_gradients == 3 * 2 * 3


def test_a_surrogate_looks_into_every_member():
    masked = Ensemble(tuple(Defended(Mask(), m.classifier) for m in MEMBERS))
    straight = masked.map_defense(lambda defense: BPDA(defense, Identity()))
    assert straight is not None
    assert all(isinstance(member.defense, BPDA) for member in straight.members)
    assert masked.undefended() == Ensemble(MEMBERS)
    assert masked.defended
    assert not Ensemble(MEMBERS).defended
    assert masked.used(PARAMS) == PARAMS
    scored = score(masked, PARAMS, KEYS, IMAGES, num_draws=2)
    assert scored.shape == (3, 2, NUM_CLASSES)


@dataclasses.dataclass(frozen=True)
class Flat(Pipeline):
    """A pipeline that draws keys, spreads nothing and lists nothing."""

    def init(self, key):
        return ()

    def logits(self, params, key, image):
        return jnp.zeros(NUM_CLASSES) + image.sum() + jax.random.normal(key)


def test_a_pipeline_of_somebodys_own_is_a_member():
    source = Ensemble((MEMBERS[0], Flat()), "loss")
    params = (PARAMS[0], ())
    attack = source.fitted(APGD(num_steps=2))
    found = run_attack(source, attack, params, KEYS, IMAGES, jnp.asarray(LABELS))
    assert np.abs(found - IMAGES).max() > 1e-3
    assert Ensemble((MEMBERS[0], Flat())).map_defense(lambda defense: defense) is None


@dataclasses.dataclass(frozen=True)
class Fixed(Network):
    """A classifier of images of one size."""

    def init(self, key):
        return {"kernel": jnp.zeros((8, 8, 3, NUM_CLASSES))}

    def apply(self, params, *inputs):
        if inputs[0].shape != (8, 8, 3):
            raise ValueError(f"takes images of 8 x 8 x 3, not {inputs[0].shape}")
        return jnp.tensordot(inputs[0], params["kernel"], 3)


def _attacked(members, params, combine="logits", attack=None):
    source = Ensemble(members, combine)
    attack = attack or source.fitted(PGD(num_steps=1))
    return run_attack(source, attack, params, KEYS, IMAGES, jnp.asarray(LABELS))


_SEVEN = Defended(Identity(), Linear(SIZE, 7))
_OF_SEVEN = {"defense": (), "classifier": {"kernel": jnp.zeros((SIZE, 7))}}
_EIGHT = Defended(Identity(), Fixed())
_OF_EIGHT = {"defense": (), "classifier": {"kernel": jnp.zeros((8, 8, 3, NUM_CLASSES))}}
_PAIR = (MEMBERS[0], _SEVEN), (PARAMS[0], _OF_SEVEN)
_chosen = functools.partial(Ensemble(MEMBERS, "loss").fitted)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Ensemble(MEMBERS[:1]), "An ensemble of 1: give two members at least"),
        (lambda: Ensemble(MEMBERS, "mean"), "combine='mean'"),
        (
            lambda: Ensemble((MEMBERS[0], Ensemble(MEMBERS, "loss"))),
            "Member 1 of the ensemble is one itself, with combine='loss'",
        ),
        (
            lambda: Ensemble((MEMBERS[0], Guarded(MEMBERS[1], MaxSoftmax(MEMBERS[1].classifier)))),
            "Member 1 of the ensemble, Guarded, rejects images",
        ),
        (lambda: _attacked(*_PAIR), "Member 1 .* tells 7 classes apart, and the first 4"),
        (lambda: _attacked(*_PAIR, "loss"), "Member 1 .* tells 7 classes apart"),
        (
            lambda: _attacked((MEMBERS[0], _EIGHT), (PARAMS[0], _OF_EIGHT)),
            "Member 1 of the ensemble: takes images of 8 x 8 x 3",
        ),
        (lambda: _attacked(MEMBERS, PARAMS[:2]), "an ensemble of 3 are a tuple of as many, got 2"),
        (
            lambda: _attacked(MEMBERS, PARAMS, "loss", PGD(eot=EOT(2))),
            "num_parts=1, and Ensemble has 3 to be asked about one by one",
        ),
        (
            lambda: _attacked(MEMBERS, PARAMS, "logits", PGD(eot=EOT(2, num_parts=3))),
            "num_parts=3, and Ensemble has 1",
        ),
        (lambda: EOT(num_parts=0), "num_parts=0 must be at least 1"),
        (lambda: _chosen(AutoAttack()), "AutoAttack has no EOT that says so"),
        (
            lambda: Ensemble(MEMBERS, "gradient").fitted(PGD(eot=EOT(direction=Median()))),
            "combine='gradient' is a direction by itself",
        ),
    ],
)
def test_what_makes_no_ensemble_is_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
