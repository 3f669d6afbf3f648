"""The study of detectors, and the benchmark of what they cost, as pages of values."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.benchmarks import scores
from eval.benchmarks.scores import Scores
from eval.pages import studies
from eval.studies.detection import DetectionStudy, GuardedStudy
from eval.studies.detectors import MAKERS
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
    clean, _ = data.load("builtin", "validation").get(np.arange(60))
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
        ({"calibration_split": "test"}, "are reported: raise calibration_skip"),
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
    assert [subject.name for subject in study.subjects] == ["no detector", "energy"]
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


def test_a_study_without_detectors_has_no_scores(tmp_path):
    with pytest.raises(ValueError, match="has no detectors"):
        scores.run(Scores("ncis", rows=("undefended",), batch_size=1, out=tmp_path))
