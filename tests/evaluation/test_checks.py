"""The checks catch a defense that masks its gradient, and let an honest one pass."""

import dataclasses
import json

import numpy as np
import pytest

from rainjax.attacks import EOT, PGD
from rainjax.defenses import RAIN, Identity
from rainjax.evaluation import (
    Subject,
)
from rainjax.evaluation.checks import never_helps, run_checks
from rainjax.evaluation.suspects import Suspect, Variations, attacks, num_gradients
from rainjax.pipeline import Defended
from tests.small_studies import (
    Round,
    Stopped,
)
from tests.tiny import EDSR_TINY, RESNET_TINY, edsr_params, resnet_params

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
