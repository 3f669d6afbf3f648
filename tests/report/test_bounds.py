"""Numbers that are shown as bounds, and what it takes to show them without "≤"."""

import copy

import pytest

from rainjax.evaluation.describe import digest
from rainjax.evaluation.packing import pack_counts
from rainjax.evaluation.validation import find_problem
from rainjax.metrics import wilson_interval
from rainjax.report import BlindAgainstAdaptive, Curve, LadderCurve, Leaderboard, ResultsTable
from rainjax.report.bounds import wanting
from rainjax.report.ladders import climbed
from rainjax.report.results import strongest
from rainjax.report.tables import as_markdown
from rainjax.report.text import attack_text
from tests.report.made_records import TITLES, cells, flags, make_record, results_of

RAIN, BALL = TITLES["rain_finetuned"], ("linf", 8 / 255)
RUNG = {"draws": 1, "restarts": 1, "num_best": 0}


def rung(steps, correct, num_attacked, doubled="steps", **changes):
    low, high = wilson_interval(sum(correct), len(correct))
    found = {
        **RUNG, "doubled": doubled, "steps": steps, "num_attacked": num_attacked,
        "num_gradients": steps, "accuracy": sum(correct) / len(correct), "low": low, "high": high,
        "correct_draws": pack_counts(correct),
    }  # fmt: skip
    return found | ({} if doubled is None else {"change": -0.1, "error": 0.05}) | changes


def ladder(row, column, correct_draws, *, flat, surrogate=None, **changes):
    """A record of a ladder from 10 to 40 steps on ten images, of which it breaks five on its way.

    `surrogate` stands for what is differentiated.
    """
    record = make_record(row, column, correct_draws, **changes)
    attack = record["threat"]["attack"]
    record["threat"] |= {
        "name": f"{record['threat']['name']}, ladder",
        "attack": {"class": "Ladder", "attack": attack, "kinds": ["steps"]},
    }
    record["id"] += "--ladder"
    rungs = [
        rung(10, [1] * 7 + [0] * 3, 10, None), rung(20, [1] * 5 + [0] * 5, 7),
        rung(40, [1] * 5 + [0] * 5, 5),
    ]  # fmt: skip
    record["ladder"] = {
        "flat": flat, "ended": "flat" if flat else "budget", "num_draws": 1, "rungs": rungs,
        "noise": {
            "pairwise_cosine": 0.25, "zero_entries": 0.125,
            "stability": [{"num_draws": 4, "cosine": 0.8}, {"num_draws": 8, "cosine": 0.92}],
        },
    }  # fmt: skip
    assert find_problem(record) is None
    return told(record, surrogate)


def told(record, surrogate):
    record["threat"]["differentiates"] = surrogate
    return record


def study(*more):
    """Half of RAIN's images stand, and one of the undefended classifier's."""
    return results_of(
        [
            make_record("undefended", "clean", [5] * 10),
            make_record("undefended", "white_box", [5] + [0] * 9),
            make_record("rain_finetuned", "clean", [5] * 10),
            told(make_record("rain_finetuned", "white_box", [5] * 5 + [0] * 5), "itself"),
            told(make_record("rain_finetuned", "blind", [5] * 7 + [0] * 3), "classifier"),
            *more,
        ]
    )


def last_cells(results):
    (table,) = ResultsTable().tables(results)
    return {row[0]: row[-1] for row in cells(as_markdown(table))[2:]}, " ".join(table.notes)


def test_a_number_above_the_undefended_classifiers_is_a_bound():
    shown, notes = last_cells(study())
    assert shown[RAIN].startswith("≤ 50.0 %")
    assert shown["Undefended"].startswith("10.0 %")
    assert "no strength ladder (`rainjax.evaluation.ladders`) was climbed" in notes
    # One that is not above claims nothing.
    bare = make_record("undefended", "eot", [5] * 6 + [0] * 4)
    low = results_of(
        [bare, told(make_record("rain_finetuned", "white_box", [5] * 5 + [0] * 5), "itself")]
    )
    shown, notes = last_cells(low)
    assert shown[RAIN].startswith("50.0 %")
    assert "≤" not in notes


def test_without_an_attack_on_the_undefended_classifier_a_number_is_a_bound_unless_it_is_nothing():
    for right, begins in (([5] * 5 + [0] * 5, "≤ 50.0 %"), ([0] * 10, "0.0 %")):
        alone = results_of([told(make_record("rain_finetuned", "white_box", right), "itself")])
        shown, notes = last_cells(alone)
        assert shown[RAIN].startswith(begins)
        assert ("which nobody attacked" in notes) == begins.startswith("≤")


def test_flat_ladders_under_every_surrogate_that_was_tried_lift_the_bound():
    own = ladder("rain_finetuned", "white_box", [5] * 5 + [0] * 5, flat=True, surrogate="itself")
    transfer = ladder(
        "rain_finetuned", "eot", [5] * 6 + [0] * 4, flat=True, surrogate="classifier"
    )
    asked = lambda *more: wanting(
        study(*more), strongest(study(*more).scored(None), RAIN, BALL), BALL
    )
    # By what is differentiated, and not by what it is called.
    assert asked() == ["white-box PGD", "purifier-blind PGD"]
    assert asked(own) == ["purifier-blind PGD"]
    assert asked(transfer) == ["white-box PGD"]
    assert asked(own, transfer) == []
    shown, notes = last_cells(study(own))
    assert shown[RAIN].startswith("≤ 50.0 %")
    assert f"climbed for {RAIN} under purifier-blind PGD" in notes
    shown, notes = last_cells(study(own, transfer))
    assert shown[RAIN].startswith("50.0 %")
    assert "≤" not in notes
    # A search that takes no gradient of the same pipeline is another attacker.
    search = told(make_record("rain_finetuned", "black_box", [5] * 9 + [0]), "itself")
    assert asked(own, transfer, search) == ["Square"]
    # The known key is a diagnosis, and its own ladder would prove nothing.
    key = told(make_record("rain_finetuned", "known_key", [5] * 4 + [0] * 6), "keys")
    assert asked(own, transfer, key) == []


def test_a_surrogate_that_applies_and_that_nobody_tried_leaves_the_bound():
    own = ladder("rain_finetuned", "white_box", [5] * 5 + [0] * 5, flat=True, surrogate="itself")
    applies = {
        "own gradient": ["gradient", digest("itself")], "mean field": ["gradient", digest("mean")]
    }  # fmt: skip
    own["subject"]["surrogates"] = applies
    bare = make_record("undefended", "white_box", [5] + [0] * 9)
    shown, notes = last_cells(results_of([bare, own]))
    assert shown[RAIN].startswith("≤ 50.0 %")
    assert f"climbed for {RAIN} under mean field." in notes
    mean = ladder("rain_finetuned", "eot", [5] * 6 + [0] * 4, flat=True, surrogate="mean")
    shown, notes = last_cells(results_of([bare, own, mean]))
    assert shown[RAIN].startswith("50.0 %")
    assert "≤" not in notes


def test_plain_bpda_does_not_stand_for_a_choice_among_outputs():
    """Both differentiate one pipeline, and what the second finds is what the first misses."""
    flat = ladder("rain_finetuned", "white_box", [5] * 5 + [0] * 5, flat=True, surrogate="bpda")
    flat["subject"]["surrogates"] = {
        "BPDA, identity": ["gradient", digest("bpda")],
        "reachable outputs": ["outputs", digest("bpda")],
    }
    bare = make_record("undefended", "white_box", [5] + [0] * 9)
    shown, notes = last_cells(results_of([bare, flat]))
    assert shown[RAIN].startswith("≤ 50.0 %")
    assert f"climbed for {RAIN} under reachable outputs." in notes
    chosen = ladder("rain_finetuned", "eot", [5] * 6 + [0] * 4, flat=True, surrogate="bpda")
    chosen["threat"]["attack"]["attack"]["class"] = "ReachableOutputs"
    assert last_cells(results_of([bare, flat, chosen]))[0][RAIN].startswith("50.0 %")
    # Nor does a search, whatever its attacker is said to know.
    chosen["threat"]["attack"]["attack"] = {"class": "Square", "num_queries": 500}
    assert last_cells(results_of([bare, flat, chosen]))[0][RAIN].startswith("≤ 50.0 %")


@pytest.mark.parametrize("left", ["nothing", "less"])
def test_no_ladder_is_told_of_where_a_number_needs_none(left):
    right = [0] * 10 if left == "nothing" else [5] + [0] * 9
    own = told(make_record("rain_finetuned", "white_box", right), "itself")
    few = ladder("rain_finetuned", "eot", [5] * 10, flat=True, surrogate="itself")
    few["data"]["indices"] = "0-4"
    few["result"] |= {"num_examples": 5, "correct_draws": pack_counts([5] * 5)}
    bare = ladder("undefended", "white_box", [5] * 5 + [0] * 5, flat=True)
    assert "were climbed for" not in last_cells(results_of([bare, own, few]))[1]


def test_a_table_says_on_how_many_images_ladders_were_climbed():
    own = told(make_record("rain_finetuned", "white_box", [5] * 5 + [0] * 5), "itself")
    bare = make_record("undefended", "white_box", [5] + [0] * 9)
    few = ladder("rain_finetuned", "eot", [5] * 10, flat=True, surrogate="itself")
    few["data"]["indices"] = "0-4"
    few["result"] |= {"num_examples": 5, "correct_draws": pack_counts([5] * 5)}
    shown, notes = last_cells(results_of([bare, own, few]))
    assert shown[RAIN].startswith("50.0 %")
    assert f"climbed for {RAIN} on 5 of 10 images" in notes
    whole = ladder("rain_finetuned", "eot", [5] * 5 + [0] * 5, flat=True, surrogate="itself")
    assert "were climbed for" not in last_cells(results_of([bare, own, whole]))[1]


@pytest.mark.parametrize("flaw", ["no gradient", "steps left out"])
def test_a_ladder_that_is_flat_for_another_reason_lifts_no_bound(flaw):
    own = ladder("rain_finetuned", "white_box", [5] * 5 + [0] * 5, flat=True, surrogate="itself")
    transfer = ladder(
        "rain_finetuned", "eot", [5] * 6 + [0] * 4, flat=True, surrogate="classifier"
    )
    if flaw == "no gradient":
        own["num_zero_gradient"] = 1
    else:
        own["threat"]["left_out"] = ["steps"]
    shown, notes = last_cells(study(own, transfer))
    assert shown[RAIN].startswith("≤ 50.0 %")
    assert f"gradient for every image, was climbed for {RAIN} under white-box PGD" in notes


def test_a_ladder_that_was_still_falling_says_so():
    own = ladder("rain_finetuned", "white_box", [5] * 4 + [0] * 6, flat=False, surrogate="itself")
    results = study(own)
    (table,) = ResultsTable().tables(results)
    (row,) = (row for row in cells(as_markdown(table)) if row[0] == RAIN)
    assert [cell for cell in row if cell.startswith("≤ 40.0 %, still falling")] == row[-2:]
    assert any(note.startswith("**still falling**") for note in table.notes)
    (ranking,) = Leaderboard().tables(results)
    assert "≤ 40.0 %, still falling" in as_markdown(ranking)
    assert any("was still falling when its budget was spent" in flag for flag in flags_of(results))
    # Also where the number is below the undefended classifier's, and where another is stronger.
    weak = ladder("undefended", "eot", [5] * 3 + [0] * 7, flat=False, surrogate="itself")
    (table,) = ResultsTable().tables(study(weak))
    assert "≤ 30.0 %, still falling" in as_markdown(table)
    assert any(note.startswith("**still falling**") for note in table.notes)


def flags_of(results):
    return flags([record.content for record in results.records])


def test_the_comparison_of_blind_and_adaptive_marks_bounds_as_well():
    (table,) = BlindAgainstAdaptive(tag="table").tables(study())
    (row,) = (row for row in cells(as_markdown(table)) if row[0] == RAIN)
    assert row[-1].startswith("≤ 50.0 %")
    assert not row[-2].startswith("≤")  # what the blind attack leaves is no claim


def test_the_undefended_classifier_is_the_one_with_the_same_parameters():
    other = make_record("undefended", "white_box", [5] * 9 + [0])
    other["subject"] = copy.deepcopy(other["subject"]) | {"name": "another network"}
    other["subject"]["params"]["classifier"]["sha256"] = "cd"
    assert last_cells(study(other))[0][RAIN].startswith("≤ 50.0 %")


def test_the_curve_tells_every_rung_and_what_it_cost():
    own = ladder("rain_finetuned", "white_box", [5] * 5 + [0] * 5, flat=True, surrogate="itself")
    results = study(own)
    (record,) = LadderCurve().ladders(results)
    # 10 images took 10 steps, 7 took 20 more, and 5 another 40.
    assert [spent for spent, _ in climbed(record)] == [10, 24, 44]
    assert [score.accuracy for _, score in climbed(record)] == [0.7, 0.5, 0.5]
    (table,) = LadderCurve().tables(results)
    text = as_markdown(table)
    assert "-10.0 ± 5.0, -10.0 ± 5.0" in text
    assert "0.92 at K = 8" in text
    assert "12.5 %" in text
    (drawing,) = LadderCurve().drawings(results)
    assert drawing.png[:4] == b"\x89PNG"
    assert "70.0 % after 10 gradients, 50.0 % after 44, flat" in drawing.alt
    assert attack_text(record).endswith("a ladder of 3 rungs, 10-40 steps of PGD")
    # It is no point of the curves over steps or draws.
    assert record not in [r for run in Curve("num_steps", None).runs(results) for r in run]
    assert record in [r for run in Curve("radius", None).runs(results) for r in run]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("flat",), 1, "ladder.flat is 1, which is no truth value"),
        (("rungs",), [], "its ladder has 0 rungs"),
        (("num_draws",), 0, "compared on 0 draws"),
        (("rungs", 1, "steps"), None, "ladder.rungs[1] lacks 'steps'"),
        (("rungs", 1, "correct_draws"), "11", "a number from 0 to 1 for 10 images"),
        (("rungs", 1, "correct_draws"), "!", "holds no counts"),
        (("rungs", 2, "accuracy"), 0.9, "ladder.rungs[2].accuracy is 0.9"),
    ],
)
def test_damaged_ladders_are_no_records(path, value, said):
    record = ladder("rain_finetuned", "white_box", [5] * 10, flat=True)
    place = record["ladder"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert said in find_problem(record)
    plain = make_record("rain_finetuned", "white_box", [5] * 10) | {"ladder": {}}
    assert "it has a ladder" in find_problem(plain)
