"""What attackers of a pipeline that rejects find, and how it is counted."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.adapters._batched import Batched
from rainjax.attacks import APGD, PGD, SelectivePGD, Square
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    Knowledge,
    Ladder,
    Subject,
    ThreatModel,
    WantsRejection,
    adaptive,
    attack_batch,
    evaluate,
    keep_worst,
    ladders,
    run_attack,
    score,
)
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.evaluation.study import cells
from rainjax.evaluation.universal import universal_perturbation
from rainjax.evaluation.work import Work
from tests.guards import IMAGES, KEYS, PARAMS, PLAIN, WEIGHTS, Linearly, guarded, raw
from tests.small_studies import RIGHT, study_of


@pytest.mark.parametrize(
    "attack", [PGD(radius=0.3, step_size=0.05), APGD(radius=0.3, loss="margin", num_steps=20)]
)
def test_an_attacker_has_to_be_wrong_and_pass_unless_a_rejection_is_what_he_wants(attack):
    """Against a detector of any move in one direction; the score is NumPy's."""
    outcomes = {}
    for rejected in ("safe", "error"):
        pipeline, params = guarded(rejected=rejected)
        found = run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT)
        logits = raw(pipeline, params, np.asarray(found))
        outcomes[rejected] = logits.argmax(-1)
        folded = score(pipeline, params, KEYS, found, num_draws=1, labels=RIGHT)
        right = np.asarray(folded)[:, 0].argmax(-1) == RIGHT
        fine = (outcomes[rejected] == RIGHT) | ((outcomes[rejected] == 10) & (rejected == "safe"))
        np.testing.assert_array_equal(right, fine)
    wrong_and_passed = (outcomes["safe"] != RIGHT) & (outcomes["safe"] != 10)
    assert wrong_and_passed.mean() > 0.9  # a linear detector hides nothing
    assert (outcomes["error"] != RIGHT).all()


def test_a_detector_that_rejects_everything_is_worth_nothing(tmp_path):
    """To who attacks it, nothing is left to do: robust is never more than clean."""
    pipeline, params = guarded()
    params = {**params, "threshold": jnp.asarray(-1e3)}
    threats = (
        *adaptive(0.2, num_steps=3, num_queries=5),
        *ladders(0.2, num_steps=2, num_queries=4, max_gradients=40),
    )
    subject = Subject("closed", pipeline, params)
    found = evaluate(study_of(subject, threats=threats), tmp_path, progress=False)
    assert len(found) > 6
    assert {record.score().accuracy for record in found} == {0.0}


def test_robust_is_never_more_than_clean(tmp_path):
    """Of detectors with false positives as well, under attacks that hardly move anything."""
    pipeline, params = guarded(rate=0.5)
    weak = PGD(radius=0.001, step_size=0.001, num_steps=1)
    square = Square(radius=0.001, num_queries=2)
    threats = (
        CLEAN,
        ThreatModel("weak", weak),
        ThreatModel("scores", square, knowledge=Knowledge.SCORES),
    )
    study = study_of(Subject("guarded", pipeline, params), threats=threats, num_examples=16)
    clean, *attacked = evaluate(study, tmp_path, progress=False)
    assert 0 < clean.score().accuracy < 1
    assert all(record.score().accuracy <= clean.score().accuracy for record in attacked)


def test_a_saboteur_is_counted_by_what_he_wants(tmp_path):
    """Whatever the pipeline says of a rejection, and on a ladder too."""
    pipeline, params = guarded()
    attack = PGD(radius=0.1, step_size=0.02, num_steps=10, loss="rejection")
    climbing = APGD(radius=0.1, num_steps=4, loss="margin")
    threats = (
        ThreatModel("sabotage", attack, WantsRejection()),
        ThreatModel("sabotage, ladder", Ladder(climbing, max_gradients=60), WantsRejection()),
    )
    study = study_of(Subject("guarded", pipeline, params), threats=threats)
    found = {r.threat: r.score().accuracy for r in evaluate(study, tmp_path, progress=False)}
    reach = np.sum(np.asarray(WEIGHTS["weights"]) * IMAGES[:12], (1, 2, 3))
    reach += 0.1 * np.abs(WEIGHTS["weights"]).sum()
    assert found["sabotage"] <= np.mean(reach <= float(params["threshold"])) + 0.1
    assert found["sabotage, ladder"] <= 0.1


@pytest.mark.parametrize("loss", ["rejection", "acceptance"])
def test_what_an_attack_on_the_score_found_is_kept(loss):
    pipeline, params = guarded(rejected="error")
    attack = PGD(radius=0.1, step_size=0.02, num_steps=12, loss=loss)
    found = run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT)
    kept = keep_worst(pipeline, attack, params, KEYS, IMAGES, found, RIGHT, num_draws=1)
    rejected = lambda images: raw(pipeline, params, np.asarray(images)).argmax(-1) == 10
    before, after = rejected(IMAGES), rejected(kept)
    np.testing.assert_array_equal(after, rejected(found))
    assert after.mean() > before.mean() if loss == "rejection" else after.mean() < before.mean()


def test_a_rejected_image_has_not_reached_a_target():
    pipeline, params = guarded()
    params = {**params, "threshold": jnp.asarray(-1e3)}
    targets = (RIGHT + 1) % 10
    attack = PGD(radius=0.2, step_size=0.05, num_steps=3, targeted=True)
    _, reached = attack_batch(pipeline, pipeline, attack, params, KEYS, KEYS, IMAGES, targets)
    assert not np.asarray(reached).any()


def test_every_loss_finds_a_saboteurs_way():
    """A rejection counts as one other class: what compares several classes still has a slope."""
    pipeline, params = guarded(rejected="error")
    for attack in (
        APGD(radius=0.05, num_steps=20, loss="margin"),
        APGD(radius=0.05, num_steps=20, loss="dlr"),
        APGD(radius=0.05, num_steps=20, num_targets=3),
        PGD(radius=0.05, step_size=0.01, num_steps=20, loss="dlr"),
    ):
        found = run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT)
        seen = score(pipeline, params, KEYS, found, num_draws=1, labels=RIGHT)
        assert (np.asarray(seen)[:, 0].argmax(-1) != RIGHT).mean() > 0.9, attack


def test_where_answers_are_compared_no_attack_is_on_the_score_alone():
    pipeline, params = guarded()
    attack = PGD(radius=0.1, loss="rejection")
    with pytest.raises(ValueError, match="A ladder compares answers"):
        Ladder(attack)
    with pytest.raises(ValueError, match="An ensemble compares answers"):
        run_ensemble(
            pipeline, (Member("one", attack),), params, 0, np.arange(16), IMAGES, RIGHT,
            batch_size=16, num_select_draws=1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="of a detector's score"):
        universal_perturbation(
            pipeline, params, 0, np.arange(16), IMAGES, RIGHT, loss="acceptance"
        )


def test_other_peoples_attacks_do_not_take_a_rejection_for_a_success():
    pipeline, params = guarded()
    with pytest.raises(ValueError, match="a wrong answer that passes"):
        Batched(pipeline, params, seed=0, fresh=True).num_classes((6, 6, 3))
    sabotaged = dataclasses.replace(pipeline, rejected="error")
    assert Batched(sabotaged, params, seed=0, fresh=True).num_classes((6, 6, 3)) == 11


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_selective_gradients_find_a_wrong_answer_that_passes(orthogonal, norm):
    """Of two linear functions and a ball that is wide enough for both."""
    pipeline, params = guarded()
    radius = 0.3 if norm == "linf" else 2.5
    attack = SelectivePGD(
        norm=norm, radius=radius, step_size=radius / 15, num_steps=60, orthogonal=orthogonal
    )
    found = np.asarray(run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT))
    answers = raw(pipeline, params, found).argmax(-1)
    assert ((answers != RIGHT) & (answers != 10)).all()


def test_orthogonal_steps_leave_the_other_half_alone():
    """In L2 and away from the borders of [0, 1], a step for one does not move the other."""
    pipeline, params = guarded()
    attack = SelectivePGD(norm="l2", radius=1.0, step_size=1e-2, num_steps=1)
    image, label = jnp.full((6, 6, 3), 0.5), jnp.asarray(int(RIGHT[0]))
    logits_fn = lambda draw, image: pipeline.logits_of_draw(params, draw, image)
    answer = attack.query(
        logits_fn, KEYS[0], image, attack.ask(attack.init(KEYS[0], image, label))[1]
    )
    moved = attack.update(KEYS[0], attack.init(KEYS[0], image, label), answer).image
    step = np.asarray(moved - image, np.float64).ravel()
    own, other = answer.gradient, answer.above_gradient
    if answer.value > 0:
        own, other = -other, own
    np.testing.assert_allclose(np.linalg.norm(step), 1e-2, rtol=1e-4)
    cosine = lambda a: (
        step @ np.asarray(a, np.float64).ravel() / np.linalg.norm(step) / np.linalg.norm(a)
    )
    assert abs(cosine(other)) < 1e-4
    assert cosine(own) > 0.1


@pytest.mark.parametrize("loss", ["rejection", "acceptance"])
def test_the_score_alone_can_be_attacked_both_ways(loss):
    pipeline, params = guarded(rejected="error")
    attack = PGD(radius=0.05, step_size=0.01, num_steps=12, loss=loss)
    found = np.asarray(run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT))
    moved = np.sum(np.asarray(WEIGHTS["weights"]) * (found - IMAGES), (1, 2, 3))
    reach = 0.05 * np.abs(WEIGHTS["weights"]).sum()  # what a linear score can be moved by
    np.testing.assert_allclose(np.abs(moved), reach, rtol=0.02)
    assert (np.sign(moved) == (1 if loss == "rejection" else -1)).all()


def test_attacks_on_a_detector_say_so_where_there_is_none():
    for attack in (SelectivePGD(), PGD(loss="rejection")):
        with pytest.raises(ValueError, match="attacks a detector, and Defended rejects nothing"):
            run_attack(PLAIN, attack, PARAMS, KEYS, IMAGES, RIGHT)


def test_the_blind_attack_is_shared_by_all_detectors(tmp_path):
    one, params = guarded()
    other = dataclasses.replace(one, detector=Linearly(0.1))
    threats = (ThreatModel("blind", PGD(num_steps=2), ClassifierAlone(), Knowledge.CLASSIFIER),)
    study = study_of(Subject("one", one, params), Subject("other", other, params), threats=threats)
    work = Work(study, tmp_path)
    files = {unit.attacked for cell in cells(study) for unit in work.units(cell)}
    assert len(cells(study)) == 2
    assert len(files) == len(work.units(cells(study)[0]))
