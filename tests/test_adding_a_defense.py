"""CONTRIBUTING's promise: a defense is one file, its measurement one page, and nothing else."""

import importlib
import pathlib
import re
import sys

import pytest

import eval.__main__ as program
import eval.studies
import rainjax.defenses
from eval.pages import options_of, studies
from rainjax import check_defense
from rainjax.evaluation import load_records
from tests import contracts, saved_networks

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def add(monkeypatch, tmp_path):
    """Returns a function that adds modules to the packages, for this test alone."""
    before = set(sys.modules)
    for package in (rainjax.defenses, eval.studies):
        folder = tmp_path / package.__name__.replace(".", "/")
        folder.mkdir(parents=True)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    def write(path, text):
        (tmp_path / path).write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            parent, _, child = name.rpartition(".")
            vars(sys.modules[parent]).pop(child, None)
            del sys.modules[name]


@pytest.fixture
def both(add):
    assert sorted(FILES) == [
        "eval/studies/random_contrast.py",
        "rainjax/defenses/random_contrast.py",
    ]
    for path, text in FILES.items():  # all as it stands, but for a black box of fewer queries
        add(path, text.replace("adaptive(", "adaptive(num_queries=3, radius="))


def test_the_program_measures_and_checks_it(both, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    networks = saved_networks.save(tmp_path / "networks")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["eval", *words])
        program.main()
        return capsys.readouterr().out

    with pytest.raises(SystemExit, match="0"):
        run("random_contrast", "--help")
    shown = capsys.readouterr().out
    assert "--lowest" in shown
    assert "The lowest contrast that is drawn" in shown
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    assert "Random contrast on the built-in set." in capsys.readouterr().out

    shared = ("--lowest=0.7", f"--classifier={networks['classifier']}", f"--out={tmp_path}")
    small = ("--num-steps=2", "--num-eot=2", "--num-score-draws=2")
    few = ("--num-examples=4", "--num-eot-examples=2", "--batch-size=4")
    shown = run("random_contrast", *shared, *small, *few)
    assert "random contrast" in shown
    records = load_records(tmp_path / "random_contrast")
    assert {record.subject for record in records} == {"no defense", "random contrast"}
    found = next(r.content["subject"] for r in records if r.subject == "random contrast")
    defense = found["target"]["defense"]
    assert (defense["class"], defense["lowest"]) == ("RandomContrast", 0.7)

    words = ("--rows", "random contrast", "--num-queries=2", "--num-surface=1", "--more=2")
    run("sanity", "random_contrast", *words, *shared, *small, "--surface-points=3",
        "--num-examples=2", "--num-eot-examples=2")  # fmt: skip
    assert (tmp_path / "random_contrast" / "sanity.json").exists()

    run("smoothing", "random_contrast", *shared, "--sigmas", "0.1", "--num-estimate=12",
        "--num-select=2", "--num-examples=2")  # fmt: skip
    assert (tmp_path / "random_contrast" / "smoothing.json").exists()


def test_the_contract_tests_find_it(both):
    (case,) = contracts.plain_cases(contracts.DEFENSES)
    assert case.name == "RandomContrast"
    outputs = check_defense(case.defense, image_shape=(8, 8, 3), tolerance=1e-5)
    assert (outputs.other_keys != outputs.purified).any()


def test_a_defense_that_needs_arguments_is_told_where_to_join(add):
    name = "rainjax/defenses/random_contrast.py"
    add(name, FILES[name].replace("lowest: float = 0.5", "lowest: float"))
    with pytest.raises(TypeError, match=r"RandomContrast .* without arguments.*contracts.py"):
        contracts.plain_cases(contracts.DEFENSES)


def test_two_pages_cannot_declare_one_name(both, add):
    page = FILES["eval/studies/random_contrast.py"]
    add("eval/studies/twice.py", page.replace("RandomContrastStudy", "Other"))
    with pytest.raises(ValueError, match="a second study 'random_contrast': rename it"):
        studies()


def test_a_study_is_asked_for_its_own_rows_and_options(both):
    with pytest.raises(ValueError, match=r"No study is called 'contrast'; .*random_contrast"):
        options_of("contrast")
    assert options_of("random_contrast", ("--lowest", "0.9")).lowest == 0.9
    for words in (["random_contrast", "--lowest", "0.9"], ["--lowest", "0.9", "random_contrast"]):
        command = program.read(["sanity", *words])
        assert (command.study, command.study_options) == ("random_contrast", ("--lowest", "0.9"))
    command = program.read(["sanity", "--num-examples=5", "random_contrast"])
    assert (command.study, command.num_examples) == ("random_contrast", 5)
    with pytest.raises(ValueError, match="rows='contrast' is none of no defense, random contrast"):
        program.sanity.run(program.read(["sanity", "random_contrast", "--rows", "contrast"]))
