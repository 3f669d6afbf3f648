"""The README's table: each row is what the study's own tables say."""

import pathlib
import re

import pytest

from eval.headline import ROWS, Row, headline
from eval.report import holds_studies
from rainjax.report import Results, ResultsTable

RECORDS = pathlib.Path(__file__).parents[2] / "eval" / "records"


@pytest.fixture(scope="module")
def table():
    return headline(RECORDS)


def test_there_are_six_rows_and_the_strongest_attack_is_last(table):
    assert len(table.rows) == len(ROWS) == 6
    assert str(table.header[-1]) == "strongest attack"
    for row in table.rows:
        shares = [float(re.search(r"([\d.]+) %", str(c))[1]) for c in row[2:] if str(c) != "—"]
        assert shares[-1] == min(shares)
        assert all(re.search(r"\[[\d., ]+\].* n = \d+$", str(c)) for c in row[2:] if str(c) != "—")


def test_the_strongest_attack_is_the_one_of_the_study(table):
    results = Results.read(RECORDS / "cifar10")
    (own,) = ResultsTable().tables(results)
    (theirs,) = (row[-1] for row in own.rows if str(row[0]) == "RAIN, fine-tuned")
    (ours,) = (row[-1] for row in table.rows if str(row[0]) == "RAIN, CIFAR-10")
    assert theirs.value == ours.value
    assert theirs.detail.split(" EOT")[0] in ours.detail


def test_a_row_that_nobody_measured_is_told():
    with pytest.raises(ValueError, match="no defence"):
        headline(RECORDS, (Row("", "cifar10", "no defence", 8 / 255),))


def test_a_folder_of_studies_is_told_from_a_study(tmp_path):
    assert holds_studies(RECORDS)
    assert not holds_studies(RECORDS / "cifar10")
    assert not holds_studies(tmp_path)
