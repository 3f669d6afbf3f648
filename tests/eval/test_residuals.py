"""`python -m eval residuals` from end to end, on tiny classifiers and the built-in set."""

import copy
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import eval.__main__ as program
from eval import report
from eval.benchmarks import _residual_figure, _residual_statistics, residuals
from eval.benchmarks.residuals import Residuals
from rainjax import PGD, Defended, Identity, data, run_attack, zoo
from rainjax.evaluation import driver
from rainjax.keys import Purpose, example_keys
from tests.saved_networks import two_classifiers

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = pathlib.Path(__file__).parents[2]
NUM, RADIUS = 60, 0.1
NAMES = [
    "FGSM", "PGD", "APGD", "PGD L2", "Carlini-Wagner L2", "DeepFool L2", "Square",
    "PGD, transferred", "random signs",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return two_classifiers(tmp_path_factory.mktemp("residuals"))


def _options(folder, **changes):
    options = {
        "classifier": str(folder / "resnet0"),
        "transfer": str(folder / "resnet1"),
        "split": "train",
        "num_examples": NUM,
        "linf_radius": RADIUS,
        "l2_radius": 3.0,
        "num_steps": 3,
        "cw_steps": 4,
        "num_queries": 10,
        "num_flips": 99,
        "batch_size": 20,
        "out": folder / "results",
    }
    return Residuals(**{**options, **changes})


@pytest.fixture(scope="module")
def path(folder):
    return residuals.run(_options(folder))


@pytest.fixture
def record(path):
    return residuals.RECORD.load(path)


def _entry(record, name):
    return next(entry for entry in record["entries"] if entry["name"] == name)


def _images():
    images, labels = data.load("builtin", "train").get(np.arange(NUM))
    return jnp.asarray(images, jnp.float32) / 255, jnp.asarray(labels)


def test_the_record_holds_what_is_computed_by_hand(folder, record):
    images, labels = _images()
    networks = [zoo.load(folder / f"resnet{seed}") for seed in (0, 1)]
    assert [entry["sha256"] for entry in record["networks"]] == [n.sha256 for n in networks]
    assert [entry["name"] for entry in record["entries"]] == NAMES

    def logits(index, image):
        return networks[index].network.apply(networks[index].params, image)

    def loss(image, label):
        return -jax.nn.log_softmax(logits(0, image))[label]

    said = lambda batch: np.asarray(jax.vmap(lambda x: logits(0, x).argmax())(batch))
    right = said(images) == np.asarray(labels)
    assert record["images"]["num_right"] == right.sum()
    signs = jnp.sign(jax.vmap(jax.grad(loss))(images, labels))
    other = Defended(Identity(), networks[1].network)
    pgd = PGD(radius=RADIUS, step_size=RADIUS / 4, num_steps=3)
    keys = example_keys(0, Purpose.ATTACK, np.arange(NUM))
    params = {"defense": (), "classifier": networks[1].params}
    attacked = {
        "FGSM": jnp.clip(images + RADIUS * signs, 0, 1),
        "PGD, transferred": run_attack(other, pgd, params, keys, images, labels),
    }
    for name, adversarial in attacked.items():
        fooled = right & (said(adversarial) != np.asarray(labels))
        change = np.asarray(adversarial - images, np.float64)[fooled].reshape(fooled.sum(), -1)
        entry = _entry(record, name)
        assert entry["num_images"] == fooled.sum() >= _residual_statistics.FEWEST
        found = entry["populations"]["all"]
        np.testing.assert_allclose(found["each"]["mean"], change.mean(1), atol=5e-6)
        skewness = scipy.stats.skew(change, axis=1)
        np.testing.assert_allclose(found["each"]["skewness"], skewness, atol=1e-3)
        test = scipy.stats.ttest_1samp(change.mean(1), 0)
        assert found["mean"]["t"] == pytest.approx(test.statistic, abs=1e-2)
        assert found["mean"]["t_p"] == pytest.approx(test.pvalue, abs=1e-2)
        assert found["mean"]["num_images"] == fooled.sum()
        assert 255 * found["pooled"]["standard_deviation"] == pytest.approx(
            255 * change.std(), abs=1e-2
        )
        whole = np.round(255_000 * change.ravel())
        distance = scipy.stats.ks_2samp(whole, -whole).statistic
        assert found["symmetry"]["distance"] == pytest.approx(distance, abs=2e-3)


def test_random_signs_are_lopsided_at_the_borders_alone(record):
    found = _entry(record, "random signs")
    inner = found["populations"]["inner"]
    assert 255 * inner["pooled"]["standard_deviation"] == pytest.approx(255 * RADIUS, rel=1e-3)
    assert inner["pooled"]["excess_kurtosis"] == pytest.approx(-2, abs=1e-2)
    assert abs(inner["mean"]["t"]) < 4
    assert 0 < inner["share_of_values"] < 1
    spectrum = np.asarray(found["spectrum"])[2:]
    np.testing.assert_allclose(spectrum / spectrum.mean(), 1, atol=0.3)  # white
    assert found["attack"] is None


def test_nothing_is_attacked_twice(folder, record, monkeypatch):
    def fail(*args, **kwargs):
        pytest.fail("it attacked again")

    monkeypatch.setattr(driver, "watched_attack", fail)
    again = residuals.RECORD.load(residuals.run(_options(folder)))
    assert again["entries"] == record["entries"]


def test_without_another_classifier_nothing_transfers(folder):
    options = _options(folder, transfer=None, num_steps=1, cw_steps=2, num_queries=2)
    _, study = options.networks(), options.study(*options.networks())
    applies = [
        threat.name
        for threat in study.threats
        if threat.attack and threat.surrogate.of(study.subjects[0].pipeline) is not None
    ]
    assert applies == NAMES[:-2]


def test_tables_and_figure_say_what_the_record_says(path, record, tmp_path, capsys):
    text = report.record_text(path, "markdown")
    assert str(path.parent) not in path.read_text()
    tables = text.split("**Adversarial residuals: ")[1:]
    assert len(tables) == 3
    for table, population in zip(tables, _residual_statistics.POPULATIONS, strict=True):
        lines = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
        for line, entry in zip(lines[2:], record["entries"], strict=True):
            assert line[1].strip() == entry["name"]
            found = entry["populations"][population]
            if found is None:
                assert line[3].strip() == "—"
                continue
            assert line[2].split()[0] == str(found["num_images"])
            assert float(line[4].split()[0]) == pytest.approx(
                255 * found["mean"]["mean"], abs=5e-4
            )
            assert f"t {found['mean']['t']:+.2f}" in line[5]
            assert line[7].split()[0] == f"{found['symmetry']['distance']:.4f}"
    drawing = _residual_figure.figure(record)
    assert drawing.png == path.with_suffix(".png").read_bytes()
    for name in NAMES:
        assert f"{name}: mean " in drawing.alt
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results:residuals -->\nold\n<!-- /results:residuals -->\nb\n")
    program._report(program.Report(path, readme=readme))
    assert f"-->\n{text}\n<!--" in readme.read_text()
    assert "Adversarial residuals" in capsys.readouterr().out


def test_the_committed_record_follows_from_its_images():
    record = residuals.RECORD.load(ROOT / "eval" / "records" / "residuals.json")
    assert [entry["name"] for entry in record["entries"]] == NAMES
    assert record["options"]["data"] == "cifar10"


def test_few_images_are_not_judged():
    rng = np.random.default_rng(0)
    few = rng.random((_residual_statistics.FEWEST - 1, 8, 8, 3)).astype(np.float32)
    key = jax.random.key(0)
    found = _residual_statistics.statistics(key, few, few[::-1], radius=None, num_flips=9)
    assert found["populations"] == dict.fromkeys(_residual_statistics.POPULATIONS)
    assert found["num_images"] == len(few)
    none = _residual_statistics.statistics(key, few[:0], few[:0], radius=0.1, num_flips=9)
    assert none["num_images"] == 0
    assert none["low_frequencies"] is None


def test_histograms_are_numpys_and_mirror_each_other():
    rng = np.random.default_rng(1)
    change = rng.choice([-0.1, -0.04, 0, 0.1], (3, 8, 8, 3))
    found = _residual_statistics.histogram(change, 0.1)
    assert found["shares"][0] == pytest.approx((change == -0.1).mean())
    assert found["shares"][20] == pytest.approx((change == 0).mean())
    assert found["shares"][12] == pytest.approx((change == -0.04).mean())
    assert found["shares"][-1] == pytest.approx((change == 0.1).mean())
    assert found["beyond"] == [0, 0]
    tailed = rng.standard_t(2, (3, 8, 8, 3)) / 255
    one, other = (_residual_statistics.histogram(sign * tailed, None) for sign in (1, -1))
    assert one["unit"] == "grey levels"
    np.testing.assert_allclose(one["shares"], other["shares"][::-1])
    assert one["beyond"] == other["beyond"][::-1]
    assert 0 < sum(one["beyond"]) <= 0.01
    assert sum(one["shares"]) + sum(one["beyond"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r.update(kind="gains"), "another kind"),
        (lambda r: r.update(entries=[]), "it has no entries"),
        (lambda r: r["entries"][0]["populations"].pop("inner"), "KeyError"),
        (
            lambda r: r["entries"][0]["populations"]["all"]["each"]["mean"].pop(),
            "the mean of FGSM, all values is not of",
        ),
        (
            lambda r: r["entries"][1]["populations"]["inner"]["mean"].update(t_p=0.5),
            "the test of the mean of PGD, values further .* does not follow",
        ),
        (
            lambda r: r["entries"][1]["populations"]["all"].update(skewness=None),
            "the test of the skewness of PGD, all values does not follow",
        ),
    ],
)
def test_unusable_records_are_refused(record, change, sentence, tmp_path):
    damaged = copy.deepcopy(record)
    change(damaged)
    place = tmp_path / "residuals.json"
    place.write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match=sentence):
        residuals.RECORD.load(place)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"num_flips": 0}, "num_flips=0 must be at least 1"),
        ({"transfer": None, "transfer_arch": "resnet20"}, "name it by transfer"),
        ({"data": "cifar99"}, "cifar99"),
        ({"classifier": "builtin_resent"}, "The zoo has no 'builtin_resent'"),
        ({"transfer": "absent"}, "The zoo has no 'absent'"),
        ({"num_examples": 10**6}, "num_examples=1000000, but 'builtin' has"),
        ({"linf_radius": -1.0}, "radius=-1.0"),
        ({"cw_steps": 1}, "num_steps=1"),
    ],
)
def test_bad_options_are_one_sentence(folder, tmp_path, changes, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        residuals.run(_options(folder, **{"out": tmp_path, **changes}))


def test_the_command_line_reads_the_options():
    words = ["residuals", "--data", "cifar10", "--classifier", "resnet20.npz"]
    words += ["--classifier-arch", "resnet20", "--num-flips", "99"]
    command = program.read(words)
    assert command == Residuals(
        data="cifar10", classifier="resnet20.npz", classifier_arch="resnet20", num_flips=99
    )
    assert program._BENCHMARKS[type(command)] is residuals.run
