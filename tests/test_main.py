"""The command line that is installed: somebody's own study, from a file of his own."""

import json
import pathlib
import subprocess
import sys

import pytest

import rainjax.__main__ as program
from rainjax.evaluation import load_records
from rainjax.evaluation.loading import load_study, resized
from tests.tiny import unchecked

ROOT = pathlib.Path(__file__).parents[1]
MINE = '''
import dataclasses
import jax
import jax.numpy as jnp
import numpy as np
from beside import STEPS
from rainjax import Defended, Defense, Identity, data, zoo
from rainjax.attacks import EOT, PGD
from rainjax.evaluation import CLEAN, IdentityGradient, Knowledge, Study, Subject, ThreatModel
from rainjax.report import Cell, Display, ResultsTable, Table
from tests.tiny import RESNET_TINY, resnet_params


@dataclasses.dataclass(frozen=True)
class Count(Display):
    """A display of ones own."""

    def tables(self, results):
        return [Table("Counted", (Cell("records"),), ((Cell(str(len(results.records))),),))]


@dataclasses.dataclass(frozen=True)
class Noise(Defense):
    """A defense of ten lines."""

    sigma: float = 0.05

    def apply(self, params, key, image):
        return jnp.clip(image + self.sigma * jax.random.normal(key, image.shape), 0, 1)


def study():
    images = data.load("builtin", "test")
    first, labels = images.get(np.arange(20))
    classifier = resnet_params(jnp.asarray(first, jnp.float32) / 255, labels)
    params = {"defense": (), "classifier": classifier}
    attack = PGD(num_steps=STEPS, eot=EOT(2))
    return Study(
        "mine",
        images,
        [
            Subject("bare", Defended(Identity(), RESNET_TINY), params),
            Subject("noise", Defended(Noise(), RESNET_TINY), params),
        ],
        [CLEAN, ThreatModel("EOT-PGD", attack, num_examples=6, description="white box")],
        num_examples=8,
        num_score_draws=2,
        batch_size=4,
        displays=[ResultsTable(), Count()],
    )


def smaller():
    return dataclasses.replace(study(), name="smaller", num_examples=6)


number = 3
'''


@pytest.fixture(autouse=True)
def _one_process(monkeypatch, quick_compilation):
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine_of_a_test.py"
    path.write_text(MINE)
    (tmp_path / "beside.py").write_text("STEPS = 1\n")
    return path


def run(*words):
    program.main([str(word) for word in words])


def said(exit):
    return str(exit.value)


def test_a_file_of_ones_own_is_measured_and_shown(mine, tmp_path, capsys):
    out = tmp_path / "results"
    run("evaluate", mine, "--out", out)
    records = load_records(out / "mine")
    assert [(r.subject, r.threat, r.num_examples) for r in records] == [
        ("bare", "clean", 8),
        ("bare", "EOT-PGD", 6),
        ("noise", "clean", 8),
        ("noise", "EOT-PGD", 6),
    ]
    target = records[-1].content["subject"]["target"]
    assert target["defense"]["class"] == "mine_of_a_test.Noise"
    assert target["defense"]["source"]
    told = capsys.readouterr()
    assert "mine: 2 subjects, 4 numbers, 4 of them to be measured; 24 image gradients" in told.err
    assert f"Writing to {out / 'mine'}" in told.err
    assert "EOT-PGD" in told.out
    assert f"Wrote {out / 'mine' / 'report.html'}" in told.out
    assert "Counted" in (out / "mine" / "report.html").read_text()

    before = {path: path.read_bytes() for path in out.glob("mine/records/*.json")}
    run("evaluate", mine, "--out", out, "--quiet")
    assert {path: path.read_bytes() for path in out.glob("mine/records/*.json")} == before
    run("report", out / "mine")
    told = capsys.readouterr()
    assert told.err == ""
    assert "display 'mine_of_a_test.Count', which no file" in " ".join(told.out.split())

    # Another defense of the same name and the same options is another one: its records are anew.
    mine.write_text(MINE.replace("self.sigma *", "2 * self.sigma *"))
    run("evaluate", mine, "--out", out, "--quiet")
    after = {path: path.read_bytes() for path in out.glob("mine/records/*.json")}
    changed = {path.stem for path in before if after[path] != before[path]}
    assert changed == {path.stem for path in before if path.stem.startswith("noise")}


def test_numbers_are_changed_on_the_command_line(mine, tmp_path):
    words = ["--num-examples", 4, "--num-score-draws", 3, "--name", "less", "--seed", 7]
    run("evaluate", f"{mine}:study", "--out", tmp_path, "--quiet", *words, "--batch-size", 2)
    records = load_records(tmp_path / "less")
    assert {record.num_examples for record in records} == {4}  # the threat model's six follow
    assert records[-1].num_score_draws == 3
    assert {record.content["seed"] for record in records} == {7}
    assert {record.content["batch_size"] for record in records} == {2}


def test_shares_are_put_together(mine, tmp_path, capsys):
    run("evaluate", mine, "--out", tmp_path / "whole", "--quiet")
    for share in ("0/2", "1/2"):
        run("evaluate", mine, "--out", tmp_path / "shared", "--shard", share, "--quiet")
    folder = tmp_path / "shared" / "mine"
    assert not (folder / "records").exists()
    assert f"`rainjax merge {folder}` puts the shares together" in capsys.readouterr().out
    run("merge", folder)
    whole, merged = (
        {p.name: {**json.loads(p.read_text()), "run": None} for p in f.glob("mine/records/*")}
        for f in (tmp_path / "whole", tmp_path / "shared")
    )
    assert whole == merged
    assert len(whole) == 4


def test_shares_are_submitted_and_merged(mine, tmp_path):
    run("evaluate", mine, "--out", tmp_path / "whole", "--quiet", "--num-examples", 4)
    words = ["--num-examples", "4", "--submit", "local", "--array", "2", "--jobs.minutes", "10"]
    # In a process of its own: submitit's loggers close what pytest put in stdout's place.
    done = subprocess.run(
        [sys.executable, "-m", "rainjax", "evaluate", str(mine), "--quiet", *words,
         f"--out={tmp_path / 'submitted'}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Made and merged 2 shares" in done.stdout
    whole, merged = (load_records(tmp_path / name / "mine") for name in ("whole", "submitted"))
    assert [record.id for record in whole] == [record.id for record in merged]
    for one, other in zip(whole, merged, strict=True):
        assert one.score() == other.score()
        assert {share["share"] for share in other.content["run"]["shares"]} <= {"0/2", "1/2"}
    assert (tmp_path / "submitted" / "mine" / "report.html").exists()


def test_an_arrays_tasks_take_their_shares(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    with pytest.raises(SystemExit) as exit:
        run("evaluate", mine, "--out", tmp_path, "--quiet")
    assert "JOB_COMPLETIONS is not set" in said(exit)
    monkeypatch.setenv("JOB_COMPLETIONS", "2")
    run("evaluate", mine, "--out", tmp_path, "--quiet")
    assert "Made share 1/2" in capsys.readouterr().out


def test_sanity_is_asked_of_a_file_or_of_its_folder(mine, tmp_path, capsys):
    run("evaluate", mine, "--out", tmp_path, "--quiet", "--seed", 3)
    folder = tmp_path / "mine"
    with pytest.raises(SystemExit) as exit:
        run("sanity", folder)
    assert "name the Python file of its study as well, --study FILE.py" in said(exit)
    words = ["--num-examples", 4, "--num-queries", 4, "--num-surface", 0, "--subjects", "noise"]
    run("sanity", folder, "--study", mine, *words)
    content = json.loads((folder / "sanity.json").read_text())
    assert [row["subject"] for row in content["rows"]] == ["noise"]
    assert "study" not in content["options"]
    assert content["options"]["seed"] == 3  # as the records are, whatever the file says
    told = capsys.readouterr().out
    assert f"Wrote {folder / 'sanity.json'}" in told
    assert f"Wrote {folder / 'report.html'}" in told
    wrong = tmp_path / "wrong_of_a_test.py"
    wrong.write_text(MINE.replace('"test")', '"train")'))
    with pytest.raises(SystemExit) as exit:
        run("sanity", folder, "--study", wrong, *words)
    assert "is of a study with data='builtin, test, builtin-v1', not 'builtin, t" in said(exit)
    assert json.loads((folder / "sanity.json").read_text()) == content


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluate", "none.py"], "none.py is no file: name the Python file that holds the study"),
        (["evaluate", "{mine}:other"], "has no 'other': write a function `def study():`"),
        (["evaluate", "{mine}:number"], "'number' of {mine} is of type int, not a Study"),
        (["evaluate", "{text}"], "is no Python file: name the one that holds the study"),
        (["evaluate", "{mine}", "--shard", "2"], "shard='2' must be INDEX/COUNT, such as 0/3"),
        (["evaluate", "{mine}", "--shard", "3/3"], "index=3 of count=3 is no share"),
        (["evaluate", "{mine}", "--num-examples", "0"], "num_examples=0 must be at least 1"),
        (["evaluate", "{mine}", "--out", "{text}"], "Nothing can be written to"),
        (
            ["evaluate", "{mine}", "--shard", "0/2", "--submit", "local"],
            "--submit with --shard or --distributed: sbatch's options",
        ),
        (
            ["evaluate", "{mine}", "--submit", "local", "--jobs.slurm", "account"],
            "jobs.slurm='account': sbatch's options are NAME=VALUE",
        ),
        (["evaluate", "{mine}", "--submit", "slurm"], "slurm takes no jobs here:"),
        (["evaluate", "{mine}", "--array", "2"], "--array is about jobs: add --submit slurm or"),
        (["evaluate", "{mine}", "--jobs.gpus", "1"], "--jobs is about jobs: add --submit slurm"),
        (["evaluate", "{mine}", "--name", ".."], "name='..' must be a plain name"),
        (["evaluate", "{mine}", "--name", "..", "--submit", "local"], "name='..' must be a plain"),
        (["merge"], "folders is empty: name the study's folder"),
        (["report", "none"], "none holds no records/"),
        (["merge", "none"], "none"),
        (["sanity", "{mine}", "--subjects", "nobody"], "nobody"),
    ],
)
def test_mistakes_are_one_sentence(mine, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("text")
    words = [word.format(mine=mine, text=text) for word in words]
    with pytest.raises(SystemExit) as exit:
        run(*words)
    assert said(exit).startswith("error: ")
    assert sentence.format(mine=mine) in said(exit)
    assert "\n" not in said(exit)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nraise ValueError('boom')\n", "own.py, line 2: boom"),
        ("\nimport no_such_module\n", "own.py, line 2: No module named 'no_such_module'"),
        ("def study():\n    return 1 + 'a'\n", "own.py, line 2: unsupported operand"),
        (
            "from rainjax import nets\ndef study():\n    return nets.from_flax(len)\n",
            "own.py, line 3: from_flax takes an NNX module",
        ),
        ("from beside import value\n", "beside.py, line 1: beside"),
        ("x = (\n", "'(' was never closed (own.py, line 1)"),
        ("def study(a):\n    return 1\n", "'study' of own.py is called without arguments"),
        (
            "from tests.small_studies import Round, linear, study_of\n"
            "class Bad(Round):\n"
            "    def apply(self, params, key, image):\n"
            "        raise ValueError('later')\n"
            "def study():\n"
            "    return study_of(linear(Bad()))\n",
            "own.py, line 4: The subject 'Bad' does not fit",
        ),
    ],
)
def test_what_a_users_file_does_wrong_is_said_with_its_line(tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    (tmp_path / "own.py").write_text(text)
    (tmp_path / "beside.py").write_text("raise ValueError('beside')")
    with unchecked(), pytest.raises(SystemExit) as exit:
        run("evaluate", "own.py", "--quiet")
    assert said(exit).startswith(f"error: {sentence}")


def test_a_file_takes_no_other_modules_place(tmp_path):
    text = "from tests.small_studies import Round, linear, study_of\n"
    text += "class Mine(Round): pass\ndef study(): return study_of(linear(Mine()))\n"
    for name in ("random", "statistics", "pytest", "own_of_a_test"):
        (tmp_path / f"{name}.py").write_text(text)
    before = dict(sys.modules)
    found = {
        name: type(load_study(tmp_path / f"{name}.py").subjects[0].pipeline.defense).__module__
        for name in ("random", "statistics", "pytest", "own_of_a_test")
    }
    assert all(sys.modules[name] is module for name, module in before.items())
    assert found.pop("own_of_a_test") == "own_of_a_test"  # as `import` would call it
    assert not found.keys() & set(found.values())
    assert len(set(found.values())) == 3
    # Nor does a module beside a file, which is found before packages that are installed.
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path / "own_of_a_test.py")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


LATE = """
import sys
from rainjax.evaluation.loading import load_study
sys.modules.pop("statistics", None)
load_study(sys.argv[1])
import statistics
assert statistics.mean([1, 3]) == 2
"""


def test_what_a_users_code_raises_is_shown_whole(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def study():\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_study(path)


def test_studies_are_values_and_their_sizes_are_changed_by_name(mine):
    study = load_study(f"{mine}:smaller")
    assert (study.name, study.count) == ("smaller", 6)
    assert resized(study) is not study
    assert resized(study, num_examples=3).count == 3
    assert resized(study).count == 6


def test_help_lists_the_words(capsys):
    for words in ([], ["evaluate"], ["report"], ["sanity"], ["merge"], ["data"], ["zoo"]):
        with pytest.raises(SystemExit) as exit:
            run(*words, "--help")
        assert not exit.value.code
        told = capsys.readouterr().out
        assert "rainjax" in told
    with pytest.raises(SystemExit):
        run("--help")
    told = capsys.readouterr().out
    for word in ("evaluate", "report", "sanity", "merge", "rainjax data", "rainjax zoo"):
        assert word in told


def test_words_that_are_none_name_the_command_that_helps(capsys):
    for word in ("zoo", "data"):
        with pytest.raises(SystemExit):
            run(word, "bogus")
        assert f"run rainjax {word} --help" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly():
    program_text = f"{sys.executable} -m rainjax zoo | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program_text], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
