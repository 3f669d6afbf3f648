"""Displays are values that a study's folder can name, or that follow from its records."""

import dataclasses
import json
import subprocess
import sys

import pytest

from rainjax import report
from rainjax.evaluation import Record, load_records
from rainjax.evaluation.describe import describe
from rainjax.report import (
    BlindAgainstAdaptive,
    Cell,
    CleanTable,
    Curve,
    DetectionOverRadius,
    DetectionSummary,
    DetectionTable,
    Display,
    DistortionMap,
    DistortionTable,
    DrawsTable,
    FieldCurve,
    Gallery,
    Iterates,
    LadderCurve,
    Leaderboard,
    MostSuspicious,
    Panels,
    QueryCurve,
    ResultsTable,
    RiskCoverageCurves,
    RocCurves,
    ScoreHistograms,
    Spectrum,
    Surfaces,
    Table,
    TransferMatrix,
    default_displays,
)
from rainjax.report.displays import known_displays, load_displays
from tests.report.made_records import (
    expected_cell,
    full_study,
    make_record,
    results_of,
    small_study,
    write_extras,
    write_study,
)
from tests.report.test_sanity import made_record
from tests.tiny import unchecked

EVERY = [
    ResultsTable("a"), DrawsTable(None), Leaderboard(), BlindAgainstAdaptive((0.5,), "b", "l2"),
    Curve("num_steps", None), FieldCurve("sigma", "f", 0.5), LadderCurve("d"),
    Panels("c"), Gallery(), Iterates(), Spectrum(), Surfaces(),
    RocCurves(None, True, "successful"), ScoreHistograms("g", 10), RiskCoverageCurves("h"),
    DetectionOverRadius(None, 0.05, "successful"), DistortionMap("i"), MostSuspicious("j"),
    DetectionTable("rejected", None, "blind", "successful", 0.01), DistortionTable("k"),
    CleanTable("n"), DetectionSummary("l", "m", "o", "p"), TransferMatrix("q"), QueryCurve("r"),
]  # fmt: skip


def named(folder, displays):
    (folder / "study.json").write_text(json.dumps({"displays": displays}))
    return load_displays(folder)


def test_displays_come_back_from_a_study_as_they_were(tmp_path):
    assert {type(display).__name__ for display in EVERY} == set(known_displays())
    assert named(tmp_path, [describe(display) for display in EVERY]) == (EVERY, [])
    assert named(tmp_path, []) == ([], [])


@pytest.mark.parametrize(
    ("display", "sentence"),
    [
        ("ResultsTable", "the display 'ResultsTable' has no 'class'"),
        ({"class": 3}, "the display .* has no 'class'"),
        ({"class": "Curve", "y": 1}, "gives Curve the field 'y', which it does not have"),
        ({"class": "Curve", "x": "time", "tag": None}, "names no usable Curve: x='time' is none"),
        ({"class": "Curve", "x": "radius"}, "names no usable Curve: .*'tag'"),
    ],
)
def test_a_file_does_not_decide_what_code_runs(tmp_path, display, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        named(tmp_path, [display])
    (tmp_path / "study.json").write_text('{"displays": {}}')
    with pytest.raises(ValueError, match="'displays' must be a list"):
        load_displays(tmp_path)


def test_what_a_study_names_is_shown_and_nothing_else(tmp_path):
    write_study(tmp_path, full_study())
    named(tmp_path, [describe(Leaderboard())])
    made = report.report(tmp_path)
    (table,) = made.tables
    assert table.title == "By the strongest attack within L∞ radius 8/255, one-shot"
    assert [str(row[0]) for row in table.rows] == [
        "RAIN, fine-tuned", "RAIN, before fine-tuning", "Undefended",
    ]  # fmt: skip
    assert str(table.rows[0][2]) == "EOT-PGD"
    assert str(table.rows[0][-1]).startswith("≤ 19.7 % [")
    assert made.sections == []


def test_defaults_follow_from_what_was_recorded(tmp_path):
    def kinds(results):
        return [type(display) for display in default_displays(results)]

    assert kinds(results_of(small_study())) == [ResultsTable, DrawsTable]
    write_study(tmp_path, full_study())
    write_extras(tmp_path)
    assert default_displays(report.Results.read(tmp_path)) == [
        ResultsTable(), DrawsTable(), Curve("radius", "radius"), Curve("num_draws", "draws"),
        Panels(), Spectrum(),
    ]  # fmt: skip
    swept = [make_record("mine", "eot", [5], num_eot=num) for num in (2, 4)]
    assert Curve("num_draws", "table") in default_displays(results_of(swept))
    many = [make_record(f"row {number}", "eot", [5]) for number in range(6)]
    assert kinds(results_of(many)) == [ResultsTable, Leaderboard, DrawsTable]
    both = [make_record(f"row {n}", "eot", [5], tags=["comparison", "table"]) for n in range(6)]
    assert kinds(results_of(both)) == [BlindAgainstAdaptive, ResultsTable, DrawsTable]
    tags = {"clean": ["table"], "eot": ["mine"]}
    own = [make_record("mine", key, [5], tags=tag) for key, tag in tags.items()]
    assert default_displays(results_of(own))[0] == ResultsTable(None)
    untagged = [make_record("mine", "eot", [5], tags=[])]
    assert default_displays(results_of(untagged))[0] == ResultsTable(None)


@dataclasses.dataclass(frozen=True)
class Count(Display):
    """How many records there are."""

    def tables(self, results):
        return [Table("Records", (Cell("number"),), ((Cell(str(len(results.records))),),))]


def test_a_display_of_ones_own_is_a_value_too(tmp_path):
    records = [Record(content) for content in small_study()]
    made = report.report(records, [Count()])
    assert made.text() == "Records\n\nnumber\n------\n6"
    write_study(tmp_path, small_study())
    report.write_report(tmp_path, [Count()])
    assert "**Records**" in (tmp_path / "report.md").read_text()


def test_a_display_that_no_file_can_bring_along_is_named_and_left_out(tmp_path):
    write_study(tmp_path, small_study())
    own = {"class": "mine.MyTable", "source": "12"}
    for there in ([own], [own, describe(Leaderboard())], [{"class": "Display"}]):
        _, unknown = named(tmp_path, there)
        assert unknown == [there[0]["class"]]
        made = report.report(tmp_path)
        assert f"display '{unknown[0]}', which no file can bring along" in made.summary()
        kinds = [type(display) for display in made.displays]
        assert kinds == ([Leaderboard] if len(there) > 1 else [ResultsTable, DrawsTable])
    assert "no file" not in report.report(tmp_path, [Count()]).summary()


def test_records_of_a_folder_bring_its_order_its_checks_and_its_displays(tmp_path):
    write_study(tmp_path, full_study())
    order = {"subjects": ["RAIN, fine-tuned"], "threats": ["EOT-PGD"]}
    (tmp_path / "study.json").write_text(json.dumps({**order, "displays": [{"class": "x.Mine"}]}))
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(False)))
    for given, shown in (([Count()], [Count()]), ([], [ResultsTable(), DrawsTable()])):
        made = report.report(load_records(tmp_path, displays=given))
        assert made.displays[:2] == shown
        assert made.results.subjects[0] == "RAIN, fine-tuned"
        assert made.results.threats[0] == "EOT-PGD"
        assert made.notes == []
    assert "†" in made.text()
    some = [record for record in load_records(tmp_path) if record.subject != "Undefended"]
    assert "†" in report.report(some).text()
    assert str(tmp_path) not in repr(made) + repr(made.results)


def test_a_notebook_shows_tables_and_verdict():
    made = report.report([Record(content) for content in small_study()])
    for text in (made._repr_html_(), made._repr_markdown_()):
        assert "Attacks within L∞ radius 8/255" in text
        assert "majority vote" in text
        assert "No flag was raised" in text
    assert expected_cell(3, 10) in made._repr_markdown_()
    assert "**" not in made._repr_html_()


def test_tables_of_a_studys_own_follow_the_first(tmp_path):
    write_study(tmp_path, small_study())
    extra = Table("Claims", (Cell(""), Cell("claim")), ((Cell("it"), Cell("works")),))
    made = report.report(tmp_path, extra_tables=[extra])
    titles = [table.title for table in made.tables]
    assert titles[1] == "Claims"
    assert len(titles) == 3
    assert "Claims" in report.summary(tmp_path, extra_tables=[extra])
    assert report.readme_block(tmp_path, extra_tables=[extra]).count("**Claims**") == 1


def test_importing_needs_neither_matplotlib_nor_jinja2(tmp_path):
    write_study(tmp_path, small_study())
    program = f"""
import sys
sys.modules["matplotlib"] = sys.modules["jinja2"] = sys.modules["markupsafe"] = None
import rainjax
assert "rainjax.report" not in sys.modules
from rainjax import report
print(report.summary({str(tmp_path)!r}))
try:
    report.write_report({str(tmp_path)!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "EOT-PGD" in done.stdout
    assert 'jinja2 is not installed: pip install "rainjax[report]".' in done.stdout
