"""Tables of detectors say the records' numbers, and of whom they are."""

import numpy as np
import pytest
import scipy.stats

from rainjax.evaluation.packing import unpack_counts
from rainjax.report import (
    CleanTable,
    DetectionSummary,
    DetectionTable,
    DistortionTable,
    ResultsTable,
)
from rainjax.report.table_notes import rejection_notes
from tests.report.made_detections import detection_study, make_detection
from tests.report.made_records import make_record, results_of
from tests.tiny import unchecked


@pytest.fixture(scope="module")
def contents():
    return detection_study()


@pytest.fixture(scope="module")
def results(contents):
    return results_of(contents)


def only(display, results):
    (table,) = display.tables(results)
    header = [str(cell) for cell in table.header]
    return table, {str(row[0]): dict(zip(header, row, strict=True)) for row in table.rows}


def result_of(contents, subject, threat, radius=8 / 255):
    (found,) = [
        c["result"]
        for c in contents
        if c["subject"]["name"] == subject
        and c["threat"]["name"] == threat
        and (radius is None or c["axes"]["radius"] == pytest.approx(radius))
        and "table" in c["threat"]["tags"]
    ]
    return found


def test_a_ranking_is_the_records(contents, results):
    table, rows = only(DetectionTable("auroc"), results)
    assert set(rows) == {"quality", "student"}
    for subject, row in rows.items():
        found = result_of(contents, subject, "Square")["all_attacked"]["auroc"]
        cell = row["Square, 8/255"]
        assert cell.value == f"{found['value']:.3f}"
        assert cell.detail == f"[{found['low']:.3f}, {found['high']:.3f}]"
    assert "clean" not in next(iter(rows.values()))
    assert "first 120" in table.notes[0]


def test_successful_attacks_name_their_number(contents, results):
    _, rows = only(DetectionTable("detected", of="successful", false_positive_rate=0.01), results)
    found = result_of(contents, "quality", "Square")["successful"]
    share = found["detection_rates"]["0.01"]["value"]
    cell = rows["quality"]["Square, 8/255"]
    assert cell.value == f"{100 * share:.1f} %"
    assert cell.detail.endswith(f"n={found['num_examples']}")


def test_the_last_column_is_the_most_that_gets_past(contents, results):
    table, rows = only(DetectionTable("answered_wrong"), results)
    assert table.judged_by_last
    for subject, row in rows.items():
        shares = {
            threat: result_of(contents, subject, threat)["slips_through"]["value"]
            for threat in ("blind PGD", "adaptive PGD", "Square")
        }
        worst = max(shares, key=shares.get)
        assert row["the most"].value == f"{100 * shares[worst]:.1f} %"
        assert row["the most"].detail.endswith(f"{worst}, 8/255")


def test_rejected_and_answered_add_up(contents, results):
    _, rows = only(DetectionTable("rejected", attacker="nobody"), results)
    answered = next(c for c in contents if c["threat"]["name"] == "clean")["result"]["coverage"]
    assert list(rows["quality"]) == ["", "clean"]
    assert rows["quality"]["clean"].value == f"{100 * (1 - answered['value']):.1f} %"


def test_attackers_are_told_apart():
    blind = make_detection("one", "blind", knowledge="classifier")
    adaptive = make_detection("one", "joint", knowledge="defense")
    scores = make_detection("one", "Square", knowledge="scores")
    for made, name in ((blind, "classifier"), (adaptive, "defense"), (scores, "scores")):
        made["threat"]["knowledge"] = name
    results = results_of([blind, adaptive, scores])
    shown = lambda attacker: set(
        only(DetectionTable("auroc", attacker=attacker), results)[1]["one"]
    )
    assert shown("blind") == {"", "blind, 8/255"}
    assert shown("adaptive") == {"", "joint, 8/255", "Square, 8/255"}
    assert DetectionTable("auroc", attacker="nobody").tables(results) == []


def test_errors_on_distorted_images_are_told_as_a_rank_test_says(contents, results):
    table, rows = only(DistortionTable(), results)
    for subject in ("quality", "student"):
        chosen = [
            c["result"]
            for c in contents
            if c["subject"]["name"] == subject and c["threat"]["name"].startswith("gaussian noise")
        ]
        scores = np.concatenate([r["scores"]["attacked"] for r in chosen])
        wrong = np.concatenate([unpack_counts(r["wrong_draws"]["attacked"]) for r in chosen]) > 0
        statistic = scipy.stats.mannwhitneyu(scores[wrong], scores[~wrong]).statistic
        expected = statistic / wrong.sum() / (~wrong).sum()
        assert rows["gaussian noise"][subject].value == f"{expected:.3f}"
    assert rows["gaussian noise"]["the classifier is wrong"].value == f"{100 * wrong.mean():.1f} %"
    assert list(rows) == ["gaussian noise", "motion blur", "contrast", "all"]
    assert "severities 1, 2, 3, 4, 5" in table.notes[0]


def test_too_few_errors_are_no_number():
    right = make_detection("one", "contrast 1", wrong=0.0, severity=1, tags=["distortions"])
    _, rows = only(DistortionTable(), results_of([right]))
    assert rows["contrast"]["one"].value == "—"


def test_the_summary_asks_first_what_gets_past(results):
    titles = [table.title for table in DetectionSummary().tables(results)]
    assert titles == [
        "Answered wrong, attackers who know the detector",
        "Answered egregiously wrong",
        "Images as they are",
        "Telling errors on distorted images: AUROC",
    ]  # nobody is blind here


def test_images_as_they_are_are_counted_both_ways(results):
    table, rows = only(CleanTable(), results)
    shown = [record for record in results.records if record.attack is None]
    assert {record.subject for record in shown} == rows.keys()
    for record in shown:
        if "table" in record.tags:
            result, row = record.result, rows[record.subject]
            share = result["accuracy_of_answered"]["value"]
            assert row["right among answered"].value == f"{100 * share:.1f} %"
            alone = result["egregious_without_detector"]["value"]
            assert row["without the detector"].value == f"{100 * alone:.1f} %"
    assert "at least 90.0 %" in table.notes[0]


def test_a_title_says_what_it_is_about(results):
    (table,) = DetectionTable("rejected", about="of fine images").tables(results)
    assert table.title == "Rejected, of fine images"


def test_what_is_not_there_is_no_table(results):
    assert DistortionTable("nothing").tables(results) == []
    assert DetectionTable("auroc", "nothing").tables(results) == []
    assert DetectionTable("detected", false_positive_rate=0.2).tables(results) == []
    with pytest.raises(ValueError, match="false_positive_rate=5"):
        DetectionTable("detected", false_positive_rate=5.0)
    with unchecked(), pytest.raises(ValueError, match="number"):
        DetectionTable("accuracy")


def test_accuracies_behind_a_detector_say_what_a_rejection_counts_for():
    """One of each convention, and one without a detector of which nothing is said."""
    contents = [make_record(name, "white_box", [5] * 20) for name in ("safe", "error", "bare")]
    for made in contents[:2]:
        made["subject"]["target"] = {"class": "Guarded", "rejected": made["subject"]["name"]}
    notes = rejection_notes(results_of(contents).records)
    assert len(notes) == 2
    assert notes[0].startswith("A rejected image counts for safe as right if somebody moved it")
    assert notes[1].startswith("A rejected image counts for error as an error")
    (table,) = ResultsTable().tables(results_of(contents))
    assert set(notes) <= set(table.notes)
