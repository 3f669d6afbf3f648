"""Tables and verdicts against records whose every number is known."""

import re

import pytest

from rainjax import report
from rainjax.evaluation import Record
from rainjax.report import (
    BlindAgainstAdaptive,
    Cell,
    DrawsTable,
    Leaderboard,
    ResultsTable,
    Table,
    as_markdown,
    as_plain,
)
from tests.report.made_records import (
    cells,
    expected_cell,
    findings,
    full_study,
    make_record,
    results_of,
    small_study,
)


def results_table(contents, style="plain"):
    made = report.report([Record(content) for content in contents], [ResultsTable()])
    return made.text(style)


def test_table_shows_what_the_records_say():
    header, _, undefended, rain = cells(results_table(small_study(), style="markdown"))
    titles = ["", "clean", "purifier-blind PGD", "white-box PGD", "EOT-PGD", "known key"]
    assert [cell.split(" (n = ")[0] for cell in header] == [*titles, "strongest attack"]
    assert header[4].endswith(" (n = 10)")
    assert header[5].endswith(" (n = 8)")
    assert undefended[:4] == [
        "Undefended", expected_cell(10, 10), "= white box", expected_cell(0, 10)
    ]  # fmt: skip
    assert undefended[4:6] == ["—", "—"]
    # 15 of 50 draws are right: the mean is 3 of 10 images.
    assert rain[1:3] == [expected_cell(9, 10), expected_cell(6, 10)]
    assert rain[4:6] == [expected_cell(3, 10), expected_cell(2, 8)]
    # The known key left 25 %, less than EOT's 30 %, and does not compete.
    assert rain[-1] == f"≤ {expected_cell(3, 10)} EOT-PGD"
    assert undefended[-1] == f"{expected_cell(0, 10)} white-box PGD"


def test_table_always_names_threat_model_radius_steps_samples_and_images():
    for style in ("plain", "markdown"):
        table = results_table(small_study(), style=style).replace("**", "")
        table = " ".join(table.split())  # a terminal folds notes
        assert (
            "EOT-PGD: white box, gradients averaged over 16 draws; "
            "L∞ radius 8/255, 40 steps of 2/255, K = 16; n = 10."
        ) in table
        assert "known key: white box that holds the scoring draws; L∞ radius 8/255" in table
        assert "mean over 5 random draws" in table


def test_plain_table_is_aligned_and_narrow_enough():
    lines = results_table(full_study()).splitlines()
    rule = next(line for line in lines if line.startswith("---"))
    ends = [match.end() for match in re.finditer("-+", rule)]
    for line in lines[: lines.index(rule) + 7]:
        for end in ends[:-1]:
            assert line[end : end + 2].strip() == "" or lines.index(line) == 0
    assert len(rule) <= 160


def test_strongest_attack_is_chosen_on_the_images_that_all_of_them_attacked():
    few = make_record("rain_finetuned", "eot", [5, 0, 0, 0, 0])
    many = make_record("rain_finetuned", "white_box", [5, 5] + [0] * 18)
    header, _, row = cells(results_table([few, many], style="markdown"))
    assert header[-1] == "strongest attack"
    assert (
        row[-1] == f"≤ {expected_cell(1, 5)} EOT-PGD"
    )  # white box: 10 % of 20, but 40 % of these 5
    notes = " ".join(results_table([few, many]).split())
    assert "columns; those with another n are compared on the images they share." in notes
    assert "they share" not in results_table([few])


def test_one_attack_on_few_images_does_not_decide_between_those_on_many():
    few = make_record("rain_finetuned", "eot", [5] * 10)
    blind = make_record("rain_finetuned", "blind", [0] * 10 + [1] * 90)
    white = make_record("rain_finetuned", "white_box", [0] * 9 + [1] * 91)
    (_, _, row) = cells(results_table([few, blind, white], style="markdown"))
    assert row[-1] == f"≤ {expected_cell(18, 100)} purifier-blind PGD"
    (text,) = findings([few, blind, white])
    assert "points below" not in text


def test_of_level_attacks_the_one_who_knows_more_is_named():
    zero = [make_record("rain_finetuned", key, [0] * 4) for key in ("blind", "white_box", "eot")]
    (_, _, row) = cells(results_table(zero, style="markdown"))
    assert row[-1].endswith("EOT-PGD")
    text = findings(zero)[0]
    assert "No adaptive attack did better" not in text


def test_two_radii_make_two_tables():
    records = [*small_study(), make_record("rain_finetuned", "eot", [0] * 10, radius=16 / 255)]
    table = results_table(records, style="markdown")
    assert "**Attacks within L∞ radius 8/255, one-shot**" in table
    assert "**Attacks within L∞ radius 16/255, one-shot**" in table
    assert cells(table)[3][-1] == f"≤ {expected_cell(3, 10)} EOT-PGD"


def test_radii_that_read_alike_are_told_apart():
    near = [make_record("mine", "eot", [5], radius=radius) for radius in (8 / 255, 0.0314)]
    results = results_of([*near, make_record("mine", "eot", [5], radius=2 / 255)])
    for display in (ResultsTable(), DrawsTable(), Leaderboard()):
        titles = [table.title for table in display.tables(results)]
        assert len(set(titles)) == 3
        radii = [title.partition("radius ")[2].removesuffix(", one-shot") for title in titles]
        assert sorted(radii) == [
            "2/255", "8/255 (0.03137)", "8/255 (0.0314)",
        ]  # fmt: skip
    (table,) = BlindAgainstAdaptive(tag=None, radii=(8 / 255,)).tables(results)
    assert len({str(cell) for cell in table.header}) == len(table.header)


def test_one_threat_model_on_two_numbers_of_images_is_two_columns():
    records = [
        make_record("rain_finetuned", key, [5] * num) | {"id": f"{key}{num}"}
        for key in ("clean", "eot")
        for num in (4, 8)
    ]
    header, _, row = cells(results_table(records, style="markdown"))
    assert header[1:-1] == [
        "clean, n = 8", "clean, n = 4", "EOT-PGD, n = 8", "EOT-PGD, n = 4",
    ]  # fmt: skip
    assert row[1:3] == [expected_cell(8, 8), expected_cell(4, 4)]


def test_rounded_radius_and_other_norms_are_printed_as_papers_do():
    record = make_record("rain_finetuned", "eot", [5], radius=0.0313)
    assert "L∞ radius 8/255" in results_table([record])
    record = make_record("rain_finetuned", "eot", [5], radius=0.5, norm="l2")
    assert "L2 radius 0.5," in results_table([record])


def test_two_records_for_one_cell_are_refused():
    twin = make_record("rain_finetuned", "eot", [5] * 10) | {"id": "twin"}
    with pytest.raises(ValueError, match=r"r8--k16' and 'twin' claim the same table cell"):
        results_table([*small_study(), twin])
    with pytest.raises(
        ValueError, match="style='latex' is unknown; choose one of plain, markdown"
    ):
        results_table(small_study(), style="latex")


def test_a_threat_model_is_one_column_whatever_rule_fits_a_row():
    records = [
        make_record("rain_finetuned", "eot", [5, 0], options={"class": "NoisyAPGD"}),
        make_record("rain_pretrained", "eot", [5, 5], options={"class": "APGD"}),
    ]
    table = results_table(records, style="markdown")
    header, _, *rows = cells(table)
    assert header == ["", "EOT-PGD", "strongest attack"]
    assert [row[1] for row in rows] == [expected_cell(1, 2), expected_cell(2, 2)]
    assert "16 draws; APGD or NoisyAPGD; L∞ radius 8/255, 40 steps of 2/255, K = 16;" in table


def test_columns_of_one_threat_model_say_what_sets_them_apart():
    records = [
        make_record("rain_finetuned", "eot", [5, 0], num_eot=k, num_steps=steps)
        for k, steps in ((4, 40), (16, 40), (16, 80))
    ]
    records.append(make_record("rain_finetuned", "eot", [0, 0], options={"class": "APGD"}))
    records[-1]["id"] = "apgd"
    header, *_ = cells(results_table(records, style="markdown"))
    assert header[1:-1] == [
        "EOT-PGD, PGD, 40 steps, K = 4",
        "EOT-PGD, PGD, 40 steps, K = 16",
        "EOT-PGD, APGD",
        "EOT-PGD, PGD, 80 steps, K = 16",
    ]


def test_a_ranking_is_by_the_strongest_attack():
    records = [
        make_record("weak", "clean", [5] * 10),
        make_record("weak", "eot", [5] + [0] * 9),
        make_record("strong", "clean", [5] * 8 + [0] * 2),
        make_record("strong", "blind", [5] * 7 + [0] * 3),
        make_record("strong", "eot", [5] * 4 + [0] * 6),
        make_record("strong", "known_key", [0] * 10),
        make_record("unattacked", "clean", [5] * 10),
    ]
    (table,) = Leaderboard().tables(results_of(records))
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["strong", expected_cell(8, 10), "EOT-PGD", "10", f"≤ {expected_cell(4, 10)}"],
        ["weak", expected_cell(10, 10), "EOT-PGD", "10", f"≤ {expected_cell(1, 10)}"],
    ]


def test_marks_of_markdown_stay_in_markdown():
    table = Table("**Bold**", (Cell("a"),), ((Cell("b"),),), ("**c** is `d`, 2 * 3 * 4.",))
    assert as_plain(table) == "Bold\n\na\n-\nb\n\n  c is d, 2 * 3 * 4."
    assert "- **c** is `d`" in as_markdown(table)
    with pytest.raises(ValueError, match=r"The row 'b' of the table 'T' has 2 cells, the header"):
        Table("T", (Cell("a"),), ((Cell("b"), Cell("c")),))
    with pytest.raises(ValueError, match="The table 'T' has no column"):
        Table("T", (), ())
