"""Teaching the student of the image-quality detector: the pairs, the loss, the program."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.special
import scipy.stats

from rainjax import data, nets, zoo
from rainjax.data.splits import Data
from rainjax.detectors import ImageQuality, score_images, teacher_signals
from rainjax.keys import Purpose, example_keys
from rainjax.transforms import distort
from tests import saved_networks
from tests.tiny import RESNET_TINY
from train import augment, iqa, iqa_measures, pairs
from train.optimizers import Optimizer
from train.options import Output

MIX = pairs.Mix(
    distortions=("gaussian_noise", "contrast"),
    attacks=("fgsm_8", "pgd_4"),
    held_out_distortions=("pixelate",),
    held_out_attacks=("deepfool",),
    attacked_share=0.5,
    num_held_out=3,
    part_size=8,
)
SMOKE = dataclasses.replace(
    iqa.PRESETS["smoke"][1], mix=MIX, network=nets.QualityNet(width=4, num_stages=2, hidden=8)
)


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> pathlib.Path:
    return saved_networks.tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def teacher(entries) -> pairs.Teacher:
    return pairs.Teacher(zoo.load(entries / "resnet"), temperature=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("pairs")


def _make(folder, teacher, **options):
    training = data.load("builtin", "train")
    return pairs.make_pairs(folder, training, np.arange(300, 312), MIX, teacher, seed=5, **options)


def test_views_and_signals_are_those_of_the_library(folder, teacher):
    views = _make(folder, teacher, held_out=True)
    assert set(views["kind"]) == {
        "clean", "gaussian_noise", "contrast", "fgsm_8", "pgd_4", "pixelate", "deepfool",
    }  # fmt: skip
    training = data.load("builtin", "train")
    images, labels = training.get(views["source"])
    assert np.array_equal(labels, views["label"])
    assert np.array_equal(views["index"], np.arange(len(labels)))
    change = np.abs(views["image"].astype(int) - images).max((1, 2, 3))
    assert change[views["kind"] == "clean"].max() == 0
    assert change[views["kind"] == "fgsm_8"].max() == 8
    assert change[views["kind"] == "pgd_4"].max() == 4
    network, params = teacher.classifier.network, teacher.classifier.params
    signals = jax.jit(functools.partial(teacher_signals, network, temperature=2.0))
    for kind in ("clean", "contrast", "gaussian_noise", "pgd_4", "pixelate"):
        row = int(np.flatnonzero(views["kind"] == kind)[0])
        image, reference = (
            jnp.asarray(x[row], jnp.float32) / 255 for x in (views["image"], images)
        )
        told = signals(params, reference, image, jnp.asarray(labels[row]))
        assert views["quality"][row] == pytest.approx(float(told.quality), abs=1e-4)
        assert views["change"][row] == pytest.approx(float(told.change), abs=1e-4)
        assert views["errs"][row] == float(told.errs)
        assert np.allclose(views["probs"][row], told.probs, atol=1e-3)
        if kind in ("contrast", "gaussian_noise"):
            key = example_keys(5, Purpose.DATA, views["source"][row : row + 1])[0]
            severity = int(views["severity"][row])
            wanted = distort(key, reference, name=kind, severity=severity, scale="cifar10_c")
            assert np.abs(255 * np.asarray(wanted) - views["image"][row]).max() < 0.51


def test_attacks_that_are_held_out_run_on_the_first_references_alone(folder, teacher):
    views = _make(folder, teacher, held_out=True)
    assert (views["kind"] == "deepfool").sum() == 3
    assert set(views["source"][views["kind"] == "deepfool"]) == {300, 301, 302}
    assert (views["kind"] == "pixelate").sum() == 12


def test_what_is_held_out_is_never_learned_from(tmp_path, teacher):
    kinds = set(_make(tmp_path, teacher)["kind"])
    assert not kinds & {*MIX.held_out_distortions, *MIX.held_out_attacks}
    assert kinds == {"clean", *MIX.distortions, *MIX.attacks}


def test_a_stopped_run_goes_on_with_the_part_that_it_was_at(tmp_path, teacher, monkeypatch):
    whole = _make(tmp_path / "whole", teacher)
    attacked, calls = pairs.run_attack, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return attacked(*args, **options)

    monkeypatch.setattr(pairs, "run_attack", stopped)
    with pytest.raises(KeyboardInterrupt):
        _make(tmp_path / "parts", teacher)
    first = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert [name.split("-")[0:2] for name in first] == [["signals", "0000"], ["views", "0000"]]
    written = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in first}
    monkeypatch.setattr(pairs, "run_attack", attacked)
    resumed = _make(tmp_path / "parts", teacher)
    assert all((tmp_path / "parts" / n).stat().st_mtime_ns == t for n, t in written.items())
    for name, values in whole.items():
        assert np.array_equal(resumed[name], values), name

    monkeypatch.setattr(pairs, "run_attack", None)  # whatever is there is not made again
    hotter = dataclasses.replace(teacher, temperature=9.0)
    again = _make(tmp_path / "parts", hotter)
    assert np.array_equal(again["image"], whole["image"])
    assert np.all(again["probs"].max(1) < whole["probs"].max(1) + 1e-3)
    assert again["probs"].max() < whole["probs"].max()


def test_processes_share_the_parts_and_read_them_all(folder, tmp_path, teacher, monkeypatch):
    """The second has its turn when the first waits for it."""
    whole = _make(folder, teacher)
    made = {}

    def other(point):
        monkeypatch.setattr(pairs, "wait_for_all", lambda point: None)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        made["before"] = sorted(path.name[:10] for path in tmp_path.iterdir())
        made["second"] = _make(tmp_path, teacher)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(pairs, "wait_for_all", other)
    made["first"] = _make(tmp_path, teacher)
    assert made["before"] == ["signals-00", "views-0000"]
    for who in ("first", "second"):
        for name, values in whole.items():
            np.testing.assert_array_equal(made[who][name], values)


def test_a_damaged_part_is_named(tmp_path, teacher):
    _make(tmp_path, teacher)
    path = next(tmp_path.glob("views-0001*"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"views-0001-.*is damaged .*: delete it and run again"):
        _make(tmp_path, teacher)


def test_the_loss_is_what_scipy_says():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=13)
    example = {
        "quality": np.float32(0.3), "change": np.float32(0.45), "errs": np.float32(1.0),
        "probs": np.array([0.5, 0.3, 0.2] + 7 * [0.0], np.float16),
    }  # fmt: skip
    options = dataclasses.replace(
        SMOKE, network=nets.QualityNet(), temperature=3.0, huber_delta=0.2
    )
    found = iqa.loss_terms(jnp.asarray(outputs, jnp.float32), example, options=options)
    student = scipy.special.log_softmax(outputs[3:] / 3)
    probs = example["probs"].astype(float)
    wanted = {
        "quality": scipy.special.huber(0.2, outputs[0] - 0.3),
        "distillation": 9 * scipy.special.rel_entr(probs, np.exp(student)).sum(),
        "risk": -scipy.special.log_expit(outputs[1]),
        "change": scipy.special.huber(0.2, outputs[2] - 0.45),
    }
    assert {n: float(v) for n, v in found.items()} == pytest.approx(wanted, rel=1e-3)
    right = iqa.loss_terms(
        jnp.asarray(outputs, jnp.float32), {**example, "errs": np.float32(0)}, options=options
    )
    assert float(right["risk"]) == pytest.approx(-scipy.special.log_expit(-outputs[1]), rel=1e-5)


def test_a_weight_of_zero_leaves_its_term_out_of_the_gradient():
    network = SMOKE.network
    params = network.init(jax.random.key(0))
    example = {
        "image": np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8),
        "quality": np.float32(0.5), "change": np.float32(0.5), "errs": np.float32(1),
        "probs": np.full(10, 0.1, np.float16),
    }  # fmt: skip
    outputs_of = {"quality": [0], "risk": [1], "change": [2], "distillation": range(3, 13)}
    for name, columns in outputs_of.items():
        weights = dataclasses.replace(iqa.Weights(), **{name: 0.0})
        options = dataclasses.replace(SMOKE, weights=weights)
        loss = lambda p, options=options: iqa.loss(
            p, (), jax.random.key(0), example, options=options, protected=RESNET_TINY
        )
        bias = jax.grad(loss, has_aux=True)(params)[0]["linear"]["bias"]
        assert set(np.flatnonzero(np.asarray(bias) == 0)) == set(columns)


def test_a_random_square_is_a_part_of_the_image_and_reaches_every_corner():
    image = jnp.arange(5 * 4 * 3, dtype=jnp.float32).reshape(5, 4, 3)
    keys = jax.random.split(jax.random.key(0), 200)
    squares = jax.vmap(lambda key: augment.random_square(key, image, size=3))(keys)
    wanted = {
        np.asarray(image[r : r + 3, c : c + 3]).tobytes() for r in range(3) for c in range(2)
    }
    assert {np.asarray(square).tobytes() for square in squares} == wanted
    with pytest.raises(
        ValueError, match=r"size=5 must be at least 1, and at most the size \(5, 4"
    ):
        augment.random_square(keys[0], image, size=5)


def test_auroc_is_mann_and_whitneys():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 20, 200), rng.random(200) < 0.3
    u = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic
    wanted = u / (positive.sum() * (~positive).sum())
    assert iqa_measures.auroc(scores, positive) == pytest.approx(wanted, abs=1e-12)
    assert iqa_measures.auroc(scores, np.ones(200, bool)) is None


def test_the_program_teaches_and_goes_on_and_leaves_an_entry(tmp_path, entries):
    options = dataclasses.replace(
        SMOKE,
        run=Output("student", out=tmp_path),
        data=Data(num_training=40, num_validation=16),
        optimizer=Optimizer(learning_rate=1e-2, schedule="constant"),
        classifier=str(entries / "resnet"),
        num_epochs=3,
        batch_size=16,
    )
    iqa.train(options)
    run = tmp_path / "student"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[1]["loss"]
    assert {"validation_auroc", "validation_auroc_held_out_attacks"} <= lines[-1].keys()
    with PIL.Image.open(run / "student.png") as picture:
        assert picture.size[0] > 400
    entry = zoo.load(run)
    assert entry.network == options.network
    assert entry.card["classifier_sha256"] == zoo.load(entries / "resnet").sha256
    assert entry.card["views"]["clean"] == 40
    assert "deepfool" not in entry.card["views"]
    assert entry.card["by_kind"]["deepfool"]["num"] == 3
    assert entry.card["attacks"]["fgsm_8"]["radius"] == pytest.approx(8 / 255)
    assert entry.card["options"]["mix.held_out_attacks"] == ["deepfool"]
    images, _ = data.load("builtin", "validation").get(np.arange(4))
    detector = ImageQuality(entry.network)
    assert score_images(detector, {"student": entry.params}, images / 255.0).shape == (4,)

    before = {path: path.stat().st_mtime_ns for path in (run / "pairs").rglob("*.npz")}
    assert len(before) == 2 * (5 + 2)
    iqa.train(options)  # the run is finished: it is stored anew
    again = zoo.load(run)
    assert again.sha256 == entry.sha256
    assert before == {path: path.stat().st_mtime_ns for path in (run / "pairs").rglob("*.npz")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pairs.Mix(attacks=("pgd",)), "No attack is called 'pgd'; there are fgsm_2"),
        (lambda: pairs.Mix(distortions=("fog",)), "No distortion is called 'fog'"),
        (lambda: pairs.Mix(attacks=()), "attacks is empty: name at least one"),
        (lambda: pairs.Mix(attacks=("deepfool",)), "'deepfool' is in attacks and in held_out"),
        (lambda: pairs.Mix(attacked_share=0.0), r"attacked_share=0.0 must lie in \(0, 1\]"),
        (lambda: pairs.Mix(part_size=0), "part_size=0 must be at least 1"),
        (lambda: iqa.Weights(risk=-1.0), "weights.risk=-1.0 must be at least 0"),
        (lambda: iqa.Weights(0, 0, 0, 0), "All weights are 0"),
        (lambda: dataclasses.replace(SMOKE, crop=0), "crop=0 must be at least 1"),
        (lambda: dataclasses.replace(SMOKE, temperature=0.0), "temperature=0.0 must be positive"),
        (
            lambda: iqa.train(dataclasses.replace(SMOKE, classifier=None)),
            "no protected network: name one by --classifier",
        ),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_student_may_see_the_protected_networks_features(tmp_path, entries):
    options = dataclasses.replace(
        SMOKE,
        run=Output("sees", out=tmp_path),
        network=dataclasses.replace(SMOKE.network, num_features=32),
        classifier=str(entries / "resnet"),
        data=Data(num_training=24, num_validation=8),
        num_epochs=1,
        batch_size=16,
    )
    iqa.train(options)
    entry, classifier = zoo.load(tmp_path / "sees"), zoo.load(entries / "resnet")
    detector = ImageQuality(entry.network, nets.Features(classifier.network))
    images, _ = data.load("builtin", "validation").get(np.arange(2))
    params = {"student": entry.params, "network": classifier.params}
    assert np.isfinite(score_images(detector, params, images / 255.0)).all()
    wrong = dataclasses.replace(options.network, num_features=31)
    with pytest.raises(ValueError, match="num_features=31, and the protected network has 32"):
        iqa.train(dataclasses.replace(options, network=wrong))


def test_a_student_of_other_classes_is_refused(tmp_path, entries):
    options = dataclasses.replace(
        SMOKE,
        run=Output("x", out=tmp_path),
        network=nets.QualityNet(num_classes=7),
        classifier=str(entries / "resnet"),
        data=Data(num_training=10, num_validation=5),
    )
    with pytest.raises(ValueError, match="num_classes=7, and 'builtin' has 10 classes"):
        iqa.train(options)
