"""The evaluation program from end to end, on tiny networks and a few pictures."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

import eval.__main__ as program
from eval import bench, benchmark, report, robustness, study
from eval.benchmark import Benchmark
from eval.config import Robustness
from eval.presets import STUDIES
from rainjax import data, evaluation, zoo
from rainjax.keys import Purpose, example_keys
from rainjax.nets import ResNet
from tests import saved_networks
from tests.saved_networks import CARD

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return saved_networks.save(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def config(networks, tmp_path_factory):
    return Robustness(
        name="tiny",
        **networks,
        num_examples=6,
        num_eot_examples=4,
        num_sweep_examples=4,
        num_steps=2,
        step_size=4 / 255,
        num_eot=2,
        eot_sweep=(2,),
        known_key=True,
        eight_bit=True,
        num_score_draws=3,
        batch_size=4,
        out=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def folder(config, quick_compilation):
    """The folder of an undisturbed run."""
    return robustness.run(config)


def _records(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("records/*.json")}


def test_every_cell_has_its_record(folder):
    records = _records(folder)
    expected = {"undefended--clean--n6", "undefended--white-box--r8--k1--n6"}
    draws = {"blind": 1, "white-box": 1, "eot": 2, "mean-field": 9, "known-key": 3}
    for row in ("rain-pretrained", "rain-finetuned"):
        expected.add(f"{row}--clean--n6")
        for column, k in draws.items():
            num = 6 if k == 1 else 4
            expected.add(f"{row}--{column}--r8--k{k}--n{num}")
    assert set(records) == expected
    assert all(record["id"] == name for name, record in records.items())
    # The run at K = 2 draws is a cell of the table and a point of the curve over K.
    assert records["rain-finetuned--eot--r8--k2--n4"]["roles"] == ["eot", "table"]
    assert len(list(folder.glob("panels/*.npz"))) == len(expected) - 3  # clean has none
    curves = json.loads((folder / "spectrum.json").read_text())["curves"]
    assert {len(curve) for curve in curves.values()} == {17}


def test_records_follow_the_schema(folder, config):
    keys = {
        "": "schema kind id decides study roles row column data seed num_score_draws batch_size "
        "result run",
        "row": "key title target params",
        "column": "key title threat_model surrogate attack",
        "data": "name split fingerprint indices",
        "result": "num_examples mean worst vote correct_draws linf_max l2_mean mean_loss",
        "result.mean": "accuracy low high",
        "run": "seconds started command versions backend device num_devices revision",
    }
    for record in _records(folder).values():
        for place, names in keys.items():
            value = record
            for part in filter(None, place.split(".")):
                value = value[part]
            more = {"rounded"} if place == "result" and record["column"]["attack"] else set()
            assert set(value) == set(names.split()) | more, place
        assert str(config.out) not in json.dumps(record)  # folders are nobody's business
        attack = record["column"]["attack"]
        if record["column"]["key"] != "clean":
            assert attack["class"] == "PGD"
            assert {"norm", "radius", "step_size", "num_steps", "eot"} <= set(attack)
            assert 0 < record["result"]["linf_max"] <= attack["radius"] + 1e-6
            assert set(record["result"]["rounded"]) == {"accuracy", "low", "high"}
        else:
            assert record["result"]["linf_max"] == 0
    assert record["data"]["fingerprint"] == data.load("builtin", "test").fingerprint


def test_sweeps_share_the_tables_cells(config):
    swept = dataclasses.replace(
        config, radius_sweep=(4 / 255, 8 / 255), eot_sweep=(2, 8), num_examples=6
    )
    cells = {cell.id: cell for cell in study.cells(swept, study.rows(swept), 32)}
    shared = cells["rain-finetuned--eot--r8--k2--n4"]
    assert shared.roles == ("eot", "radius", "table")
    assert cells["rain-finetuned--eot--r8--k8--n4"].roles == ("eot",)
    assert cells["rain-finetuned--mean-field--r8--k9--n4"].attack.eot.draws == "enumerated"
    for cell in cells.values():
        if cell.attack is not None:  # 4/255 at 8/255, and in proportion elsewhere
            assert cell.attack.step_size == pytest.approx(cell.attack.radius / 2)
    for key in ("undefended--white-box", "rain-pretrained--blind", "rain-finetuned--mean-field"):
        assert any(name.startswith(f"{key}--r4") for name in cells)
    assert not any("known-key--r4" in name for name in cells)
    # At 96 pixels and 0.05 the shifts are 5 x 5.
    photos = dataclasses.replace(config, shift_fraction=0.05)
    cells = {cell.id for cell in study.cells(photos, study.rows(photos), 96)}
    assert "rain-finetuned--mean-field--r8--k25--n4" in cells


@pytest.mark.parametrize("column", ["clean", "eot", "known_key"])
def test_scores_are_what_the_logits_say(folder, config, column):
    """Mean, worst and majority, counted anew in NumPy from images one at a time."""
    (found,) = [
        record
        for record in _records(folder).values()
        if (record["row"]["key"], record["column"]["key"]) == ("rain_finetuned", column)
        and "table" in record["roles"]
    ]
    images, labels = data.load("builtin", "test").get(np.arange(found["result"]["num_examples"]))
    images = images.astype(np.float32) / 255
    if column != "clean":
        panel = np.load(folder / "panels" / f"{found['id']}.npz")
        np.testing.assert_array_equal(panel["original"], (images * 255).round())
        np.testing.assert_array_equal(panel["labels"], labels)
        kept = [np.load(path)["attacked"] for path in folder.glob("work/*.npz")]
        kept = [x for x in kept if x.shape == images.shape]
        (attacked,) = (x for x in kept if np.abs(x - images - panel["change"]).max() < 1e-4)
        delta = attacked - images
        assert found["result"]["linf_max"] == pytest.approx(np.abs(delta).max())
        lengths = np.sqrt((delta.astype(float) ** 2).sum((1, 2, 3)))
        assert found["result"]["l2_mean"] == pytest.approx(lengths.mean(), rel=1e-5)
        images = attacked

    row = study.rows(config)[2]
    logits_fn = jax.jit(row.target.logits)
    keys = example_keys(0, Purpose.SCORE, jnp.arange(len(images)))
    logits = np.array(
        [
            [logits_fn(row.params, jax.random.fold_in(key, draw), image) for draw in range(3)]
            for key, image in zip(keys, images, strict=True)
        ],
        dtype=float,
    )
    right = logits.argmax(-1) == labels[:, None]
    result = found["result"]
    assert result["correct_draws"] == right.sum(1).tolist()
    assert result["mean"]["accuracy"] == pytest.approx(right.mean())
    assert result["worst"]["accuracy"] == pytest.approx(right.all(1).mean())
    votes = [np.bincount(row).argmax() for row in logits.argmax(-1)]
    assert result["vote"]["accuracy"] == pytest.approx(np.mean(votes == labels))
    total = np.log(np.exp(logits).sum(-1))
    losses = total - np.take_along_axis(logits, labels[:, None, None], 2)[..., 0]
    assert result["mean_loss"] == pytest.approx(losses.mean(), abs=1e-4)


def test_attacks_raise_the_loss_and_the_known_key_most(folder):
    records = _records(folder)
    loss = {name: record["result"]["mean_loss"] for name, record in records.items()}
    for row in ("rain-pretrained", "rain-finetuned"):
        assert loss[f"{row}--known-key--r8--k3--n4"] > loss[f"{row}--eot--r8--k2--n4"]
        assert loss[f"{row}--white-box--r8--k1--n6"] > loss[f"{row}--clean--n6"]
    assert loss["undefended--white-box--r8--k1--n6"] > loss["undefended--clean--n6"]


def test_batch_size_changes_no_image(folder, config):
    images = data.load(config.data, config.split)
    wanted = "rain-finetuned--eot--r8--k2--n4"
    other = dataclasses.replace(config, name="other", batch_size=3)
    (cell,) = [c for c in study.cells(other, study.rows(other), 32) if c.id == wanted]
    with tqdm(disable=True) as bar:
        ours = bench.Bench(other, images).record(cell, bar)["result"]
    expected = _records(folder)[wanted]["result"]
    assert ours["correct_draws"] == expected["correct_draws"]
    assert ours["mean_loss"] == pytest.approx(expected["mean_loss"], abs=1e-4)
    assert ours["l2_mean"] == pytest.approx(expected["l2_mean"], abs=1e-4)


def test_another_run_does_nothing_and_the_report_is_written(folder, config, capsys, monkeypatch):
    def forbidden(*args, **options):
        raise AssertionError("nothing was left to compute")

    monkeypatch.setattr(evaluation, "run_attack", forbidden)
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    before = {path: path.read_bytes() for path in folder.glob("records/*.json")}
    words = ["quick"]
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name[2:]}")
        elif isinstance(value, tuple):
            words += [name, *map(str, value)]
        else:
            words += [name, str(value)]
    monkeypatch.setattr(sys, "argv", ["eval", *words])
    program.main()

    assert {path: path.read_bytes() for path in folder.glob("records/*.json")} == before
    printed = capsys.readouterr().out
    assert "RAIN, fine-tuned" in printed
    assert f"Wrote {folder / 'report.html'}" in printed
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        for record in report.load_records(folder):
            assert record["row"]["title"] in text


def test_a_killed_run_goes_on_where_it_was(folder, config, tmp_path):
    """SIGKILL at a random moment, again, and the records are those of an undisturbed run."""
    cut = dataclasses.replace(config, out=tmp_path)
    source = (
        "from pathlib import PosixPath\nfrom eval import robustness\n"
        f"from eval.config import Robustness\nrobustness.run({cut!r})"
    )
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    patience, pause = random.randrange(1, 5), 0.3 * random.random()
    print(f"killed {pause:.3f} s after batch {patience} was there")
    process = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 240
    while len(list(cut.folder.glob("work/*.npz"))) < patience:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    done = set(_records(cut.folder))
    expected = _records(folder)
    assert done < set(expected)
    kept = {path: path.stat().st_mtime_ns for path in cut.folder.glob("work/*.npz")}
    robustness.run(cut)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert _without_run(_records(cut.folder)) == _without_run(expected)


def _without_run(records):
    return {name: {**record, "run": None} for name, record in records.items()}


@pytest.mark.parametrize("damage", ["cut short", "scribbled on", "emptied"])
def test_damaged_work_is_named(folder, config, tmp_path, damage):
    copy = dataclasses.replace(config, out=tmp_path)
    shutil.copytree(folder, copy.folder)
    shutil.rmtree(copy.folder / "records")
    for path in copy.folder.glob("work/*.npz"):
        content = bytearray(path.read_bytes())
        if damage == "cut short":
            content = content[: len(content) // 2]
        elif damage == "scribbled on":
            content[300:400] = bytes(100)
        else:
            content.clear()
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"work/\w+\.npz is damaged .*: delete it and run again"):
        robustness.run(copy)


def test_a_folder_of_another_study_is_refused(folder, config, networks, tmp_path):
    with pytest.raises(ValueError, match=r"tiny holds a study with seed=0, not 1: choose another"):
        robustness.run(dataclasses.replace(config, seed=1))
    with pytest.raises(ValueError, match=r"holds a study with num_steps=2, not 3"):
        robustness.run(dataclasses.replace(config, num_steps=3))
    with pytest.raises(ValueError, match="holds a study with params="):
        robustness.run(dataclasses.replace(config, finetuned=networks["pretrained"]))
    copy = dataclasses.replace(config, out=tmp_path)
    copy.folder.mkdir()
    (copy.folder / "study.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"study\.json is damaged .*; delete"):
        robustness.run(copy)


def test_what_does_not_fit_is_refused(config, networks, tmp_path):
    fresh = dataclasses.replace(config, out=tmp_path)
    cases = [
        ({"num_examples": 4001}, "num_examples=4001, but 'builtin' has 4000 images in its split"),
        ({"pretrained": networks["classifier"]}, "holds a ResNet, not an EDSR"),
        ({"split": "tset"}, "'builtin' has no split 'tset'"),
        ({"finetuned": "no_such_network"}, "no_such_network"),
    ]
    seven = ResNet(depth=8, width=2, num_classes=7)
    params = jax.tree.map(lambda a: jnp.zeros(a.shape), seven.shapes())
    path = str(zoo.save(tmp_path, "seven", seven, params, CARD))
    cases.append(({"classifier": path}, "has 7 outputs, but 'builtin' has 10 classes: choose"))
    for changes, sentence in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            robustness.run(dataclasses.replace(fresh, **changes))
    assert not fresh.folder.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"num_score_draws": 0}, "num_score_draws=0 must be at least 1"),
        ({"num_eot_examples": 7}, "num_examples=6 must be at least num_eot_examples=7"),
        ({"num_sweep_examples": 0}, "num_sweep_examples=0 leaves the sweeps no image"),
    ],
)
def test_bad_options_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config, **changes)


def test_help_lists_the_studies():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "eval", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    for word in [*STUDIES, "report", "benchmark"]:
        assert word in done.stdout


def test_an_expected_error_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    monkeypatch.setattr(sys, "argv", ["eval", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as exit:
        program.main()
    assert str(exit.value).startswith(f"error: {tmp_path} holds no records/")


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
