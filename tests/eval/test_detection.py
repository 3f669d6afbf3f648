"""The study of detectors, and the benchmark of what they cost, as pages of values."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.__main__ import read
from eval.benchmarks import scores, terms
from eval.benchmarks.scores import Scores
from eval.benchmarks.terms import Terms
from eval.pages import studies
from eval.studies.detection import DetectionStudy
from eval.studies.detectors import MAKERS
from eval.studies.guarded import GuardedStudy
from rainjax import Guarded, data
from rainjax.evaluation import Knowledge
from rainjax.evaluation.study import cells

SMALL = DetectionStudy(
    name="small",
    rows=("max_softmax", "statistics"),
    severities=(5,),
    num_examples=6,
    num_eot_examples=4,
    num_fitting=60,
    num_calibrating=60,
    batch_size=6,
)


@pytest.fixture(scope="module")
def study():
    return SMALL.study()


def test_every_detector_meets_every_attacker_once(study):
    found = cells(study)
    by_subject = {s.name: [c for c in found if c.subject is s] for s in study.subjects}
    assert set(by_subject) == {"maximum softmax", "natural statistics"}
    one, other = by_subject.values()
    assert len(one) == len(other) == len({cell.id for cell in one})
    names = {cell.threat.name for cell in one}
    assert {"clean", "PGD", "Square", "DeepFool", "CW L2", "joint margin", "selective gradients",
            "orthogonal gradients", "Square, joint", "sabotage",
            "pixelate 5"} <= names  # fmt: skip
    knows = {cell.threat.name: cell.threat.knowledge for cell in one}
    assert knows["PGD"] is Knowledge.CLASSIFIER
    assert knows["pixelate 5"] is Knowledge.NONE
    assert knows["Square, joint"] is Knowledge.SCORES


def test_every_display_has_something_to_show(study):
    tags = {tag for threat in study.threats for tag in threat.tags}
    asked = {getattr(display, "tag", None) for display in study.displays}
    assert asked <= tags
    per_tag = {tag: [t for t in study.threats if tag in t.tags] for tag in ("blind", "some")}
    assert all(0 < len(threats) <= 8 for threats in per_tag.values())


def test_thresholds_are_of_images_that_nothing_reports(study):
    clean, _ = data.load("builtin", "validation").get(np.arange(600, 660))
    for subject in study.subjects:
        pipeline, params = subject.pipeline, subject.params
        assert isinstance(pipeline, Guarded)
        one = lambda image, pipeline=pipeline, params=params: pipeline.score(
            params, jax.random.key(0), image
        )
        found = np.asarray(jax.vmap(one)(jnp.asarray(clean, jnp.float32) / 255))
        assert (found > float(params["threshold"]) + 1e-4).sum() <= 3  # 5 % of 60


@pytest.mark.parametrize("name", ["cifar10_detection", "photographs_detection", "cifar10_guarded"])
def test_no_threshold_is_of_a_reported_image(name):
    """Splits may be the same; the ranges in them are not."""
    options, _ = studies()[name]
    if options.calibration_split == options.split:
        assert options.calibration_skip >= options.skip + options.num_examples


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rows": ("nothing",)}, "rows='nothing' is none of quality"),
        ({"num_fitting": 0}, "num_fitting=0"),
        ({"calibration_skip": -1}, "calibration_skip=-1"),
        ({"calibration_split": "test", "calibration_skip": 0}, "are what decides the thresholds"),
        ({"fit_split": "test"}, r"are what detectors are fitted on: change fit_split"),
        ({"fit_split": "validation", "num_fitting": 601}, "change fit_split"),
        ({"radii": (8.0,)}, r"8/255 is 0\.03137"),
        ({"adaptive_radii": ()}, "adaptive_radii"),
        ({"num_queries": 0}, "num_queries=0"),
    ],
)
def test_options_that_make_no_study_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(SMALL, **options)


def test_a_student_has_to_be_one():
    wrong = dataclasses.replace(SMALL, rows=("quality",), student="builtin_resnet")
    with pytest.raises(ValueError, match="holds a ResNet, not a QualityNet"):
        wrong.study()


def test_the_guarded_classifier_stands_beside_the_bare_one():
    options = GuardedStudy(
        name="guarded", rows=("energy",), num_fitting=20, num_calibrating=40, num_examples=4
    )
    study = options.study()
    bare, energy, purified, both = study.subjects
    assert (bare.name, energy.name) == ("no detector", "energy")
    assert purified.name == "no detector, Feature Distillation"
    assert both.name == "energy, then Feature Distillation"
    assert both.pipeline == dataclasses.replace(energy.pipeline, pipeline=purified.pipeline)
    with pytest.raises(ValueError, match="purifiers='nothing' is none of fd, smoothing"):
        dataclasses.replace(options, purifiers=("nothing",))
    threats = {threat.name for threat in study.threats}
    assert {"own gradient, ladder", "Square, ladder", "orthogonal gradients", "clean"} <= threats
    assert MAKERS.keys() == options.short_names.keys()


def test_scores_are_timed_beside_the_classifier(tmp_path, capsys):
    command = Scores(
        "detection", rows=("max_softmax", "energy"), batch_size=2, num_repeats=2, min_seconds=0.0,
        out=tmp_path, study_options=("--num-calibrating", "40", "--num-fitting", "20"),
    )  # fmt: skip
    path = scores.run(command)
    record = json.loads(path.read_text())
    names = [entry["name"] for entry in record["entries"]]
    assert names == ["the classifier", "maximum softmax", "energy"]
    assert all(len(entry["seconds"]) == 2 for entry in record["entries"])
    ratio = record["entries"][1]["median"] / record["entries"][0]["median"]
    assert f"{ratio:.2f}" in capsys.readouterr().out
    record["entries"] = record["entries"][:1]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="no detectors"):
        scores.RECORD.load(path)


@pytest.mark.parametrize("words", [["cifar10_detection"], []])
def test_the_command_line_names_the_study_and_its_options(words):
    command = read(["scores", *words, "--rows", "energy", "--num-fitting", "30"])
    assert command.study == (words[0] if words else "detection")
    assert command.rows == ("energy",)
    assert command.study_options == ("--num-fitting", "30")


def test_a_study_without_detectors_has_no_scores(tmp_path):
    with pytest.raises(ValueError, match="has no detectors"):
        scores.run(Scores("ncis", rows=("undefended",), batch_size=1, out=tmp_path))


def card_of(folder, name, auroc=0.9, **changes):
    """The card of a run as `train.iqa` writes it, as far as it is read."""
    options = {"num_epochs": 2, "weights.risk": 1.0, "weights.quality": 2.0, "mix.scale": "x"}
    measures = dict.fromkeys(terms._MEASURES, 0.5) | {"auroc": auroc}
    card = {
        "name": name,
        "options": options | changes,
        "data": {"name": "cifar10", "num_validation": 600},
        "metrics": {"validation_last_epoch": measures},
        "seconds": 1.0,
        "command": "python -m train.iqa",
        "revision": "abc",
    }
    path = folder / name / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(card))
    return path.parent


def test_runs_without_a_term_stand_beside_the_whole(tmp_path, capsys):
    runs = (
        card_of(tmp_path, "whole"),
        card_of(tmp_path, "less", 0.81, **{"weights.quality": 0.0}),
    )
    path = terms.run(Terms(runs, out=tmp_path))
    (table,) = terms.RECORD.tables(terms.RECORD.load(path))
    rows = {str(row[0]): [str(cell) for cell in row] for row in table.rows}
    assert list(rows) == ["nothing", "quality"]
    assert rows["nothing"][1] == "0.900"
    assert rows["quality"][1] == "0.810"
    assert "2 epochs" in table.notes[0]
    assert "0.810" in capsys.readouterr().out


def test_runs_that_differ_in_more_are_no_comparison(tmp_path):
    other = card_of(tmp_path, "other", **{"mix.scale": "y"})
    with pytest.raises(
        ValueError, match=r"differ in more than their weights, first in 'mix\.scale'"
    ):
        terms.run(Terms((card_of(tmp_path, "one"), other), out=tmp_path))
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ValueError, match="is no card of a student"):
        terms.run(Terms((tmp_path / "no.json",), out=tmp_path))
