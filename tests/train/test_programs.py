"""The training programs: what they minimise, what they may look at, and what they leave behind."""

import dataclasses
import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from rainjax import data, zoo
from rainjax.data import ImageSet
from rainjax.data.splits import Data, check_held_out
from rainjax.evaluation.provenance import provenance
from tests import saved_networks
from tests.tiny import EDSR_TINY, RESNET_TINY, Repeat, edsr_params
from train import augment, classifier, finetune_rain, run, super_resolution
from train.optimizers import Optimizer
from train.options import Output, batches_per_epoch


class Listed(ImageSet):
    """Pictures of any sizes, from a list."""

    def __init__(self, images, split="train"):
        self.name, self.split, self.class_names, self.fingerprint = (
            "listed",
            split,
            ("a", "b"),
            "1",
        )
        self._images = images

    def __len__(self):
        return len(self._images)

    def get(self, indices):
        return np.stack([self._images[i][:8, :8] for i in indices]), self.labels(indices)

    def image(self, index):
        return self._images[index]

    def labels(self, indices):
        return (indices % 2).astype(np.int32)

    def source_index(self, indices):
        return indices


@pytest.fixture
def listed(monkeypatch):
    """Forty noisy pictures of different sizes in place of a prepared set; notes what is asked."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(12, 20, (40, 2))
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
    asked = []

    def load(name, split, *, data_dir=None):
        asked.append((name, split))
        return Listed(images, split)

    monkeypatch.setattr(data, "load", load)
    return asked


def test_prepared_sets_hold_validation_out_of_training_and_never_open_another_split(listed):
    split = Data("any", num_validation=15, num_training=20).load()
    assert listed == [("any", "train")]
    assert not set(split.training_indices) & set(split.validation_indices)
    assert (len(split.training_indices), len(split.validation_indices)) == (20, 15)
    again = Data("any", num_validation=15).load()
    assert np.array_equal(again.validation_indices, split.validation_indices)
    assert set(again.training_indices) | set(again.validation_indices) == set(range(40))


def test_the_builtin_set_selects_on_pictures_that_are_not_in_the_test_split():
    split, test = Data().load(), data.load("builtin", "test")
    places = [
        set(image_set.source_index(indices).tolist())
        for image_set, indices in (
            (split.training, split.training_indices),
            (split.validation, split.validation_indices),
            (test, np.arange(len(test))),
        )
    ]
    assert [len(place) for place in places] == [20_000, 2_000, 4_000]
    assert len(set.union(*places)) == 26_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_validation": 40}, "num_validation=40 of the 40 images"),
        ({"num_validation": 30, "num_training": 11}, "num_training=11, but 'any' has 10"),
    ],
)
def test_too_few_images_are_named(listed, changes, message):
    with pytest.raises(ValueError, match=message):
        Data("any", **changes).load()


def test_few_training_images_are_not_the_first_ones(listed):
    split = Data("any", num_validation=10, num_training=10).load()
    assert split.training_indices.max() > 20
    with pytest.raises(ValueError, match="batch_size=41 must be at least 1, and at most the 40"):
        batches_per_epoch(range(40), 41)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        batches_per_epoch(range(40), 0)


def test_super_resolution_loss_is_l1_in_grey_levels():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    # Repeating pixels commutes with turning them, so the random symmetry changes nothing.
    low = np.asarray(
        PIL.Image.fromarray(image).resize((8, 8), PIL.Image.Resampling.BICUBIC), float
    )
    expected = np.abs(low.repeat(2, 0).repeat(2, 1) - image).mean()
    value, _ = super_resolution.loss(
        (), (), jax.random.key(0), {"image": image}, network=Repeat(), degradation="bicubic"
    )
    assert float(value) == pytest.approx(expected, abs=0.05)  # Pillow rounds between its passes


def test_classifier_loss_is_cross_entropy_with_smoothed_labels():
    half = np.random.default_rng(0).random((32, 16, 3))
    image = np.round(255 * np.concatenate([half, half[:, ::-1]], 1)).astype(np.uint8)
    options = dataclasses.replace(
        classifier.PRESETS["smoke"][1], network=RESNET_TINY, padding=0, label_smoothing=0.2
    )
    params = jax.tree.map(lambda s: jnp.full(s.shape, 0.01), RESNET_TINY.shapes())
    params["linear"]["bias"] = jnp.arange(10.0)
    logits = jax.jit(RESNET_TINY.apply)(params, jnp.asarray(image / 255, jnp.float32))
    logits = np.asarray(logits, float)
    log_probs = logits - np.log(np.exp(logits).sum())
    expected = -(0.8 * log_probs[7] + 0.02 * log_probs.sum())
    example = {"image": image, "label": jnp.array(7)}
    loss = jax.jit(functools.partial(classifier.loss, options=options))
    value, metrics = loss(params, (), jax.random.key(1), example)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == (logits.argmax() == 7)


def test_symmetries_are_the_eight_of_the_square():
    image = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    keys = jax.random.split(jax.random.key(0), 100)
    seen = np.asarray(jax.vmap(augment.random_symmetry, (0, None))(keys, jnp.asarray(image)))
    expected = {np.rot90(im, k).tobytes() for im in (image, image[:, ::-1]) for k in range(4)}
    assert {np.ascontiguousarray(im).tobytes() for im in seen} == expected


def test_shifted_crops_are_all_windows_of_the_reflected_image():
    image = np.random.default_rng(0).random((6, 7, 3)).astype(np.float32)
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = {wide[i : i + 6, j : j + 7].tobytes() for i in range(3) for j in range(3)}
    crop = functools.partial(augment.random_shifted_crop, padding=1)
    keys = jax.random.split(jax.random.key(0), 100)
    seen = np.asarray(jax.vmap(crop, (0, None))(keys, jnp.asarray(image)))
    assert {im.tobytes() for im in seen} == expected


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> pathlib.Path:
    return saved_networks.tiny_zoo(tmp_path_factory.mktemp("zoo"))


def test_super_resolution_improves_and_leaves_an_entry_and_a_picture(tmp_path, entries):
    options = super_resolution.SuperResolution(
        run=Output("sr", out=tmp_path),
        data=Data(num_training=40, num_validation=5),
        network=EDSR_TINY,
        optimizer=Optimizer(learning_rate=2e-3),
        init=str(entries / "edsr"),
        patch=16,
        num_epochs=2,
        steps_per_epoch=40,
        batch_size=8,
    )
    super_resolution.train(options)
    entry = zoo.load(tmp_path / "sr")
    metrics = entry.card["metrics"]
    assert metrics["validation"]["value"] > metrics["validation_before"]["psnr"] + 0.5
    assert entry.card["data"]["num_training"] == 40
    assert entry.card["init_sha256"] == zoo.load(entries / "edsr").sha256
    with PIL.Image.open(tmp_path / "sr/sr.png") as picture:
        assert picture.size[0] > 400
    in_half = dataclasses.replace(options, run=Output("sr", out=tmp_path, dtype="float16"))
    super_resolution.train(in_half)  # it is finished: only the file is written anew
    half = zoo.load(tmp_path / "sr")
    assert half.card["dtype"] == "float16"
    assert half.card["metrics"] == metrics
    assert "stored_by" not in half.card  # the same command and versions
    chex.assert_trees_all_close(half.params, entry.params, rtol=1e-3, atol=1e-7)
    with pytest.raises(run.Stop, match="holds a run with patch = 16, not 24"):
        super_resolution.train(dataclasses.replace(options, patch=24))


@pytest.mark.parametrize(
    ("program", "changes", "message"),
    [
        (classifier, {"network": dataclasses.replace(RESNET_TINY, norm="batch")}, "norm='group'"),
        (classifier, {"label_smoothing": 1.0}, "label_smoothing=1.0 must lie"),
        (super_resolution, {"patch": 7}, "patch=7 must be even"),
        (super_resolution, {"network": dataclasses.replace(EDSR_TINY, scale=4)}, "needs scale 2"),
    ],
)
def test_bad_options_are_named(program, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(program.PRESETS["smoke"][1], **changes)


def test_a_name_that_cannot_be_saved_is_refused_at_once():
    with pytest.raises(ValueError, match=r"digits, '_' and '-' only, got 'my.run'"):
        Output("my.run")


def test_a_classifier_of_other_classes_is_refused(entries, listed, tmp_path):
    options = dataclasses.replace(
        finetune_rain.PRESETS["smoke"][1],
        run=Output("x", out=tmp_path),
        data=Data("any", num_validation=1),
        classifier=str(entries / "resnet"),
        init=str(entries / "resnet"),
    )
    with pytest.raises(ValueError, match="holds a ResNet, not an EDSR"):
        finetune_rain.train(options)
    options = dataclasses.replace(options, init=str(entries / "edsr"))
    with pytest.raises(ValueError, match="10 outputs, 'listed' has 2 classes"):
        finetune_rain.train(options)


def test_an_expected_error_ends_a_program_with_one_sentence():
    def program():
        raise ValueError("the reason.")

    with pytest.raises(SystemExit, match=r"^error: the reason\.$"):
        run.main(program)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (NotADirectoryError(20, "Not a directory", "runs"), "^error: .*Not a directory: 'runs'"),
        (KeyboardInterrupt(), "^Interrupted. What was saved is kept"),
    ],
)
def test_other_ends_of_a_program_are_one_sentence_as_well(raised, said):
    def program():
        raise raised

    with pytest.raises(SystemExit, match=said):
        run.main(program)


def test_a_classifier_that_saw_the_images_that_would_choose_is_refused(entries, tmp_path):
    split = Data(num_training=40, num_validation=30).load()
    split = dataclasses.replace(split, validation=split.training)
    entry = zoo.load(entries / "resnet")
    seen = {"fingerprint": split.training.fingerprint, "num_validation": 20}
    with pytest.raises(ValueError, match=r"held 20 images out .* set --num-validation 20"):
        check_held_out(dataclasses.replace(entry, card={"data": seen}), split)
    for harmless in ({**seen, "num_validation": 30}, {**seen, "fingerprint": "x"}, {}):
        check_held_out(dataclasses.replace(entry, card={"data": harmless}), split)


def test_psnr_of_equal_images_is_finite():
    black = {"image": np.zeros((8, 8, 3), np.uint8)}
    params = jax.tree.map(jnp.zeros_like, edsr_params())
    network = dataclasses.replace(EDSR_TINY, mean=(0.0, 0.0, 0.0))
    key = jax.random.key(0)
    numbers = super_resolution.score(params, key, black, network=network, degradation="bicubic")
    assert {name: float(value) for name, value in numbers.items()} == {
        "psnr": 100.0,
        "bicubic_psnr": 100.0,
    }


def test_a_card_names_files_without_their_folders(monkeypatch):
    words = ["x", "--data-dir=/mnt/me/sets", "--init", "/tmp/a.npz", "--out", "../me/b", "runs/c"]
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "train.x", *words[1:]])
    command = provenance()["command"]
    assert command == "python -m train.x --data-dir=sets --init a.npz --out b runs/c"
