"""Lines join the records of one subject that differ in one thing alone."""

import re

import pytest

from rainjax.evaluation import Record
from rainjax.report import Curve
from tests.report.made_records import full_study, make_record, results_of
from tests.tiny import unchecked


def runs(curve, contents):
    found = curve.runs(results_of(contents))
    return {
        (run[0].subject, curve.named(run[0])): [getattr(record, curve.x) for record in run]
        for run in found
    }


def test_lines_of_radii_draws_and_steps():
    study = full_study()
    lines = runs(Curve("radius", "radius"), study)
    assert lines["RAIN, fine-tuned", "EOT-PGD"] == [r / 255 for r in (1, 2, 4, 8, 12, 16)]
    assert len(lines) == 9
    # What takes every draw there is has no place on an axis of draws.
    lines = runs(Curve("num_draws", "draws"), study)
    assert lines == {
        (name, "EOT-PGD"): [1, 2, 4, 8, 16, 32]
        for name in ("RAIN, before fine-tuning", "RAIN, fine-tuned")
    }
    steps = [
        make_record("rain_finetuned", "eot", [5], num_steps=n, name=f"APGD-{n}, EOT 16")
        for n in (10, 40, 20)
    ]
    lines = runs(Curve("num_steps", None), steps)
    assert lines == {("RAIN, fine-tuned", "APGD, EOT 16"): [10, 20, 40]}


@pytest.mark.parametrize(
    ("x", "name", "line"),
    [
        ("num_steps", "PGD-40", "PGD"),
        ("num_steps", "PGD-40, blind", "PGD, blind"),
        ("num_steps", "PGD-400", "PGD-400"),
        ("num_steps", "40", "40"),
        ("num_draws", "EOT 16", "EOT"),
        ("num_draws", "PGD-40, K = 16", "PGD-40"),
        ("radius", "PGD-40", "PGD-40"),
    ],
)
def test_a_name_loses_the_number_that_the_axis_says(x, name, line):
    record = Record(make_record("rain_finetuned", "eot", [5], name=name))
    assert Curve(x, None).named(record) == line


def test_of_several_records_at_one_place_that_of_most_images_counts():
    contents = [make_record("rain_finetuned", "eot", [5] * n, num_eot=k) for k, n in
                ((4, 2), (4, 6), (8, 3))]  # fmt: skip
    (run,) = Curve("num_draws", None).runs(results_of(contents))
    assert [record.num_examples for record in run] == [6, 3]


def test_curves_over_draws_show_levels_and_one_figure_for_each_ball():
    drawings = Curve("num_draws", "draws").drawings(results_of(full_study()))
    (drawing,) = drawings
    assert drawing.name == "draws"
    assert "Dashed: mean-field PGD, which takes every draw there is" in drawing.caption
    two = [
        make_record("rain_finetuned", "eot", [5, 0], num_eot=k, radius=radius / 255)
        for k in (1, 4)
        for radius in (4, 8)
    ]
    near, far = Curve("num_draws", None).drawings(results_of(two))
    assert near.title.endswith("within L∞ radius 4/255")
    assert far.title.endswith("within L∞ radius 8/255")
    assert near.name != far.name


def test_curves_over_steps_are_drawn():
    contents = [
        make_record("rain_finetuned", column, [5] * left + [0] * (4 - left), num_steps=n)
        for column in ("blind", "white_box")
        for n, left in ((10, 3), (40, 1))
    ]
    (drawing,) = Curve("num_steps", "table").drawings(results_of(contents))
    assert drawing.name == "steps-table"
    assert (
        "RAIN, fine-tuned, white-box PGD: 75.0 % at 10 steps, 25.0 % at 40 steps." in drawing.alt
    )


def test_the_bare_classifier_is_a_reference_in_every_panel():
    (drawing,) = Curve("radius", "radius").drawings(results_of(full_study()))
    told = re.findall(r"(Undefended[^:]*): ([\d.]+ % at radius 0)", drawing.alt)
    assert told == [("Undefended", "93.5 % at radius 0")]
    bare = [
        make_record("undefended", "white_box", [5, 0], radius=radius / 255) for radius in (4, 8)
    ]
    (drawing,) = Curve("radius", None).drawings(results_of(bare))
    assert "Undefended, white-box PGD: 50.0 % at radius 4/255" in drawing.alt
    assert Curve("radius", "radius").drawings(results_of(bare)) == []


def test_another_axis_is_refused():
    with unchecked(), pytest.raises(ValueError, match="x='time' is none of 'radius'"):
        Curve("time", None)


def test_clean_accuracy_at_radius_zero_is_counted_on_the_swept_images():
    clean = make_record("rain_finetuned", "clean", [5] * 5 + [0] * 3 + [5] * 12)
    sweep = [
        make_record("rain_finetuned", "eot", [5] * n + [0] * (8 - n), radius=r, tags=["radius"])
        for n, r in ((4, 4 / 255), (2, 8 / 255))
    ]
    (drawing,) = Curve("radius", "radius").drawings(results_of([clean, *sweep]))
    # 5 of the first 8 are right, not 17 of 20.
    assert "EOT-PGD: 62.5 % at radius 0, 25.0 % at radius 8/255." in drawing.alt
    (drawing,) = Curve("radius", "radius").drawings(results_of(sweep))
    assert "EOT-PGD: 50.0 % at radius 4/255, 25.0 % at radius 8/255." in drawing.alt
