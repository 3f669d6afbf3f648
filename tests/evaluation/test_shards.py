"""Shares of a study, and processes of JAX's own: the records of one process, or a sentence."""

import json
import os
import re

import numpy as np
import pytest

from rainjax import _files
from rainjax.evaluation import Shard, evaluate, load_records, parse_shard, shard_of_array, shards
from rainjax.evaluation.study import cells
from rainjax.evaluation.work import Work
from tests import measured
from tests.measured import content, finish, start, start_together


def test_two_processes_of_jax_make_the_records_of_one(undisturbed, tmp_path):
    processes = start_together(tmp_path, tmp_path)
    said = finish(*processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert content(tmp_path) == content(undisturbed)
    runs = [record.content["run"] for record in load_records(tmp_path / measured.NAME)]
    assert {run["num_processes"] for run in runs} == {2}


def test_processes_without_a_common_folder_say_so(tmp_path):
    processes = start_together(tmp_path / "a", tmp_path / "b")
    said = finish(*processes)
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 1, text
        last = text.strip().splitlines()[-1]
        assert re.match(r"error: \d+ of \d+ units are not in .*work, the first of them", last)
        assert "share this folder" in last
        assert "Traceback" not in text


def test_what_a_process_fails_at_is_said_and_the_others_finish(tmp_path):
    """A unit of the second process cannot be written; what the first one made stays."""
    (tmp_path / measured.NAME).mkdir()
    work = Work(measured.study(), tmp_path / measured.NAME)
    units = [unit for cell in cells(work.study) for unit in work.units(cell)]
    spoiled = next(u for u in Shard(1, 2).share(units) if u.attacked)
    spoiled.attacked.parent.mkdir(parents=True)
    spoiled.attacked.write_bytes(b"no archive")
    processes = start_together(tmp_path, tmp_path)
    said = finish(*processes)
    assert [process.returncode for process in processes] == [1, 1], said
    assert f"{spoiled.attacked} is damaged" in said[1]
    assert re.search(r"error: \d of \d+ units are not in", said[0]), said[0]
    assert all(unit.scored.exists() for unit in Shard(0, 2).share(units))
    assert not spoiled.scored.exists()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shares_are_disjoint_and_make_every_unit(count, tmp_path):
    work = Work(measured.study(), tmp_path)
    units = [unit for cell in cells(work.study) for unit in work.units(cell)]
    shares = [Shard(index, count).share(units) for index in range(count)]
    made = [unit.scored for share in shares for unit in share]
    assert sorted(made) == sorted(unit.scored for unit in units)
    # Whoever attacks does so for every subject: no two shares make the same images.
    attacked = [{unit.attacked for unit in share if unit.attacked} for share in shares]
    assert sum(map(len, attacked)) == len(set().union(*attacked)) < len(made)
    if count <= 3:
        assert max(map(len, shares)) - min(map(len, shares)) <= 3
    for share in shares:
        assert all(unit.owner in share for unit in share)


def slurm(task, count, first, last, step=None):
    named = {"ID": task, "COUNT": count, "MIN": first, "MAX": last}
    named |= {} if step is None else {"STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in named.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HOME": "/"}, None),
        (slurm(0, 16, 0, 15), Shard(0, 16)),
        (slurm(16, 16, 1, 16, 1), Shard(15, 16)),
        (slurm(5, 4, 1, 7, 2), Shard(2, 4)),  # --array=1-7:2
        (slurm(12, 4, 0, 12, 4), Shard(3, 4)),  # --array=0-15:4
        (slurm(3, 1, 3, 3, 1), Shard(0, 1)),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "5"}, Shard(2, 5)),
    ],
)
def test_the_share_that_an_array_gives(environment, expected):
    assert shard_of_array(environment) == expected


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (slurm(9, 4, 1, 22, 1), "array with gaps .* --shard INDEX/COUNT"),  # --array=1,2,9,22
        (slurm(1, 3, 0, 4, 2), "array with gaps"),
        (slurm(3, 5, 1, 20, 2), "array with gaps"),  # --array=1-7:2,20
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_ID=3 says .* SLURM_ARRAY_TASK_COUNT is"),
        (slurm(1, 3, 0, 4, "a"), "SLURM_ARRAY_TASK_STEP='a' must be a whole number"),
        ({"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2 says .* JOB_COMPLETIONS is not"),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "all"}, "JOB_COMPLETIONS='all' must be"),
        ({"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "5"}, "index=5 of count=5 is no share"),
    ],
)
def test_an_array_that_says_no_share_is_refused(environment, sentence):
    with pytest.raises(ValueError, match=sentence):
        shard_of_array(environment)


def test_a_share_is_written_as_index_and_count():
    assert parse_shard(" 2/3 ") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"
    for text in ("3", "1/", "-1/3", "1 / 3", "a/b"):
        with pytest.raises(ValueError, match="must be INDEX/COUNT"):
            parse_shard(text)
    for text in ("3/3", "0/0"):
        with pytest.raises(ValueError, match="is no share"):
            parse_shard(text)


def test_a_share_says_what_it_made_and_makes_no_record(tmp_path):
    assert evaluate(measured.study(), tmp_path, shard=Shard(1, 3), progress=False) == []
    folder = tmp_path / measured.NAME
    assert not (folder / "records").exists()
    manifest = json.loads((folder / "shards" / "1-of-3.json").read_text())
    assert manifest["units"] == sorted(path.stem for path in folder.glob("work/*.npz"))
    assert (folder / "shards" / f"plan-{manifest['plan']}.json").exists()
    assert manifest["run"]["command"]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("work/*.npz")}
    evaluate(measured.study(), tmp_path, shard=Shard(1, 3), progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("work/*.npz")}


def test_two_processes_that_make_one_unit_leave_one_whole_file(undisturbed, tmp_path):
    """All of it twice at once, in one folder."""
    processes = [start(tmp_path) for _ in range(2)]
    said = finish(*processes)
    assert [process.returncode for process in processes] == [0, 0], said
    assert content(tmp_path) == content(undisturbed)
    assert {p.suffix for p in (tmp_path / measured.NAME / "work").iterdir()} == {".npz"}


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "unit.npz"
    _files.write_arrays(path, {"a": np.arange(3)})

    def interrupted(file, **arrays):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _files.write_arrays(path, {"a": np.arange(4)})
    assert _files.read_arrays(path)["a"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_two_hosts_with_one_process_number_do_not_write_into_each_other(tmp_path, monkeypatch):
    """The second starts and ends its write while the first is at it."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path, save = tmp_path / "unit.npz", np.savez_compressed
    first, second = np.zeros(1000), np.ones(10)

    def slow(file, **arrays):
        monkeypatch.setattr(np, "savez_compressed", save)
        file.write(b"")
        _files.write_arrays(path, {"a": second})
        assert _files.read_arrays(path)["a"].tolist() == second.tolist()
        save(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", slow)
    _files.write_arrays(path, {"a": first})
    assert _files.read_arrays(path)["a"].tolist() == first.tolist()
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_another_machine_wrote_are_waited_for(tmp_path, monkeypatch):
    late, never = tmp_path / "late", tmp_path / "never"
    monkeypatch.setattr(shards, "_PATIENCE", 2)
    monkeypatch.setattr(shards.time, "sleep", lambda seconds: late.touch())
    assert shards.wait_for_files([late]) == []
    clock = iter(range(100))
    monkeypatch.setattr(shards.time, "monotonic", lambda: next(clock))
    assert shards.wait_for_files([late, never]) == [never]
