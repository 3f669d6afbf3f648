"""An option by the name that another program has for it is answered with ours."""

import inspect

import pytest

from rainjax import attacks
from rainjax.attacks import APGD, EOT, PGD, Attack, CarliniWagner, Square, fgsm
from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import (
    CertifyOptions,
    Ladder,
    SanityOptions,
    Study,
    Subject,
    ThreatModel,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.ensemble import Member
from rainjax.evaluation.smoothing import Smoothed
from rainjax.pipeline import Defended
from tests.contracts import DEFENSES
from tests.tiny import RESNET_TINY, unchecked

PIPELINE = Defended(Identity(), RESNET_TINY)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: PGD(eps=8 / 255),
            "PGD has no option 'eps': it is called 'radius' here, in units",
        ),
        (lambda: PGD(epsilon=8 / 255), "called 'radius' here"),
        (lambda: PGD(alpha=2 / 255), "called 'step_size' here, in units of"),
        (lambda: PGD(steps=10), "called 'num_steps' here"),
        (lambda: PGD(iters=10), "called 'num_steps' here"),
        (lambda: PGD(num_iter=10), "called 'num_steps' here"),
        (lambda: PGD(n_restarts=10), "called 'num_restarts' here"),
        (lambda: PGD(num_stpes=10), "called 'num_steps' here"),
        (lambda: PGD(radius=0.1, eot_iter=4), "called 'eot' here"),
        (lambda: PGD(verbose=True), "has no option 'verbose': it has eot, norm, radius, "),
        (lambda: PGD(0.1), "PGD takes its options by name: eot, norm, radius, "),
        (lambda: fgsm(eps=0.1), "called 'radius' here"),
        (lambda: APGD(n_iter=10), "called 'num_steps' here"),
        (lambda: Square(n_queries=10), "called 'num_queries' here"),
        (lambda: CarliniWagner(kappa=1.0), "called 'confidence' here"),
        (lambda: CarliniWagner(c=1.0), "called 'initial_const' here"),
        (lambda: EOT(n_samples=4), "called 'num_samples' here"),
        (
            lambda: AutoAttack(eps=8 / 255, version="standard"),
            "AutoAttack has no option 'eps': it",
        ),
        (lambda: PGD(norm="Linf"), "norm='Linf' is none of 'linf', 'l2', 'l1'"),
        (lambda: GaussianNoise(std=0.1), "called 'sigma' here"),
        (lambda: Identity(strength=1), "Identity has no option 'strength': it has none"),
        (lambda: Defended(Identity(), model=RESNET_TINY), "called 'classifier' here"),
        (lambda: Member("one", PGD), "takes an Attack, not the class PGD: make a value of it"),
        (lambda: ThreatModel("one", PGD), "takes an Attack, not the class PGD: make a value of"),
        (lambda: ThreatModel("one", AutoAttack), "not the class AutoAttack"),
    ],
)
def test_the_sentence_says_what_it_is_called_here(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        make()
    assert "\n" not in str(raised.value)


ATTACKS = [
    value
    for value in vars(attacks).values()
    if isinstance(value, type) and issubclass(value, Attack) and not value.__abstractmethods__
]
OTHERS = [
    EOT, AutoAttack, Study, Subject, ThreatModel, Member, Smoothed, Defended, SanityOptions,
    CertifyOptions, Ladder,
]  # fmt: skip
KINDS = [*ATTACKS, *OTHERS, *dict.fromkeys(type(case.defense) for case in DEFENSES)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_value_answers_so(kind):
    with (
        unchecked(),
        pytest.raises(ValueError, match=f"^{kind.__name__} has no option 'qwxz': it"),
    ):
        kind(qwxz=1)


def test_a_class_shows_the_options_that_it_takes():
    assert list(inspect.signature(EOT).parameters)[:2] == ["num_samples", "chunk_size"]
    assert "radius" in inspect.signature(PGD).parameters


def test_another_type_error_stays_what_it_is():
    with unchecked(), pytest.raises(TypeError, match=r"missing .* 'sigma'"):
        Smoothed(PIPELINE)  # type: ignore[call-arg] (is refused)
    with pytest.raises(TypeError, match="abstract"):
        Attack()  # type: ignore[abstract] (is refused)
