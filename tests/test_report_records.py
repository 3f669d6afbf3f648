"""Records that cannot be believed are refused, in a sentence that names the file."""

import json

import pytest

from eval import report
from tests.made_records import small_study, write_study


def _without(path):
    *parents, last = path.split(".")

    def change(record):
        for name in parents:
            record = record[name]
        del record[last]

    return change


def _with(path, value):
    *parents, last = path.split(".")

    def change(record):
        for name in parents:
            record = record[name]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with("schema", 2), "its schema is 2, and this program reads 1"),
        (_with("kind", "detection"), "its kind is 'detection'"),
        (_without("row.title"), "it lacks 'row.title'"),
        (_without("result"), "it lacks 'result"),
        (_without("column.attack"), "it lacks 'column.attack'"),
        (_with("column.key", "grey_box"), "column.key is 'grey_box', and known ones are clean"),
        (_with("column.attack.radius", "8/255"), "column.attack.radius is '8/255', no number"),
        (_with("column.attack.radius", -0.1), "column.attack.radius is -0.1"),
        (_with("roles", ["tabel"]), r"roles is \['tabel'\], and known ones are table"),
        (_with("seed", "0"), "seed is '0', which is no whole number"),
        (_with("result.mean.accuracy", float("nan")), "result.mean is nan in"),
        (_with("result.mean.high", 1.2), "result.mean is .* in order"),
        (_with("result.mean", {"low": 0.1, "accuracy": 0.9, "high": 0.95}), "add up to 0.3000"),
        (_with("result.correct_draws", [6] + [1] * 9), "whole numbers from 0 to 5"),
        (_with("result.num_examples", 11), "num_examples is 11, but it names 10 images"),
        (_with("study", "slow"), "it belongs to the study 'slow', the others to 'quick'"),
        (_with("id", "undefended--clean--r8--k1"), "its id 'undefended--clean--r8--k1' is also"),
    ],
)
def test_unusable_record_is_named_in_one_sentence(tmp_path, change, words):
    records = small_study()
    record = next(r for r in records if r["column"]["key"] == "eot")
    write_study(tmp_path, [r for r in records if r is not record])
    change(record)
    path = tmp_path / "records" / "z.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        report.load_records(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"schema": 1, "ki', b"", b"\xff\xfe\x00", b"[1, 2]"])
def test_damaged_record_is_named(tmp_path, content):
    write_study(tmp_path, small_study())
    (tmp_path / "records" / "broken.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.json (is damaged|holds list)"):
        report.load_records(tmp_path)


def test_folder_without_records_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no records/\*.json; name the folder"):
        report.load_records(tmp_path)
