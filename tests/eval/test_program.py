"""The program `python -m eval`: its words, and what it says of mistakes."""

import dataclasses
import pathlib
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from tqdm import tqdm

import eval.__main__ as program
from eval import sanity
from eval.benchmarks import attacks as benchmark
from eval.benchmarks.attacks import Benchmark
from eval.pages import studies
from eval.sanity import Sanity
from eval.studies.defenses import MAKERS
from eval.studies.rain import RAINStudy
from rainjax.evaluation import evaluate, load_records
from rainjax.nets import BlindSpot
from tests import saved_networks

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return saved_networks.save(tmp_path_factory.mktemp("networks"))


def words_of(config):
    """Returns the command line that says the same as a study's options."""
    words = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name[2:]}")
        elif isinstance(value, tuple):
            words += [name, *map(str, value)]
        else:
            words += [name, str(value)]
    return words


def test_a_study_is_run_and_shown(networks, tmp_path, capsys, monkeypatch, quick_compilation):
    config = RAINStudy(
        name="tiny",
        **networks,
        num_examples=3,
        num_eot_examples=2,
        num_sweep_examples=2,
        num_steps=1,
        num_eot=2,
        eot_sweep=(),
        num_score_draws=2,
        batch_size=4,
        out=tmp_path,
    )
    evaluate(config.study(), tmp_path, progress=False)
    folder = tmp_path / "tiny"
    before = {path: path.read_bytes() for path in folder.glob("records/*.json")}
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    monkeypatch.setattr(sys, "argv", ["eval", "quick", *words_of(config)])
    program.main()

    # The command line comes to the same values, so nothing is measured again.
    assert {path: path.read_bytes() for path in folder.glob("records/*.json")} == before
    printed = capsys.readouterr().out
    assert "RAIN, fine-tuned" in printed
    assert f"Wrote {folder / 'report.html'}" in printed
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        for record in load_records(folder):
            assert record.subject in text


def test_help_lists_the_studies():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "eval", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    words = ["report", "benchmark", "sanity", "smoothing", "speed", "peers", "super_resolution"]
    words += ["gains", "residuals"]
    for word in [*studies(), *words]:
        assert word in done.stdout


def test_command_line_knows_every_transformation(capsys):
    with pytest.raises(SystemExit):
        program.read(["transformations", "--help"])
    told = capsys.readouterr().out
    assert "--cw-steps" in told
    for name in MAKERS:
        assert re.search(rf"\b{name}\b", told), name


def test_an_expected_error_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    monkeypatch.setattr(sys, "argv", ["eval", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as exit:
        program.main()
    assert str(exit.value).startswith(f"error: {tmp_path} holds no records/")


def test_sanity_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"No study is called 'slow'; there are .*quick, cifar10"):
        sanity.run(Sanity(study="slow"))
    with pytest.raises(ValueError, match=r"rows=\(\) must name one"):
        Sanity(rows=())
    with pytest.raises(ValueError, match="rows='fd' is none of undefended, rain_pretrained"):
        sanity.run(Sanity(rows=("fd",)))
    with pytest.raises(ValueError, match="rows='fdd' is none of undefended, fd,"):
        sanity.run(Sanity(study="transformations", rows=("fdd",)))


def test_another_seed_compiles_nothing(networks):
    options = Benchmark(networks["classifier"], networks["finetuned"], batch_size=4, num_eot=2)
    bench = benchmark._Bench(options)
    assert benchmark._compilations(bench) == 0
    with benchmark._count_compilations() as compiled:  # it does notice a compilation
        jax.jit(lambda x: jnp.sin(x) * 3 - 1)(jnp.ones(7))
    assert compiled


def test_peak_memory_is_measured(networks, capsys):
    options = Benchmark(networks["classifier"], networks["finetuned"], batch_size=4, peak_of=2)
    benchmark.run(options)
    assert 0 <= float(capsys.readouterr().out.removeprefix("peak_mib=")) < 5_000


def test_the_memory_of_ncis_is_measured(monkeypatch):
    monkeypatch.setattr(benchmark, "_NCIS_NETWORKS", {"tiny": BlindSpot(3, 8)})
    (row,) = benchmark._iterations(Benchmark(ncis_size=24), tqdm(disable=True))
    assert row["num_iterations"] == [1, 8]
    # One map of eight features is held at least, and not all that any layer makes.
    one_map = 24 * 24 * 8 * 4 / 2**20
    assert one_map < row["mib"][0] < 100 * one_map
    assert row["ratio"] == row["mib"][1] / row["mib"][0] <= 1.5
