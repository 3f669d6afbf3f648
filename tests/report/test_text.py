"""Numbers as papers quote them."""

import math

import pytest

from rainjax.evaluation import Record
from rainjax.report import text
from tests.report.made_records import make_record


@pytest.mark.parametrize(
    ("norm", "radius", "expected"),
    [
        ("linf", 8 / 255, "8/255"),
        ("linf", 0.0313, "8/255"),
        ("linf", 2.5 / 255, "2.5/255"),
        ("l2", 0.5, "0.5"),
        ("l2", math.inf, "unbounded"),
    ],
)
def test_radii(norm, radius, expected):
    assert text.radius_text(norm, radius) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "L∞ radius 8/255, 40 steps of 2/255, K = 16"),
        ({"num_steps": 1, "step_size": None}, "L∞ radius 8/255, 1 step, K = 16"),
        ({"num_restarts": 5}, "L∞ radius 8/255, 40 steps of 2/255, 5 starts, K = 16"),
        ({"eot": None}, "L∞ radius 8/255, 40 steps of 2/255"),
        ({"num_steps": None, "num_queries": 99, "step_size": None},
         "L∞ radius 8/255, 99 queries, K = 16"),
        ({"num_steps": None, "step_size": None}, "L∞ radius 8/255, 40 calls, K = 16"),
    ],
)  # fmt: skip
def test_attacks(options, expected):
    record = Record(make_record("mine", "eot", [5], options=options))
    assert text.attack_text(record) == expected


def test_attacks_that_take_every_draw_say_so():
    record = Record(make_record("mine", "mean_field", [5]))
    assert text.attack_text(record).endswith("K = 9 (enumerated)")
    assert text.attack_text(Record(make_record("mine", "clean", [5]))) == "no attack"


def test_marks_are_taken_off_in_pairs():
    assert text.without_markup("**a** `b` 2 * 3 ** 4") == "a b 2 * 3 ** 4"
