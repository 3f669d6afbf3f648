"""Classifiers of one's own: what a network computes is what the module computes."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rainjax import Defended, Identity, example_keys, nets, run_attack
from rainjax.attacks import PGD
from rainjax.evaluation.describe import describe
from rainjax.keys import Purpose
from rainjax.nets import FlaxNetwork
from tests.tiny import unchecked

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(5, 8, 8, 3)).astype(np.float32)


class Net(nnx.Module):
    """A convolution, batch norm, dropout, a linear layer."""

    def __init__(self, rngs, width=4, classes=6):
        self.conv = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width * 64, classes, rngs=rngs)

    def __call__(self, images):
        x = self.drop(nnx.relu(self.norm(self.conv(images))))
        return self.head(x.reshape(len(x), -1))


class Linen(nn.Module):
    """The same in Linen."""

    train: bool = False
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(4, (3, 3))(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
        x = nn.Dropout(self.dropout, deterministic=not self.train)(x)
        return nn.Dense(6)(x.reshape(len(x), -1))


def trained(module):
    """Returns a module with running statistics that are not those of a fresh one."""
    module.norm.mean[...] = jnp.asarray(RNG.normal(size=4), jnp.float32)
    module.norm.var[...] = jnp.asarray(RNG.uniform(0.5, 2, size=4), jnp.float32)
    module.eval()
    return module


def linen():
    variables = Linen().init(jax.random.key(0), jnp.asarray(IMAGES))
    (norm,) = variables["batch_stats"]
    stats = {"mean": RNG.normal(0, 0.1, 4), "var": RNG.uniform(0.5, 2, 4)}
    stats = {norm: {name: jnp.asarray(a, jnp.float32) for name, a in stats.items()}}
    return Linen(), {**variables, "batch_stats": stats}


def made(kind):
    """Returns a model, and what it should compute for a batch."""
    if kind == "nnx":
        module = trained(Net(nnx.Rngs(0)))
        return nets.from_flax(module), module(jnp.asarray(IMAGES))
    if kind == "linen":
        module, variables = linen()
        return nets.from_linen(module, variables), module.apply(variables, IMAGES)
    kernel = jnp.asarray(RNG.normal(size=(192, 6)), jnp.float32)
    if kind == "function":
        model = nets.from_function(lambda kernel, image: image.reshape(-1) @ kernel, kernel)
    else:
        model = nets.from_function(
            lambda kernel, images: images.reshape(len(images), -1) @ kernel, kernel, batched=True
        )
    return model, IMAGES.reshape(5, -1) @ np.asarray(kernel)


@pytest.mark.parametrize("kind", ["nnx", "linen", "function", "batched"])
def test_logits_are_the_modules_own(kind):
    model, expected = made(kind)
    target = Defended(Identity(), model.network)
    params = {"defense": (), "classifier": model.params}
    logits = jax.jit(jax.vmap(target.logits, (None, None, 0)))(params, jax.random.key(0), IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    slope = jax.jit(jax.grad(lambda x: target.logits(params, jax.random.key(0), x)[1]))
    assert np.abs(slope(jnp.asarray(IMAGES[0]))).max() > 0
    keys = example_keys(0, Purpose.ATTACK, np.arange(5))
    labels = np.asarray(expected).argmax(1)
    attacked = run_attack(target, PGD(num_steps=2), params, keys, IMAGES, labels)
    own = np.take_along_axis(np.asarray(expected), labels[:, None], 1)
    after = jax.vmap(target.logits, (None, None, 0))(params, jax.random.key(0), attacked)
    assert (np.take_along_axis(np.asarray(after), labels[:, None], 1) < own).all()


def test_a_model_is_a_copy_and_its_numbers_are_parameters():
    module = trained(Net(nnx.Rngs(0)))
    model = nets.from_flax(module)
    image = jnp.asarray(IMAGES[0])
    before = model.network.apply(model.params, image)
    module.head.kernel[...] = jnp.zeros_like(module.head.kernel[...])
    module.train()
    np.testing.assert_array_equal(model.network.apply(model.params, image), before)
    doubled = jax.tree.map(lambda leaf: leaf, model.params)
    doubled["head"] = jax.tree.map(lambda leaf: 2 * leaf, doubled["head"])
    np.testing.assert_allclose(model.network.apply(doubled, image), 2 * before, rtol=1e-5)
    assert nets.num_params(model.params) == nets.num_params(model.network.shapes())


def test_networks_are_values():
    module = trained(Net(nnx.Rngs(0)))
    network = nets.from_flax(module).network
    assert network == nets.from_flax(module).network
    assert hash(network) == hash(nets.from_flax(module).network)
    assert network != nets.from_flax(trained_wide()).network
    module_, variables = linen()
    first = nets.from_linen(module_, variables).network
    assert first == nets.from_linen(Linen(), variables).network
    assert first != nets.from_linen(Linen(dropout=0.1), variables).network
    fn = lambda params, image: image.ravel()
    assert nets.from_function(fn).network == nets.from_function(fn).network
    assert nets.from_function(fn).network != nets.from_function(fn, batched=True).network


def trained_wide():
    module = Net(nnx.Rngs(0), classes=7)
    module.eval()
    return module


def test_what_is_in_training_mode_is_refused():
    module = Net(nnx.Rngs(0))
    sentence = r"^norm of Net is in training mode, and would normalise each image by itself .*eval"
    with pytest.raises(ValueError, match=sentence):
        nets.from_flax(module)
    module.norm.use_running_average = True
    with pytest.raises(ValueError, match=r"^drop of Net is in training mode, and would drop"):
        nets.from_flax(module)
    _, variables = linen()
    image = jnp.asarray(IMAGES[0])
    model = nets.from_linen(Linen(train=True, dropout=0.0), variables)
    with pytest.raises(ValueError, match=r"^Linen is in training mode, and would normalise each"):
        model.network.apply(model.params, image)
    attention = nnx.MultiHeadAttention(1, 3, dropout_rate=0.1, rngs=nnx.Rngs(0))
    for module in (nnx.Sequential(attention), nnx.Sequential(nnx.Dropout(0.1))):
        with pytest.raises(ValueError, match=r"^layers.0 of Sequential .*would drop values"):
            nets.from_flax(module)
        module.eval()
        nets.from_flax(module)

    class Drops(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dropout(0.5, deterministic=False)(images.reshape(len(images), -1))

    model = nets.from_linen(Drops(), {"params": {}})
    with pytest.raises(ValueError, match=r"^Drops draws random numbers, as dropout does"):
        model.network.apply(model.params, image)


@dataclasses.dataclass(frozen=True)
class Architecture(FlaxNetwork):
    """Somebody's own architecture, built as for training or not."""

    for_training: bool = True

    def build(self, rngs):
        module = Net(rngs)
        if not self.for_training:
            module.eval()
            module.drop.rngs = None
        return module


def test_an_architecture_in_training_mode_is_refused_at_its_first_use():
    network = Architecture()
    params = network.init(jax.random.key(0))
    with pytest.raises(ValueError, match="norm of Architecture is in training mode"):
        network.apply(params, jnp.asarray(IMAGES[0]))
    network = Architecture(for_training=False)
    assert network.has_batch_norm
    assert network.apply(network.init(jax.random.key(0)), jnp.asarray(IMAGES[0])).shape == (6,)


def test_variables_of_another_linen_module_are_refused():
    module, variables = linen()
    for given in (
        {"params": variables["params"]},
        {**variables, "params": {}},
        Linen().init(jax.random.key(0), jnp.ones((1, 6, 6, 3))),
    ):
        model = nets.from_linen(module, given)
        sentence = (
            r"^Linen cannot be applied with these variables to an image of shape \(8, 8, 3\)"
        )
        with pytest.raises(ValueError, match=sentence) as raised:
            model.network.apply(model.params, jnp.asarray(IMAGES[0]))
        assert "http" not in str(raised.value)


class Shifted(nn.Module):
    """Holds arrays in its fields."""

    mean: object
    nested: object = ()

    @nn.compact
    def __call__(self, images):
        return nn.Dense(6)(
            (images - jnp.broadcast_to(self.mean, images.shape)).reshape(len(images), -1)
        )


def test_linen_modules_that_hold_arrays_are_values():
    def network(mean, nested=()):
        return nets.from_linen(Shifted(mean, nested), {"params": {}}).network

    first = np.array([0.1, 0.2, 0.3], np.float32)
    other = np.array([0.1, 0.2, 0.4], np.float32)
    assert network(first) == network(first.copy())
    assert hash(network(first)) == hash(network(first.copy()))
    assert network(first) != network(other)
    assert network(first) != network(first.astype(np.float64))
    assert network(0.0, (first, {"a": first})) == network(0.0, (first.copy(), {"a": first}))
    assert network(0.0, (first, {"a": first})) != network(0.0, (first, {"a": other}))
    assert network(0.0, (first,)) != network(0.0, (first, first))
    assert network(first) != network(0.5)
    kernel = {"Dense_0": {"kernel": jnp.ones((192, 6)), "bias": jnp.zeros(6)}}
    run = jax.jit(
        lambda network, image: network.apply({"params": kernel}, image), static_argnums=0
    )
    image = jnp.asarray(IMAGES[0])
    found = [run(network(mean), image)[0] for mean in (first, other, first.copy())]
    np.testing.assert_allclose(found[0] - found[1], 64 * 0.1, rtol=1e-2)
    assert found[0] == found[2]


def test_a_model_is_shown_without_its_numbers():
    for kind in ("nnx", "linen", "function"):
        model, _ = made(kind)
        shown = repr(model)
        assert shown.startswith("Model(")
        assert f"{nets.num_params(model.params):,} parameters" in shown
        assert len(shown) < 200


def test_wrong_kinds_are_told_where_to_go():
    module, variables = linen()
    flax_module = trained(Net(nnx.Rngs(0)))
    for make, sentence in (
        (lambda: nets.from_flax(module), "not Linen: for a Linen one there is from_linen"),
        (lambda: nets.from_flax(Net), "not the class Net"),
        (lambda: nets.from_linen(flax_module, variables), "not Net: for an NNX one there is"),
        (lambda: nets.from_function(flax_module), "there are from_flax"),
        (lambda: nets.from_function(3), "not int"),
    ):
        with unchecked(), pytest.raises(TypeError, match=sentence):
            make()
    with pytest.raises(ValueError, match=r"variables must be what module.init returned.*\['a'\]"):
        nets.from_linen(module, {"a": 1})
    with pytest.raises(ValueError, match=r"variables must be what .* got list"):
        nets.from_linen(module, [])


@pytest.mark.parametrize(
    ("fn", "batched", "sentence"),
    [
        (lambda p, x: x.sum(), False, r"returned an array of shape \(1,\) for one image"),
        (lambda p, x: x.sum()[None], False, r"of class 1, give sigmoid=True"),
        (lambda p, x: x, False, r"shape \(1, 8, 8, 3\) for one image"),
        (lambda p, x: x.reshape(-1), True, r"shape \(192,\) for one image"),
        (lambda p, x: (x.reshape(-1), 1), False, "returned tuple: a classifier returns an array"),
    ],
)
def test_what_is_no_vector_of_logits_is_refused(fn, batched, sentence):
    model = nets.from_function(fn, batched=batched)
    with pytest.raises(ValueError, match=sentence):
        model.network.apply(model.params, jnp.asarray(IMAGES[0]))


def test_other_parameters_and_images_are_refused():
    model, _ = made("nnx")
    with pytest.raises(ValueError, match="The tree of parameters"):
        model.network.apply({"head": model.params["head"]}, jnp.asarray(IMAGES[0]))
    for kind in ("nnx", "linen", "function"):
        model, _ = made(kind)
        with pytest.raises(ValueError, match="one image"):
            model.network.apply(model.params, jnp.asarray(IMAGES))
        with pytest.raises(ValueError, match="has no fresh parameters: it came with its own"):
            model.network.init(jax.random.key(0))


def test_every_process_describes_them_alike():
    program = (
        "import json\nfrom tests.nets.test_own import made\n"
        "from rainjax.evaluation.describe import describe\n"
        "print(json.dumps([describe(made(k)[0].network) for k in ('nnx', 'linen', 'function')]))"
    )
    root = pathlib.Path(__file__).parents[2]
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1
    here = json.loads(found.pop())
    assert [part["class"] for part in here] == ["FlaxModule", "LinenModule", "Function"]
    wide = describe(nets.from_flax(trained_wide()).network)
    assert wide != here[0]
