"""Sanity checks stand beside the accuracies that they put in doubt."""

import json

import pytest

from rainjax import report
from rainjax.evaluation import Record
from rainjax.report import sanity
from tests.report.made_records import TITLES, full_study, write_study


def made_record(passed, key="rain_finetuned"):
    check = {
        "name": "more steps never helps the defense", "expected": "it does not rise",
        "found": "10.0% -> 30.0% at steps 10, 40.", "passed": passed, "doubts": ["EOT-PGD"],
        "numbers": {"levels": ["1", "2"]},
    }  # fmt: skip
    reach = [-8.0, 0.0, 8.0]
    surface = {"image": 0, "reach": reach, "loss": [[0, 1, 2], [1, 2, 3], [2, 3, 5.0]]}
    study = next(r for r in full_study() if r["subject"]["name"] == TITLES[key])
    row = {
        "subject": TITLES[key], "checks": [check], "surfaces": [surface],
        "target": study["subject"]["target"], "params": study["subject"]["params"],
    }  # fmt: skip
    return {
        "schema": 2, "kind": "sanity", "study": "quick", "rows": [row],
        "options": {"radius": 8 / 255}, "data": study["data"] | {"num_examples": 16},
    }  # fmt: skip


def test_a_failed_check_stands_beside_the_accuracy_it_doubts(tmp_path):
    write_study(tmp_path, full_study())
    assert "†" not in report.summary(tmp_path)
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(False)))
    assert sanity.doubts(sanity.load(tmp_path)) == {
        ("RAIN, fine-tuned", "EOT-PGD"): ["more steps never helps the defense"],
    }
    paths = report.write_report(tmp_path)
    assert (tmp_path / "figures" / "surface-rain-fine-tuned.png").is_file()
    for path in paths[:2]:
        text = path.read_text()
        assert "FAILED" in text
        assert "10.0% -> 30.0% at steps 10, 40." in text.replace("&gt;", ">")
        assert "put in doubt by a sanity check" in text
    page = paths[0].read_text()
    told = '<small class="doubt">† failed: more steps never helps the defense</small>'
    assert page.count(told) == 2  # beside each number that is in doubt
    markdown = (tmp_path / "report.md").read_text()
    rows = [line for line in markdown.splitlines() if "†" in line and line.startswith("|")]
    assert len(rows) == 1
    assert rows[0].startswith("| RAIN, fine-tuned")
    assert rows[0].count("†") == 2  # the column it doubts, and the strongest attack
    assert 'the sanity check "more steps' in report.summary(tmp_path)


def test_checks_that_pass_are_told(tmp_path):
    write_study(tmp_path, full_study())
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(True)))
    report.write_report(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "All 1 sanity checks of the attacks passed (RAIN, fine-tuned)." in markdown
    assert "†" not in markdown
    block = report.readme_block(
        tmp_path, extra_tables=[report.Table("More", (report.Cell("a"),), ())]
    )
    told = block.index("- All 1 sanity checks of the attacks passed (RAIN, fine-tuned).")
    assert block.index("**Attacks within") < told < block.index("**More**")


def test_a_table_of_blind_and_adaptive_attacks_bears_daggers_too():
    contents = [r for r in full_study() if "table" in r["threat"]["tags"]]
    records = [Record(content) for content in contents]
    results = report.Results(
        records,
        list(TITLES.values()),
        list(dict.fromkeys(record.threat for record in records)),
        checked=made_record(False),
    )
    (table,) = report.BlindAgainstAdaptive(tag="table").tables(results)
    marked = [str(row[0]) for row in table.rows for cell in row if "†" in cell.value]
    assert marked == ["RAIN, fine-tuned"]  # its best adaptive attack, and not its blind one
    assert table.notes[-1].startswith("**†**: put in doubt by a sanity check that failed (more")


def test_unusable_sanity_records_are_refused(tmp_path):
    write_study(tmp_path, full_study())
    assert sanity.load(tmp_path) is None
    for text, sentence in (
        ("{", "is damaged"),
        ('{"kind": "sanity", "schema": 2}', "is no usable record of sanity checks"),
        (json.dumps(made_record(True) | {"schema": 1}), "is no usable record of sanity checks"),
        (json.dumps(made_record(True) | {"rows": [{}]}), "is no usable record of sanity checks"),
        (json.dumps(made_record(True) | {"study": "other"}), "is of the study 'other'"),
    ):
        (tmp_path / "sanity.json").write_text(text)
        with pytest.raises(ValueError, match=sentence):
            report.write_report(tmp_path)


def test_parameters_are_known_by_their_content_not_by_their_files_name():
    record, records = made_record(True), [Record(content) for content in full_study()]
    renamed = {"name": "of_another_name", "sha256": "ab"}
    record["rows"][0]["params"] = record["rows"][0]["params"] | {"classifier": renamed}
    assert sanity.stale(record, records) == {}
    record["rows"][0]["params"]["classifier"] = {**renamed, "sha256": "cd"}
    assert sanity.stale(record, records) == {"RAIN, fine-tuned": "other parameters"}


def _row(**changes):
    return {"rows": [made_record(True)["rows"][0] | changes]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_row(target={"class": "Defended", "defense": {"class": "Other"}}), "another pipeline"),
        ({"options": {"radius": 0.5}}, "radius 0.5, which no attack of the study has"),
        ({"data": {"fingerprint": "x", "num_examples": 2}}, "other images"),
        ({"code": "another"}, "other code of the library"),
        (
            _row(threat="EOT-PGD", measured={"class": "PGD", "num_steps": 99}),
            "other settings of EOT-PGD",
        ),
        (_row(threat="gone", measured={"class": "PGD"}), "other settings of gone"),
    ],
)
@pytest.mark.parametrize("passed", [True, False])
def test_checks_of_what_has_changed_say_nothing_of_it(tmp_path, change, why, passed):
    write_study(tmp_path, full_study())
    (tmp_path / "study.json").write_text(json.dumps({"code": "this"}))
    content = made_record(True) | {"code": "this"} | change
    content["rows"][0]["checks"][0]["passed"] = passed
    (tmp_path / "sanity.json").write_text(json.dumps(content))
    text = report.summary(tmp_path)
    assert "sanity checks of the attacks passed" not in text
    assert "failed" not in text
    assert "†" not in text
    assert f"RAIN, fine-tuned: the sanity checks were made of {why}" in " ".join(text.split())
    assert "FAILED" not in report.report(tmp_path, [report.ResultsTable()]).markdown()


def test_checks_of_the_attack_as_it_was_measured_are_current():
    records = [Record(content) for content in full_study()]
    attack = next(r.attack for r in records if r.threat == "EOT-PGD")
    checked = made_record(True) | _row(threat="EOT-PGD", measured=attack)
    assert sanity.stale(checked, records) == {}


def test_no_flag_is_not_said_above_a_check_that_failed(tmp_path):
    write_study(tmp_path, full_study())
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(True)))
    assert "No flag was raised" in report.summary(tmp_path)
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(False)))
    assert "No flag was raised" not in report.summary(tmp_path)


@pytest.mark.parametrize(
    ("passed", "word"), [(True, "passed"), (False, "FAILED"), (None, "informational")]
)
def test_a_check_is_told_in_a_word(passed, word):
    check = made_record(passed)["rows"][0]["checks"][0]
    assert sanity.verdict_text(check) == word


def test_checks_without_an_attack_are_of_no_radius():
    record, records = made_record(True), [Record(content) for content in full_study()]
    for options in ({}, {"radius": None}):
        assert sanity.stale(record | {"options": options}, records) == {}
