"""Options of the wrong kind are refused by every value in the same words."""

import dataclasses
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import attacks
from rainjax.attacks import (
    EOT,
    PGD,
    Admix,
    Attack,
    ImagePool,
    InputDiversity,
    ScaleInvariance,
    fgsm,
)
from rainjax.defenses import (
    JPEG,
    RAIN,
    SHIELD,
    BilateralFilter,
    BitDepth,
    Chain,
    FeatureDistillation,
    GaussianNoise,
    Identity,
    LowPass,
    MedianFilter,
    NonLocalMeans,
    PixelDeflection,
    Quilting,
    RandomCrop,
    RandomResizePad,
    RandomSubset,
    SuperResolution,
    TotalVariation,
    WaveletDenoising,
)
from rainjax.evaluation import (
    CertifyOptions,
    GradientOf,
    Itself,
    Robustness,
    SanityOptions,
    ThreatModel,
    When,
    adaptive,
    attack_batch,
    keep_worst,
    round_to_8bit,
    score,
    universal,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.evaluation.smoothing import Smoothed, certify, predict
from rainjax.gradients import BPDA, expectation
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.pipeline import Defended
from tests.contracts import DEFENSES
from tests.small_studies import linear, study_of
from tests.tiny import Linear, unchecked


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BitDepth(3.5), "bits=3.5 must be a whole number"),
        (lambda: BitDepth(True), "bits=True must be a whole number"),
        (lambda: MedianFilter(2.0), "size=2.0 must be a whole number"),
        (lambda: TotalVariation("x"), "weight='x' must be a number"),
        (lambda: TotalVariation(num_iterations=True), "num_iterations=True must be a whole"),
        (lambda: BilateralFilter(3.0), "size=3.0 must be a whole number"),
        (lambda: NonLocalMeans(5.0), "patch_size=5.0 must be a whole number"),
        (lambda: NonLocalMeans(h="x"), "h='x' must be a number"),
        (lambda: LowPass(2.5), "cutoff=2.5 must be a whole number"),
        (lambda: JPEG(75.5), "quality=75.5 must be a whole number"),
        (lambda: JPEG(rounding=["true"]), "rounding=.'true'. is none of 'true', 'straight_thr"),
        (lambda: SHIELD([20, 40]), r"qualities=\[20, 40\] must be a tuple, and each part"),
        (lambda: SHIELD((20, 40.5)), r"qualities=\(20, 40.5\) must be .* part of it a whole num"),
        (lambda: FeatureDistillation([[1.0] * 8] * 8), "must be a tuple, and each part of it a t"),
        (lambda: FeatureDistillation(level_shift="no"), "level_shift='no' must be True or False"),
        (lambda: GaussianNoise(None), "sigma=None must be a number"),
        (lambda: RandomCrop("half"), "share='half' must be a number"),
        (lambda: RandomResizePad(1j), "smallest=1j must be a number"),
        (lambda: WaveletDenoising("x"), "sigma='x' must be a number or None"),
        (lambda: WaveletDenoising(num_levels=1.5), "num_levels=1.5 must be a whole number or N"),
        (lambda: WaveletDenoising(wavelet="haar"), "wavelet='haar' is none of 'db1', 'db2'"),
        (lambda: PixelDeflection(1.5), "num_deflections=1.5 must be a whole number"),
        (lambda: PixelDeflection(denoiser=None), "denoiser=None must be of type WaveletDenoising"),
        (lambda: Quilting(overlap=2.0), "overlap=2.0 must be a whole number"),
        (lambda: RAIN(network=Identity()), r"network=\.\.\.\) takes a Network, not a Defense"),
        (lambda: SuperResolution(network=None), r"network=\.\.\.\) takes a Network, not None"),
        (lambda: Chain(Identity()), r"stages=Identity\(\) must be a tuple, and each part of it o"),
        (lambda: Chain([Identity()]), r"stages=\[Identity\(\)\] must be a tuple"),
        (
            lambda: RandomSubset((Identity,)),
            r"stages=\.\.\.\) takes a Defense, not the class Iden",
        ),
        (lambda: RandomSubset((Identity(),), 0.5), "num_min=0.5 must be a whole number"),
        (
            lambda: BPDA(Identity(), "identity"),
            r"backward=\.\.\.\) takes a Defense, not 'identity'",
        ),
        (lambda: InputDiversity("often"), "probability='often' must be a number"),
        (lambda: ScaleInvariance(2.5), "num_copies=2.5 must be a whole number"),
    ],
)
def test_options_of_another_kind_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("case", DEFENSES, ids=lambda case: case.name)
def test_every_defense_refuses_them(case):
    for field in dataclasses.fields(case.defense):
        with unchecked(), pytest.raises(ValueError, match=f"{field.name}="):
            dataclasses.replace(case.defense, **{field.name: object()})


# Every public value that an attacker is made of, and of each kind of field what is none.
ATTACKS = [
    value
    for value in vars(attacks).values()
    if isinstance(value, type) and issubclass(value, Attack) and not value.__abstractmethods__
]
# Those that need something to be made of.
MADE = {Admix: lambda: Admix(pool=ImagePool.of(np.zeros((4, 4, 4, 3)), np.arange(4)))}
VALUES = [*ATTACKS, EOT, AutoAttack, Robustness, InputDiversity, lambda: When(Itself())]
WRONG = {
    int: (True, "3", 1.5, float("nan"), [1], jnp.float32(2)),
    float: (True, "8", [0.1], 1j, np.True_),
    bool: ("no", "False", 3, 0, 1.0),
    str: (3,),
}


def _kinds(field):
    union = typing.get_origin(field.type) in (typing.Union, types.UnionType)
    return typing.get_args(field.type) if union else (field.type,)


@pytest.mark.parametrize("make", VALUES, ids=lambda make: make.__name__)
def test_every_attack_refuses_them(make):
    value = MADE.get(make, make)()
    for field in dataclasses.fields(value):
        kinds = _kinds(field)
        given = [object(), *([] if types.NoneType in kinds else [None])]
        for kind in set(kinds) & set(WRONG):
            given += WRONG[kind]
        if typing.get_origin(field.type) is typing.Literal:
            given += ["other", ["linf"], 3, True]
        for wrong in given:
            with unchecked(), pytest.raises(ValueError, match=rf"{field.name}=") as raised:
                dataclasses.replace(value, **{field.name: wrong})
            assert "\n" not in str(raised.value)


def test_the_public_attacks_are_all_looked_at():
    names = {kind.__name__ for kind in ATTACKS}
    assert names >= {"PGD", "APGD", "NoisyAPGD", "Square", "FAB", "DeepFool", "ElasticNet"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PGD(momentum=(0.1, "a")), r"momentum=\(0.1, 'a'\) must be a number or a tuple"),
        (lambda: PGD(step_size=0.0), "step_size=0.0 must be finite and positive"),
        (lambda: fgsm(0.0), "step_size=0.0 must be finite and positive"),
        (lambda: PGD(eot=EOT), "takes an EOT, not the class EOT: make a value of it"),
        (lambda: EOT(4, chunk_size=True), "chunk_size=True must be a whole number"),
        (lambda: purpose_key("3", Purpose.ATTACK), "seed='3' must be a whole number"),
        (
            lambda: score(Defended(Identity(), Linear(3, 2)), {}, [], [], num_draws=1.5),
            "num_draws=1.5 must be a whole number",
        ),
        (lambda: expectation(len, True), "num_samples=True .* must be whole numbers"),
        (lambda: GradientOf("identity"), "takes a Defense, not 'identity'"),
        (lambda: When(Itself), "takes a Surrogate, not the class Itself: make a value of it"),
        (lambda: PGD(radius=jnp.zeros(3)), r"radius=an array of shape \(3,\) must be a number"),
        (lambda: jax.jit(lambda r: PGD(radius=r))(0.1), "radius=.* must be a number"),
    ],
)
def test_options_of_attackers_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()


IMAGES = np.full((2, 2, 2, 3), 0.5, np.float32)
KEYS = example_keys(0, Purpose.ATTACK, np.arange(2))
TARGET = Defended(Identity(), Linear(12, 2))
PARAMS = {"defense": (), "classifier": {"kernel": jnp.arange(24.0).reshape(12, 2) % 5}}
SUBJECT = linear(Identity())


def _universal(seed=0, **options):
    at = np.arange(2)
    return universal.universal_perturbation(TARGET, PARAMS, seed, at, IMAGES, at, **options)


def _batch(attack=None, **options):
    attack, at = attack or fgsm(), np.arange(2)
    return attack_batch(TARGET, TARGET, attack, PARAMS, KEYS, KEYS, IMAGES, at, **options)


def _ensemble(seed=0, num_select_draws=1, **options):
    members = (Member("one", fgsm()),)
    return run_ensemble(
        TARGET, members, PARAMS, seed, np.arange(2), IMAGES, np.arange(2),
        num_select_draws=num_select_draws, **options,
    )  # fmt: skip


def _kept(**options):
    return keep_worst(TARGET, PGD(), PARAMS, KEYS, IMAGES, IMAGES, np.arange(2), **options)


def _certified(**options):
    return certify(Smoothed(TARGET, 0.1), PARAMS, KEYS, IMAGES, **options)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fgsm("8/255"), "radius='8/255' must be a number"),
        (lambda: adaptive("8/255"), "radius='8/255' must be a number"),
        (lambda: adaptive(eot=16), "takes an EOT, not 16: give eot=EOT.16."),
        (lambda: adaptive(num_steps="40"), "num_steps='40' must be a whole number"),
        (lambda: AutoAttack(radius="8/255"), "radius='8/255' must be a number"),
        (lambda: round_to_8bit(IMAGES, IMAGES, "linf", "8/255"), "radius='8/255' must be a numb"),
        (lambda: _universal(radius="8/255"), "radius='8/255' must be a number"),
        (lambda: _universal(step_size=True), "step_size=True must be a number"),
        (lambda: _universal(num_epochs=1.5), "num_epochs=1.5 must be a whole number"),
        (lambda: _universal(batch_size="2"), "batch_size='2' must be a whole number"),
        (lambda: _universal(cap="4"), "cap='4' must be a number"),
        (lambda: _universal(loss=3), "No loss is called 3"),
        (lambda: _universal(eot=4), "takes an EOT, not 4"),
        (lambda: _universal("3"), "seed='3' must be a whole number"),
        (lambda: _batch(num_score_draws=1.5), "num_score_draws=1.5 must be a whole number"),
        (lambda: _batch(num_score_draws=0), "num_score_draws=0 must be a whole number, and at le"),
        (lambda: _batch(PGD), "takes an Attack, not the class PGD: make a value of it"),
        (lambda: _kept(num_draws=1.5), "num_draws=1.5 must be a whole number"),
        (lambda: _ensemble("3"), "seed='3' must be a whole number"),
        (lambda: _ensemble(num_select_draws=1.5), "num_draws=1.5 must be a whole number"),
        (lambda: _ensemble(batch_size="2"), "batch_size='2' must be a whole number"),
        (lambda: _certified(num_estimate="100"), "num_estimate='100' must be a whole number"),
        (lambda: _certified(num_estimate=20, num_select=1.5), "num_draws=1.5 must be a whole num"),
        (lambda: _certified(alpha="0.1"), "alpha='0.1' must be a number"),
        (
            lambda: certify(Smoothed, PARAMS, KEYS, IMAGES),
            "takes a Smoothed, not the class Smooth",
        ),
        (
            lambda: predict(TARGET, PARAMS, KEYS, IMAGES, num_draws=20),
            "takes a Smoothed, not a Pi",
        ),
        (lambda: Smoothed(TARGET, "0.1"), "sigma='0.1' must be a number"),
        (
            lambda: Smoothed(TARGET, jnp.zeros(2)),
            r"sigma=an array of shape \(2,\) must be a number",
        ),
        (lambda: study_of(SUBJECT, seed="3"), "seed='3' must be a whole number"),
        (lambda: study_of(SUBJECT, seed=1.5), "seed=1.5 must be a whole number"),
        (lambda: study_of(SUBJECT, num_score_draws=1.5), "num_score_draws=1.5 must be a whole"),
        (lambda: study_of(SUBJECT, batch_size=True), "batch_size=True must be a whole number"),
        (lambda: study_of(SUBJECT, num_examples="8"), "num_examples='8' must be a whole number"),
        (lambda: ThreatModel("a", fgsm(), num_examples=1.5), "num_examples=1.5 must be a whole"),
        (lambda: SanityOptions(radius="8/255"), "radius='8/255' must be a number"),
        (lambda: SanityOptions(num_eot=1.5), "num_eot=1.5 must be a whole number"),
        (lambda: CertifyOptions(sigmas=("a",)), r"sigmas=\('a',\) must be"),
        (lambda: CertifyOptions(alpha="0.1"), "alpha='0.1' must be a number"),
    ],
)
def test_options_of_whole_evaluations_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_numbers_of_jax_are_options_of_evaluations():
    radius = jnp.float32(0.25)
    with unchecked():
        np.testing.assert_array_equal(_universal(radius=radius), _universal(radius=0.25))
        rounded = round_to_8bit(IMAGES.round(), IMAGES.round(), "linf", radius)
        np.testing.assert_array_equal(rounded, IMAGES.round())
        assert adaptive(radius)[1] == adaptive(0.25)[1]
        assert fgsm(radius) == fgsm(0.25)
        assert Smoothed(TARGET, radius).sigma == 0.25
        assert type(study_of(SUBJECT, seed=jnp.int32(3)).seed) is int
        assert SanityOptions(radius=radius).radius == 0.25


def test_numbers_of_numpy_and_jax_become_pythons():
    with unchecked():
        for number in (np.float32(0.5), np.float64(0.5), np.array(0.5), jnp.float32(0.5)):
            attack = PGD(radius=number, momentum=(number, 0.25), random_start=np.True_)
            assert attack == PGD(radius=0.5, momentum=(0.5, 0.25))
            assert {type(attack.radius), *map(type, attack.momentum)} == {float}
            assert GaussianNoise(number).sigma == 0.5
        steps = PGD(num_steps=jnp.int32(3), eot=EOT(np.int64(4)))
        assert {type(steps.num_steps), type(steps.eot.num_samples)} == {int}


def test_numbers_of_numpy_are_numbers():
    with unchecked():
        assert LowPass(np.int64(5)) == LowPass(5)
        assert JPEG(np.int64(80)).quality == 80
        assert GaussianNoise(np.float32(0.5)).sigma == 0.5
        assert GaussianNoise(1).sigma == 1
