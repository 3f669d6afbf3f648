"""Attackers with a classifier of their own: made once, for all subjects, from its parameters."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import Defended, Identity
from rainjax.attacks import PGD, fgsm
from rainjax.defenses import BitDepth
from rainjax.evaluation import (
    CLEAN,
    Itself,
    Knowledge,
    Ladder,
    Subject,
    ThreatModel,
    Transfer,
    When,
    evaluate,
    joined,
    load_records,
)
from rainjax.evaluation.study import cells
from rainjax.evaluation.work import Work
from rainjax.report import report
from tests.small_studies import KERNEL, RIGHT, SIZE, SMALL, linear, study_of
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

RADIUS = 0.02
OTHER = jnp.asarray(np.random.default_rng(5).normal(size=(SIZE, 10)), jnp.float32)


def source(kernel=OTHER, name="another"):
    network = Linear(SIZE, 10)
    params = {"defense": (), "classifier": {"kernel": kernel}}
    return Subject(name, Defended(Identity(), network), params)


def transfer(of=None, attack=None, **changes):
    threat = ThreatModel(
        "transfer", attack or fgsm(RADIUS), Transfer(of or source()), Knowledge.TRANSFER
    )
    return dataclasses.replace(threat, **changes)


def study(*subjects, threats=None, **changes):
    return study_of(
        *subjects,
        threats=threats or (CLEAN, transfer()),
        num_examples=16,
        batch_size=16,
        **changes,
    )


def moved():
    """What FGSM on a linear classifier with cross-entropy comes to: a loop over the images."""
    weights, images = np.asarray(OTHER, np.float64), SMALL.reshape(16, -1) / 255
    found = []
    for image, label in zip(images, RIGHT, strict=True):
        logits = image @ weights
        probability = np.exp(logits - logits.max())
        probability /= probability.sum()
        slope = weights @ probability - weights[:, label]
        found.append(np.clip(image + RADIUS * np.sign(slope), 0, 1))
    return np.array(found)


def test_what_fools_the_other_is_scored_on_every_subject(tmp_path):
    made = study(linear(Identity()), linear(BitDepth(3), "rounded"))
    evaluate(made, tmp_path, progress=False)
    records = [r for r in load_records(tmp_path / "small") if r.threat == "transfer"]
    weights = np.asarray(KERNEL, np.float64)
    for record in records:
        seen = moved() if record.subject == "Identity" else np.round(moved() * 7) / 7
        np.testing.assert_array_equal(
            record.correct_draws, (seen @ weights).argmax(1) == RIGHT, record.subject
        )
        assert record.knowledge is Knowledge.TRANSFER
    assert {record.subject for record in records} == {"Identity", "rounded"}
    assert "a classifier of his own" in report(tmp_path / "small").html()


def files(made):
    """The files of adversarial images that a study needs."""
    work = Work(made, pathlib.Path("here"))
    units = [unit for cell in cells(made) for unit in work.units(cell)]
    return {unit.attacked for unit in units if unit.attacked}


def test_one_attack_serves_all_subjects_and_other_parameters_are_another():
    made = study(linear(Identity()), linear(BitDepth(3), "rounded"))
    assert len(files(made)) == 1
    of_another = study(linear(Identity()), threats=(transfer(source(OTHER + 1)),))
    assert files(made).isdisjoint(files(of_another))
    white_box = ThreatModel("FGSM", fgsm(RADIUS), Itself())
    assert files(made).isdisjoint(files(study(linear(Identity()), threats=(white_box,))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"knowledge": Knowledge.DEFENSE}, "knowledge=DEFENSE"),
        ({"surrogate": Itself()}, "surrogate=Itself and knowledge=TRANSFER"),
        ({"surrogate": When(Itself())}, "surrogate=Itself and knowledge=TRANSFER"),
        ({"attack": Ladder(PGD(num_steps=2), max_gradients=100)}, "Ladder"),
    ],
)
def test_an_attacker_of_his_own_knows_nothing_of_the_subject(changes, message):
    with pytest.raises(ValueError, match=message):
        transfer(**changes)


def test_a_source_whose_parameters_do_not_fit_it_is_refused():
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(source(), params={"classifier": ()})


def test_an_ensemble_is_attacked_once_for_all_subjects(tmp_path):
    """By the mean of unit gradients: a loop over the images, for two linear classifiers."""
    both = joined("both", [source(), source(3 * KERNEL, "own")], combine="gradient")
    made = study(linear(Identity()), linear(BitDepth(3), "rounded"), threats=(transfer(both),))
    assert len(files(made)) == 1
    cell = cells(made)[0]
    assert cell.attack is not None
    assert (cell.num_draws, cell.num_gradients) == (1, 2)
    evaluate(made, tmp_path, progress=False)
    images, total = SMALL.reshape(16, -1) / 255, np.zeros((16, SIZE))
    for weights in (np.asarray(OTHER, float), 3 * np.asarray(KERNEL, float)):
        logits = images @ weights
        wrong = np.exp(logits - logits.max(1, keepdims=True))
        wrong /= wrong.sum(1, keepdims=True)
        wrong[np.arange(16), RIGHT] -= 1
        slopes = wrong @ weights.T
        total += slopes / np.abs(slopes).sum(1, keepdims=True)
    attacked = np.clip(images + RADIUS * np.sign(total), 0, 1)
    for record in load_records(tmp_path / "small"):
        seen = attacked if record.subject == "Identity" else np.round(attacked * 7) / 7
        right = (seen @ np.asarray(KERNEL, float)).argmax(1) == RIGHT
        np.testing.assert_array_equal(record.correct_draws, right, record.subject)


def test_an_average_is_a_subject_as_well(tmp_path):
    both = joined("mean", [source(), source(KERNEL, "own")], combine="loss")
    white_box = ThreatModel("FGSM", fgsm(RADIUS), Itself())
    evaluate(study(both, threats=(CLEAN, white_box)), tmp_path, progress=False)
    record, attacked = load_records(tmp_path / "small")
    assert attacked.attack["eot"]["num_parts"] == 2
    assert attacked.score().accuracy < record.score().accuracy
    mean = (np.asarray(OTHER, float) + np.asarray(KERNEL, float)) / 2
    right = (SMALL.reshape(16, -1) / 255 @ mean).argmax(1) == RIGHT
    np.testing.assert_array_equal(record.correct_draws, right)
    assert record.content["subject"]["params"]["params"]["name"] == "another, own"


def _of_seven():
    network, kernel = Linear(SIZE, 7), jnp.zeros((SIZE, 7))
    params = {"defense": (), "classifier": {"kernel": kernel}}
    return Subject("seven", Defended(Identity(), network), params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: cells(study(linear(Identity()), threats=(transfer(_of_seven()),))),
            "The source of 'transfer', 'seven' tells 7 classes apart, but 'arrays' has 10",
        ),
        (
            lambda: cells(
                study(
                    linear(Identity()),
                    threats=(transfer(joined("both", [source(), _of_seven()])),),
                )
            ),
            "The source of 'transfer', 'both' does not fit 'arrays'.*Member 1 of the ensemble, "
            "Defended, tells 7 classes apart, and the first 10",
        ),
        (lambda: joined("both", [source(), source()]), "are called 'another'"),
        (lambda: joined("both", [source()]), "An ensemble of 1"),
    ],
)
def test_sources_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
