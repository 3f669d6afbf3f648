"""RAIN's EDSR tuned through a classifier: what is learned, what stays, whose classifier it is."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest
from flax import nnx

from rainjax import data, nets, zoo
from rainjax.data.splits import Data
from rainjax.defenses import RAIN
from rainjax.keys import Purpose, example_keys
from rainjax.nets._named import flatten
from rainjax.pipeline import Defended
from tests import saved_networks
from tests.tiny import EDSR_TINY, RESNET_TINY, edsr_params
from train import finetune_rain, run, step
from train.compute import PLAIN, Compute
from train.optimizers import Optimizer
from train.options import Output


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> pathlib.Path:
    return saved_networks.tiny_zoo(tmp_path_factory.mktemp("zoo"))


def test_finetuning_lowers_the_loss_and_leaves_the_classifier_alone(tmp_path, entries):
    options = finetune_rain.FinetuneRAIN(
        run=Output("tuned", out=tmp_path),
        data=Data(num_training=100, num_validation=50),
        optimizer=Optimizer(learning_rate=1e-2, schedule="constant"),
        classifier=str(entries / "resnet"),
        init=str(entries / "edsr"),
        shift_fraction=0.0625,
        num_epochs=4,
        batch_size=20,
        padding=1,
    )
    before = hashlib.sha256((entries / "resnet.safetensors").read_bytes()).hexdigest()
    finetune_rain.train(options)
    assert hashlib.sha256((entries / "resnet.safetensors").read_bytes()).hexdigest() == before
    lines = [json.loads(x) for x in (tmp_path / "tuned/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[1]["loss"] - 0.1

    with PIL.Image.open(tmp_path / "tuned/tuned.png") as picture:
        assert picture.size[0] > 400

    tuned, frozen = zoo.load(tmp_path / "tuned"), zoo.load(entries / "resnet")
    assert tuned.card["classifier_sha256"] == before
    kept = tuned.card["metrics"]
    assert kept["selected_epoch"] > 0
    # The card's number is what the file gives with the classifier as it was all along.
    images, labels = data.load("builtin", "validation").get(np.arange(50))
    pipeline = Defended(RAIN(EDSR_TINY, shift_fraction=0.0625), RESNET_TINY)
    params = {"defense": tuned.params, "classifier": frozen.params}
    keys = example_keys(0, Purpose.SCORE, jnp.arange(50))
    predict = jax.jit(jax.vmap(pipeline.predict, (None, 0, 0)))
    predicted = predict(params, keys, jnp.asarray(images, jnp.float32) / 255)
    assert kept["validation"]["value"] == pytest.approx((predicted == labels).mean())


MINE = """
import dataclasses
import jax.numpy as jnp
from rainjax import nets, zoo

@dataclasses.dataclass(frozen=True)
class Mine(nets.ResNet):
    offset: float = {offset}
    def apply(self, params, *inputs):
        return super().apply(params, *inputs) + self.offset

def classifier():
    mine = Mine(depth=8, width=8, norm="group", num_groups=4)
    return zoo.load({path!r}, network=mine)

def model():
    entry = classifier()
    return nets.Model(entry.network, entry.params)

def function():
    return nets.from_function(lambda params, image: jnp.zeros(10) + image.mean())

nothing = 3
"""


@dataclasses.dataclass(frozen=True)
class Mine(nets.ResNet):
    """A network that no registry knows; the file's class of this name adds to its logits."""


@pytest.fixture
def own(tmp_path, entries) -> finetune_rain.FinetuneRAIN:
    """Options that tune EDSR for a classifier whose code and numbers are in files."""
    card = {"data": {}, "command": "-", "seed": 0, "metrics": {}}
    network = Mine(depth=8, width=8, norm="group", num_groups=4)
    path = zoo.save(tmp_path, "mine", network, zoo.load(entries / "resnet").params, card)
    (tmp_path / "mine.py").write_text(MINE.format(offset=0.0, path=str(path)))
    return finetune_rain.FinetuneRAIN(
        run=Output("own", out=tmp_path),
        data=Data(num_training=40, num_validation=20),
        optimizer=Optimizer(learning_rate=1e-2, schedule="constant"),
        classifier=None,
        classifier_code=str(tmp_path / "mine.py"),
        init=str(entries / "edsr"),
        num_epochs=2,
        batch_size=20,
    )


def test_finetuning_for_a_network_of_ones_own_is_that_for_the_same_in_the_zoo(
    own, tmp_path, entries
):
    finetune_rain.train(own)
    usual = dataclasses.replace(
        own,
        run=Output("usual", out=tmp_path),
        classifier=str(entries / "resnet"),
        classifier_code=None,
    )
    finetune_rain.train(usual)
    lines = {
        name: [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("own", "usual")
    }
    found, expected = (
        [x["loss"] for x in lines[name] if "loss" in x] for name in ("own", "usual")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(set(found)) == len(found) >= 2  # it learns: no loss stays as it was
    tuned, usual = zoo.load(tmp_path / "own"), zoo.load(tmp_path / "usual")
    assert tuned.card["classifier_sha256"] == zoo.load(entries / "resnet").sha256
    chex.assert_trees_all_close(tuned.params, usual.params, rtol=1e-6, atol=1e-7)

    code = tmp_path / "mine.py"
    code.write_text(MINE.format(offset=1.0, path=str(tmp_path / "mine.safetensors")))
    with pytest.raises(run.Stop, match="holds a run with classifier_network = "):
        finetune_rain.train(own)


@pytest.mark.parametrize(
    ("code", "changes", "message"),
    [
        (None, {}, "There is no classifier: name one by --classifier, or code of your own"),
        ("none.py", {}, "none.py is no file: name the Python file that holds the classifier"),
        ("mine.py:other", {}, r"mine.py has no 'other': write a function `def classifier\(\):`"),
        ("mine.py:nothing", {}, "'nothing' of .*mine.py is of type int, not a Model or an Entry"),
        ("mine.py:function", {"bn_mode": "adapt"}, "mine.py:function' holds Function"),
        ("mine.py:model", {"bn_mode": "adapt"}, "mine.py:model' holds Mine"),
    ],
)
def test_a_classifier_of_ones_own_that_cannot_serve_is_refused(
    own, tmp_path, code, changes, message
):
    code = code if code is None else str(tmp_path / code)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune_rain.train(dataclasses.replace(own, classifier_code=code, **changes))


BATCH_NORMED = dataclasses.replace(RESNET_TINY, norm="batch")


@pytest.fixture
def adapting(tmp_path, entries) -> finetune_rain.FinetuneRAIN:
    """Options that tune EDSR through a classifier with batch norm, in training mode."""
    card = {"data": {}, "command": "-", "seed": 0, "metrics": {}, "licence": "CC0-1.0"}
    params = BATCH_NORMED.init(jax.random.key(0))
    return finetune_rain.FinetuneRAIN(
        run=Output("tuned", out=tmp_path, dtype="float16"),
        data=Data(num_training=40, num_validation=20),
        optimizer=Optimizer(learning_rate=1e-2, schedule="constant"),
        classifier=str(zoo.save(tmp_path, "batch", BATCH_NORMED, params, card)),
        init=str(entries / "edsr"),
        bn_mode="adapt",
        num_epochs=2,
        batch_size=20,
    )


def test_an_adapting_classifier_learns_nothing_but_its_statistics(adapting, tmp_path):
    finetune_rain.train(adapting)
    before = flatten(zoo.load(adapting.classifier).params)
    after = zoo.load(tmp_path / "tuned/tuned_classifier")
    assert after.card["init_sha256"] == zoo.load(adapting.classifier).sha256
    assert (after.card["licence"], after.card["dtype"]) == ("CC0-1.0", "float16")
    before = {name: np.asarray(v, np.float16).astype(v.dtype) for name, v in before.items()}
    for name, leaf in flatten(after.params).items():
        moved = not np.array_equal(leaf, before[name])
        assert moved == name.endswith(("mean", "var")), name
    tuned = zoo.load(tmp_path / "tuned")
    start = flatten(zoo.load(adapting.init).params)
    assert any(not np.array_equal(v, start[name]) for name, v in flatten(tuned.params).items())

    images, labels = data.load("builtin", "validation").get(np.arange(20))
    pipeline = Defended(RAIN(EDSR_TINY, shift_fraction=0.05), BATCH_NORMED)
    keys = example_keys(0, Purpose.SCORE, jnp.arange(20))
    predict = jax.jit(jax.vmap(pipeline.predict, (None, 0, 0)))
    params = {"defense": tuned.params, "classifier": after.params}
    right = np.asarray(predict(params, keys, jnp.asarray(images, jnp.float32) / 255)) == labels
    assert tuned.card["metrics"]["validation"]["value"] == pytest.approx(right.mean())


def test_an_adapting_run_that_no_longer_learns_is_stopped(adapting, tmp_path):
    dead = jax.tree.map(jnp.zeros_like, edsr_params())
    dead["tail"]["bias"] = jnp.full_like(dead["tail"]["bias"], -1e4)  # every pixel is clipped
    card = {"data": {}, "command": "-", "seed": 0, "metrics": {}}
    init = str(zoo.save(tmp_path, "dead", EDSR_TINY, dead, card))
    with pytest.raises(run.Stop, match="In all of epoch 1 the gradient was zero"):
        finetune_rain.train(dataclasses.replace(adapting, init=init))


def test_one_adapting_step_leaves_the_statistics_that_flax_would(entries):
    pipeline = Defended(RAIN(EDSR_TINY, shift_fraction=0.0625), BATCH_NORMED)
    params = {"defense": edsr_params(), "classifier": BATCH_NORMED.init(jax.random.key(0))}
    images, labels = data.load("builtin", "train").get(np.arange(8))
    batch = {"image": images, "label": labels, "index": np.arange(8)}
    mesh, optimizer = PLAIN.mesh(8), finetune_rain.adapting(optax.sgd(0.0))
    loss = functools.partial(finetune_rain.adapting_loss, pipeline=pipeline, padding=0)
    state = step.init_state(params, optimizer, mesh)
    key = jax.random.key(3)
    state, metrics = step.make_step(loss, optimizer, mesh)(state, key, batch)

    # The same draws, and the module in Flax's own training mode on the whole batch.
    def purified(index, image):
        keys = jax.random.fold_in(jax.random.fold_in(key, index), 0)
        rain_key, image = finetune_rain._augmented(keys, {"image": image}, 0)
        return pipeline.defense.apply(params["defense"], rain_key, image)

    module = BATCH_NORMED.build(nnx.Rngs(0))
    values = nnx.state(module)
    nnx.replace_by_pure_dict(values, params["classifier"])
    nnx.update(module, values)
    for _, part in nnx.iter_modules(module):
        if isinstance(part, nnx.BatchNorm):
            part.use_running_average, part.momentum = False, 0.9
    logits = module(jax.vmap(purified)(batch["index"], images))
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    chex.assert_trees_all_close(
        state.params["classifier"], nnx.to_pure_dict(nnx.state(module)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute": Compute(precision="bfloat16")}, "bn_mode='adapt' keeps statistics"),
        ({"compute": Compute(accumulate=2)}, "bn_mode='adapt' normalises by the whole batch"),
        ({"classifier": "builtin_resnet"}, "bn_mode='adapt' needs a classifier with batch norm"),
    ],
)
def test_what_cannot_adapt_is_refused(adapting, changes, message):
    with pytest.raises(ValueError, match=message):
        finetune_rain.train(dataclasses.replace(adapting, **changes))
