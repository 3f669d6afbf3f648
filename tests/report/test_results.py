"""Orders of names, and questions that every display asks."""

import json

from rainjax.evaluation import Knowledge, Record
from rainjax.report.results import Results, knows_less, on_common_images
from tests.report.made_records import THREATS, make_record, results_of, small_study, write_study


def test_without_a_study_the_bare_classifier_and_the_least_informed_come_first():
    contents = [make_record("mine", key, [5]) for key in ("known_key", "eot", "blind", "clean")]
    results = results_of([*contents, make_record("undefended", "white_box", [5])])
    assert results.subjects == ["Undefended", "mine"]
    assert results.threats == [
        "clean", "purifier-blind PGD", "white-box PGD", "EOT-PGD", "known key",
    ]  # fmt: skip


def test_a_study_says_the_order_and_what_it_does_not_name_comes_last(tmp_path):
    write_study(tmp_path, small_study())
    order = {"subjects": ["gone", "RAIN, fine-tuned"], "threats": ["EOT-PGD", "clean"]}
    (tmp_path / "study.json").write_text(json.dumps(order))
    results = Results.read(tmp_path)
    assert results.subjects == ["RAIN, fine-tuned", "Undefended"]
    assert results.threats == [
        "EOT-PGD", "clean", "purifier-blind PGD", "white-box PGD", "known key",
    ]  # fmt: skip


def test_who_knows_less_than_whom():
    of = {key: Record(make_record("mine", key, [5])) for key in THREATS}
    order = ["clean", "blind", "white_box", "eot", "known_key"]
    for number, key in enumerate(order):
        assert [other for other in order if knows_less(of[key], of[other])] == order[number + 1 :]
    assert not knows_less(of["eot"], of["mean_field"])
    assert not knows_less(of["black_box"], of["blind"])
    assert not knows_less(of["blind"], of["black_box"])
    assert knows_less(of["black_box"], of["white_box"])
    assert of["black_box"].knowledge < Knowledge.CLASSIFIER


def test_two_runs_are_compared_on_the_images_they_share():
    first = Record(make_record("mine", "blind", [5, 5, 0, 0]))
    second = Record(make_record("mine", "eot", [5, 0]))
    one, other, where = on_common_images(first, second)
    assert (one.accuracy, other.accuracy) == (1.0, 0.5)
    assert where == " on the 2 images that both were run on"
    assert on_common_images(first, first)[2] == ""
