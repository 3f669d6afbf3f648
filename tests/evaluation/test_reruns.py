"""A study's folder after the study has changed: what is shown is what was measured last."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from rainjax.defenses import Defense, GaussianNoise, Identity
from rainjax.evaluation import (
    CLEAN,
    IdentityGradient,
    Knowledge,
    SanityOptions,
    ThreatModel,
    check_study,
    evaluate,
    load_records,
)
from rainjax.evaluation import sanity as checking
from rainjax.report import Cell, Display, ResultsTable, Table, report
from tests.small_studies import Stopped, battery, linear, study_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEW = SanityOptions(num_queries=4, num_surface=0, more=2, num_examples=8)


@dataclasses.dataclass(frozen=True)
class Honest(Defense):
    """Halves the contrast."""

    stop: bool = False

    def apply(self, params, key, image):
        image = jax.lax.stop_gradient(image) if self.stop else image
        return jnp.clip(0.5 * image + 0.25, 0, 1)

    @property
    def is_random(self):
        return False


def test_the_newest_number_of_images_is_shown_and_the_old_one_mentioned(tmp_path):
    study = study_of(linear(Identity(), "bare"), linear(GaussianNoise(0.1)))
    for num in (8, 12, 8):
        resized = dataclasses.replace(study, num_examples=num)
        records = evaluate(resized, tmp_path, progress=False)
        assert {r.num_examples for r in records if r.threat == "clean"} == {num}
        shown = report(tmp_path / "small")
        (first, *_) = shown.tables
        assert f"n = {num}" in str(first.notes)
        assert ("Not shown" in shown.summary()) is (len(shown.results.earlier) > 0)
    assert shown.results.earlier
    # Another subject of the same study joins the ones that are there.
    alone = study_of(linear(Stopped()), num_examples=12)
    subjects = {record.subject for record in evaluate(alone, tmp_path, progress=False)}
    assert subjects == {"bare", "GaussianNoise", "Stopped"}


def test_a_study_of_two_numbers_of_clean_images_has_two_columns(tmp_path):
    few = ThreatModel("clean", None, knowledge=Knowledge.NONE, num_examples=4)
    study = study_of(linear(Identity(), "bare"), threats=(CLEAN, few, battery()[2]))
    (table, *_) = report(evaluate(study, tmp_path, progress=False)).tables
    heads = [cell.value for cell in table.header]
    assert heads == ["", "clean, n = 12", "clean, n = 4", "one draw", "strongest attack"]


def test_checks_of_another_pipeline_say_nothing_of_this_one(tmp_path):
    study = study_of(linear(Honest(), "mine"))
    check_study(study, tmp_path, options=FEW, progress=False)
    records = evaluate(study, tmp_path, progress=False)
    assert "sanity checks" in report(records).summary()
    assert "were made of" not in report(records).summary()
    stopped = study_of(linear(Honest(stop=True), "mine"))
    text = report(evaluate(stopped, tmp_path, progress=False)).summary()
    assert "mine: the sanity checks were made of another pipeline" in " ".join(text.split())
    assert "checks of the attacks passed" not in text
    check_study(stopped, tmp_path, options=FEW, progress=False)
    # Records that `evaluate` returns know what was found of them.
    made = report(evaluate(stopped, tmp_path, progress=False))
    assert "†" in made.text()
    assert "No flag was raised" not in made.summary()
    weaker = ThreatModel("one draw", dataclasses.replace(battery()[2].attack, num_steps=2))
    other = dataclasses.replace(stopped, threats=(CLEAN, weaker))
    text = report(evaluate(other, tmp_path, progress=False)).summary()
    assert "were made of other settings of one draw" in " ".join(text.split())


def test_checks_of_another_surrogate_say_nothing_of_this_one(tmp_path):
    whole = battery()[2]
    study = study_of(linear(GaussianNoise(0.1), "mine"), threats=(CLEAN, whole))
    check_study(study, tmp_path, options=FEW, progress=False)
    assert "were made of" not in report(evaluate(study, tmp_path, progress=False)).summary()
    changed = dataclasses.replace(whole, surrogate=IdentityGradient())
    other = dataclasses.replace(study, threats=(CLEAN, changed))
    text = " ".join(report(evaluate(other, tmp_path, progress=False)).summary().split())
    assert f"were made of another surrogate of {whole.name}" in text


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 8}, "seed=7, not 8"),
        ({"num_score_draws": 4}, "num_score_draws=3, not 4"),
        ({"images": "other"}, "data='arrays, test, arrays-1', not"),
    ],
)
def test_checks_of_another_study_are_refused_before_they_begin(
    tmp_path, monkeypatch, changes, what, forget
):
    study = study_of(linear(GaussianNoise(0.1)), threats=(CLEAN,))
    evaluate(study, tmp_path, progress=False)
    good = tmp_path / "small" / "sanity.json"
    good.write_text("{}")
    if forget:  # folders of earlier versions do not say whose they are, but in records
        path = tmp_path / "small" / "study.json"
        path.write_text(json.dumps({"name": "small"}))
    monkeypatch.setattr(checking, "_row", lambda *args: pytest.fail("the checks began"))
    if "images" in changes:
        other = type(study.images)(study.images._images, study.images._labels)
        other.fingerprint = "arrays-2"
        changes = {"images": other}
    with pytest.raises(ValueError, match=f"a study with {what}"):
        check_study(dataclasses.replace(study, **changes), tmp_path, options=FEW, progress=False)
    assert good.read_text() == "{}"


@dataclasses.dataclass(frozen=True)
class Count(Display):
    """How many records there are."""

    def tables(self, results):
        return [Table("Count", (Cell("number"),), ((Cell(str(len(results.records))),),))]


def test_a_studys_displays_are_shown_whoever_wrote_them(tmp_path):
    study = study_of(linear(Identity(), "bare"), displays=[Count(), ResultsTable()])
    records = evaluate(study, tmp_path, progress=False)
    assert report(records).displays == [Count(), ResultsTable()]
    assert [table.title for table in report(records).headline] == ["Count"]
    made = report(tmp_path / "small")
    assert made.displays == [ResultsTable()]
    assert "Count', which no file can bring along" in " ".join(made.summary().split())
    assert report(tmp_path / "small", [Count()]).displays == [Count()]
    assert report(load_records(tmp_path / "small")).displays == [ResultsTable()]
