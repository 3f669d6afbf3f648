"""Threat models as values: which apply to what, what is differentiated, what is refused."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import Defended, Identity
from rainjax.attacks import APGD, EOT, PGD, CarliniWagner, NoisyAPGD, ReachableOutputs, Square
from rainjax.defenses import JPEG, RAIN, BitDepth, Chain, GaussianNoise, LowPass, MeanFieldRAIN
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Itself,
    Knowledge,
    MeanField,
    OwnGradient,
    RoundedOutputs,
    Study,
    Subject,
    ThreatModel,
    When,
    adaptive,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.study import cells, check_classes
from rainjax.gradients import BPDA
from rainjax.pipeline import Pipeline
from tests.small_studies import Arrays
from tests.tiny import EDSR_TINY, Linear, edsr_params, unchecked

NETWORK = Linear(8 * 8 * 3, 4)
BARE = Defended(Identity(), NETWORK)
NOISE = Defended(GaussianNoise(0.1), NETWORK)
ROUNDED = Defended(BitDepth(3), NETWORK)
BEHIND_RAIN = Defended(RAIN(EDSR_TINY, shift_fraction=0.25), NETWORK)


class Pictures(Arrays):
    """Twelve pictures of four classes, in turn or one class after the other."""

    name, split, class_names, fingerprint = "pictures", "test", tuple("abcd"), "none"

    def __init__(self, *, in_turn: bool = True, num: int = 12):
        images = np.random.default_rng(0).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
        super().__init__(images, np.arange(num) % 4 if in_turn else np.arange(num) * 4 // num)


def subject(pipeline, name="it"):
    params = {"defense": (), "classifier": NETWORK.init(jax.random.key(0))}
    if isinstance(pipeline.defense, RAIN):
        params["defense"] = edsr_params(0)
    return Subject(name, pipeline, params)


def study(*threats, pipelines=(BARE, NOISE, ROUNDED, BEHIND_RAIN), **options):
    names = ("bare", "noise", "rounded", "RAIN")
    subjects = [subject(p, name) for p, name in zip(pipelines, names, strict=False)]
    return Study("made", options.pop("images", Pictures()), subjects, threats, **options)


def found(*threats, **options):
    """Returns the cells as pairs of subject and threat model."""
    return {
        (cell.subject.name, cell.threat.name): cell for cell in cells(study(*threats, **options))
    }


def test_surrogates_are_the_attackers_picture_of_a_pipeline():
    low, defended = LowPass(), (NOISE, ROUNDED, BEHIND_RAIN)
    expected = {
        Itself(): (BARE, NOISE, ROUNDED, BEHIND_RAIN),
        ClassifierAlone(): (BARE, BARE, BARE, BARE),
        IdentityGradient(): (
            None,
            *(
                Defended(BPDA(p.defense, Identity()), NETWORK)
                for p in (NOISE, ROUNDED, BEHIND_RAIN)
            ),
        ),
        GradientOf(low): (
            None,
            *(Defended(BPDA(p.defense, low), NETWORK) for p in defended),
        ),
        OwnGradient(): (
            BARE,
            NOISE,
            Defended(BPDA(BitDepth(3), BitDepth(3, rounding="cubic")), NETWORK),
            BEHIND_RAIN,
        ),
        MeanField(): (None, None, None, Defended(MeanFieldRAIN(BEHIND_RAIN.defense), NETWORK)),
        RoundedOutputs(): (
            None,
            None,
            Defended(BPDA(BitDepth(3), Identity()), NETWORK),
            None,
        ),
        When(Itself(), random=True): (None, NOISE, None, BEHIND_RAIN),
        When(Itself(), random=False): (BARE, None, ROUNDED, None),
        When(ClassifierAlone(), defended=True): (None, BARE, BARE, BARE),
        When(Itself(), random=False, defended=False): (BARE, None, None, None),
    }
    for surrogate, pictures in expected.items():
        for pipeline, picture in zip((BARE, NOISE, ROUNDED, BEHIND_RAIN), pictures, strict=True):
            assert surrogate.of(pipeline) == picture, (surrogate, pipeline)


def test_a_threat_model_has_no_more_images_than_its_study():
    few, many = (ThreatModel(f"PGD of {num}", PGD(), num_examples=num) for num in (3, 500))
    counts = {name: cell.num_examples for (_, name), cell in found(CLEAN, few, many).items()}
    assert counts == {"clean": 12, few.name: 3, many.name: 12}


def test_the_mean_field_takes_every_outcome_once():
    attack = PGD(radius=8 / 255, eot=EOT(8, chunk_size=4))
    threat = ThreatModel("mean", attack, When(MeanField(), random=True))
    (cell,) = found(threat).values()
    # Shifts of up to 1 of 4 low-resolution pixels along two axes.
    assert cell.attack.eot == EOT(9, chunk_size=3, draws="enumerated")
    assert dataclasses.replace(cell.attack, eot=attack.eot) == attack


def test_the_attack_on_a_rounding_is_given_the_defense():
    attack = ReachableOutputs(radius=4 / 255, num_steps=2)
    made = found(ThreatModel("reachable", attack, When(RoundedOutputs(), random=False)))
    assert set(made) == {("rounded", "reachable")}
    cell = made["rounded", "reachable"]
    assert cell.attack == dataclasses.replace(attack, defense=BitDepth(3))
    chained = Chain((GaussianNoise(0.1), BitDepth(3)))
    pipelines = (BARE, Defended(chained, NETWORK), Defended(BitDepth(3).smooth(), NETWORK))
    assert [RoundedOutputs().of(p) is None for p in pipelines] == [True, False, True]


def test_who_knows_the_keys_is_given_them_all():
    attack = PGD(eot=EOT(draws="enumerated"))
    threat = ThreatModel("keys", attack, knowledge=Knowledge.KEYS)
    made = found(threat, num_score_draws=7)
    assert set(made) == {("noise", "keys"), ("RAIN", "keys")}  # others have no keys to know
    assert all(cell.attack.eot.num_samples == 7 and cell.known_key for cell in made.values())
    with pytest.raises(ValueError, match="should use each: give the attack eot=EOT"):
        ThreatModel("keys", PGD(), knowledge=Knowledge.KEYS)


def test_what_has_no_gradient_meets_black_boxes_alone():
    @dataclasses.dataclass(frozen=True)
    class Service(Pipeline):
        """Labels from elsewhere."""

        differentiable = False
        is_random = False

        def init(self, key):
            return ()

        def logits(self, params, key, image):
            return jnp.zeros(4)

    threats = (CLEAN, ThreatModel("white", PGD()), _square())
    made = cells(Study("made", Pictures(), [Subject("service", Service(), ())], threats))
    assert {cell.threat.name for cell in made} == {"clean", "Square"}


def _square():
    return ThreatModel("Square", Square(num_queries=5), knowledge=Knowledge.SCORES)


def test_the_battery_asks_of_every_pipeline_what_applies_to_it():
    threats = adaptive(4 / 255, num_steps=3, eot=EOT(4), num_queries=7, num_examples=5)
    made = found(*threats)
    names = {}
    for name, threat in made:
        names.setdefault(name, set()).add(threat)
    own = {"clean", "own gradient", "Square-7"}
    assert names["bare"] == own
    assert names["noise"] == own | {"PGD-3, blind", "BPDA, identity"}
    assert names["rounded"] == names["noise"] | {"reachable outputs", "proved"}
    assert names["RAIN"] == names["noise"] | {"mean field"}
    assert isinstance(made["rounded", "own gradient"].attack, APGD)
    averaged = made["noise", "own gradient"]
    assert isinstance(averaged.attack, NoisyAPGD)
    assert averaged.num_draws == 4
    assert averaged.num_examples == 5
    assert made["rounded", "own gradient"].num_examples == 12
    assert {cell.radius for cell in made.values()} == {None, 4 / 255}


def test_cells_know_what_displays_ask():
    made = found(
        ThreatModel("clean, again", None, knowledge=Knowledge.NONE, num_examples=3),
        ThreatModel("PGD", PGD(radius=2 / 255, num_steps=6, eot=EOT(2)), tags=("curve",)),
        ThreatModel("nearest", CarliniWagner(num_steps=2, num_search_steps=2)),
        _square(),
        ThreatModel("AA", AutoAttack(version="rand", eot=EOT(3)), num_examples=4),
        pipelines=(NOISE,),
    )
    cell = made["bare", "PGD"]
    assert cell.id == "bare--pgd--linf-2--k2--n12"
    assert (cell.norm, cell.radius, cell.num_draws, cell.num_steps) == ("linf", 2 / 255, 2, 6)
    assert made["bare", "clean, again"].id == "bare--clean-again--n3"
    nearest = made["bare", "nearest"]
    assert (nearest.norm, nearest.radius) == ("l2", None)
    assert nearest.id == "bare--nearest--l2-nearest--k1--n12"
    assert made["bare", "Square"].num_steps == 5
    assert made["bare", "AA"].num_draws == 3
    # What is of the table comes first, and cheap attacks before dear ones.
    order = [cell.threat.name for cell in cells(study(*(c.threat for c in made.values())))]
    assert order[-1] == "PGD"
    assert order[0] == "clean, again"


def test_one_measurement_of_two_names_is_refused_and_of_one_name_is_one():
    first = ThreatModel("PGD", PGD(num_steps=3), tags=("table",))
    (cell,) = found(first, dataclasses.replace(first, tags=("curve",)), pipelines=(BARE,)).values()
    assert cell.threat.tags == ("table", "curve")
    with pytest.raises(ValueError, match=r"would both be recorded as bare--pgd--.*: give the"):
        found(first, ThreatModel("PGD", PGD(num_steps=4)), pipelines=(BARE,))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ThreatModel("", PGD()), "name='' must be a name"),
        (
            lambda: ThreatModel("a", PGD),
            "takes an Attack, not the class PGD: make a value of it, PGD(...)",
        ),
        (lambda: ThreatModel("a", PGD(), "zoo"), "give a value such as Itself()"),
        (lambda: ThreatModel("a", None), "with NONE there is no attack"),
        (
            lambda: ThreatModel("a", PGD(), knowledge=Knowledge.NONE),
            "with NONE there is no attack",
        ),
        (lambda: ThreatModel("a", PGD(), num_examples=0), "num_examples=0 must be at least 1"),
        (lambda: ThreatModel("a", PGD(targeted=True)), "is targeted, and would lead towards"),
        (
            lambda: Subject("a", NETWORK, ()),
            "takes a Pipeline, not a Network (Linear): put it behind a defense",
        ),
        (lambda: Subject("a", BARE, {}), 'must be {"defense": ..., "classifier": ...}'),
        (lambda: study(CLEAN, images=[1]), "takes an ImageSet, not [1]: make one by rainjax.data"),
        (lambda: study(), "threats is empty"),
        (
            lambda: study(PGD()),
            "takes a ThreatModel, not an Attack (PGD): make one by ThreatModel(",
        ),
        (lambda: study(CLEAN, num_examples=13), "num_examples=13, but 'pictures' has 12 images"),
        (lambda: study(CLEAN, batch_size=0), "batch_size=0 must be at least 1"),
        (lambda: study(CLEAN, num_score_draws=0), "num_score_draws=0 must be at least 1"),
        (
            lambda: Study("a/b", Pictures(), [subject(BARE)], [CLEAN]),
            "name='a/b' must be a plain name",
        ),
        (
            lambda: Study("a", Pictures(), [subject(BARE), subject(NOISE)], [CLEAN]),
            "Two subjects are called 'it'",
        ),
        (
            lambda: found(ThreatModel("a", PGD(eot=EOT(4, draws="enumerated")))),
            "'a' on 'bare': draws='enumerated' takes every outcome once",
        ),
        (
            lambda: found(ThreatModel("a", PGD(), MeanField()), pipelines=(BARE,)),
            "No threat model",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=re.escape(sentence)):
        make()


def test_pipelines_that_the_images_do_not_fit_are_named():
    odd = Pictures(num=4)
    odd._images = odd._images[:, :7, :7]
    with pytest.raises(ValueError, match=r"The subject 'bare' does not fit 'pictures', .* 7 x 7"):
        found(CLEAN, images=odd, pipelines=(BEHIND_RAIN,))
    six = Defended(Identity(), Linear(8 * 8 * 3, 6))
    params = six.init(jax.random.key(0))
    six_classes = Study("made", Pictures(), [Subject("six", six, params)], [CLEAN])
    with pytest.raises(ValueError, match=r"'six' tells 6 classes apart, but 'pictures' has 4"):
        cells(six_classes)


def test_a_sorted_set_is_refused():
    check_classes(study(CLEAN, images=Pictures(num=16)))
    one_by_one = Pictures(in_turn=False, num=64)
    check_classes(study(CLEAN, images=one_by_one, num_examples=15))  # too few to tell
    with pytest.raises(ValueError, match="The first 16 images of 'pictures' are of 1 of its 4"):
        check_classes(study(CLEAN, images=one_by_one, num_examples=16))
    few = Pictures(num=16)
    few._labels = few._labels % 2  # a set that holds two of its four classes, in turn
    check_classes(study(CLEAN, images=few))


def test_a_rounding_defense_is_smooth_to_its_attacker_and_true_in_value():
    image = jnp.asarray(Pictures().image(0), jnp.float32) / 255
    surrogate = OwnGradient().of(Defended(JPEG(75), NETWORK))
    params = subject(BARE).params
    of = lambda pipeline: lambda x: pipeline.logits(params, jax.random.key(0), x)[0]
    true = Defended(JPEG(75), NETWORK)
    np.testing.assert_array_equal(of(surrogate)(image), of(true)(image))
    assert float(jnp.abs(jax.grad(of(surrogate))(image)).max()) > 0
