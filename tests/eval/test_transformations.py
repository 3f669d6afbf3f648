"""The comparison of transformations from end to end, on a tiny network and a few pictures."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.studies.defenses import MAKERS
from eval.studies.transformations import Transformations
from eval.studies.two_pass import Compressed
from rainjax import data, defenses, zoo
from rainjax.defenses import FeatureDistillation
from rainjax.evaluation import driver, evaluate, load_records, scoring
from tests import saved_networks

pytestmark = pytest.mark.usefixtures("quick_compilation")

RANDOM = (
    "shield",
    "quilting",
    "noise",
    "resize_pad",
    "crop",
    "pixel_deflection",
    "subset",
    "rain",
)
BLIND = ("fgsm", "bim", "pgd")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    place = tmp_path_factory.mktemp("networks")
    networks = saved_networks.save(place)
    return Transformations(
        name="tiny",
        rows=("fd", "noise", "fd"),  # twice is once
        classifier=networks["classifier"],
        enhancer=networks["pretrained"],
        rain=networks["finetuned"],
        blind_spot=saved_networks.save_blind_spot(place),
        radii=(2 / 255,),
        num_examples=6,
        num_eot_examples=4,
        num_steps=2,
        num_eot=2,
        cw_steps=2,
        reach_steps=2,
        num_score_draws=2,
        batch_size=3,
        bank_size=50,
        out=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def folder(config, quick_compilation):
    return run(config)


def run(config):
    evaluate(config.study(), config.out, progress=False)
    return pathlib.Path(config.out) / config.name


def test_every_cell_has_its_record(folder):
    found = {record.id for record in load_records(folder)}
    expected = set()
    for row in ("no-defense", "feature-distillation-25-30", "gaussian-noise"):
        expected |= {f"{row}--clean--n6"}
        expected |= {f"{row}--{name}--l2-nearest--k1--n6" for name in ("deepfool", "cw-l2")}
        expected |= {f"{row}--{name}--linf-2--k1--n6" for name in BLIND}
        own = ["own-gradient"] if row == "no-defense" else ["bpda-identity", "own-gradient"]
        num = 4 if row == "gaussian-noise" else 6  # what is random takes longer
        expected |= {f"{row}--{name}--linf-2--k1--n{num}" for name in own}
        expected |= {f"{row}--eot--linf-2--k2--n4"} if row == "gaussian-noise" else set()
        if row == "feature-distillation-25-30":
            names = ("reachable-outputs", "proved")
            expected |= {f"{row}--{name}--linf-2--k1--n6" for name in names}
    assert found == expected


def test_blind_images_are_made_once_for_all_rows(folder):
    # Two batches of 5 blind attacks, of 6 informed ones, and of EOT's; a proof attacks nothing.
    assert len(list(folder.glob("work/a-*.npz"))) == 2 * 5 + 2 * 6 + 2


def test_another_run_does_nothing(folder, config, monkeypatch):
    def forbidden(*args, **options):
        raise AssertionError("nothing was left to compute")

    monkeypatch.setattr(driver, "run_attack", forbidden)
    monkeypatch.setattr(scoring, "score", forbidden)
    assert run(config) == folder


def test_rows_that_join_later_join_the_gallery(folder, config):
    run(dataclasses.replace(config, rows=("bit_depth",), cw_steps=3))
    run(config)
    with np.load(folder / "gallery.npz") as gallery:
        titles = gallery["titles"].tolist()
        pictures = dict(zip(titles, gallery["images"], strict=True))
    assert set(titles) == {
        "no defense", "Feature Distillation, 25/30", "bit depth, 3 bits", "Gaussian noise",
    }  # fmt: skip
    shades = {title: len(np.unique(picture)) for title, picture in pictures.items()}
    coarse = shades.pop("bit depth, 3 bits")
    assert coarse <= 8 < min(shades.values())
    order = json.loads((folder / "study.json").read_text())["subjects"]
    assert sorted(order) == sorted(titles)


def test_a_row_is_not_made_of_two_things(folder, config):
    fewer = dataclasses.replace(config.study(), threats=config.study().threats[:1])
    subject = dataclasses.replace(fewer.subjects[1], sources={"defense": "60 patches"})
    other = dataclasses.replace(fewer, subjects=[subject])
    with pytest.raises(ValueError, match=r"of another 'Feature Distillation, 25/30' \(params"):
        evaluate(other, config.out, progress=False)


@pytest.mark.parametrize("radius", [None, 0.5])
def test_an_unbounded_radius_is_read_and_nothing_else_for_it(folder, tmp_path, radius):
    (path,) = folder.glob("records/feature-distillation-25-30--cw-*.json")
    record = json.loads(path.read_text())
    assert record["axes"]["radius"] is None
    record["axes"]["radius"] = radius
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / path.name).write_text(json.dumps(record))
    (loaded,) = load_records(tmp_path)
    assert loaded.ball == ("l2", radius or float("inf"))


def test_every_transformation_of_the_list_purifies_an_image(config, tmp_path):
    """All of them, with the parameters that their rows get, on an image of two sizes."""
    steps = zoo.save_steps
    steps(tmp_path / "table.json", defenses.two_steps(), {})
    every = dataclasses.replace(config, rows=(), table=str(tmp_path / "table.json"))
    found = every.subjects()
    assert [subject.name for subject in found] == [maker.title for maker in MAKERS.values()]
    images, _ = data.load("builtin", "test").get(np.arange(1))
    image, key = jnp.asarray(images[0], jnp.float32) / 255, jax.random.key(0)
    for name, subject in zip(MAKERS, found, strict=True):
        purified = jax.jit(subject.pipeline.purify)(subject.params, key, image)
        assert purified.shape == image.shape
        assert (np.abs(purified - image).max() > 0.003) == (name != "undefended"), name
        assert subject.pipeline.is_random == (name in RANDOM)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": ("fd_designed",)}, "needs the table it is made of: give --table"),
        ({"name": "o", "rows": ("quilting",), "bank_size": 5}, "'image quilting' does not .*10"),
        ({"rows": ("quilting",), "bank_split": "extra"}, "'extra'.* with --bank-data and --bank-"),
        ({"num_examples": 10**6}, "num_examples=1000000, but 'builtin' has"),
        ({"name": "o", "enhancer": "builtin_resnet", "rows": ("super_resolution",)}, "ResNet"),
    ],
)
def test_what_does_not_fit_is_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(dataclasses.replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": ("fd", "magic")}, "rows='magic' is none of undefended, fd,"),
        ({"radii": ()}, r"radii=\(\) must lie in"),
        ({"radii": (2.0,)}, r"radii=\(2.0,\) must lie in"),
        ({"ladder_radii": (0.5,)}, r"ladder_radii=0.5 is none of radii="),
        ({"radii": (0.01, 0.02, 0.0100000001)}, "holds one twice: leave it out"),
        ({"bank_size": 0}, "bank_size=0 must be at least 1"),
        ({"num_eot": 0}, "num_eot=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config, **changes)


def test_a_table_is_a_file_or_its_folder_and_leaves_no_folder_in_records(config, tmp_path):
    zoo.save_steps(tmp_path / "table.json", defenses.two_steps(), {})
    made = []
    for table in (tmp_path, tmp_path / "table.json"):
        chosen = dataclasses.replace(config, rows=("fd_designed",), table=str(table))
        made.append(chosen.subjects()[1].sources["defense"].split(", "))
    assert [name for name, _ in made] == [tmp_path.name, "table.json"]
    assert made[0][1] == made[1][1]
    with pytest.raises(FileNotFoundError, match="There is no table of steps at"):
        dataclasses.replace(chosen, table=str(tmp_path / "none.json")).study()


def test_two_passes_are_attacked_around_the_compressed_image(config, folder, tmp_path):
    twice = dataclasses.replace(
        config, two_pass=True, rows=("fd",), radii=(2 / 255,), out=tmp_path
    )
    records = load_records(run(twice))
    assert {record.content["data"]["name"] for record in records} == {"builtin, compressed"}
    # A second pass moves a compressed picture less than its rounding to 8 bits did.
    pictures, labels = Compressed(data.load("builtin", "test"), FeatureDistillation()).get(
        np.arange(6)
    )
    again = jax.vmap(FeatureDistillation().purify)(jnp.asarray(pictures, jnp.float32) / 255)
    clipped = (pictures == 0) | (pictures == 255)
    assert np.abs(255 * np.asarray(again) - pictures)[~clipped].mean() < 0.5
    assert labels.tolist() == data.load("builtin", "test").get(np.arange(6))[1].tolist()
    with pytest.raises(ValueError, match="holds a study with data='builtin, compressed"):
        run(dataclasses.replace(twice, two_pass=False))
