"""Tables of steps as files: what is written is read, and nothing else is."""

import json

import pytest

from rainjax import zoo
from rainjax.defenses import FeatureDistillation, two_steps


def test_a_table_is_read_as_it_was_written(tmp_path):
    steps = two_steps((0, 1, 9), 17.25, 1 / 3)
    zoo.save_steps(tmp_path / "table.json", steps, {"radius": 8.0})
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["radius"] == 8
    assert content["steps"][0][:3] == [17.25, 17.25, 1 / 3]
    for path in (tmp_path, tmp_path / "table.json", str(tmp_path)):
        assert FeatureDistillation(zoo.load_steps(path)) == FeatureDistillation(steps)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"steps": [[1, 2', "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[1, 2]", "holds no table called 'steps'"),
        (b'{"sha256": "1"}', "holds no table called 'steps'"),
        (b'{"steps": 30}', "holds no table called 'steps'"),
        (b'{"steps": [30]}', "holds no table called 'steps'"),
        (json.dumps({"steps": [[30] * 8] * 7}).encode(), "must be 8 rows of 8"),
        (json.dumps({"steps": [[30] * 8] * 7 + [[30] * 9]}).encode(), "must be 8 rows of 8"),
        (json.dumps({"steps": [[0] * 8] * 8}).encode(), "must be positive and finite"),
        (json.dumps({"steps": [[float("nan")] * 8] * 8}).encode(), "must be positive and finite"),
        (json.dumps({"steps": [["30"] * 8] * 8}).encode(), "'30' among its steps"),
        (json.dumps({"steps": [[True] * 8] * 8}).encode(), "True among its steps"),
        (json.dumps({"steps": [[10**400] * 8] * 8}).encode(), "too large"),
    ],
)
def test_other_files_are_refused_with_their_path(tmp_path, content, message):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"table.json.*{message}"):
        zoo.load_steps(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table of steps at .*table\.json"):
        zoo.load_steps(tmp_path)


def test_nothing_unfit_is_written(tmp_path):
    path = tmp_path / "table.json"
    for steps, facts, message in (
        (((30.0,) * 8,) * 7, {}, "8 rows of 8"),
        (two_steps(), {"steps": 1}, "not called 'steps'"),
        (two_steps(), {"radius": float("inf")}, "not plain JSON"),
        (two_steps(), {"path": tmp_path}, "not plain JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.save_steps(path, steps, facts)
    assert not list(tmp_path.iterdir())
