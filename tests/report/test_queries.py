"""Curves over queries are counts of outcomes, and a black box ahead of the white ones is told."""

import numpy as np
import pytest
import scipy.stats

from rainjax.evaluation.packing import pack_counts
from rainjax.report import QueryCurve, default_displays
from rainjax.report.masking import leaves_less
from rainjax.report.queries import standing
from tests.report.made_records import findings, flags, make_record, results_of

FIRST = np.array([1, 1, 7, 0, 120, 7, 0, 999, 30, 0])


def made(first=FIRST, budget=1000, column="black_box", row="undefended", **changes):
    record = make_record(row, column, np.where(first > 0, 0, 5), **changes)
    return record | {"queries": {"budget": budget, "to_success": pack_counts(first)}}


def test_a_curve_is_a_count_of_the_images_without_a_success_yet():
    path = standing(FIRST, 1000)
    assert [queries for queries, _ in path] == [1, 7, 30, 120, 999, 1000]
    for queries, score in path:
        count = sum(1 for first in FIRST if first == 0 or first > queries)
        assert score.accuracy == count / 10
        ends = scipy.stats.binomtest(count, 10).proportion_ci(method="wilson")
        assert (score.low, score.high) == pytest.approx((ends.low, ends.high), abs=1e-9)


@pytest.mark.parametrize("first", [[0, 0, 0], [1, 1, 1], [50, 50, 2]])
def test_a_curve_begins_at_one_query_and_ends_at_the_budget(first):
    path = standing(np.array(first), 50)
    assert path[0][0] == 1
    assert path[-1][0] == 50
    assert path[-1][1].accuracy == first.count(0) / 3


def test_the_table_has_the_median_of_the_successful_and_how_many_never():
    record = made()
    (table,) = QueryCurve().tables(results_of([make_record("undefended", "clean", [5]), record]))
    ((row, attack, median, never, budget, left, scored),) = table.rows
    assert (row.value, attack.value, budget.value) == ("Undefended", "Square", "1000")
    assert (median.value, median.detail) == ("7", "of 7 images")  # of 1 1 7 7 30 120 999
    assert (never.value, never.detail) == ("3", "of 10")
    assert left.value == scored.value == "30.0 %"
    assert "fresh draws" in " ".join(table.notes)


def test_without_a_success_there_is_no_median():
    (table,) = QueryCurve().tables(results_of([made(np.zeros(5, int))]))
    assert [cell.value for cell in table.rows[0][2:4]] == ["—", "5"]


def test_the_figure_tells_every_black_box_and_balls_have_figures_of_their_own():
    records = [
        made(name="Square"),
        made(name="NES", first=np.zeros(10, int)),
        made(row="rain_finetuned", name="Square", radius=4 / 255),
    ]
    for number, record in enumerate(records):
        record["id"] = f"r{number}"
    one, other = QueryCurve().drawings(results_of(records))
    assert {one.name, other.name} == {"queries-linf-0.01569", "queries-linf-0.03137"}
    texts = one.alt + other.alt
    assert "Undefended, NES: 100.0 % after 1 query, 100.0 % after 1000" in texts
    assert "Undefended, Square: 80.0 % after 1 query, 30.0 % after 1000, median 7 queries" in texts
    assert one.png.startswith(b"\x89PNG")
    (alone,) = QueryCurve().drawings(results_of(records[:2]))
    assert alone.name == "queries"


def test_it_is_among_the_displays_where_records_have_queries():
    plain = make_record("undefended", "black_box", [5] * 10)
    assert QueryCurve() not in default_displays(results_of([plain]))
    assert QueryCurve() in default_displays(results_of([made()]))
    tagged = made(tags=["table", "queries"])
    assert QueryCurve("queries") in default_displays(results_of([tagged]))
    assert QueryCurve().drawings(results_of([plain])) == []
    assert QueryCurve().tables(results_of([plain])) == []


def masked(records):
    return [flag for flag in flags(records) if "white box was masked" in flag]


def test_a_black_box_beyond_the_best_white_one_means_that_it_was_masked():
    white = make_record("rain_finetuned", "white_box", [5] * 30 + [0] * 10)
    better = make_record("rain_finetuned", "eot", [5] * 24 + [0] * 16)
    black = make_record("rain_finetuned", "black_box", [5] * 10 + [0] * 30)
    (flag,) = masked([white, better, black])
    assert "Square leaves 25.0 % against the 60.0 % of the strongest attack" in flag
    assert "EOT-PGD, a change of -35.0 ± 7.6 points on the same 40 images" in flag
    rise = np.array([0.0] * 26 + [-1.0] * 14)
    assert 100 * scipy.stats.sem(rise) == pytest.approx(7.64, abs=0.01)


@pytest.mark.parametrize("black", [[5] * 24 + [0] * 16, [5] * 21 + [0] * 19, [5] * 40])
def test_one_that_is_as_strong_or_luckier_by_chance_is_no_sign(black):
    white = make_record("rain_finetuned", "eot", [5] * 24 + [0] * 16)
    records = [white, make_record("rain_finetuned", "black_box", black)]
    assert masked(records) == []
    if len(black) == 40 and sum(black) == 200:
        assert "no black box was stronger than the best white box" in " ".join(findings(records))


def test_it_is_compared_on_the_images_that_both_were_run_on():
    white = make_record("rain_finetuned", "white_box", [0] * 20 + [5] * 100)
    black = make_record("rain_finetuned", "black_box", [0] * 20)
    assert masked([white, black]) == []


@pytest.mark.parametrize("num", [4, 5])
def test_too_few_images_to_tell_are_not_said_to_be_in_order(num):
    records = [
        make_record("rain_finetuned", "eot", [5] * num),
        make_record("rain_finetuned", "black_box", [5] * num),
    ]
    said = " ".join(findings(records))
    assert ("no black box was stronger than the best white box" in said) == (num == 5)


def test_who_is_blind_was_not_masked_but_without_a_defense_nobody_is():
    first, second = [5] * 40, [0] * 40
    blind = make_record("rain_finetuned", "blind", first)
    assert masked([blind, make_record("rain_finetuned", "black_box", second)]) == []
    blind = make_record("undefended", "blind", first)
    assert len(masked([blind, make_record("undefended", "black_box", second)])) == 1


def test_chance_is_judged_by_the_mean_and_by_signs():
    ones, zeros = np.ones(40), np.zeros(40)
    assert leaves_less(ones, zeros)
    assert not leaves_less(zeros, ones)
    assert not leaves_less(ones[:4], zeros[:4])  # 1 in 16: no error at all, and yet chance
    assert leaves_less(ones[:5], zeros[:5])  # 1 in 32
    for fell, rose in ((9, 2), (9, 3), (20, 10), (6, 1)):
        after = np.array([0.0] * fell + [1.0] * rose)
        found = leaves_less(1 - after, after)
        by_signs = scipy.stats.binomtest(fell, fell + rose, alternative="greater").pvalue <= 0.05
        rise = 2 * after - 1
        by_mean = rise.mean() < -2 * scipy.stats.sem(rise)
        assert found == (by_signs and by_mean)
