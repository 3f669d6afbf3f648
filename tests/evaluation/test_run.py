"""A study from end to end, on tiny networks and a few pictures: this repository's own of RAIN."""

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
import jax.numpy as jnp
import numpy as np
import pytest

from eval.studies.rain import RAINStudy
from rainjax import data, zoo
from rainjax.evaluation import driver, evaluate, load_records, scoring, study
from rainjax.evaluation.packing import pack_counts
from rainjax.keys import Purpose, example_keys
from rainjax.nets import ResNet
from tests import saved_networks
from tests.saved_networks import CARD

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return saved_networks.save(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def config(networks, tmp_path_factory):
    return RAINStudy(
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
    return run(config)


def run(config):
    evaluate(config.study(), config.out, progress=False)
    return config.out / config.name


def _records(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("records/*.json")}


def _cells(config):
    return {cell.id: cell for cell in study.cells(config.study())}


def test_the_smaller_counts_follow_the_number_of_images(config):
    small = dataclasses.replace(config, num_examples=2)
    assert {cell.num_examples for cell in _cells(small).values()} == {2}
    again = dataclasses.replace(small, num_examples=config.num_examples)
    assert _cells(again).keys() == _cells(config).keys()


def test_every_cell_has_its_record(folder):
    records = _records(folder)
    white = "pgd-2-one-draw--linf-8--k1--n6"
    expected = {"no-defense--clean--n6", f"no-defense--{white}"}
    draws = {
        "pgd-2-blind": 1,
        "pgd-2-one-draw": 1,
        "eot-pgd-2": 2,
        "mean-field": 9,
        "known-key": 3,
    }
    for row in ("rain-before-fine-tuning", "rain-fine-tuned"):
        expected.add(f"{row}--clean--n6")
        for column, k in draws.items():
            num = 6 if k == 1 else 4
            expected.add(f"{row}--{column}--linf-8--k{k}--n{num}")
    assert set(records) == expected
    assert all(record["id"] == name for name, record in records.items())
    # The run at K = 2 draws is a cell of the table and a point of the curve over K.
    tags = records["rain-fine-tuned--eot-pgd-2--linf-8--k2--n4"]["threat"]["tags"]
    assert tags == ["table", "draws"]
    assert len(list(folder.glob("panels/*.npz"))) == len(expected) - 3  # clean has none
    curves = json.loads((folder / "spectrum.json").read_text())["curves"]
    assert {len(curve) for curve in curves.values()} == {17}
    assert len(curves) == 4


def test_records_follow_the_schema(folder, config):
    keys = {
        "": "schema kind measure id decides study subject threat axes data seed num_score_draws "
        "batch_size result run",
        "subject": "name is_random defended target params",
        "threat": "name description knowledge tags surrogate differentiates attack",
        "axes": "norm radius num_draws num_steps num_gradients",
        "data": "name split fingerprint indices",
        "result": "num_examples mean worst vote shots correct_draws linf_max l2_max l1_max "
        "l2_mean mean_loss",
        "result.mean": "accuracy low high",
        "run": "seconds started command versions backend device num_devices revision",
    }
    for record in _records(folder).values():
        for place, names in keys.items():
            value = record
            for part in filter(None, place.split(".")):
                value = value[part]
            own = {"result": {"rounded"}, "": {"num_zero_gradient"}}  # of attacks by gradients
            more = own.get(place, set()) if record["threat"]["attack"] else set()
            more |= (
                {"surrogates"} if place == "subject" and record["subject"]["defended"] else set()
            )
            assert set(value) == set(names.split()) | more, place
        assert str(config.out) not in json.dumps(record)  # folders are nobody's business
        attack = record["threat"]["attack"]
        if record["threat"]["knowledge"] != "none":
            assert attack["class"] == "PGD"
            assert {"norm", "radius", "step_size", "num_steps", "eot"} <= set(attack)
            assert 0 < record["result"]["linf_max"] <= attack["radius"] + 1e-6
            assert set(record["result"]["rounded"]) == {"accuracy", "low", "high"}
            assert record["num_zero_gradient"] == 0
        else:
            assert record["result"]["linf_max"] == 0
    assert record["data"]["fingerprint"] == data.load("builtin", "test").fingerprint
    assert [r.subject for r in load_records(folder)][:2] == ["no defense", "no defense"]


def test_sweeps_share_the_tables_cells(config):
    swept = dataclasses.replace(
        config, radius_sweep=(4 / 255, 8 / 255), eot_sweep=(2, 8), num_examples=6
    )
    cells = _cells(swept)
    shared = cells["rain-fine-tuned--eot-pgd-2--linf-8--k2--n4"]
    assert shared.threat.tags == ("table", "radius", "draws")
    assert cells["rain-fine-tuned--eot-pgd-2--linf-8--k8--n4"].threat.tags == ("draws",)
    mean = cells["rain-fine-tuned--mean-field--linf-8--k9--n4"]
    assert mean.attack.eot.draws == "enumerated"
    for cell in cells.values():
        if cell.attack is not None:  # 4/255 at 8/255, and in proportion elsewhere
            assert cell.attack.step_size == pytest.approx(cell.attack.radius / 2)
    for key in (
        "no-defense--pgd-2-one-draw",
        "rain-before-fine-tuning--pgd-2-blind",
        "rain-fine-tuned--mean-field",
    ):
        assert any(name.startswith(f"{key}--linf-4") for name in cells)
    assert not any("known-key--linf-4" in name for name in cells)
    assert not any(name.startswith("no-defense--pgd-2-blind") for name in cells)


@pytest.mark.parametrize("threat", ["clean", "EOT-PGD-2", "known key"])
def test_scores_are_what_the_logits_say(folder, config, threat):
    """Mean, worst and majority, counted anew in NumPy from images one at a time."""
    (found,) = [
        record
        for record in _records(folder).values()
        if (record["subject"]["name"], record["threat"]["name"]) == ("RAIN, fine-tuned", threat)
    ]
    images, labels = data.load("builtin", "test").get(np.arange(found["result"]["num_examples"]))
    images = images.astype(np.float32) / 255
    if threat != "clean":
        panel = np.load(folder / "panels" / f"{found['id']}.npz")
        np.testing.assert_array_equal(panel["original"], (images * 255).round())
        np.testing.assert_array_equal(panel["labels"], labels)
        kept = [np.load(path)["attacked"] for path in folder.glob("work/a-*.npz")]
        kept = [x for x in kept if x.shape == images.shape]
        (attacked,) = (x for x in kept if np.abs(x - images - panel["change"]).max() < 1e-4)
        delta = attacked - images
        assert found["result"]["linf_max"] == pytest.approx(np.abs(delta).max())
        lengths = np.sqrt((delta.astype(float) ** 2).sum((1, 2, 3)))
        assert found["result"]["l2_max"] == pytest.approx(lengths.max(), rel=1e-5)
        sums = np.abs(delta.astype(float)).sum((1, 2, 3))
        assert found["result"]["l1_max"] == pytest.approx(sums.max(), rel=1e-5)
        assert found["result"]["l2_mean"] == pytest.approx(lengths.mean(), rel=1e-5)
        images = attacked

    subject = config.subjects()[2]
    logits_fn = jax.jit(subject.pipeline.logits)
    keys = example_keys(0, Purpose.SCORE, jnp.arange(len(images)))
    logits = np.array(
        [
            [logits_fn(subject.params, jax.random.fold_in(key, draw), image) for draw in range(3)]
            for key, image in zip(keys, images, strict=True)
        ],
        dtype=float,
    )
    right = logits.argmax(-1) == labels[:, None]
    result = found["result"]
    assert result["correct_draws"] == pack_counts(right.sum(1))
    assert result["mean"]["accuracy"] == pytest.approx(right.mean())
    assert result["worst"]["accuracy"] == pytest.approx(right.all(1).mean())
    votes = [np.bincount(row).argmax() for row in logits.argmax(-1)]
    assert result["vote"]["accuracy"] == pytest.approx(np.mean(votes == labels))
    total = np.log(np.exp(logits).sum(-1))
    losses = total - np.take_along_axis(logits, labels[:, None, None], 2)[..., 0]
    assert result["mean_loss"] == pytest.approx(losses.mean(), abs=1e-4)


_BOTH = ("known-key--linf-8--k3", "eot-pgd-2--linf-8--k2")


def test_attacks_raise_the_loss_and_the_known_key_most(folder):
    records = _records(folder)
    loss = {name: record["result"]["mean_loss"] for name, record in records.items()}
    for row in ("rain-before-fine-tuning", "rain-fine-tuned"):
        assert (
            loss[f"{row}--known-key--linf-8--k3--n4"] > loss[f"{row}--eot-pgd-2--linf-8--k2--n4"]
        )
        assert loss[f"{row}--pgd-2-one-draw--linf-8--k1--n6"] > loss[f"{row}--clean--n6"]
    assert loss["no-defense--pgd-2-one-draw--linf-8--k1--n6"] > loss["no-defense--clean--n6"]


def test_batch_size_changes_no_image(folder, config):
    wanted = "rain-fine-tuned--eot-pgd-2--linf-8--k2--n4"
    other = dataclasses.replace(config, name="other", batch_size=3)
    chosen = [t for t in other.threats() if t.name == "EOT-PGD-2"]
    few = dataclasses.replace(other.study(), threats=chosen, subjects=other.subjects()[2:])
    evaluate(few, config.out, progress=False)
    ours = _records(config.out / "other")[wanted]["result"]
    expected = _records(folder)[wanted]["result"]
    assert ours["correct_draws"] == expected["correct_draws"]
    assert ours["mean_loss"] == pytest.approx(expected["mean_loss"], abs=1e-4)
    assert ours["l2_mean"] == pytest.approx(expected["l2_mean"], abs=1e-4)


def test_another_run_does_nothing(folder, config, monkeypatch):
    def forbidden(*args, **options):
        raise AssertionError("nothing was left to compute")

    monkeypatch.setattr(driver, "run_attack", forbidden)
    monkeypatch.setattr(scoring, "score", forbidden)
    before = {path: path.read_bytes() for path in folder.glob("records/*.json")}
    run(config)
    assert {path: path.read_bytes() for path in folder.glob("records/*.json")} == before


def test_another_measure_of_the_same_attacks_costs_no_attack(folder, config, monkeypatch):
    def forbidden(*args, **options):
        raise AssertionError("the adversarial images were kept")

    monkeypatch.setattr(driver, "run_attack", forbidden)
    copy = config.out / "copied"
    shutil.copytree(folder, copy / "tiny")
    changed = dataclasses.replace(config, eight_bit=False, out=copy)
    records = _records(run(changed))
    expected = _records(folder)
    for name, record in records.items():
        expected[name]["result"].pop("rounded", None)
        assert record["result"] == expected[name]["result"]
        assert record["decides"] != expected[name]["decides"]


def test_a_killed_run_goes_on_where_it_was(folder, config, tmp_path):
    """SIGKILL at a random moment, again, and the records are those of an undisturbed run."""
    cut = dataclasses.replace(config, out=tmp_path)
    source = (
        "from pathlib import PosixPath\nfrom eval.studies.rain import RAINStudy\n"
        f"from rainjax.evaluation import evaluate\nconfig = {cut!r}\n"
        "evaluate(config.study(), config.out)"
    )
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    patience, pause = random.randrange(1, 5), 0.3 * random.random()
    print(f"killed {pause:.3f} s after batch {patience} was there")
    process = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 240
    while len(list((cut.out / cut.name).glob("work/*.npz"))) < patience:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    done = set(_records(cut.out / cut.name))
    expected = _records(folder)
    assert done < set(expected)
    kept = {path: path.stat().st_mtime_ns for path in (cut.out / cut.name).glob("work/*.npz")}
    run(cut)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert _without_run(_records(cut.out / cut.name)) == _without_run(expected)


def _without_run(records):
    return {name: {**record, "run": None} for name, record in records.items()}


@pytest.mark.parametrize("damage", ["cut short", "scribbled on", "emptied"])
def test_damaged_work_is_named(folder, config, tmp_path, damage):
    copy = dataclasses.replace(config, out=tmp_path)
    shutil.copytree(folder, (copy.out / copy.name))
    shutil.rmtree((copy.out / copy.name) / "records")
    for path in (copy.out / copy.name).glob("work/*.npz"):
        content = bytearray(path.read_bytes())
        if damage == "cut short":
            content = content[: len(content) // 2]
        elif damage == "scribbled on":
            content[300:400] = bytes(100)
        else:
            content.clear()
        path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"work/s-\w+\.npz is damaged .*: delete it and run again"
    ):
        run(copy)


def test_a_folder_of_another_study_is_refused(folder, config, networks, tmp_path):
    with pytest.raises(ValueError, match=r"tiny holds a study with seed=0, not 1: choose another"):
        run(dataclasses.replace(config, seed=1))
    with pytest.raises(ValueError, match=r"holds a study with num_score_draws=3, not 4"):
        run(dataclasses.replace(config, num_score_draws=4))
    with pytest.raises(ValueError, match=r"holds a study with data='builtin, test, .*', not"):
        run(dataclasses.replace(config, split="train"))
    # Fewer columns than are recorded, of another network: those that are left would lie.
    other = dataclasses.replace(config, finetuned=networks["pretrained"], known_key=False)
    with pytest.raises(ValueError, match=r"known-key.* is of another 'RAIN, fine-tuned' \(params"):
        run(other)
    copy = dataclasses.replace(config, out=tmp_path)
    (copy.out / copy.name).mkdir()
    (copy.out / copy.name / "study.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"study\.json is damaged .*; delete"):
        run(copy)


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
    cases.append(({"classifier": path}, "tells 7 classes apart, but 'builtin' has 10: choose"))
    for changes, sentence in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            run(dataclasses.replace(fresh, **changes))
    assert not (fresh.out / fresh.name).exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"num_score_draws": 0}, "num_score_draws=0 must be at least 1"),
        ({"num_sweep_examples": 0}, "num_sweep_examples=0 leaves the sweeps no image"),
    ],
)
def test_bad_options_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config, **changes)
