"""Options of the wrong kind are refused by every value in the same words."""

import dataclasses
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import attacks
from rainjax.attacks import EOT, PGD, Attack, InputDiversity, ScaleInvariance, fgsm
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
    PixelDeflection,
    Quilting,
    RandomCrop,
    RandomResizePad,
    RandomSubset,
    SuperResolution,
    TotalVariation,
    WaveletDenoising,
)
from rainjax.evaluation import GradientOf, Itself, Robustness, When, score
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.gradients import BPDA, expectation
from rainjax.keys import Purpose, purpose_key
from rainjax.pipeline import Defended
from tests.contracts import DEFENSES
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
    value = make()
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
