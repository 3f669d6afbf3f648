"""What marks say: attacks that had no gradient to follow, and the notes below."""

import pytest

from rainjax.evaluation.validation import find_problem
from rainjax.report import BlindAgainstAdaptive, DrawsTable, Leaderboard, ResultsTable, verdict
from tests.report.made_records import make_record, results_of


def contents(**zero):
    """Four images, all right, under three threat models; `zero` is what each says of gradients."""
    made = [
        make_record("mine", column, [5, 5, 5, 5]) for column in ("clean", "blind", "white_box")
    ]
    for content, column in zip(made, ("clean", "blind", "white_box"), strict=True):
        if column in zero:
            content["num_zero_gradient"] = zero[column]
    return made


def cells(table):
    return [str(cell) for row in table.rows for cell in row]


@pytest.mark.parametrize(
    "display", [ResultsTable(), DrawsTable(), Leaderboard(), BlindAgainstAdaptive(tag="table")]
)
def test_every_table_marks_the_number_and_says_why(display):
    """White box and blind leave the same, so the first of them is the strongest."""
    (table,) = display.tables(results_of(contents(blind=3, white_box=3)))
    assert any("100.0 % ‡" in cell for cell in cells(table))
    (note,) = [note for note in table.notes if note.startswith("**‡**")]
    assert "3 of 4" in note
    for quiet in ({}, {"blind": 0, "white_box": 0}):  # {}: records of an older version
        (table,) = display.tables(results_of(contents(**quiet)))
        assert "‡" not in "".join([*cells(table), *table.notes])


def test_the_verdict_flags_it_and_says_where_all_is_well():
    flagged = verdict(results_of(contents(blind=0, white_box=3)))
    (flag,) = [finding for finding in flagged if finding.flag]
    assert "3 of 4 images under white-box PGD" in flag.text
    assert "purifier-blind" not in flag.text
    well = "every attack that needs one had a gradient"
    assert well in verdict(results_of(contents(blind=0, white_box=0)))[-1].text
    older = verdict(results_of(contents()))
    assert not any("gradient" in finding.text for finding in older)


def test_the_verdict_names_members_that_had_none_where_others_had():
    made = contents(blind=0, white_box=0)
    members = [
        {"name": "APGD-CE", "num_attacked": 4, "num_zero_gradient": 4},
        {"name": "APGD-T", "num_attacked": 4, "num_zero_gradient": 0},
    ]
    made[2]["result"]["members"] = members
    findings = verdict(results_of(made))
    (told,) = [finding.text for finding in findings if "APGD-CE" in finding.text]
    assert "4 of the 4 images" in told
    assert not any(finding.flag or "APGD-T" in finding.text for finding in findings)
    made[2]["num_zero_gradient"] = 1  # then the flag tells it
    assert not any("APGD-CE" in finding.text for finding in verdict(results_of(made)))


@pytest.mark.parametrize(
    ("number", "fine"),
    [(0, True), (4, True), (5, False), (-1, False), ("2", False), (True, False)],
)
def test_a_record_that_cannot_be_is_refused(number, fine):
    problem = find_problem(contents(white_box=number)[2])
    assert (problem is None) == fine
    assert fine or "num_zero_gradient" in problem
