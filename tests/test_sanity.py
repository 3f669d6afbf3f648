"""The sanity checks catch a defense that masks its gradient, and let an honest one pass."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from rainjax.attacks import APGD, EOT, PGD, CarliniWagner, NoisyAPGD, Square
from rainjax.data import ImageSet
from rainjax.defenses import RAIN, BitDepth, Defense, GaussianNoise, Identity, MeanFieldRAIN
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Itself,
    Knowledge,
    MeanField,
    OwnGradient,
    Study,
    Subject,
    ThreatModel,
    When,
    evaluate,
    sanity,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.checks import never_helps, run_checks
from rainjax.evaluation.sanity import SanityOptions, check_study
from rainjax.evaluation.suspects import Suspect, Variations, attacks, find_suspect, num_gradients
from rainjax.gradients import BPDA
from rainjax.pipeline import Defended
from tests.tiny import EDSR_TINY, RESNET_TINY, Linear, edsr_params, resnet_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, size=(12, 12, 12, 3)).astype(np.float32)
LABELS = np.arange(12, dtype=np.int64) % 10
VARIATIONS = Variations(more=2, num_queries=12, num_surface=1, surface_points=3)
ATTACK = PGD(radius=0.05, step_size=0.02, num_steps=4)
TARGET = Defended(Identity(), RESNET_TINY)
RAINED = Defended(RAIN(EDSR_TINY, 0.17), RESNET_TINY)
JUDGED = [
    "gradients are there",
    "more steps never helps the defense",
    "a larger radius never helps the defense",
    "an unbounded attack wins",
    "black box against white box",
    "random noise against the attack",
]


@dataclasses.dataclass(frozen=True)
class Round(Defense):
    """Rounds to sixteen levels and says that this has no gradient: which is true, and a mask."""

    def apply(self, params, key, image):
        return jnp.round(image * 15) / 15

    @property
    def is_random(self):
        return False


@dataclasses.dataclass(frozen=True)
class Stopped(Round):
    """Does nothing, and hides that."""

    def apply(self, params, key, image):
        return jax.lax.stop_gradient(image)


@dataclasses.dataclass(frozen=True)
class FromNumPy(Defense):
    """Noise that is drawn once, when it is traced."""

    is_random_too: bool = True
    keyed: float = 0.0

    def apply(self, params, key, image):
        frozen = np.random.normal(0, 0.1, image.shape)  # noqa: NPY002 (the mistake that is caught)
        own = self.keyed * jax.random.normal(key, image.shape)
        return jnp.clip(image + frozen.astype(np.float32) + own, 0, 1)

    @property
    def is_random(self):
        return self.is_random_too


@dataclasses.dataclass(frozen=True)
class Says(Defense):
    """Gaussian noise that says something of itself."""

    sigma: float
    random: bool = True

    def apply(self, params, key, image):
        return GaussianNoise(self.sigma).apply(params, key, image)

    @property
    def is_random(self):
        return self.random


class Arrays(ImageSet):
    """Pictures in memory."""

    name, split, fingerprint = "arrays", "test", "arrays-1"
    class_names = tuple("0123456789")

    def __init__(self, images, labels):
        self._images, self._labels = images, labels

    def __len__(self):
        return len(self._images)

    def get(self, indices):
        return self._images[indices], self.labels(indices)

    def image(self, index):
        return self._images[index]

    def labels(self, indices):
        return self._labels[indices].astype(np.int32)

    def source_index(self, indices):
        return indices


@pytest.fixture(scope="module")
def classifier():
    more = RNG.uniform(0.2, 0.8, size=(40, 12, 12, 3)).astype(np.float32)
    more[:12] = IMAGES
    return resnet_params(more, np.concatenate([LABELS, np.arange(28) % 10]))


def subject_of(defense, classifier, params=()):
    return Subject(
        type(defense).__name__,
        Defended(defense, RESNET_TINY),
        {"defense": params, "classifier": classifier},
    )


def suspect_of(subject, attack=ATTACK):
    return Suspect("PGD", ("PGD", "AutoAttack"), subject.pipeline, attack)


def run(subject, attack=ATTACK, **options):
    return run_checks(
        subject, suspect_of(subject, attack), IMAGES, LABELS, VARIATIONS,
        num_score_draws=3, batch_size=8, **options,
    )  # fmt: skip


# -- The checks ---------------------------------------------------------------------------


def test_an_undefended_classifier_passes(classifier):
    subject = subject_of(Identity(), classifier)
    ticks, told = [], []
    found, surfaces = run(subject, on_gradient=ticks.append, on_check=told.append)
    assert [check.name for check in found] == JUDGED
    assert all(check.passed for check in found), [c for c in found if not c.passed]
    assert told == found
    per_image = num_gradients(subject, suspect_of(subject), VARIATIONS, IMAGES.shape[1:])
    assert sum(ticks) == 12 * per_image
    # Four steps; half and twice as many; half and twice the radius; the whole cube; queries.
    assert per_image == 4 + 2 + 8 + 4 + 4 + 4 + 12
    levels = found[1].numbers
    assert levels["levels"] == ["2", "4", "8"]
    assert levels["num_examples"] == 12
    loss = np.array(surfaces[0]["loss"])
    assert loss.shape == (3, 3)
    assert loss[2, 1] > loss[1, 1] > loss[0, 1]  # uphill along the gradient
    np.testing.assert_allclose(surfaces[0]["reach"], np.array([-0.1, 0, 0.1]) * 255)
    assert json.loads(json.dumps([dataclasses.asdict(c) for c in found], allow_nan=False))


@pytest.mark.parametrize("defense", [Round(), Stopped()], ids=["rounded", "stopped"])
def test_a_masked_gradient_is_caught(defense, classifier):
    found, _ = run(subject_of(defense, classifier))
    failed = {check.name for check in found if check.passed is False}
    assert {"gradients are there", "an unbounded attack wins", "blind against adaptive"} <= failed
    gradient = next(check for check in found if check.name == "gradients are there")
    assert gradient.numbers["images_without"] == 1.0
    assert gradient.found.startswith("100.0% of the images have no gradient at all")
    assert str(gradient).startswith("FAIL gradients are there: 100.0% of")
    doubts = {check.name: check.doubts for check in found}
    assert doubts["gradients are there"] == ("PGD", "AutoAttack")
    assert doubts["an unbounded attack wins"] == ("PGD",)


def test_a_random_pipeline_is_checked_for_its_draws(classifier):
    ticks = []
    subject = subject_of(RAINED.defense, classifier, edsr_params())
    attack = dataclasses.replace(ATTACK, eot=EOT(2))
    found, _ = run(subject, attack, on_gradient=ticks.append)
    names = [check.name for check in found]
    assert set(JUDGED) < set(names)
    assert {"more EOT samples never helps the defense", "blind against adaptive"} < set(names)
    per_image = num_gradients(subject, suspect_of(subject, attack), VARIATIONS, (12, 12, 3))
    assert sum(ticks) == 12 * per_image
    # As above with two draws; one draw and four; the blind one; pairs of two draws a query.
    assert per_image == 2 * (4 + 2 + 8 + 4 + 4 + 4) + 4 * (1 + 4) + 4 + 12 * 2 * 2
    draws = found[-1]
    assert (draws.name, draws.passed, draws.doubts) == ("the draws matter", None, ())
    assert len(draws.numbers["spread"]) == 12
    assert min(draws.numbers["spread"]) > 0
    # One draw of the random pick shows a quarter of the pixels.
    assert found[0].numbers["zeros_one_draw"] == pytest.approx(0.75, abs=0.02)
    assert found[0].numbers["zeros"] < 0.65


def test_a_rise_counts_when_it_exceeds_chance():
    level = lambda *right: np.array(right, float)
    check = lambda before, after: never_helps("x", "steps", {1: before, 2: after}, ("eot",))
    same = level(*[0, 1] * 20)
    assert check(same, same).passed
    assert check(same, 0 * same).passed  # a fall is what is wanted
    risen = same.copy()
    risen[0] = 1.0
    assert check(same, risen).passed  # one of forty images may be chance
    risen[:20] = 1.0
    assert not check(same, risen).passed
    assert check(same, risen).found == "50.0% -> 75.0% at steps 1, 2."


def test_other_norms_have_a_whole_cube_and_noise_of_their_own(classifier):
    subject, attack = subject_of(Identity(), classifier), PGD(norm="l2", radius=2.0, num_steps=4)
    planned = attacks(subject, suspect_of(subject, attack), VARIATIONS, (12, 12, 3))
    assert planned["unbounded"].radius == pytest.approx(np.sqrt(12 * 12 * 3))
    assert planned["twice the radius"].radius == 4.0
    assert planned["queries"].norm == "l2"
    least = dataclasses.replace(attack, norm="l1", radius=400.0)
    planned = attacks(subject, suspect_of(subject, least), VARIATIONS, (12, 12, 3))
    assert "queries" not in planned  # Square has no such version
    assert planned["twice the radius"].radius == planned["unbounded"].radius == 432.0
    found, surfaces = run(subject, dataclasses.replace(attack, step_size=1.0))
    assert [check.name for check in found] == JUDGED
    assert all(check.passed for check in found), [c for c in found if not c.passed]
    assert found[2].numbers["levels"] == ["1", "2", "4"]
    corner = np.full(432, surfaces[0]["reach"][-1] / 255)
    assert np.linalg.norm(corner) == pytest.approx(2 * 2.0)  # twice the radius, as in L-inf


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_examples": 1}, "num_examples=1 must be at least 2"),
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"num_eot": 0}, "num_eot=0 must be at least 1"),
        ({"num_queries": 0}, "num_queries=0 must be at least 1"),
        ({"radius": -1.0}, "radius=-1.0 must be positive and finite"),
        ({"radius": 0.0}, "radius=0.0 must be positive"),
        ({"step_size": 0.0}, "step_size=0.0 must be positive"),
        ({"more": 1}, "more=1 must be at least 2"),
        ({"num_surface": -1}, "num_surface=-1 must not be negative"),
        ({"surface_points": 1}, "surface_points=1 at least 3"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        SanityOptions(**options)


def test_an_attack_without_a_radius_is_no_suspect(classifier):
    with pytest.raises(ValueError, match=r"radius=0\.0 leaves an attack nothing to do"):
        suspect_of(subject_of(Identity(), classifier), PGD(radius=0.0))


def test_options_are_a_command_line():
    given = tyro.cli(SanityOptions, args=["--num-examples=8", "--threat=PGD", "--more=3"])
    assert given == SanityOptions(num_examples=8, threat="PGD", more=3)


# -- A study ------------------------------------------------------------------------------

SIZE = 6 * 6 * 3
SOFT = BitDepth(3, rounding="cubic")
FEW = SanityOptions(num_queries=4, num_surface=1, surface_points=3, more=2, num_examples=10)
SMALL = RNG.integers(40, 216, size=(16, 6, 6, 3)).astype(np.uint8)
KERNEL = jnp.asarray(RNG.normal(size=(SIZE, 10)), jnp.float32)
# A linear classifier that is right on every image, by construction of its labels.
RIGHT = np.argmax(SMALL.reshape(16, -1) / 255 @ np.asarray(KERNEL), -1)


def linear(defense, name=None):
    return Subject(
        name or type(defense).__name__,
        Defended(defense, Linear(SIZE, 10)),
        {"defense": (), "classifier": {"kernel": KERNEL}},
        {"classifier": "made up"},
    )


def threats(radius=0.05, **options):
    pgd = PGD(radius=radius, step_size=radius / 4, num_steps=4)
    shared = {"num_examples": 8, **options}
    return (
        CLEAN,
        ThreatModel("blind", pgd, ClassifierAlone(), Knowledge.CLASSIFIER),
        ThreatModel("one draw", pgd),
        ThreatModel(
            "averaged", dataclasses.replace(pgd, eot=EOT(3)), When(Itself(), random=True), **shared
        ),
    )


def study_of(*subjects, threats=None, name="small", **options):
    given = {"num_examples": 12, "num_score_draws": 3, "batch_size": 8, "seed": 7} | options
    chosen = threats or globals()["threats"]()
    return Study(name, Arrays(SMALL, RIGHT), subjects, chosen, **given)


def test_a_study_is_checked_subject_by_subject(tmp_path):
    bare, masked, noisy = linear(Identity(), "bare"), linear(Stopped()), linear(GaussianNoise(0.1))
    study = study_of(bare, masked, noisy)
    record = check_study(study, tmp_path, options=FEW, progress=False)
    assert json.loads((tmp_path / "small" / "sanity.json").read_text()) == record
    assert (record["schema"], record["kind"], record["study"]) == (2, "sanity", "small")
    assert record["data"] == {
        "name": "arrays", "split": "test", "fingerprint": "arrays-1", "num_examples": 10,
    }  # fmt: skip
    assert (record["options"]["seed"], record["options"]["num_score_draws"]) == (7, 3)
    assert record["options"] == dataclasses.asdict(FEW) | {
        "radius": 0.05, "step_size": 0.0125, "num_steps": 4, "num_eot": 3,
        "num_score_draws": 3, "seed": 7,
    }  # fmt: skip
    assert record["run"]["versions"]["jax"]
    assert str(tmp_path) not in json.dumps(record)

    rows = {row["subject"]: row for row in record["rows"]}
    assert list(rows) == ["bare", "Stopped", "GaussianNoise"]
    assert {name: row["threat"] for name, row in rows.items()} == {
        "bare": "one draw", "Stopped": "one draw", "GaussianNoise": "averaged",
    }  # fmt: skip
    assert rows["GaussianNoise"]["attack"]["eot"]["num_samples"] == 3
    assert rows["GaussianNoise"]["target"]["defense"]["sigma"] == 0.1
    # What a record of the same study says of the same parameters.
    (there, *_) = evaluate(dataclasses.replace(study, threats=(CLEAN,)), tmp_path, progress=False)
    assert rows["bare"]["params"] == there.content["subject"]["params"]
    failed = {
        name: {c["name"]: c["doubts"] for c in row["checks"] if c["passed"] is False}
        for name, row in rows.items()
    }
    assert failed["bare"] == failed["GaussianNoise"] == {}
    assert failed["Stopped"]["gradients are there"] == ["one draw"]
    assert failed["Stopped"]["an unbounded attack wins"] == ["one draw"]
    assert len(rows["bare"]["checks"]) == 1 + len(JUDGED)
    assert rows["bare"]["seconds"] > 0


@pytest.mark.parametrize(
    ("defense", "sentence"),
    [
        (FromNumPy(), "its randomness is not its key's (np.random"),
        (FromNumPy(is_random_too=False), "its randomness is not its key's (np.random"),
        (FromNumPy(keyed=0.1), "its randomness is not its key's (np.random"),
        (Says(0.1, random=False), "is_random is False, but other keys give other results"),
        (Says(1e-30), "is_random is True, but other keys give the same result"),
        (Says(0.1), None),
        (Identity(), None),
    ],
)
def test_randomness_that_is_not_what_it_says_affects_every_number(
    defense, sentence, tmp_path, capsys
):
    study = study_of(linear(defense, "subject"), threats=(CLEAN, threats()[1]))
    record = check_study(study, tmp_path, options=FEW)
    (row,) = record["rows"]
    first = row["checks"][0]
    assert (first["name"], first["passed"]) == ("the draws come from the key", sentence is None)
    assert first["doubts"] == ["clean", "blind"]
    assert sentence is None or sentence in first["found"]
    mark = "ok  " if sentence is None else "FAIL"
    assert f"{mark} the draws come from the key: " in "".join(capsys.readouterr())


def test_what_cannot_be_checked_is_named(tmp_path):
    study = study_of(linear(Identity(), "bare"))
    check = lambda **given: check_study(study, tmp_path, progress=False, **given)
    with pytest.raises(ValueError, match="subjects='other' is none of 'bare'"):
        check(subjects=["other"])
    with pytest.raises(ValueError, match="subjects is empty: name some"):
        check(subjects=[])
    with pytest.raises(ValueError, match="threat='PGD' is none of 'clean', 'blind', 'one draw'"):
        check(options=SanityOptions(threat="PGD"))
    one = dataclasses.replace(study, num_examples=1, threats=(CLEAN,))
    with pytest.raises(ValueError, match="has one image, and changes are judged against"):
        check_study(one, tmp_path, progress=False)
    assert not (tmp_path / "small" / "sanity.json").exists()


# -- The attack under suspicion -----------------------------------------------------------


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


@dataclasses.dataclass(frozen=True)
class Service(Defended):
    """A classifier that somebody else runs."""

    @property
    def differentiable(self):
        return False


def test_a_pipeline_whose_gradient_nobody_follows_is_not_believed(tmp_path):
    blind = ThreatModel("blind", PGD(num_steps=2), ClassifierAlone(), Knowledge.CLASSIFIER)
    defended = linear(BitDepth(3))
    service = dataclasses.replace(
        linear(Identity(), "service"), pipeline=Service(Identity(), Linear(SIZE, 10))
    )
    study = study_of(defended, service, threats=(CLEAN, blind))
    record = check_study(study, tmp_path, options=FEW, progress=False)
    found = [row["checks"][-1] for row in record["rows"]]
    assert {check["name"] for check in found} == {"an attack on the gradient is there"}
    assert [check["passed"] for check in found] == [False, None]
    assert [check["doubts"] for check in found] == [["clean", "blind"], []]
    assert [row["attack"] for row in record["rows"]] == [None, None]


def test_a_defense_that_rounds_is_checked_through_soft_rounding(tmp_path):
    models = [
        ThreatModel(name, APGD(radius=radius, num_steps=4, loss="margin"), surrogate)
        for radius in (1 / 255, 2 / 255)
        for name, surrogate in (("identity", IdentityGradient()), ("own", GradientOf(SOFT)))
    ]
    study = study_of(linear(BitDepth(3)), threats=(CLEAN, *models))
    record = check_study(study, tmp_path, options=FEW, progress=False)
    (row,) = record["rows"]
    assert (row["attack"]["radius"], row["attack"]["step_size"]) == (2 / 255, 0.5 / 255)
    found = {check["name"]: check for check in row["checks"]}
    assert found["gradients are there"]["passed"]  # true rounding has none
    assert found["gradients are there"]["doubts"] == ["identity", "own"]
    assert found["more steps never helps the defense"]["doubts"] == ["own"]
    # The images are judged behind true rounding, as the study's are.
    assert row["target"]["defense"]["rounding"] == "true"
    assert row["differentiates"]["defense"]["class"] == "BPDA"


# -- Strength -----------------------------------------------------------------------------


def test_an_attack_that_gains_from_more_steps_was_too_weak(tmp_path, monkeypatch):
    slow = PGD(radius=0.2, step_size=0.01, num_steps=1, random_start=False)
    models = (CLEAN, ThreatModel("slow", slow), ThreatModel("slow", slow, tags=("curve",)))
    study = study_of(linear(Identity(), "bare"), threats=models)
    ask = dataclasses.replace(FEW, threat="slow", num_examples=12)
    record = check_study(study, tmp_path, options=ask, progress=False)
    checks = {check["name"]: check for check in record["rows"][0]["checks"]}
    steps = checks["twice the steps of slow"]
    # On a linear classifier a step moves every value by 0.01, towards one other class.
    reference = []
    for num in (1, 2):
        moved = SMALL[:12].astype(np.float32).reshape(12, -1) / 255
        for _ in range(num):
            logits = moved @ np.asarray(KERNEL)
            share = np.exp(logits - logits.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            share[np.arange(12), RIGHT[:12]] -= 1
            moved = moved + 0.01 * np.sign(share @ np.asarray(KERNEL).T)
        reference.append((moved @ np.asarray(KERNEL)).argmax(1) == RIGHT[:12])
    before, after = (np.array(right, float) for right in reference)
    assert before.mean() > after.mean()
    assert steps["numbers"]["accuracies"] == [before.mean(), after.mean()]
    rise = after - before
    assert steps["numbers"]["change"] == pytest.approx(rise.mean())
    assert steps["numbers"]["error"] == pytest.approx(rise.std(ddof=1) / np.sqrt(12))
    assert steps["passed"] == (rise.mean() >= -2 * rise.std(ddof=1) / np.sqrt(12))
    assert steps["doubts"] == ["slow"]
    # From the image itself there is one run, and nothing is drawn.
    assert [name for name in checks if name.endswith("of slow")] == ["twice the steps of slow"]

    def attacked(*args, **options):
        raise AssertionError("made again")

    monkeypatch.setattr("rainjax.evaluation.driver.run_attack", attacked)
    found = sanity.check_strength(
        study, study.subjects[0], "slow", tmp_path / "small", num_examples=12
    )
    assert [dataclasses.asdict(c)["numbers"] for c in found] == [
        checks[c.name]["numbers"] for c in found
    ]


def test_every_kind_of_attack_has_its_strength_asked(tmp_path):
    noisy = linear(GaussianNoise(0.1))
    models = (
        CLEAN,
        ThreatModel("nearest", CarliniWagner(num_steps=2, num_search_steps=1, eot=EOT(2))),
        ThreatModel("queries", Square(num_queries=3), knowledge=Knowledge.SCORES),
        ThreatModel("rand", AutoAttack(version="rand", num_steps=2, eot=EOT(2))),
        ThreatModel("keys", PGD(num_steps=2, eot=EOT(draws="enumerated")), Itself(),
                    Knowledge.KEYS),
    )  # fmt: skip
    study = study_of(noisy, threats=models, num_examples=4)
    asked = {
        model.name: [
            check.name.removesuffix(f" of {model.name}").removeprefix("twice the ")
            for check in sanity.check_strength(
                study, noisy, model.name, tmp_path, num_examples=4
            )
        ]
        for model in models
    }  # fmt: skip
    assert asked == {
        "clean": [],
        "nearest": ["steps", "draws"],
        "queries": ["queries", "restarts", "draws"],
        "rand": ["steps", "draws"],
        "keys": ["steps", "restarts"],
    }
