"""Sanity checks of a study, subject by subject, in one record."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from rainjax.attacks import APGD, PGD
from rainjax.defenses import BitDepth, Defense, GaussianNoise, Identity
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    GradientOf,
    IdentityGradient,
    Knowledge,
    ThreatModel,
    evaluate,
)
from rainjax.evaluation.sanity import SanityOptions, check_study
from rainjax.pipeline import Defended
from tests.small_studies import (
    SIZE,
    SOFT,
    Stopped,
    battery,
    linear,
    study_of,
)
from tests.tiny import Linear, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEW = SanityOptions(num_queries=4, num_surface=1, surface_points=3, more=2, num_examples=10)


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


def test_options_are_a_command_line():
    given = tyro.cli(SanityOptions, args=["--num-examples=8", "--threat=PGD", "--more=3"])
    assert given == SanityOptions(num_examples=8, threat="PGD", more=3)


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
    assert len(rows["bare"]["checks"]) == 7
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
    study = study_of(linear(defense, "subject"), threats=(CLEAN, battery()[1]))
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
