"""Records that cannot be believed are refused, in a sentence that names the file."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from rainjax import evaluation, report
from rainjax.evaluation import packing
from tests.report.made_records import make_record, small_study, write_study


def _without(path):
    *parents, last = path.split(".")

    def change(record):
        for name in parents:
            record = record[name]
        del record[last]

    return change


def _with(path, value):
    *parents, last = path.split(".")

    def change(record):
        for name in parents:
            record = record[name]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with("schema", 1), "its schema is 1, and this program reads 2"),
        (_with("kind", "detection"), "its kind is 'detection'"),
        (_without("subject.name"), "it lacks 'subject.name'"),
        (_without("result"), "it lacks 'result"),
        (_with("threat.attack", None), "axes.norm is given, but threat.attack is not"),
        (_with("threat.attack", {"radius": 0.1}), "threat.attack is no object with its 'class'"),
        (_with("threat.knowledge", "grey_box"), "threat.knowledge is 'grey_box', none of none, "),
        (_with("axes.radius", "8/255"), "axes.radius is '8/255'; it must be finite"),
        (_with("axes.radius", -0.1), "axes.radius is -0.1"),
        (_with("axes.norm", 2), "axes.norm is 2, no text"),
        (_with("threat.tags", [1]), r"threat.tags is \[1\], no list of names"),
        (_with("subject.is_random", 1), "subject.is_random is 1, which is no truth value"),
        (_with("subject.surrogates", ["own gradient"]), "subject.surrogates is .'own gradient'"),
        (_with("subject.surrogates", {"own": [True, "ab"]}), "no names with .how it is climbed"),
        (_with("seed", "0"), "seed is '0', which is no whole number"),
        (_with("result.mean.accuracy", float("nan")), "result.mean is nan in"),
        (_with("result.mean.high", 1.2), "result.mean is .* in order"),
        (_with("result.mean", {"low": 0.1, "accuracy": 0.9, "high": 0.95}), "add up to 0.3000"),
        (_with("result.correct_draws", "6111111111"), "whole numbers from 0 to 5"),
        (_with("result.correct_draws", "5 of 10"), "'5 of 10' holds no counts"),
        (_with("data.indices", "0-"), "'0-' holds no ranges"),
        (_with("result.num_examples", 11), "num_examples is 11, but it names 10 images"),
        (_with("study", "slow"), "it belongs to the study 'slow', the others to 'quick'"),
        (_with("id", "undefended--clean--r8--k1"), "its id 'undefended--clean--r8--k1' is also"),
    ],
)
def test_unusable_record_is_named_in_one_sentence(tmp_path, change, words):
    study = small_study()
    record = next(r for r in study if r["threat"]["name"] == "EOT-PGD")
    write_study(tmp_path, [r for r in study if r is not record])
    change(record)
    path = tmp_path / "records" / "z.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        evaluation.load_records(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"schema": 1, "ki', b"", b"\xff\xfe\x00", b"[1, 2]"])
def test_damaged_record_is_named(tmp_path, content):
    write_study(tmp_path, small_study())
    (tmp_path / "records" / "broken.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.json (is damaged|holds list)"):
        evaluation.load_records(tmp_path)


def test_folder_without_records_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no records/\*.json: name the folder"):
        evaluation.load_records(tmp_path)


@hypothesis.given(st.lists(st.integers(0, 99), min_size=1, max_size=60))
def test_positions_are_packed_without_loss_and_in_their_order(indices):
    text = packing.pack_indices(indices)
    assert packing.unpack_indices(text).tolist() == indices


@hypothesis.given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_counts_are_packed_without_loss(counts):
    assert packing.unpack_counts(packing.pack_counts(counts)).tolist() == counts


def test_packed_text_is_as_records_show_it():
    assert packing.pack_indices([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert packing.pack_counts([0, 5, 10, 35]) == "05az"
    assert packing.pack_counts([0, 36]) == "0,36,"


@pytest.mark.parametrize("radius", [None, 0.5])
def test_an_unbounded_radius_is_read_and_nothing_else_for_it(tmp_path, radius):
    record = make_record("rain_finetuned", "blind", [5, 0], radius=radius, norm="l2")
    (loaded,) = evaluation.load_records(write_study(tmp_path, [record]))
    assert loaded.ball == ("l2", radius or float("inf"))


def test_records_come_in_the_order_of_the_study(tmp_path):
    write_study(tmp_path, small_study())
    order = {"subjects": ["RAIN, fine-tuned", "Undefended"], "threats": ["EOT-PGD", "clean"]}
    (tmp_path / "study.json").write_text(json.dumps(order))
    found = [(r.subject, r.threat) for r in evaluation.load_records(tmp_path)]
    assert found == [
        ("RAIN, fine-tuned", "EOT-PGD"), ("RAIN, fine-tuned", "clean"),
        ("RAIN, fine-tuned", "known key"), ("RAIN, fine-tuned", "purifier-blind PGD"),
        ("Undefended", "clean"), ("Undefended", "white-box PGD"),
    ]  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps({"subjects": [1]}))
    with pytest.raises(ValueError, match=r"study.json is damaged: 'subjects' must be a list"):
        evaluation.load_records(tmp_path)


def test_of_a_subject_the_records_of_the_newest_run_are_shown(tmp_path):
    def made(row, column, num):
        return make_record(row, column, [5] * num) | {"id": f"{row} {column} {num}"}

    records = [made(r, c, n) for r in ("mine", "other") for c in ("clean", "eot") for n in (4, 8)]
    write_study(tmp_path, records)
    newest = {"mine": ["mine clean 8", "mine eot 8"], "gone": [], "lost": ["x"]}
    (tmp_path / "study.json").write_text(json.dumps({"records": newest}))
    shown = {record.id for record in evaluation.load_records(tmp_path)}
    # What "other" was measured on in its last run is not known.
    assert shown == {*newest["mine"], *(r["id"] for r in records if r["id"].startswith("other"))}
    text = " ".join(report.summary(tmp_path).split())
    assert "Not shown: 2 records of earlier runs, such as mine eot 4." in text
    (tmp_path / "study.json").write_text(json.dumps({"records": {"mine": "all"}}))
    with pytest.raises(ValueError, match=r"study.json is damaged: 'records' must name"):
        evaluation.load_records(tmp_path)


def test_a_score_is_counted_anew_on_some_of_the_images():
    record = evaluation.Record(make_record("rain_finetuned", "eot", [5, 0, 3, 5]))
    assert record.score_on([0, 2]).accuracy == pytest.approx(0.8)
    with pytest.raises(KeyError):
        record.score_on([4])
