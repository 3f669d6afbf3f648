"""The attack under suspicion follows from a study's threat models, whatever they are called."""

import dataclasses

import pytest

from rainjax.attacks import APGD, EOT, PGD, CarliniWagner, NoisyAPGD, Square
from rainjax.defenses import RAIN, BitDepth, GaussianNoise, Identity, MeanFieldRAIN
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Knowledge,
    MeanField,
    OwnGradient,
    Subject,
    ThreatModel,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.suspects import Suspect, Variations, attacks, find_suspect
from rainjax.gradients import BPDA
from rainjax.pipeline import Defended
from tests.small_studies import (
    KERNEL,
    SIZE,
    SOFT,
    linear,
    study_of,
)
from tests.tiny import EDSR_TINY, Linear, edsr_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

VARIATIONS = Variations(more=2)


def suspect(subject, *models, **changes):
    return find_suspect(study_of(subject, threats=models), subject, **changes)


def test_the_strongest_gradient_is_suspected():
    noisy, rule = linear(GaussianNoise(0.1)), NoisyAPGD(radius=0.02, num_steps=5, loss="margin")
    models = (
        CLEAN,
        ThreatModel("blind", PGD(radius=0.5), ClassifierAlone(), Knowledge.CLASSIFIER),
        ThreatModel("curve", PGD(radius=0.04, eot=EOT(64)), tags=("draws",)),
        ThreatModel("identity", rule, IdentityGradient()),
        ThreatModel("wide", dataclasses.replace(rule, radius=0.04)),
        ThreatModel("averaged", dataclasses.replace(rule, eot=EOT(2)), IdentityGradient()),
        ThreatModel("own", dataclasses.replace(rule, eot=EOT(2)), OwnGradient()),
        ThreatModel("nearest", CarliniWagner(num_steps=2, eot=EOT(4))),
        ThreatModel("ensemble", AutoAttack(version="rand", radius=0.5, eot=EOT(4))),
        ThreatModel("queries", Square(radius=0.5, eot=EOT(4)), knowledge=Knowledge.SCORES),
        ThreatModel(
            "keys", PGD(radius=0.5, eot=EOT(draws="enumerated")), knowledge=Knowledge.KEYS
        ),
    )
    found = suspect(noisy, *models)
    assert found.threat == "own"
    assert found.surrogate == noisy.pipeline
    # PGD in its place, with its ball, its steps and its draws.
    assert found.attack == PGD(radius=0.02, step_size=0.005, num_steps=5, eot=EOT(2))
    knows = ("curve", "identity", "wide", "averaged", "own", "nearest", "ensemble")
    assert found.climbers == knows
    # Where nothing is random there is nothing to average, and the largest radius comes first.
    bare = linear(Identity())
    found = suspect(bare, *(model for model in models if model.name != "keys"))
    assert (found.threat, found.attack.radius) == ("blind", 0.5)  # there is nothing else to know
    assert found.attack.num_draws == 1
    rounded = suspect(linear(BitDepth(3)), *(m for m in models if m.name != "own"))
    assert (rounded.threat, rounded.attack.num_draws) == ("wide", 1)


def test_of_equals_the_last_is_suspected_and_any_can_be_named():
    subject, pgd = linear(BitDepth(3)), PGD(radius=0.04, step_size=0.01, num_steps=3)
    models = (
        ThreatModel("identity", pgd, IdentityGradient()),
        ThreatModel("own", APGD(radius=0.04, num_steps=3), GradientOf(SOFT)),
        ThreatModel("nearest", CarliniWagner(num_steps=2)),
    )
    found = suspect(subject, *models)
    assert found.threat == "own"
    assert found.surrogate.defense == BPDA(BitDepth(3), SOFT)
    assert suspect(subject, *models, threat="identity").attack == pgd
    assert suspect(subject, *models, threat="nearest").threat == "own"  # has no ball
    changed = suspect(subject, *models, threat="identity", radius=0.08, num_steps=7, num_draws=9)
    assert changed.attack == PGD(radius=0.08, step_size=0.02, num_steps=7)
    given = suspect(subject, *models, radius=0.08, step_size=0.03)
    assert given.attack.step_size == 0.03
    assert suspect(linear(GaussianNoise(0.1)), *models, num_draws=9).attack.num_draws == 9


def test_an_enumerated_mean_is_the_last_choice():
    rained = Subject(
        "RAIN",
        Defended(RAIN(EDSR_TINY, 0.34), Linear(SIZE, 10)),
        {"defense": edsr_params(), "classifier": {"kernel": KERNEL}},
    )
    mean = ThreatModel("mean field", PGD(radius=0.04, num_steps=2), MeanField())
    averaged = ThreatModel("averaged", PGD(radius=0.02, num_steps=2, eot=EOT(2)))
    assert suspect(rained, averaged, mean).threat == "averaged"
    found = suspect(rained, mean, num_draws=3)
    assert isinstance(found.surrogate.defense, MeanFieldRAIN)
    assert found.attack.num_draws == found.surrogate.num_outcomes(6) == 9
    planned = attacks(rained, found, VARIATIONS, (6, 6, 3))
    assert "more draws" not in planned  # there are no more outcomes


def test_an_attack_without_a_radius_is_no_suspect():
    with pytest.raises(ValueError, match=r"radius=0\.0 leaves an attack nothing to do"):
        Suspect("PGD", ("PGD",), linear(Identity()).pipeline, PGD(radius=0.0))
