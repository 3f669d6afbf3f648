"""Whether twice the effort leaves less: an attack that gains from it was too weak."""

import dataclasses

import numpy as np
import pytest

from rainjax.attacks import EOT, PGD, CarliniWagner, Square
from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import (
    CLEAN,
    Itself,
    Knowledge,
    Ladder,
    ThreatModel,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.sanity import SanityOptions, check_study
from rainjax.evaluation.strength import attempts, check_strength
from tests.small_studies import (
    KERNEL,
    RIGHT,
    SMALL,
    linear,
    study_of,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEW = SanityOptions(num_queries=4, num_surface=1, surface_points=3, more=2, num_examples=10)


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
    found = check_strength(study, study.subjects[0], "slow", tmp_path / "small", num_examples=12)
    assert [dataclasses.asdict(c)["numbers"] for c in found] == [
        checks[c.name]["numbers"] for c in found
    ]


def test_every_kind_of_attack_has_its_strength_asked():
    noisy = linear(GaussianNoise(0.1))
    eot = EOT(3, chunk_size=3)
    models = (
        CLEAN,
        ThreatModel("pgd", PGD(radius=0.04, step_size=0.01, num_steps=5)),
        ThreatModel("nearest", CarliniWagner(num_steps=2, eot=eot)),
        ThreatModel("queries", Square(num_queries=3), knowledge=Knowledge.SCORES),
        ThreatModel("standard", AutoAttack(num_steps=6, num_queries=7)),
        ThreatModel("rand", AutoAttack(version="rand", num_steps=2)),
        ThreatModel("ladder", Ladder(PGD(num_steps=5))),
        ThreatModel(
            "keys", PGD(num_steps=2, eot=EOT(draws="enumerated")), Itself(), Knowledge.KEYS
        ),
    )  # fmt: skip
    study = study_of(noisy, threats=models)
    tried = {model.name: attempts(study, noisy, model.name) for model in models}
    words = {
        name: [word.removeprefix(", twice the ") for word in list(found)[1:]]
        for name, found in tried.items()
    }
    assert words == {
        "clean": [],
        "pgd": ["steps", "draws", "restarts"],
        "nearest": ["steps", "draws"],
        "queries": ["queries", "draws", "restarts"],
        "standard": ["steps", "queries", "draws"],
        "rand": ["steps", "draws"],  # without Square there are no queries
        "ladder": [],  # it was doubled already
        "keys": ["steps", "restarts"],  # there are no other draws than those that are scored
    }
    attack = lambda name, word: tried[name][f", twice the {word}"].attack
    assert attack("pgd", "steps") == PGD(radius=0.04, step_size=0.01, num_steps=10)
    assert attack("pgd", "draws").eot == EOT(2)
    assert attack("nearest", "draws").eot == EOT(6, chunk_size=3)
    assert attack("standard", "queries").num_queries == 14
    assert attack("rand", "draws").eot == EOT(40)  # of the 20 that it takes by default
    bare = linear(Identity())
    assert ", twice the draws" not in attempts(study_of(bare, threats=models), bare, "pgd")
    wider = attempts(study, noisy, "pgd", radius=0.08)
    assert wider[""].attack == PGD(radius=0.08, step_size=0.02, num_steps=5)
    several = (*models, ThreatModel("pgd", PGD(radius=0.06)),
               ThreatModel("pgd", PGD(radius=0.2), tags=("radius",)))  # fmt: skip
    found = attempts(study_of(noisy, threats=several), noisy, "pgd")
    assert found[""].attack.radius == 0.06
