"""The design of a table: what it chooses against a plain loop, what it measures against SciPy."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.fft

from eval import _design_measures as measures
from eval import design as program
from eval.design import Output
from rainjax import data, distillation, zoo
from rainjax.attacks import PGD
from rainjax.data.splits import Data
from rainjax.defenses import FeatureDistillation, two_steps
from tests.tiny import RESNET_TINY, resnet_params

pytestmark = pytest.mark.usefixtures("quick_compilation")
RNG = np.random.default_rng(0)
NUM = 60


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny classifier as a file."""
    folder = tmp_path_factory.mktemp("zoo")
    images, labels = data.load("builtin", "train").get(np.arange(250))
    params = resnet_params(jnp.asarray(images, jnp.float32) / 255, labels)
    card = {"data": {}, "command": "-", "seed": 0, "metrics": {}}
    return str(zoo.save(folder, "resnet", RESNET_TINY, params, card))


@pytest.fixture
def options(classifier, tmp_path):
    return program.Design(
        run=Output("made", out=tmp_path),
        data=Data(num_training=40, num_validation=NUM),
        classifier=classifier,
        radius=8 / 255,
        resolution=5.0,
        num_attacked=12,
        num_steps=2,
        batch_size=20,
    )


def test_candidates_go_down_by_whole_numbers_of_the_resolution():
    assert program.candidates(30.0, 5.0) == (30, 25, 20, 15, 10, 5)
    assert program.candidates(30.0, 7.0) == (30, 28, 21, 14, 7)
    assert program.candidates(3.0, 1.0) == (3, 2, 1)
    assert program.candidates(0.4, 1.0) == (0.4,)
    assert program.candidates(0.3, 0.1) == pytest.approx((0.3, 0.2, 0.1))


def test_the_chosen_step_is_the_largest_that_a_plain_loop_finds(options):
    options = dataclasses.replace(options, tolerance=0.1)
    program.design(options)
    record = json.loads((options.run.folder / "design.json").read_text())

    training, _ = data.load("builtin", "train").get(np.arange(40))
    blocks = training.reshape(40, 4, 8, 4, 8, 3).astype(float)
    spread = scipy.fft.dctn(blocks, axes=(2, 4), norm="ortho").std(axis=(0, 1, 3, 5)).ravel()
    band = sorted(sorted(range(64), key=lambda i: -spread[i])[:15])
    assert record["band"]["positions"] == band

    images, labels = data.load("builtin", "validation").get(np.arange(NUM))
    images = images.astype(np.float32) / 255
    params = zoo.load(options.classifier).params
    classify = jax.jit(jax.vmap(RESNET_TINY.apply, (None, 0)))

    def right(images):
        return np.asarray(classify(params, jnp.asarray(images)).argmax(-1)) == labels

    before, largest = right(images).sum(), None
    for step in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0):
        defense = FeatureDistillation(two_steps(band, step, 30.0))
        after = right(np.stack([defense.purify(jnp.asarray(image)) for image in images])).sum()
        found = next(c for c in record["refinement"]["candidates"] if c["step"] == step)
        assert found["accuracy"] == pytest.approx(after / NUM)
        if before - after <= 0.1 * NUM:
            largest = step
    assert largest is not None
    assert record["refinement"]["step"] == largest
    assert record["refinement"]["undefended"] == pytest.approx(before / NUM)

    steps = zoo.load_steps(options.run.folder)
    assert steps == two_steps(band, largest, 30.0)
    assert [list(row) for row in steps] == record["steps"]
    table = json.loads((options.run.folder / "table.json").read_text())
    assert (table["accuracy"], table["defense"]) == (largest, 30.0)
    assert table["classifier"]["sha256"] == zoo.load(options.classifier).sha256
    assert {"command", "versions", "revision"} <= record.keys()
    with PIL.Image.open(options.run.folder / "design.png") as picture:
        assert picture.size[0] > 1000

    with pytest.raises(ValueError, match="holds a design already: choose another --name"):
        program.design(options)


class Judged(measures.Bench):
    """Says how many of a hundred images are lost, by the steps inside and outside the band."""

    lost = staticmethod(lambda inside, outside: 0)

    def __init__(self, *args, **options):
        pass

    def right(self, defense=None, images=None):
        count = 100 if images is None else len(images)
        lost = 0 if defense is None else self.lost(defense.steps[0][0], defense.steps[7][7])
        return np.arange(count) >= lost

    def attack(self, attack, count):
        images = RNG.integers(0, 256, (count, 16, 16, 3)).astype(np.float32) / 255
        noise = attack.radius * RNG.choice(np.array([-1, 1], np.float32), images.shape)
        return images, np.clip(images + noise, 0, 1)


@pytest.mark.parametrize(
    ("lost", "step"),
    [
        (lambda inside, outside: 1, 30),  # the step outside does inside as well
        (lambda inside, outside: inside // 10, 15),
        (lambda inside, outside: 5 * (inside not in (10, 20)), 20),  # accuracy is not monotonous
        (lambda inside, outside: 2 * (inside > 5), 5),
    ],
)
def test_the_largest_step_within_the_tolerance_is_taken(options, monkeypatch, lost, step):
    monkeypatch.setattr(program, "Bench", type("Bench", (Judged,), {"lost": staticmethod(lost)}))
    monkeypatch.setattr(program, "draw", lambda path, record: None)
    program.design(options)
    steps = np.array(zoo.load_steps(options.run.folder / "table.json"))
    assert (steps[0, 0], steps[7, 7]) == (step, 30)


def test_where_no_step_is_enough_nothing_is_made_up(options, monkeypatch):
    def design(lost, **changes):
        judged = type("Bench", (Judged,), {"lost": staticmethod(lost)})
        monkeypatch.setattr(program, "Bench", judged)
        run = dataclasses.replace(options.run, fresh=True)
        program.design(dataclasses.replace(options, run=run, **changes))

    design(lambda inside, outside: 0)
    folder = options.run.folder
    assert (folder / "table.json").exists()
    with pytest.raises(
        ValueError, match=r"best of 6, 20, loses 2\.00% of 100 .* no smaller step"
    ) as stop:
        design(lambda inside, outside: 2 + 2 * (inside != 20))
    assert not (folder / "table.json").exists()
    record = json.loads((folder / "design.json").read_text())
    assert record["steps"] is None
    assert not record["refinement"]["found"]
    assert (folder / "design.png").exists()

    # What it advises instead works, and the next larger step would not have.
    lost = lambda inside, outside: 9 * (outside > 15) + (inside > 5)
    with pytest.raises(
        ValueError, match=r"largest step outside that leaves room .* is 15"
    ) as stop:
        design(lost)
    share = float(str(stop.value).split("--share ")[1].split(",")[0])
    design(lost, share=share)
    steps = np.array(zoo.load_steps(folder))
    assert (steps[0, 0], steps[7, 7]) == (15, 15)


def test_the_step_outside_is_the_closed_form_rounded_up(options, monkeypatch):
    monkeypatch.setattr(program, "Bench", Judged)
    monkeypatch.setattr(program, "draw", lambda path, record: None)
    program.design(dataclasses.replace(options, radius=4 / 255, share=0.1, resolution=2.0))
    found = json.loads((options.run.folder / "design.json").read_text())["defensive"]
    assert distillation.changed_share(4.0, found["closed_form"]) == pytest.approx(0.1)
    assert found["step"] == 2 * np.ceil(found["closed_form"] / 2)
    # Random signs on random images is what the closed form is about.
    assert found["moved"]["measured"]["defense"] == pytest.approx(
        found["moved"]["closed_form"]["defense"], abs=0.02
    )


def test_statistics_are_those_of_a_loop():
    images, _ = data.load("builtin", "validation").get(np.arange(20))
    images = images.astype(np.float32) / 255
    attacked = np.clip(images + RNG.normal(0, 0.03, images.shape), 0, 1).astype(np.float32)
    inside = np.add.outer(np.arange(8), np.arange(8)) <= 4
    # No whole steps: a mean value of whole grey levels would lie on the edge of its cell.
    steps = two_steps("triangle15", 10.37, 30.31)
    found = measures.statistics(images, attacked, steps, inside, radius=8.0)

    before, after = (_blocks(255.0 * x) for x in (images, attacked))
    for name, values in (
        ("benign_spread", before),
        ("adversarial_spread", after),
        ("perturbation_spread", after - before),
    ):
        np.testing.assert_allclose(found[name], values.std(0), rtol=1e-3)

    def moved(table):
        return (np.round(before / table) != np.round(after / table)).mean(0)

    np.testing.assert_allclose(found["moved_by_position"], moved(np.array(steps)), atol=1e-3)
    share = moved(np.array(steps))
    assert found["moved"]["measured"] == pytest.approx(
        {"accuracy": share[inside].mean(), "defense": share[~inside].mean()}, abs=1e-3
    )
    normal = RNG.normal(0, 1, 200_000) * (after - before).std(0)[7, 7]
    at = found["curve"][11]
    assert at["step"] == pytest.approx(30.31)
    expected = [np.minimum(1, np.abs(normal) / at["step"] * s).mean() for s in (0.9, 1.1)]
    assert expected[0] < at["shaped"]["defense"] < expected[1]
    for point in found["curve"][::5]:
        share = moved(point["step"])[~inside].mean()
        assert point["measured"]["defense"] == pytest.approx(share, abs=2e-3)
        closed = distillation.changed_share(8.0, point["step"])
        assert point["closed_form"]["defense"] == pytest.approx(closed)

    step = measures.measured_step(images, attacked, inside, 0.2)
    assert moved(0.98 * step)[~inside].mean() > 0.2 > moved(1.02 * step)[~inside].mean()


def _blocks(images):
    """Returns the coefficients of every block and channel, one 8x8 array after the other."""
    found = []
    for image in images.astype(float):
        for row in range(0, image.shape[0], 8):
            for column in range(0, image.shape[1], 8):
                block = image[row : row + 8, column : column + 8]
                found += [scipy.fft.dctn(block[..., c], norm="ortho") for c in range(3)]
    return np.array(found)


def test_a_loss_and_its_error_are_those_of_paired_differences():
    before, after = RNG.random((2, 500)) < np.array([[0.9], [0.8]])
    found = measures.cost(before, after)
    differences = before.astype(float) - after
    assert found["accuracy"] == after.mean()
    assert found["loss"] == pytest.approx(differences.mean())
    assert found["loss_error"] == pytest.approx(differences.std() / np.sqrt(500))
    assert found["lost"] - found["gained"] == differences.sum()


def test_the_attack_is_on_the_classifier_alone_whatever_the_batches(classifier):
    images, labels = data.load("builtin", "validation").get(np.arange(9))
    attack = PGD(radius=4 / 255, step_size=1 / 255, num_steps=3)
    made = []
    for size in (4, 6):
        bench = measures.Bench(
            zoo.load(classifier), images, labels, np.arange(9), batch_size=size, seed=3
        )
        original, attacked = bench.attack(attack, 7)
        np.testing.assert_array_equal(original, images[:7].astype(np.float32) / 255)
        assert 3.9 / 255 < np.abs(attacked - original).max() < 4.001 / 255
        assert bench.right(images=attacked).sum() <= bench.right()[:7].sum()
        made.append(attacked)
    np.testing.assert_allclose(made[0], made[1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 8.0}, r"radius=8.0 must lie in \(0, 1\]; 8/255 is 0.03137"),
        ({"radius": float("nan")}, "radius=nan must lie"),
        ({"share": 1.0}, "share=1.0 must lie between 0 and 1"),
        ({"tolerance": 1.0}, r"tolerance=1.0 must lie in \[0, 1\); 1 % is 0.01"),
        ({"rank": 64}, r"rank=64 must lie in 1\.\.63"),
        ({"resolution": 0.0}, "resolution=0.0 must be positive"),
        ({"share": 1e-9}, "share=1e-09 asks for a step of .* more than 1000 multiples"),
        ({"share": 1e-320}, "asks for a step of"),
        ({"num_attacked": 0}, "num_attacked=0 must be at least 1"),
        ({"num_attacked": 301}, "num_attacked=301 must be at most num_validation=300"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(program.PRESETS["smoke"][1], **changes)


DESIGNS = pathlib.Path(__file__).parents[2] / "eval" / "records" / "design"


@pytest.mark.parametrize("name", sorted(path.name for path in DESIGNS.iterdir()))
def test_the_committed_designs_are_what_their_records_chose(name):
    record = json.loads((DESIGNS / name / "design.json").read_text())
    found, defensive = record["refinement"], record["defensive"]
    assert not record["revision"].endswith("-modified")
    fitting = [c["step"] for c in found["candidates"] if c["loss"] <= found["tolerance"] + 1e-9]
    assert found["found"] == bool(fitting) == (DESIGNS / name / "table.json").exists()
    if fitting:
        assert found["step"] == max(fitting)
        assert zoo.load_steps(DESIGNS / name) == two_steps(
            record["band"]["positions"], max(fitting), defensive["step"]
        )
